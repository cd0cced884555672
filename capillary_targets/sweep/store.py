"""The files of a sweep's directory: what is in it, and how a part gets there whole or not at all.

A part is written under a temporary name and synced; one transaction records it in the ledger; only
then is it renamed. So whatever bears a part's name is in the ledger, and what a kill leaves behind
are temporary files: those in the ledger are renamed at the next start, the others removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from attrs import frozen

from .ledger import Ledger, PartRecord, is_locked
from .options import SweepRefused

__all__ = ["KINDS", "LEDGER", "AtomicFile", "Directory", "open_directory", "sync_directory"]

KINDS: Final = ("events", "targets", "vanished", "announcements", "progress")
LEDGER: Final = "ledger.sqlite"
_LOCK: Final = "ledger.lock"
_PART: Final = re.compile(r"part-\d{5,}\.(jsonl|parquet)")
_TEMPORARY: Final = re.compile(r"\.(part-\d{5,}\.(jsonl|parquet)|[a-z]+\.(json|jsonl|html))\.tmp")
"""The names that `AtomicFile` gives, and no others."""
_DIGEST_SIZE: Final = 16
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


def part_name(number: int, suffix: str) -> str:
    """The name of a part's files, the same in the directory of each kind."""
    return f"part-{number:05d}.{suffix}"


def _temporary(path: Path) -> Path:
    """Readers of data sets (Spark, pyarrow, DuckDB, shells) skip names with a leading dot."""
    return path.with_name(f".{path.name}.tmp")


def remove_orphans(directory: Path) -> None:
    """Remove temporary files: those with names of `AtomicFile`'s making."""
    for path in directory.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


def _digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=_DIGEST_SIZE)).digest()


class AtomicFile:
    """A file written under a temporary name until `commit`; `rollback` deletes it.

    As a context manager it commits at the end of the block, unless the block raises.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = _temporary(path)
        self.file: BinaryIO = self._temporary.open("wb")
        self.closed = self._rolled_back = False
        self._size = 0
        self._hash = blake2b(digest_size=_DIGEST_SIZE)

    def fingerprint(self) -> tuple[int, int, bytes]:
        """Size in bytes, time of modification in nanoseconds, digest; once it is synced."""
        return self._size, self._temporary.stat().st_mtime_ns, self._hash.digest()

    def write(self, data: bytes) -> int:
        """Append bytes. Once it is rolled back they go nowhere: writers finish in peace."""
        if not self._rolled_back:
            self.file.write(data)
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

    def commit(self) -> None:
        """Make the contents durable, and give the file its name: it is whole or the one before.

        The name is durable with the next `sync_directory`.
        """
        try:
            self._sync_contents()
            self.rename()
        except BaseException:
            self.rollback()
            raise

    def rollback(self) -> None:
        """Delete the temporary file."""
        self._rolled_back = True
        with suppress(OSError):  # what was buffered may not fit on the disk
            self.file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()


@frozen
class Directory:
    """A sweep's directory, as `open_directory` yields it."""

    path: Path
    ledger: Ledger

    def part(self, kind: str, name: str) -> Path:
        """The path of a part."""
        return self.path / kind / name

    def free_number(self, suffix: str) -> int:
        """The number of the next part: no file bears it, not even one of somebody else."""
        number = self.ledger.next_part()
        while any(self.part(kind, part_name(number, suffix)).exists() for kind in KINDS):
            number += 1
        return number


@contextmanager
def open_directory(path: Path, settings: Mapping[str, Any] | None) -> Iterator[Directory]:
    """Hold a sweep's directory: one process at a time, one set of settings.

    It is created if need be; what a kill left is completed or removed. With `settings=None` it must
    exist, with whichever settings it has, and nothing in it is changed.

    Raises:
        SweepRefused: With nothing changed: the directory cannot be used.
        sqlite3.OperationalError: Another program locks the ledger (`is_locked`).
    """
    if settings is None and not (path / LEDGER).exists():
        raise SweepRefused(f"{path} holds no sweep; name the directory of one")
    with ExitStack() as stack:
        try:
            if settings is not None:
                _make(path)
            _take_lock(path, stack)
            directory = Directory(path, Ledger(path / LEDGER))
            stack.callback(directory.ledger.close)
            if settings is not None:
                _compare(directory, settings)
                _recover(directory, moved=bool(settings.get("moved")))
        except sqlite3.DatabaseError as error:
            if is_locked(error) and settings is not None:
                raise
            raise SweepRefused(
                f"{path / LEDGER} cannot be used ({error}); mend that, or name another directory"
            ) from error
        except OSError as error:
            raise SweepRefused(
                f"{path} cannot be written to ({error.strerror}); mend that, or name another "
                "directory"
            ) from error
        yield directory


def _make(path: Path) -> None:
    """Create what is missing, its names durable.

    Those in the directory itself are synced by SQLite when it creates its log there.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for kind in KINDS[:2]:
        (path / kind).mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_directory(one.parent)


def _take_lock(path: Path, stack: ExitStack) -> None:
    """Hold the lock for as long as `stack`. A kill releases it."""
    handle = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    stack.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
        raise SweepRefused(
            f"{path} is held by {holder or 'another process'}; wait for it or stop it"
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _compare(directory: Directory, settings: Mapping[str, Any]) -> None:
    """Raise `SweepRefused` where the directory was made with other settings."""
    path, before = directory.path, directory.ledger.settings()
    if before is None and any(_PART.fullmatch(file.name) for file in path.glob("*/*")):
        raise SweepRefused(
            f"{path} holds parts that are not in its ledger; name an empty directory"
        )
    if before is None or directory.ledger.is_empty():
        return
    for name, now in settings.items():
        if before.get(name) != now:
            made = f"{name} {_shown(before.get(name))}, not {_shown(now)}"
            if name == "account":
                made = "another account"  # only its digest is known
            raise SweepRefused(
                f"{path} was made with {made}; keep to that, or name another directory"
            )


def _recover(directory: Directory, *, moved: bool) -> None:
    """Rename parts that are in the ledger, check them, remove temporary files that are not.

    Args:
        directory: Open.
        moved: Parts may have left, or been changed.
    """
    for part in directory.ledger.parts():
        path = directory.part(part.kind, part.name)
        if not path.exists() and _temporary(path).exists():
            _temporary(path).rename(path)
        if not moved:
            _verify(directory, part, path)
    for where in (directory.path, *(directory.path / kind for kind in KINDS)):
        if where.is_dir():
            remove_orphans(where)


def _verify(directory: Directory, part: PartRecord, path: Path) -> None:
    """Raise `SweepRefused` unless a part is as it was written."""
    name = f"{part.kind}/{part.name} in {directory.path}"
    try:
        found = path.stat()
    except FileNotFoundError:
        raise SweepRefused(
            f"{name} is missing: put it back, or sweep into a new directory (with --moved, if "
            "parts are to leave it)"
        ) from None
    if found.st_size == part.size and found.st_mtime_ns == part.modified:
        return
    if found.st_size != part.size or _digest_of(path) != part.digest:
        raise SweepRefused(
            f"{name} is not as it was written: put the original back, or sweep into a new "
            "directory (with --moved, if parts are to be changed in it)"
        )
    directory.ledger.verified(part, found.st_mtime_ns)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) and value else f"{value}"
