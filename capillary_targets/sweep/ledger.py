"""What is done, in SQLite: the one place that says which users' rows are safe in which parts.

Each part becomes one transaction, so a kill at any moment leaves all of it or nothing. A user takes
constant size for each target (`UserState`), plus a place in a file for each part with rows of
theirs, plus a few bytes for each deleted row; with `moved`, a few bytes for every row.

The write-ahead log lets other programs read while the sweep writes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from attrs import evolve, frozen

from capillary_targets.pagination import Checkpoint

from .announced import Unmatched
from .options import RunState, Summary, SweepRefused
from .stats import EventStats

WrittenRow: TypeAlias = tuple[int, int, int | None]
"""A written row's target, key and event log id."""

_VERSION: Final = 7
_TABLES: Final = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, session INTEGER NOT NULL, settings TEXT NOT NULL, started TEXT NOT NULL,
    finished TEXT, state BLOB NOT NULL
);
CREATE TABLE parts (
    number INTEGER NOT NULL, kind TEXT NOT NULL, run INTEGER NOT NULL, name TEXT NOT NULL,
    rows INTEGER NOT NULL, size INTEGER NOT NULL, modified INTEGER NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (number, kind)
) WITHOUT ROWID;
CREATE TABLE users (
    user_id INTEGER PRIMARY KEY, run INTEGER NOT NULL, proven INTEGER NOT NULL
);
CREATE TABLE states (user_id INTEGER PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE row_ranges (
    user_id INTEGER NOT NULL, part INTEGER NOT NULL, start INTEGER NOT NULL,
    length INTEGER NOT NULL, written BLOB NOT NULL, PRIMARY KEY (user_id, part)
) WITHOUT ROWID;
CREATE TABLE failures (
    user_id INTEGER PRIMARY KEY, session INTEGER NOT NULL, refused INTEGER NOT NULL,
    detail TEXT NOT NULL
);
"""


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another program locks the database, so that the same call may succeed later."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """How far a target's events were read.

    The fields of the checkpoint behind the last of them, and a digest of the target's own row;
    None: the user has left it, or it was never asked for.
    """

    row: int = 0
    last: tuple[int, ...] = ()
    date: str | None = None
    target: bytes | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, target: bytes | None) -> Mark:
        """The mark of a checkpoint."""
        date = checkpoint.date.isoformat() if checkpoint.date else None
        return cls(checkpoint.row, checkpoint.last, date, target)

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint."""
        date = datetime.fromisoformat(self.date) if self.date else None
        return Checkpoint(self.row, self.last, date)


class CycleState(NamedTuple):
    """What the ledger keeps of a member's target in a cycle that has a record.

    `achieved`, `updated` and `rest` (a digest of the milestones reached) are what a purchase
    changes; `row` is a digest of everything in the row of `progress/`. `first_seen` is in seconds
    since 1970. Not `settled`: the service's value changed and the events did not, so they are read
    once more in the next run: its lists may lag behind its sums.
    """

    achieved: str | None
    updated: str | None
    rest: bytes
    row: bytes
    first_seen: int
    settled: bool = True

    def is_same(self, other: CycleState) -> bool:
        """Whether nothing has happened between the two: what tells nothing proves nothing."""
        return self[:3] == other[:3] != (None, None, self.rest)


States: TypeAlias = Mapping[int, Mapping[int, CycleState]]
"""By target rule id and cycle id; 0 where the service does not name the cycle."""


class UserState(msgspec.Struct, array_like=True):
    """What is known of a user, by target rule id.

    `deleted` counts, by key, rows that are in files and no longer on the server. `unmatched` is
    None until the events were compared with notifications.
    """

    marks: dict[int, Mark] = {}
    deleted: dict[int, dict[int, int]] = {}
    progress: dict[int, dict[int, CycleState]] = {}
    unmatched: Unmatched | None = None


@frozen
class UserRecord:
    """A user of whom nothing is missing: what this part adds.

    `state` replaces the earlier one. `written` are the rows of this part, kept with `moved` only.
    `proven`: all of the user is, by more than the achieved value. `range` (start and length) is
    where the new events are, None if there are none.
    """

    user_id: int
    state: UserState
    written: Sequence[WrittenRow]
    proven: bool
    range: tuple[int, int] | None = None


class PartRecord(NamedTuple):
    """A part's file: `size` in bytes, `modified` in nanoseconds, `digest` of its contents."""

    number: int
    kind: str
    run: int
    name: str
    rows: int
    size: int
    modified: int
    digest: bytes


class Run(NamedTuple):
    """One run over the list: when it started and came to its end (ISO 8601), and its state."""

    number: int
    started: str
    finished: str | None
    state: RunState


class Ledger:
    """The ledger of one directory, for one process at a time. Raises `sqlite3.Error`."""

    def __init__(self, path: Path) -> None:
        # A commit that meets a lock is repeated by the caller, who waits without blocking.
        self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
        try:
            self._prepare(path)
            latest = self._one("SELECT id, session FROM runs ORDER BY id DESC")
        except BaseException:
            self._db.close()
            raise
        self.run: int
        self.session: int
        self.run, self.session = latest or (0, 0)

    def _prepare(self, path: Path) -> None:
        tables = self._one("SELECT count(*) FROM sqlite_master")[0]
        if tables and self._one("PRAGMA user_version")[0] != _VERSION:
            raise SweepRefused(
                f"{path} was made by another version of this program; name another directory"
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA cache_size = -65536")  # KiB: bounds memory at any size
        if not tables:
            with self._db:
                for statement in f"BEGIN; {_TABLES} PRAGMA user_version = {_VERSION}".split(";"):
                    self._db.execute(statement)

    def close(self) -> None:
        """Close the database; its log is merged into it."""
        self._db.close()

    def _one(self, query: str, *values: object) -> Any:
        return self._db.execute(query, values).fetchone()

    # --- settings and runs ---

    def settings(self) -> dict[str, Any] | None:
        """The settings that this directory was made with, if it has any."""
        row = self._one("SELECT settings FROM runs ORDER BY id DESC")
        return row and dict(msgspec.json.decode(row[0]))

    def is_empty(self) -> bool:
        """Whether no user is recorded yet."""
        row = self._one("SELECT EXISTS (SELECT 1 FROM users) OR EXISTS (SELECT 1 FROM failures)")
        return not row[0]

    def start_run(self, settings: Mapping[str, Any], now: str, *, new: bool) -> RunState:
        """Start a session: resume the latest run, or start the next one.

        Args:
            settings: Those of the directory.
            now: ISO 8601.
            new: Start the next run if the latest one is finished.

        Returns:
            The run's state as committed last; of a new one, what the run before passes on.
        """
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            run = next(self.runs(), None)
            if run is None or (new and run.finished):
                state = run.state if run else RunState()
                state = evolve(state, summary=Summary(), timeline=(1.0, []), stats=EventStats())
                self.run += 1
                run = Run(self.run, now, None, state)
                self._db.execute(
                    "INSERT INTO runs VALUES (?, 0, '', ?, ?, ?)",
                    (*run[:3], msgspec.msgpack.encode(state)),
                )
                self._db.execute("DELETE FROM failures")  # every user is asked again
            self.session += 1
            self._db.execute(
                "UPDATE runs SET session = ?, settings = ? WHERE id = ?",
                (self.session, msgspec.json.encode(settings).decode(), self.run),
            )
        run.state.summary.finished = run.finished is not None
        return run.state

    def save(self, state: RunState, finished: str | None = None) -> None:
        """Record the run's state and, once the list of users was read to its end, when."""
        self._db.execute(
            "UPDATE runs SET state = ?, finished = coalesce(finished, ?) WHERE id = ?",
            (msgspec.msgpack.encode(state), finished, self.run),
        )

    def runs(self) -> Iterator[Run]:
        """Every run, the newest first."""
        found = self._db.execute("SELECT id, started, finished, state FROM runs ORDER BY id DESC")
        for number, started, finished, state in found:
            yield Run(number, started, finished, _RUN.decode(state))

    # --- users ---

    def already_done(self, users: Iterable[int]) -> set[int]:
        """Those of `users` who are complete in this run, or have failed in this session."""
        found = self._db.execute(
            "WITH asked AS (SELECT value AS id FROM json_each(?)) "
            "SELECT user_id FROM users JOIN asked ON user_id = id WHERE run = ? "
            "UNION ALL SELECT user_id FROM failures JOIN asked ON user_id = id WHERE session = ?",
            (msgspec.json.encode(list(users)).decode(), self.run, self.session),
        )
        return {row[0] for row in found}

    def users(self, since: int = 0) -> int:
        """How many users are complete in run `since` or a later one."""
        return int(self._one("SELECT count(*) FROM users WHERE run >= ?", since)[0])

    def user(self, user: int) -> tuple[UserState, int]:
        """What is known of a user, and the latest run in which they were `proven`, 0 for none."""
        query = "SELECT value, proven FROM states JOIN users USING (user_id) WHERE user_id = ?"
        row = self._one(query, user)
        return (_STATE.decode(row[0]), row[1]) if row else (UserState(), 0)

    def oldest_proof(self) -> str | None:
        """When the run began in which, longest ago, a user of this one was proven; ISO 8601."""
        row = self._one(
            "SELECT started FROM runs WHERE id = (SELECT min(proven) FROM users WHERE run = ?)",
            self.run,
        )
        return row and str(row[0])

    def row_ranges(self, user: int) -> Iterator[tuple[str, int, int, list[WrittenRow]]]:
        """Where a user's events are: part, start and length; and, with `moved`, which they are.

        The places are bytes of a JSON Lines file, rows of a Parquet file.
        """
        found = self._db.execute(
            "SELECT name, start, length, written FROM row_ranges JOIN parts "
            "ON number = part AND kind = 'events' WHERE user_id = ? ORDER BY part",
            (user,),
        )
        for name, start, length, written in found:
            yield name, start, length, _WRITTEN.decode(written)

    def failures(self) -> Iterator[tuple[int, int, str]]:
        """Failed users; 1 where the service refuses them for good, else 0; the details as JSON."""
        return self._db.execute("SELECT user_id, refused, detail FROM failures ORDER BY user_id")

    # --- parts ---

    def checkpoint(self) -> None:
        """Merge the log into the database file."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def parts(self) -> list[PartRecord]:
        """The files of all parts."""
        found = self._db.execute("SELECT * FROM parts ORDER BY number, kind")
        return [*map(PartRecord._make, found)]

    def verified(self, part: PartRecord, modified: int) -> None:
        """Record when a part with the right contents was modified: it was copied, for one."""
        self._db.execute(
            "UPDATE parts SET modified = ? WHERE kind = ? AND name = ?",
            (modified, part.kind, part.name),
        )

    def commit(
        self,
        number: int,
        files: Sequence[PartRecord],
        users: Sequence[UserRecord],
        failures: Mapping[int, tuple[str, bool]],
        state: RunState,
    ) -> None:
        """Record a part, everything about its users, and the run's state: all or nothing.

        Args:
            number: The part's.
            files: Those of the part.
            users: Who are complete.
            failures: Each failed user's details, as JSON, and whether the service refuses the user
                for good.
            state: The run's.
        """
        write = self._db.executemany
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            write("INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", files)
            write(
                "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT (user_id) DO UPDATE "
                "SET run = excluded.run, proven = max(excluded.proven, proven)",
                ((user.user_id, self.run, self.run * user.proven) for user in users),
            )
            write(
                "INSERT OR REPLACE INTO states VALUES (?, ?)",
                ((user.user_id, msgspec.msgpack.encode(user.state)) for user in users),
            )
            write(
                "INSERT INTO row_ranges VALUES (?, ?, ?, ?, ?)",
                (
                    (user.user_id, number, *user.range, msgspec.msgpack.encode(user.written))
                    for user in users
                    if user.range
                ),
            )
            write("DELETE FROM failures WHERE user_id = ?", ((user.user_id,) for user in users))
            write(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)",
                ((u, self.session, refused, text) for u, (text, refused) in failures.items()),
            )
            self.save(state)


_RUN: Final = msgspec.msgpack.Decoder(RunState, dec_hook=lambda kind, value: kind(value))
_STATE: Final = msgspec.msgpack.Decoder(UserState)
_WRITTEN: Final = msgspec.msgpack.Decoder(list[WrittenRow])
