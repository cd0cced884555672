"""One user of a sweep to files: which targets, and which of their events are not in files yet."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Final, TypeAlias

import attrs
from attrs import define, field, frozen

from capillary_targets.errors import ApiError, CapillaryError, PaginationError, UsageError
from capillary_targets.fanout import FanOut
from capillary_targets.models import Target, TargetEvent
from capillary_targets.pagination import START, UNKNOWN, Checkpoint, PagingReport

from .incremental import reconcile
from .ledger import Mark, UserRecord, WrittenRow
from .options import SweepOptions
from .rows import EncodedRows, Format, StoredRows, encode, event_key, plain, raw_rows
from .store import Directory

__all__ = ["UserFetcher", "UserResult"]

_log = logging.getLogger("capillary_targets")

_Events: TypeAlias = Sequence[TargetEvent]
_Raw: TypeAlias = Sequence[bytes | None]


@frozen
class UserResult:
    """What came of one user: encoded rows to be written, and what the ledger is to record.

    `error` is why the user is not complete. `reconciled` targets had changed before the place up
    to which they were known: `late` events were found so, `vanished` ones are in files and no
    longer on the server.
    """

    user_id: int
    rows: EncodedRows
    reports: Mapping[int, PagingReport]
    error: Exception | None
    targets: int
    marks: Mapping[int, Mark]
    deleted: Mapping[int, Counter[int]]
    written: Mapping[int, Sequence[WrittenRow]]
    reconciled: int
    late: int
    vanished: int

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.error is None

    @property
    def refused(self) -> bool:
        """Whether the service refuses this user for good."""
        error = self.error
        return isinstance(error, ApiError | UsageError) and not error.retryable

    def record(self, place: tuple[int, int] | None) -> UserRecord:
        """For the ledger; the new events are at `place`, start and length."""
        return UserRecord(
            self.user_id, self.rows.event_count, place, self.marks, self.deleted, self.written
        )

    def failure(self) -> dict[str, Any]:
        """The row of `failures.jsonl`: `error` is the exception's class."""
        error = self.error
        row = {"user_id": self.user_id, "error": type(error).__name__, "message": str(error)}
        if not isinstance(error, CapillaryError):
            return {**row, "retryable": False}
        checkpoint = error.checkpoint
        return {
            **row,
            "message": error.message,
            "code": getattr(error, "code", None),
            "status": error.status,
            "request_id": error.request_id,
            "url": error.url,
            "attempts": error.attempts,
            "retryable": error.retryable,
            "checkpoint": None if checkpoint is None else checkpoint.to_dict(),
        }


class Unwritable(ValueError):
    """The format cannot hold a row exactly."""


class Incomplete(CapillaryError):
    """A walk ended before it had proven that every event arrived."""

    retryable = True


@define
class _TargetResult:
    """One target's events: what to write and to record."""

    report: PagingReport
    checkpoint: Checkpoint
    moved: bool = False
    deleted: Counter[int] | None = None
    written: list[WrittenRow] = field(factory=list)
    late: int = 0
    vanished: int = 0


@define
class _Buffer:
    """Events held until they are compared with those in files."""

    events: list[TargetEvent] = field(factory=list)
    raw: list[bytes | None] = field(factory=list)

    def add(self, events: _Events, raw: _Raw) -> None:
        self.events += events
        self.raw += raw


