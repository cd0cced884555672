"""The part in progress: its files, in the format asked for, and what the ledger is to record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import define, evolve, field

from capillary_targets.errors import UsageError

from .fetch import UserResult
from .ledger import PartCommit, PartRecord, UserRecord
from .options import PartLimits
from .rows import FORMATS, EncodedRows, Format, JsonLines, Part, encode
from .stats import PartStats
from .store import Directory, part_name, sync_directory

__all__ = ["PartWriter", "format_named"]


@define
class PartWriter:
    """Collects users for the next part; `commit` stores all of them, or none.

    `in_progress` are the users to be asked, being asked, or collected here. `state` returns the
    run's state and the dialect, as JSON.
    """

    _directory: Directory
    _format: Format
    _limits: PartLimits
    _state: Callable[[], tuple[str, str]]
    in_progress: set[int] = field(init=False, factory=set)
    _files: dict[str, Part] = field(init=False, factory=dict)
    """By kind."""
    _users: list[UserRecord] = field(init=False, factory=list)
    _failures: dict[int, tuple[str, bool]] = field(init=False, factory=dict)
    _stats: PartStats = field(init=False, factory=PartStats)
    _renamed_in: set[Path] = field(init=False, factory=set)
    _number: int = field(init=False, default=0)
    _rows: int = field(init=False, default=0)
    _since: float = field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self._number = self._directory.free_number(self._format.suffix)

    def add(self, result: UserResult, now: float) -> None:
        """Take a user: all rows if nothing is missing, else the failure. `now` in seconds."""
        if not self._users and not self._failures:
            self._since = now
        rows = result.rows
        if result.error is not None:
            detail = encode(result.failure()).decode()
            self._failures[rows.user_id] = (detail, result.refused)
            return
        places = {kind: self._add_rows(kind, rows, rows.counts[kind]) for kind in rows.blocks}
        self._stats.merge(rows.stats)
        self._users.append(evolve(result.record, range=places.get("events")))

    def _add_rows(self, kind: str, rows: EncodedRows, count: int) -> tuple[int, int]:
        if kind not in self._files:
            path = self._directory.part(kind, self._name())
            if not path.parent.exists():
                path.parent.mkdir()
                sync_directory(self._directory.path)
            self._files[kind] = self._format.part(path, kind)
        self._rows += count
        return self._files[kind].add(rows)

    def is_full(self, now: float) -> bool:
        """Whether it is time to commit."""
        users = len(self._users) + len(self._failures)
        return users > 0 and (
            self._rows >= self._limits.rows
            or users >= self._limits.users
            or now - self._since >= self._limits.seconds
        )

    def sync(self) -> None:
        """Make the files durable: the slow part of `commit`. May be called from a thread."""
        for file in self._files.values():
            file.sync()

    def commit(self) -> None:
        """Record the synced files and their users in one transaction, then rename the files.

        Raises `sqlite3.OperationalError` where another program locks the ledger; may be repeated.
        """
        if not self._users and not self._failures:
            return
        state, dialect = self._state()
        self._directory.ledger.commit(
            PartCommit(
                self._number,
                [
                    PartRecord(kind, self._name(), part.rows, *part.file.fingerprint())
                    for kind, part in self._files.items()
                ],
                self._stats.to_json(),
                self._users,
                self._failures,
                state,
                dialect,
            )
        )
        self.in_progress.difference_update(user.user_id for user in self._users)
        self.in_progress.difference_update(self._failures)
        files = [*self._files.values()]
        self._clear()
        for part in files:
            part.file.rename()
            self._renamed_in.add(part.file.path.parent)
        self._number = self._directory.free_number(self._format.suffix)

    def sync_names(self) -> None:
        """Make the names of the committed files durable: until then they may be temporary again."""
        for directory in self._renamed_in:
            sync_directory(directory)
        self._renamed_in.clear()

    def rollback(self) -> None:
        """Delete the files; their users stay pending."""
        for part in self._files.values():
            part.rollback()
        self._clear()

    def _clear(self) -> None:
        self._files, self._users, self._failures = {}, [], {}
        self._stats, self._rows = PartStats(), 0

    def _name(self) -> str:
        return part_name(self._number, self._format.suffix)


def format_named(name: str, *, raw: bool, run: int = 1) -> Format:
    """The format of that name, for the rows of run number `run`; `raw` adds rows as sent.

    Raises:
        UsageError: there is no such format, or its extra is not installed.
    """
    if name == "jsonl":
        return JsonLines(raw=raw, run=run)
    if name != "parquet":
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, not {name!r}")
    try:
        from .parquet import Parquet  # noqa: PLC0415 - pyarrow comes with an extra
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow: install it with `pip install 'capillary-targets[parquet]'`"
        ) from None
    return Parquet(raw=raw, run=run)
