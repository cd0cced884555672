"""The directory of a sweep: one process in it at a time, one set of settings, no strangers."""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from .errors import SweepRefused
from .ledger import Ledger
from .parts import remove_strangers

__all__ = ["KINDS", "Directory"]

KINDS: Final = ("events", "targets")
_LEDGER: Final = "ledger.sqlite"
_LOCK: Final = "ledger.lock"


class Directory:
    """A sweep's directory, held from `with` to its end.

    Entering makes it if need be, takes the lock, opens the ledger, compares the settings and
    removes what a kill left half done. Without settings, it must be there, with whichever it has.
    Raises `SweepRefused`, with nothing changed, where it cannot be had.
    """

    ledger: Ledger

    def __init__(self, path: Path, settings: Mapping[str, Any] | None) -> None:
        self.path = path
        self._settings = settings
        self._stack = ExitStack()

    def part(self, kind: str, name: str) -> Path:
        """The path of a part."""
        return self.path / kind / name

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._settings is None and not (self.path / _LEDGER).exists():
                raise SweepRefused(f"{self.path} holds no sweep; name the directory of one")
            try:
                for kind in KINDS:
                    (self.path / kind).mkdir(parents=True, exist_ok=True)
                self._take_lock(stack)
                self.ledger = Ledger(self.path / _LEDGER)
                stack.callback(self.ledger.close)
                self._compare()
                for kind in KINDS:
                    remove_strangers(self.path / kind, self.ledger.part_names(kind))
            except sqlite3.DatabaseError as error:
                raise SweepRefused(
                    f"{self.path / _LEDGER} cannot be used ({error}); mend that, or name another "
                    "directory"
                ) from error
            except OSError as error:
                raise SweepRefused(
                    f"{self.path} cannot be written to ({error.strerror}); mend that, or name "
                    "another directory"
                ) from error
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _take_lock(self, stack: ExitStack) -> None:
        """Hold the lock for as long as `stack`. A kill lets go of it."""
        path = self.path / _LOCK
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        stack.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
            raise SweepRefused(
                f"{self.path} is held by {holder or 'another process'}; wait for it or stop it"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _compare(self) -> None:
        before = self.ledger.settings()
        if before is None or self.ledger.is_blank():
            if before is None and any(any((self.path / kind).glob("part-*")) for kind in KINDS):
                raise SweepRefused(
                    f"{self.path} holds parts that its ledger knows nothing of; name an empty "
                    "directory"
                )
            return
        for name, now in (self._settings or {}).items():
            if before.get(name) != now:
                raise SweepRefused(
                    f"{self.path} was made with {name} {_shown(before.get(name))}, not "
                    f"{_shown(now)}; keep to that, or name another directory"
                )


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) and value else f"{value}"
