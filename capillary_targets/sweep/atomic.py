"""Files that get their name whole or not at all, and what makes them durable."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import suppress
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Final, Self

_NO_DIRECTORY_SYNC: Final = {
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS),
    *(errno.EACCES, errno.EPERM, errno.EISDIR),
}


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


class AtomicFile(BufferedWriter):
    """A file written under a temporary name until `rename`; `rollback` deletes it.

    As a context manager it is durable and has its name at the end of the block, unless the block
    raises: it is whole, or the one before. The name is durable with the next `sync_directory`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(temporary(path), "w"))
        self.path = path

    def sync(self) -> None:
        """Make the contents durable, and close the file. May be called from a thread."""
        if not self.closed:
            self.flush()
            os.fsync(self.fileno())
            self.close()

    def rename(self) -> None:
        """Give the file its name; after a power failure it may have its temporary one again."""
        temporary(self.path).rename(self.path)

    def rollback(self) -> None:
        """Delete the temporary file, if there still is one."""
        # What a writer still has goes nowhere, so that pyarrow's can finish in peace.
        vars(self)["write"] = len
        with suppress(OSError):  # what was buffered may not fit on the disk
            self.close()
        with suppress(OSError):
            temporary(self.path).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.sync()
                self.rename()
        finally:
            self.rollback()
