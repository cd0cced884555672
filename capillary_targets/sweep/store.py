"""The files of a sweep's directory: what is in it, and how a part gets there whole or not at all.

A part is written under a temporary name and synced; one transaction records it in the ledger; only
then is it renamed. So whatever bears a part's name is in the ledger, and what a kill leaves behind
are temporary files: those in the ledger are renamed at the next start, the others removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Final

from attrs import evolve, frozen

from capillary_targets.errors import ApiError, UsageError
from capillary_targets.models import JSON

from .atomic import AtomicFile, reason_of, sync_directory, temporary
from .ledger import Ledger, PartRecord, UserRecord, is_locked
from .options import RunState, Summary, SweepOptions, SweepRefused
from .rows import KINDS, EncodedRows, Format, Part

LEDGER: Final = "ledger.sqlite"
_LOCK: Final = "ledger.lock"
_PART: Final = re.compile(r"part-\d{5,}\.(jsonl|parquet)")
_TEMPORARY: Final = re.compile(rf"\.({_PART.pattern}|[a-z]+\.(json|jsonl|html))\.tmp")
"""The names that this program gives to unfinished files, and no others."""


@frozen
class Directory:
    """A sweep's directory, as `open_directory` yields it."""

    path: Path
    ledger: Ledger

    def part(self, kind: str, name: str) -> Path:
        """The path of a part."""
        return self.path / kind / name

    def size(self) -> int:
        """Bytes of the ledger, and of the parts that have not left."""
        paths = (self.part(part.kind, part.name) for part in self.ledger.parts())
        return sum(path.stat().st_size for path in (self.path / LEDGER, *paths) if path.exists())


@frozen
class UserResult:
    """What came of one user: encoded rows to be written, and what the ledger is to record.

    `sums` are what the user adds to those of the run. `error` is why the user is not complete.
    """

    rows: EncodedRows
    record: UserRecord
    sums: Summary
    error: Exception | None

    @property
    def refused(self) -> bool:
        """Whether the service refuses this user for good."""
        error = self.error
        return isinstance(error, ApiError | UsageError) and not error.retryable

    def failure(self) -> dict[str, Any]:
        """The row of `failures.jsonl`: `error` is the exception's class."""
        error, checkpoint = self.error, getattr(self.error, "checkpoint", None)
        names = ("code", "status", "request_id", "url", "attempts")
        return {
            "user_id": self.rows.user_id,
            "error": type(error).__name__,
            "message": getattr(error, "message", str(error)),
            **{name: getattr(error, name, None) for name in names},
            "retryable": getattr(error, "retryable", False),
            "checkpoint": checkpoint and checkpoint.to_dict(),
        }


