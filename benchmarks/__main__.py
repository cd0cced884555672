"""`python -m benchmarks`: measure, print the table, write it as JSON."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .rows import PARTS, Scale
from .running import cores, serving
from .table import Row, as_json, as_text

_LIBRARIES = (
    *("capillary-targets", "aiohttp", "attrs", "cattrs", "msgspec", "orjson", "uvloop"),
    *("httpx", "pydantic", "dlt", "pyarrow"),
)


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()


def _machine() -> dict[str, Any]:
    server, contender = cores()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": {"server": server, "contender": contender},
        "versions": _versions(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    """Measure the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="little work: shows that all runs")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), metavar="FILE")
    asked = parser.parse_args()
    unknown = set(asked.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    scale = Scale.quick() if asked.quick else Scale()
    rows: list[Row] = []
    with serving() as server:
        for name in asked.parts or PARTS:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                rows += PARTS[name](server, scale)
            except subprocess.CalledProcessError as error:  # said why on stderr
                rows.append(Row(name, "", [], missing=f"failed: exit status {error.returncode}"))
    machine = _machine()
    print(as_text(rows))
    print(f"\n{machine['python']}, {machine['processor']}")
    print(", ".join(f"{name} {number}" for name, number in machine["versions"].items()))
    document = {"machine": machine, "quick": asked.quick, "rows": as_json(rows)}
    asked.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
