"""What is done, in SQLite: the one place that says which users' rows are safe in which parts.

Each part in hand becomes one transaction, so a kill at any moment leaves either all of it or
nothing. What is kept is of constant size for each user and each of their targets, plus a place in
a file for each part that a user's events went into.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from .errors import SweepRefused
from .incremental import Mark
from .notes import Noted, Place

__all__ = ["Ledger"]

_VERSION: Final = "1"
_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, started TEXT NOT NULL, finished TEXT, state TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE parts (
    number INTEGER NOT NULL, kind TEXT NOT NULL, run INTEGER NOT NULL, name TEXT NOT NULL,
    rows INTEGER NOT NULL, tally TEXT, PRIMARY KEY (number, kind)
) WITHOUT ROWID;
CREATE TABLE users (user_id INTEGER PRIMARY KEY, run INTEGER NOT NULL, events INTEGER NOT NULL);
CREATE TABLE places (
    user_id INTEGER NOT NULL, part INTEGER NOT NULL, start INTEGER NOT NULL,
    length INTEGER NOT NULL, PRIMARY KEY (user_id, part)
) WITHOUT ROWID;
CREATE TABLE marks (
    user_id INTEGER NOT NULL, rule_id INTEGER NOT NULL, count INTEGER NOT NULL,
    last_id INTEGER, page_size INTEGER NOT NULL, tail BLOB NOT NULL, target BLOB,
    gone INTEGER NOT NULL,
    PRIMARY KEY (user_id, rule_id)
) WITHOUT ROWID;
CREATE TABLE failures (
    user_id INTEGER PRIMARY KEY, session INTEGER NOT NULL, detail TEXT NOT NULL
);
"""


