"""A file that appears only whole: written aside, synced, renamed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

__all__ = ["ASIDE", "WholeFile", "remove_strangers", "sync_directory"]

ASIDE: Final = ".partial"
"""What a file's name ends in until it is whole."""


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_strangers(directory: Path, known: set[str]) -> None:
    """Remove parts that were never noted, and what was still being written, after a kill."""
    for path in directory.glob("part-*"):
        if path.name not in known:
            path.unlink()


class WholeFile:
    """A file being written, which `commit` puts in its place and anything else takes away.

    As a context manager it commits at the end of the block, unless the block raises.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._aside = path.with_name(path.name + ASIDE)
        self.file: BinaryIO = self._aside.open("wb")

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self.file.write(data)

    def sync(self) -> None:
        """Everything onto the disk, but not yet under its name. May be called from a thread."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def commit(self) -> None:
        """Everything onto the disk, then under its name."""
        try:
            self.sync()
            self.file.close()
            self._aside.rename(self.path)
        except BaseException:
            self.discard()
            raise
        sync_directory(self.path.parent)

    def discard(self) -> None:
        """As if it had never been begun."""
        with suppress(OSError):  # what was buffered may not fit on the disk; it is not wanted
            self.file.close()
        with suppress(OSError):
            self._aside.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()
