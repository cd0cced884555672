"""Copy the finished parts of a sweep to S3, while it runs or after: `s3_copy.py DIR s3://bucket/prefix`.

A file with a part's name is whole, recorded in the ledger, and never changes (docs/sweeps.md,
"Promises"); unfinished ones begin with a dot. So a part is copied once, an object of S3 appears
whole or not at all, and stopping anywhere leaves what the next run completes. The ledger stays:
it is what the sweep resumes from.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyarrow import fs


def copy_parts(directory: Path, uri: str) -> list[str]:
    """Copy the parts that S3 does not have yet, then the summary. Returns their names."""
    bucket, prefix = fs.FileSystem.from_uri(uri)
    found = bucket.get_file_info(fs.FileSelector(prefix, recursive=True, allow_not_found=True))
    there = {info.path: info.size for info in found}
    copied = []
    files = [*sorted(directory.glob("*/part-*")), *directory.glob("summary.json")]
    for path in files:
        name = path.relative_to(directory).as_posix()
        target = f"{prefix}/{name}"
        if name == "summary.json" or there.get(target) != path.stat().st_size:
            fs.copy_files(str(path), target, fs.LocalFileSystem(), bucket)
            copied.append(name)
    return copied


if __name__ == "__main__":
    print(*copy_parts(Path(sys.argv[1]), sys.argv[2]), sep="\n")