class Ledger:
    """The ledger of one directory, for one process at a time. Raises `sqlite3.Error`."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA cache_size = -65536")  # KiB: bounds memory at any size
            with self._transaction():
                self._prepare(path)
        except BaseException:
            self._db.close()
            raise
        self.run = 0
        self.session = int(self._meta("session") or 0)

    def _prepare(self, path: Path) -> None:
        found = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not found[0]:
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._set_meta("version", _VERSION)
        elif self._meta("version") != _VERSION:
            raise SweepRefused(
                f"{path} was made by another version of this program; name another directory"
            )

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # --- settings and runs ---

    def _meta(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row and str(row[0])

    def _set_meta(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def settings(self) -> dict[str, Any] | None:
        """The settings that this directory was made with, if it has any."""
        text = self._meta("settings")
        return None if text is None else dict(msgspec.json.decode(text))

    def is_blank(self) -> bool:
        """Whether nothing of any user is noted yet."""
        row = self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM users) OR EXISTS (SELECT 1 FROM failures)"
        ).fetchone()
        return not row[0]

    def begin(self, settings: Mapping[str, Any], now: str, *, anew: bool) -> str:
        """Begin a session: go on with the latest run, or start the next.

        `anew` starts the next run if the latest one came to its end. `now` is ISO 8601. Returns
        the run's state as noted last, `{}` for a fresh one.
        """
        with self._transaction():
            if self.is_blank():
                self._set_meta("settings", msgspec.json.encode(settings).decode())
            self.session += 1
            self._set_meta("session", str(self.session))
            row = self._db.execute("SELECT max(id), finished FROM runs").fetchone()
            if row[0] is None or (anew and row[1] is not None):
                self.run = (row[0] or 0) + 1
                self._db.execute("INSERT INTO runs (id, started) VALUES (?, ?)", (self.run, now))
                self._db.execute("DELETE FROM failures")  # everybody is asked anew
            else:
                self.run = row[0]
        state = self._db.execute("SELECT state FROM runs WHERE id = ?", (self.run,)).fetchone()
        return str(state[0])

    def is_finished(self) -> bool:
        """Whether the list of users once came to its end in this run."""
        row = self._db.execute("SELECT finished FROM runs WHERE id = ?", (self.run,)).fetchone()
        return row is not None and row[0] is not None

    def finish(self, now: str, state: str) -> None:
        """Note that the list of users came to its end."""
        with self._transaction():
            self._db.execute(
                "UPDATE runs SET finished = coalesce(finished, ?), state = ? WHERE id = ?",
                (now, state, self.run),
            )

    def runs(self) -> list[tuple[int, str, str | None, str]]:
        """Every run: id, when it started and came to its end, its state as JSON."""
        return list(self._db.execute("SELECT id, started, finished, state FROM runs ORDER BY id"))

    # --- users ---

    def not_to_ask(self, users: Iterable[int]) -> set[int]:
        """Those of `users` who are done in this run, or have failed in this session."""
        found = self._db.execute(
            "WITH asked AS (SELECT value AS id FROM json_each(?1)) "
            "SELECT user_id FROM users JOIN asked ON user_id = id WHERE run = ?2 "
            "UNION ALL SELECT user_id FROM failures JOIN asked ON user_id = id WHERE session = ?3",
            (msgspec.json.encode(list(users)).decode(), self.run, self.session),
        )
        return {row[0] for row in found}

    def marks(self, user: int) -> dict[int, Mark]:
        """How far each of a user's targets was read, by rule id."""
        found = self._db.execute(
            "SELECT rule_id, count, last_id, page_size, tail, target, gone FROM marks "
            "WHERE user_id = ?",
            (user,),
        )
        return {
            rule: Mark(count, last_id, page_size, tail, target, bool(gone))
            for rule, count, last_id, page_size, tail, target, gone in found
        }

    def places(self, user: int) -> list[Place]:
        """Where a user's events stand."""
        found = self._db.execute(
            "SELECT name, start, length FROM places JOIN parts "
            "ON number = part AND kind = 'events' WHERE user_id = ? ORDER BY part",
            (user,),
        )
        return [Place(*row) for row in found]

    def failed_users(self) -> Iterator[int]:
        """Users of whom something is missing and who have not failed in this session."""
        least = -(2**63)
        while True:  # a few at a time: the table changes meanwhile
            found = self._db.execute(
                "SELECT user_id FROM failures WHERE user_id >= ? AND session < ? "
                "ORDER BY user_id LIMIT 500",
                (least, self.session),
            ).fetchall()
            yield from (row[0] for row in found)
            if len(found) < 500 or found[-1][0] == 2**63 - 1:
                return
            least = found[-1][0] + 1

    def failures(self) -> Iterator[str]:
        """The failed users' details, as JSON."""
        for row in self._db.execute("SELECT detail FROM failures ORDER BY user_id"):
            yield row[0]

    def failed(self) -> int:
        """How many users have failed and not come right since."""
        row = self._db.execute("SELECT count(*) FROM failures").fetchone()
        return int(row[0])

    def users_by_events(self) -> list[tuple[int, int]]:
        """(how many digits the number of a user's events has, users with such a number)."""
        found = self._db.execute(
            "SELECT CASE WHEN events = 0 THEN 0 ELSE length(events) END AS digits, count(*) "
            "FROM users GROUP BY digits ORDER BY digits"
        )
        return list(found)

    # --- parts ---

    def next_part(self) -> int:
        """The number of the next part."""
        row = self._db.execute("SELECT coalesce(max(number) + 1, 0) FROM parts").fetchone()
        return int(row[0])

    def part_names(self, kind: str) -> set[str]:
        """The names of the parts that count."""
        found = self._db.execute("SELECT name FROM parts WHERE kind = ?", (kind,))
        return {row[0] for row in found}

    def tallies(self) -> Iterator[str]:
        """What was counted in each part, as JSON."""
        for row in self._db.execute("SELECT tally FROM parts WHERE tally IS NOT NULL"):
            yield row[0]

    def note(self, noted: Noted) -> None:
        """Note a part, everything about its users, and the run's state: all or nothing."""
        with self._transaction():
            # The tally covers both kinds; it hangs on one of them, for nothing is counted twice.
            tally: str | None = noted.tally
            for kind, (name, rows) in sorted(noted.files.items()):
                self._db.execute(
                    "INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?)",
                    (noted.number, kind, self.run, name, rows, tally),
                )
                tally = None
            self._note_users(noted)
            self._db.executemany(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?)",
                ((user, self.session, detail) for user, detail in noted.failures.items()),
            )
            self._db.execute("UPDATE runs SET state = ? WHERE id = ?", (noted.state, self.run))

    def _note_users(self, noted: Noted) -> None:
        users = noted.users
        self._db.executemany(
            "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT (user_id) DO UPDATE "
            "SET run = excluded.run, events = events + excluded.events",
            ((user.user_id, self.run, user.new_events) for user in users),
        )
        self._db.executemany(
            "INSERT INTO places VALUES (?, ?, ?, ?)",
            (
                (user.user_id, noted.number, user.start, user.length)
                for user in users
                if user.start is not None
            ),
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (user.user_id, rule, m.count, m.last_id, m.page_size, m.tail, m.target, m.gone)
                for user in users
                for rule, m in user.marks.items()
            ),
        )
        self._db.executemany(
            "DELETE FROM failures WHERE user_id = ?", ((user.user_id,) for user in users)
        )