@frozen
class UserFetcher:
    """Fetches one user: `fetch` for `fan_out`.

    `moved`: parts may have left the directory, so the ledger must do without them.
    """

    directory: Directory
    format: Format
    options: SweepOptions

    async def fetch(self, user: int, fan: FanOut[UserResult]) -> UserResult:
        """Everything of one user that is not in files yet. Failures are in `UserResult.error`.

        Raises:
            CapillaryError: It is fatal for every user.
            OSError: The directory cannot be read.
            sqlite3.Error: The ledger cannot be read.
        """
        marks = self.directory.ledger.marks(user)
        rows = EncodedRows(user, self.format)
        found: dict[int, _TargetResult] = {}
        targets: Sequence[Target] = ()
        new_marks: dict[int, Mark] = {}

        async def fetch_events(rule: int) -> None:
            found[rule] = await self._fetch_target(user, rule, marks.get(rule), rows, fan)

        error: Exception | None
        try:
            targets, error = await fan.for_each_target(user, fetch_events)
            if error is None:
                new_marks = self._add_targets(rows, targets, found, marks)
        except (CapillaryError, OSError, sqlite3.Error):
            raise
        except Exception as unexpected:  # noqa: BLE001 - of this user's rows: no other has them
            _log.debug("user %d cannot be written", user, exc_info=True)
            error = unexpected
        error = error or _why_incomplete(rows, found)
        return UserResult(
            user,
            rows,
            {rule: target.report for rule, target in found.items()},
            error,
            targets=len({target.id for target in targets}),
            marks=new_marks,
            deleted={r: t.deleted for r, t in found.items() if t.deleted is not None},
            written={r: t.written for r, t in found.items() if t.written},
            reconciled=sum(bool(target.late or target.vanished) for target in found.values()),
            late=sum(target.late for target in found.values()),
            vanished=sum(target.vanished for target in found.values()),
        )

    def _add_targets(
        self,
        rows: EncodedRows,
        targets: Sequence[Target],
        found: Mapping[int, _TargetResult],
        marks: Mapping[int, Mark],
    ) -> dict[int, Mark]:
        """Encode targets that are new, have changed or were left; the marks of all."""
        digests: dict[int, bytes] = {}
        for target in targets:
            digests[target.id] = _digest(digests.get(target.id, b""), target)
        changed = [
            target
            for target in targets
            if target.id not in marks or marks[target.id].target != digests[target.id]
        ]
        left = [rule for rule, mark in marks.items() if mark.target and rule not in digests]
        if not self.options.fetch_targets:
            left = []
        rows.add_targets(changed, left, seen_at=_now())
        return {
            **{rule: attrs.evolve(marks[rule], target=None) for rule in left},
            **{
                rule: Mark(attrs.evolve(target.checkpoint, dialect=UNKNOWN), digests.get(rule))
                for rule, target in found.items()
            },
        }

    async def _fetch_target(
        self, user: int, rule: int, mark: Mark | None, rows: EncodedRows, fan: FanOut[UserResult]
    ) -> _TargetResult:
        """Encode a target's new events, and those that vanished or came back."""
        start = START if mark is None else mark.checkpoint
        deleted = Counter() if mark is None else self.directory.ledger.deleted(user, rule)
        if not start.row and not deleted:  # none of it can be in files already
            return await self._walk(user, rule, START, rows.add_events, fan)
        kept = _Buffer()
        try:
            target = await self._walk(user, rule, start, kept.add, fan)
        except PaginationError:  # the list has changed so much that its place is not found
            target = None
        written: _Written | None = None
        if target is None or target.moved:
            kept = _Buffer()
            target = await self._walk(user, rule, START, kept.add, fan)
            written = self._written(user, rule)
            found = reconcile(self._keys(kept.events), written.keys, deleted)
            target.late, target.vanished = found.late, len(found.vanished)
            written.add_to(rows, found.vanished, deleted=True)
        elif deleted:
            # No row in files but a deleted one can be among those behind all others.
            found = reconcile(self._keys(kept.events), [*deleted.elements()], deleted)
            written = self._written(user, rule) if found.restored else None
        else:
            rows.add_events(kept.events, kept.raw)
            return target
        if found.restored and written is not None:
            keys = self._keys([kept.events[index] for index in found.restored])
            written.add_to(rows, [written.keys.index(key) for key in keys], deleted=False)
        new = [kept.events[index] for index in found.new]
        rows.add_events(new, [kept.raw[index] for index in found.new] if kept.raw else ())
        target.written = self._rows_to_keep(new)
        target.deleted = found.deleted
        return target

    async def _walk(
        self,
        user: int,
        rule: int,
        start: Checkpoint,
        take: Callable[[_Events, _Raw], None],
        fan: FanOut[UserResult],
    ) -> _TargetResult:
        """Walk over the events behind `start`; `take` them page by page."""
        pager = fan.pager(user, rule, start)
        kept: list[WrittenRow] = []
        async with aclosing(pager.stream()) as pages:
            async for page in pages:
                events = _with_rule(page.events, rule)
                take(events, raw_rows(page.body, page.events) if self.options.raw else ())
                kept += self._rows_to_keep(events)
                del page  # a body of its own: it need not wait for that of the next one
        report, checkpoint = pager.report, pager.checkpoint
        return _TargetResult(report, checkpoint, _moved(start, checkpoint, report), written=kept)

    def _keys(self, events: _Events) -> list[int]:
        return [*map(event_key, events)]

    def _rows_to_keep(self, events: _Events) -> list[WrittenRow]:
        """What the ledger keeps of rows whose part may leave the directory."""
        if not self.options.moved:
            return []
        return [*zip(self._keys(events), [event.event_log_id for event in events], strict=True)]

    def _written(self, user: int, rule: int) -> _Written:
        """A target's rows in files."""
        if self.options.moved:
            return _Written(rule, ledger_rows=self.directory.ledger.written(user, rule))
        written = _Written(rule)
        for part, start, length in self.directory.ledger.row_ranges(user):
            path = self.directory.part("events", part)
            written.read(self.format.read_events(path, start, length))
        return written


