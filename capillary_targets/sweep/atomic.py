"""Files that get their name whole or not at all, and what makes them durable."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import BinaryIO, Final, Self

__all__ = [
    "AtomicFile",
    "digest_of",
    "reason_of",
    "remove_orphans",
    "sync_directory",
    "temporary",
]

_TEMPORARY: Final = re.compile(r"\.(part-\d{5,}\.(jsonl|parquet)|[a-z]+\.(json|jsonl|html))\.tmp")
"""The names that `AtomicFile` gives, and no others."""
_NO_DIRECTORY_SYNC: Final = {
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS),
    *(errno.EACCES, errno.EPERM, errno.EISDIR),
}
_WRITE_BEHIND: Final = 4 * 2**20
"""Bytes after which the disk is asked to begin: the sync of 76 MB takes 20 ms, else 240."""


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the file system can: some refuse."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise


def reason_of(error: OSError | sqlite3.Error) -> str:
    """Why a file cannot be written, and which one where that is known."""
    if not isinstance(error, OSError):
        return str(error)
    if error.errno == errno.EMFILE:
        return "too many files are open (raise the limit with `ulimit -n`)"
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror or error)


def temporary(path: Path) -> Path:
    """Readers of data sets (Spark, pyarrow, DuckDB, shells) skip names with a leading dot."""
    return path.with_name(f".{path.name}.tmp")


def remove_orphans(directory: Path) -> None:
    """Remove temporary files: those with names of `AtomicFile`'s making."""
    for path in directory.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


def digest_of(path: Path) -> bytes:
    """The digest of a file's contents, as in `AtomicFile.fingerprint`."""
    with path.open("rb") as file:
        return file_digest(file, sha256).digest()


class AtomicFile:
    """A file written under a temporary name until `rename`; `rollback` deletes it.

    As a context manager it is durable and has its name at the end of the block, unless the block
    raises: it is whole, or the one before. The name is durable with the next `sync_directory`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = temporary(path)
        self.file: BinaryIO = self._temporary.open("wb")
        self.closed = self._rolled_back = False
        self._size = self._unwritten = 0
        self._hash = sha256()  # processors have instructions for it

    def fingerprint(self) -> tuple[int, int, bytes]:
        """Size in bytes, time of modification in nanoseconds, digest; once it is synced."""
        return self._size, self._temporary.stat().st_mtime_ns, self._hash.digest()

    def write(self, data: bytes) -> int:
        """Append bytes. Once it is rolled back they go nowhere: writers finish in peace."""
        if not self._rolled_back:
            self.file.write(data)
            self._unwritten += len(data)
            if self._unwritten >= _WRITE_BEHIND:
                self._unwritten = 0
                self.file.flush()
                with suppress(OSError, AttributeError):  # a hint, which not every system takes
                    os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._hash.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self._size

    def flush(self) -> None:
        """The file is flushed when it is whole."""

    def close(self) -> None:
        """The file is closed when it is whole."""

    def sync(self) -> None:
        """Make the contents and the temporary name durable. May be called from a thread."""
        if not self.file.closed:
            self._sync_contents()
            sync_directory(self.path.parent)

    def _sync_contents(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def rename(self) -> None:
        """Give the file its name; after a power failure it may have its temporary one again."""
        self._temporary.rename(self.path)

    def rollback(self) -> None:
        """Delete the temporary file, if there still is one."""
        self._rolled_back = True
        with suppress(OSError):  # what was buffered may not fit on the disk
            self.file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._sync_contents()
                self.rename()
        finally:
            self.rollback()
