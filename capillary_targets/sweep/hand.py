"""The part in hand: rows on their way into files, and what is to be noted about their users."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from attrs import define, field

from .directory import Directory
from .failures import failure_of
from .notes import Noted, UserNote
from .rows import Format, PartFile, encode
from .stats import PartStats
from .summary import Summary
from .visit import Visit

__all__ = ["Hand", "Limits"]


@define
class Limits:
    """When a part is full: so many rows, users, or seconds after its first user.

    A kill costs at most one part in hand, so the time is what such a kill costs.
    """

    rows: int = 500_000
    users: int = 20_000
    seconds: float = 120.0


@define
class Hand:
    """Takes visits in; `seal` puts all of them into the directory and its ledger, or none.

    `pending` are the users on their way: to be asked, being asked, or in hand.
    """

    _directory: Directory
    _format: Format
    _summary: Summary
    _state: Callable[[], str]
    _limits: Limits
    pending: set[int] = field(init=False, factory=set)
    _events: PartFile | None = field(init=False, default=None)
    _targets: PartFile | None = field(init=False, default=None)
    _users: list[UserNote] = field(init=False, factory=list)
    _failures: dict[int, str] = field(init=False, factory=dict)
    _tally: PartStats = field(init=False, factory=PartStats)
    _number: int = field(init=False, default=0)
    _rows: int = field(init=False, default=0)
    _since: float = field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self._number = self._directory.ledger.next_part()

    def add(self, visit: Visit, now: float) -> None:
        """Take a user in: all rows if nothing is missing, else the failure. `now` in seconds."""
        if not self._users and not self._failures:
            self._since = now
        failure, rows = failure_of(visit), visit.rows
        if failure is None:
            rows.add_targets(visit.targets, visit.left, seen_at=datetime.now(UTC))
            if rows.error is not None:
                failure = {"user_id": visit.user_id, "error": "Unwritable", "message": rows.error}
        if failure is not None:
            self._failures[visit.user_id] = encode(failure).decode()
            self._summary.failed += 1
            return
        start, length = None, 0
        if rows.event_count:
            if self._events is None:
                self._events = self._format.events(self._directory.part("events", self._name()))
            start, length = self._events.add(rows)
        if rows.target_count:
            if self._targets is None:
                self._targets = self._format.targets(self._directory.part("targets", self._name()))
            self._targets.add(rows)
        self._rows += rows.event_count + rows.target_count
        self._tally.merge(rows.stats)
        self._summary.add(visit)
        self._users.append(UserNote(visit.user_id, rows.event_count, start, length, visit.marks))

    def is_full(self, now: float) -> bool:
        """Whether it is time to seal."""
        users = len(self._users) + len(self._failures)
        return users > 0 and (
            self._rows >= self._limits.rows
            or users >= self._limits.users
            or now - self._since >= self._limits.seconds
        )

    def sync(self) -> None:
        """Everything onto the disk: the slow part of `seal`. May be called from a thread."""
        for sink in self._sinks().values():
            sink.sync()

    def seal(self) -> None:
        """The parts under their names, then everything noted, in one transaction."""
        if not self._users and not self._failures:
            return
        sinks = self._sinks()
        for sink in sinks.values():
            sink.commit()
        self._directory.ledger.note(
            Noted(
                self._number,
                {kind: (self._name(), sink.rows) for kind, sink in sinks.items()},
                self._tally.to_json(),
                self._users,
                self._failures,
                self._state(),
            )
        )
        self.pending.difference_update(user.user_id for user in self._users)
        self.pending.difference_update(self._failures)
        self._number += bool(sinks)
        self._clear()

    def discard(self) -> None:
        """Let go of it: its users are as if they had never been asked."""
        for sink in self._sinks().values():
            sink.discard()
        self._clear()

    def _clear(self) -> None:
        self._events = self._targets = None
        self._users, self._failures, self._tally, self._rows = [], {}, PartStats(), 0

    def _name(self) -> str:
        return f"part-{self._number:05d}.{self._format.suffix}"

    def _sinks(self) -> dict[str, PartFile]:
        """The parts that have been begun."""
        begun = {"events": self._events, "targets": self._targets}
        return {kind: sink for kind, sink in begun.items() if sink is not None}