@define
class _Written:
    """A target's rows in files, from the parts, or from the ledger where those have left."""

    rule: int
    ledger_rows: list[WrittenRow] = field(factory=list)
    _places: list[tuple[StoredRows, int]] = field(init=False, factory=list)

    def read(self, stored: StoredRows) -> None:
        """Take those of `stored` that are of this target."""
        self._places += [(stored, n) for n, rule in enumerate(stored.rules) if rule == self.rule]

    @property
    def keys(self) -> list[int]:
        """By index."""
        if self.ledger_rows:
            return [key for key, _ in self.ledger_rows]
        return [stored.keys[n] for stored, n in self._places]

    def add_to(self, rows: EncodedRows, indices: Sequence[int], *, deleted: bool) -> None:
        """Encode rows for `vanished/`: they were `deleted`, or else are back."""
        seen_at = _now()
        if self.ledger_rows:
            ids = [self.ledger_rows[index][1] for index in indices]
            rows.add_vanished_ids(self.rule, ids, deleted=deleted, seen_at=seen_at)
            return
        for index in indices:
            stored, n = self._places[index]
            rows.add_vanished(stored, [n], deleted=deleted, seen_at=seen_at)


def _moved(start: Checkpoint, end: Checkpoint, report: PagingReport) -> bool:
    """Whether rows before `start` have changed places or number."""
    counted = report.total if report.dialect.total == "rows" else end.row
    return (
        report.moved
        or (report.no_record and start.row > 0)
        or end.row != start.row + report.events
        or counted not in {None, end.row}
    )


_rule: Final = attrgetter("target_rule_id")


def _with_rule(events: _Events, rule: int) -> _Events:
    """The events, with the target that they were asked for where the server does not say."""
    if all(map(_rule, events)):
        return events
    return [
        attrs.evolve(event, target_rule_id=rule) if event.target_rule_id is None else event
        for event in events
    ]


def _digest(before: bytes, target: Target) -> bytes:
    row = encode(plain(target)) if target.raw is None else target.raw
    return blake2b(before + row, digest_size=8).digest()


def _why_incomplete(
    rows: EncodedRows, found: Mapping[int, _TargetResult]
) -> Unwritable | Incomplete | None:
    if rows.error is not None:
        return Unwritable(rows.error)
    missing = [f"target {r}: {t.report.reason}" for r, t in found.items() if not t.report.complete]
    if missing:
        return Incomplete(f"not every event came ({'; '.join(missing)})")
    return None


def _now() -> datetime:
    return datetime.now(UTC)