class PartWriter:
    """Collects users for the next part; `commit` stores all of them, or none.

    `in_progress` are the users to be asked, being asked, or collected here. `state` is the run's,
    of which the statistics are kept here.
    """

    def __init__(
        self, directory: Directory, row_format: Format, options: SweepOptions, state: RunState
    ) -> None:
        self._directory, self._format, self._options = directory, row_format, options
        self.state = state
        self.in_progress: set[int] = set()
        self._number = max((part.number for part in directory.ledger.parts()), default=-1)
        self._begin()

    def _begin(self) -> None:
        self._files: dict[str, Part] = {}  # by kind
        self._records: list[PartRecord] = []
        self._users: list[UserRecord] = []
        self._failures: dict[int, tuple[str, bool]] = {}
        self._number += 1
        while any(self._path(kind).exists() for kind in KINDS):  # somebody else's file
            self._number += 1

    def _path(self, kind: str) -> Path:
        return self._directory.part(kind, f"part-{self._number:05d}.{self._format.suffix}")

    def add(self, result: UserResult) -> None:
        """Take a user: all rows if nothing is missing, else the failure."""
        rows = result.rows
        if not self._users and not self._failures:
            self._since = time.monotonic()
        if result.error is not None:
            self._failures[rows.user_id] = JSON.encode(result.failure()).decode(), result.refused
            return
        places = {kind: self._part(kind).add(rows) for kind in rows.blocks}
        for counted in rows.sums:
            self.state.stats.add(*counted)
        self.state.stats.names.update(rows.names)
        self._users.append(evolve(result.record, range=places.get("events")))

    def _part(self, kind: str) -> Part:
        if kind not in self._files:
            path = self._path(kind)
            if not path.parent.exists():
                path.parent.mkdir()
                sync_directory(self._directory.path)
            self._files[kind] = self._format.part(AtomicFile(path), kind)
        return self._files[kind]

    def is_full(self) -> bool:
        """Whether it is time to commit."""
        users, options = len(self._users) + len(self._failures), self._options
        return users > 0 and (
            users >= options.part_users
            or time.monotonic() - self._since >= options.part_seconds
            or sum(part.rows for part in self._files.values()) >= options.part_rows
        )

    def sync(self) -> None:
        """Make the files durable: the slow part of `commit`. May be called from a thread."""
        self._records = []
        for kind, part in self._files.items():
            part.sync()
            path = part.file.path
            sync_directory(path.parent)
            about = self._number, kind, self._directory.ledger.run, path.name, part.rows
            self._records.append(PartRecord(*about, *_fingerprint(temporary(path))))

    def commit(self) -> None:
        """Record the synced files and their users in one transaction, then rename the files.

        Raises `sqlite3.OperationalError` where another program locks the ledger; may be repeated.
        """
        if not self._users and not self._failures:
            return
        parts, users, failures = [*self._files.values()], self._users, self._failures
        self._directory.ledger.commit(self._number, self._records, users, failures, self.state)
        self._begin()
        self.in_progress.difference_update((user.user_id for user in users), failures)
        for part in parts:
            part.file.rename()

    def rollback(self) -> None:
        """Delete the files; their users stay pending."""
        for part in self._files.values():
            part.rollback()


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
                f"{path} cannot be written to ({reason_of(error)}); mend that, or name another "
                "directory"
            ) from error
        yield directory


def _make(path: Path) -> None:
    """Create what is missing, its names durable.

    Those in the directory itself are synced by SQLite when it creates its log there.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for kind in ("events", "targets"):
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
            made = f"{name} {before.get(name)}, not {now}"
            if name == "account":
                made = "another account"  # only its digest is known
            raise SweepRefused(
                f"{path} was made with {made}; keep to that, or name another directory"
            )


def _recover(directory: Directory, *, moved: bool) -> None:
    """Rename parts that are in the ledger, check them, remove orphans: unfinished files.

    Args:
        directory: Open.
        moved: Parts may have left, or been changed.
    """
    for part in directory.ledger.parts():
        path = directory.part(part.kind, part.name)
        if not path.exists() and temporary(path).exists():
            temporary(path).rename(path)
        if not moved:
            _verify(directory, part, path)
    for where in (directory.path, *(directory.path / kind for kind in KINDS)):
        for path in where.iterdir() if where.is_dir() else ():
            if _TEMPORARY.fullmatch(path.name):
                path.unlink()


def _verify(directory: Directory, part: PartRecord, path: Path) -> None:
    """Raise `SweepRefused` unless a part is as it was written."""
    found = path.stat() if path.exists() else None
    if found and (found.st_size, found.st_mtime_ns) == (part.size, part.modified):
        return
    size, modified, digest = _fingerprint(path) if found else (0, 0, b"")
    if (size, digest) != (part.size, part.digest):
        raise SweepRefused(
            f"{part.kind}/{part.name} in {directory.path} is "
            f"{'not as it was written' if found else 'missing'}: put the original back, or sweep "
            "into a new directory (with --moved, if parts are to be changed or taken there)"
        )
    directory.ledger.verified(part, modified)  # it was copied, for one


def _fingerprint(path: Path) -> tuple[int, int, bytes]:
    """Size in bytes, time of modification in nanoseconds, digest of a file."""
    with path.open("rb") as file:
        found = path.stat()
        # Processors have instructions for this digest.
        return found.st_size, found.st_mtime_ns, file_digest(file, sha256).digest()


def format_named(name: str, *, raw: bool, run: int = 1) -> Format:
    """The format of that name, for the rows of run number `run`; `raw` adds rows as sent.

    Raises `UsageError` where its extra is not installed.
    """
    if name == "jsonl":
        return Format(raw=raw, run=run)
    try:
        from .parquet import Parquet  # noqa: PLC0415 - pyarrow comes with an extra
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow: install it with `pip install 'capillary-targets[parquet]'`"
        ) from None
    return Parquet(raw=raw, run=run)
