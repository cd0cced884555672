"""One user of a sweep to files: which targets, and which of their events are not in files yet."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Final, TypeAlias

import attrs
import msgspec
from attrs import define, field, frozen

from capillary_targets.errors import ApiError, CapillaryError, PaginationError, UsageError
from capillary_targets.fanout import FanOut
from capillary_targets.models import Target, TargetEvent
from capillary_targets.notifications.store import Announced, AnnouncementSource
from capillary_targets.pagination import START, UNKNOWN, Checkpoint, PagingReport

from .announced import Comparison, EventIds, Unmatched, columns, compare
from .groups import Decision, GroupsReader, MemberGroups
from .incremental import reconcile
from .ledger import Mark, States, UserRecord, WrittenRow
from .options import SweepOptions
from .rows import EncodedRows, Format, StoredRow, encode, event_key, plain, raw_rows
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
    longer on the server. New `unannounced` events and `missing` announced ones, where they are
    compared with notifications.
    """

    rows: EncodedRows
    record: UserRecord
    error: Exception | None
    targets: int
    decision: Decision
    groups_refused: bool
    requests: int
    reconciled: int
    late: int
    vanished: int
    unannounced: int
    missing: int

    @property
    def refused(self) -> bool:
        """Whether the service refuses this user for good."""
        error = self.error
        return isinstance(error, ApiError | UsageError) and not error.retryable

    def failure(self) -> dict[str, Any]:
        """The row of `failures.jsonl`: `error` is the exception's class."""
        error = self.error
        row = {"user_id": self.rows.user_id, "error": type(error).__name__, "message": str(error)}
        if not isinstance(error, CapillaryError):
            return {**row, "retryable": False}
        return {
            **row,
            "message": error.message,
            "code": getattr(error, "code", None),
            "status": error.status,
            "request_id": error.request_id,
            "url": error.url,
            "attempts": error.attempts,
            "retryable": error.retryable,
            "checkpoint": error.checkpoint and error.checkpoint.to_dict(),
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

    def keys(self) -> list[int]:
        return [*map(event_key, self.events)]


@frozen
class UserFetcher:
    """Fetches one user: `fetch` for `fan_out`.

    `moved`: parts may have left the directory, so the ledger must do without them.
    """

    directory: Directory
    format: Format
    options: SweepOptions
    groups: GroupsReader | None = None

    async def fetch(self, user: int, fan: FanOut[UserResult]) -> UserResult:
        """Everything of one user that is not in files yet. Failures are in `UserResult.error`.

        Raises:
            CapillaryError: It is fatal for every user.
            OSError: The directory cannot be read.
            sqlite3.Error: The ledger cannot be read.
        """
        ledger = self.directory.ledger
        marks = ledger.marks(user)
        rows = EncodedRows(user, self.format)
        found: dict[int, _TargetResult] = {}
        targets: Sequence[Target] = ()
        new_marks: dict[int, Mark] = {}
        comparison: Comparison | None = None
        source = self.options.notifications
        before = None if source is None else self.directory.ledger.unmatched(user)
        due = (
            [] if source is None else await source.announced(user, before.position if before else 0)
        )
        rows.ids = None if source is None else []
        kept: States = {}
        rules: set[int] = set()

        look: MemberGroups | None = None
        found_news: set[int] = set()

        async def choose() -> Sequence[int] | None:
            nonlocal look
            if self.groups is not None:
                held = {rule: mark.checkpoint.row > 0 for rule, mark in marks.items()}
                look = await self.groups.look(fan, user, ledger.progress(user), held)
            return None if look is None else look.decision.read

        async def fetch_events(rule: int) -> None:
            written = rows.counts.total()
            changed = look is not None and rule in look.decision.changed
            found[rule] = await self._fetch_target(
                user, rule, marks.get(rule), rows, fan, changed=changed
            )
            if rows.counts.total() > written:
                found_news.add(rule)

        error: Exception | None
        try:
            targets, error = await fan.for_each_target(user, fetch_events, choose)
            rules = {*found, *(target.id for target in targets)}
            if look is not None:
                targets, rules = look.targets, {*look.rules}
            if error is None:
                new_marks = self._add_targets(rows, targets, found, marks, rules)
                kept, rows_of_progress = (
                    (self._unsettled(user, found_news), [])
                    if look is None
                    else look.settled(found_news)
                )
                rows.add("progress", rows_of_progress)
                if source is not None:
                    comparison = await self._compare(rows, source, before, due)
        except (CapillaryError, OSError, sqlite3.Error):
            raise
        except Exception as unexpected:  # noqa: BLE001 - of this user's rows: no other has them
            _log.debug("user %d cannot be written", user, exc_info=True)
            error = unexpected
        error = error or _why_incomplete(rows, found)
        record = UserRecord(
            user,
            rows.counts["events"],
            new_marks,
            {rule: t.deleted for rule, t in found.items() if t.deleted is not None},
            {rule: t.written for rule, t in found.items() if t.written},
            kept,
            None if look is not None and look.decision.by_value else int(time.time()),
            unmatched=None if comparison is None else comparison.unmatched,
        )
        news = () if comparison is None else comparison.new
        return UserResult(
            rows,
            record,
            error,
            targets=len(rules) if self.options.fetch_targets else 0,
            decision=Decision(tuple(found)) if look is None else look.decision,
            groups_refused=look is None and self.groups is not None,
            requests=(look is not None or self.options.fetch_targets)
            + sum(target.report.requests for target in found.values()),
            reconciled=sum(bool(target.late or target.vanished) for target in found.values()),
            late=sum(target.late for target in found.values()),
            vanished=sum(target.vanished for target in found.values()),
            unannounced=sum(isinstance(one, EventIds) for one in news),
            missing=sum(isinstance(one, Announced) for one in news),
        )

    def _unsettled(self, user: int, rules: set[int]) -> States:
        """What the ledger has of targets' progress, which is of before their new events."""
        before = self.directory.ledger.progress(user) if rules else {}
        return {
            rule: {cycle: one._replace(settled=False) for cycle, one in before[rule].items()}
            for rule in rules & before.keys()
        }

    async def _compare(
        self,
        rows: EncodedRows,
        source: AnnouncementSource,
        before: Unmatched | None,
        due: Sequence[Announced],
    ) -> Comparison:
        """Compare the new events with what was announced; encode what is found or settled."""
        user, asked = rows.user_id, {*self.options.target_rule_ids}

        def written(announced: Announced) -> Iterator[EventIds]:
            for rule in announced.rule_ids:
                for row in self._written(user, rule):
                    log_id, number = (_value(row, name) for name in ("event_log_id", "unique_id"))
                    yield EventIds(rule, log_id, number)

        def wanted(announced: Sequence[Announced]) -> list[Announced]:
            return [
                one
                for one in announced
                if (not asked or asked.intersection(one.rule_ids))
                # Where parts may have left, only log ids are known of the events in them.
                and not (self.options.moved and one.event_log_id is None)
            ]

        meanwhile = await source.announced(user, before.position if before else 0)
        compared = compare(before, rows.ids or (), wanted(due), wanted(meanwhile), written)
        for found, settled in ((compared.new, False), (compared.settled, True)):
            rows.add("announcements", [columns(one, settled=settled) for one in found])
        return compared

    def _add_targets(
        self,
        rows: EncodedRows,
        targets: Sequence[Target],
        found: Mapping[int, _TargetResult],
        marks: Mapping[int, Mark],
        rules: set[int],
    ) -> dict[int, Mark]:
        """Encode targets that are new, have changed or were left; the marks of what is new.

        The user is in `rules`; of some of them the definition may not have been asked for.
        """
        digests: dict[int, bytes] = {}
        for target in targets:
            digests[target.id] = _digest(digests.get(target.id, b""), target)
        changed = [
            target
            for target in targets
            if target.id not in marks or marks[target.id].target != digests[target.id]
        ]
        left = [rule for rule, mark in marks.items() if mark.target and rule not in rules]
        if not self.options.fetch_targets:
            left = []
        rows.stats.names.update((target.id, target.name or "") for target in changed)
        rows.add(
            "targets",
            [{"enrolled": True, **plain(target), "raw": target.raw} for target in changed]
            + [{"enrolled": False, "id": rule} for rule in left],
        )
        kept = {rule: marks.get(rule, Mark(START)) for rule in rules if rule not in found}
        return {
            **{rule: attrs.evolve(marks[rule], target=None) for rule in left},
            **{
                rule: attrs.evolve(mark, target=digests.get(rule, mark.target))
                for rule, mark in kept.items()
                if rule not in marks or mark.target != digests.get(rule, mark.target)
            },
            **{
                rule: Mark(
                    attrs.evolve(target.checkpoint, dialect=UNKNOWN),
                    digests.get(rule, marks[rule].target if rule in marks else None),
                )
                for rule, target in found.items()
            },
        }

    async def _fetch_target(
        self,
        user: int,
        rule: int,
        mark: Mark | None,
        rows: EncodedRows,
        fan: FanOut[UserResult],
        *,
        changed: bool,
    ) -> _TargetResult:
        """Encode a target's new events, and those that vanished or came back.

        Where the service says that it `changed` and nothing is new behind the others, a late event
        and a deletion before them may cancel out: all is read again.
        """
        start = START if mark is None else mark.checkpoint
        deleted = Counter() if mark is None else self.directory.ledger.deleted(user, rule)
        if not start.row and not deleted:  # none of it can be in files already
            return await self._walk(user, rule, START, partial(rows.add_events, rule), fan)
        kept = _Buffer()
        try:
            target = await self._walk(user, rule, start, kept.add, fan)
        except PaginationError:  # the list has changed so much that its place is not found
            target = None
        written: list[StoredRow] = []
        if target is None or target.moved or (changed and not kept.events):
            kept = _Buffer()
            target = await self._walk(user, rule, START, kept.add, fan)
            written = self._written(user, rule)
            found = reconcile(kept.keys(), [row.key for row in written], deleted)
            target.late, target.vanished = found.late, len(found.vanished)
        elif deleted:
            # No row in files but a deleted one can be among those behind all others.
            found = reconcile(kept.keys(), [*deleted.elements()], deleted)
            written = self._written(user, rule) if found.restored else []
        else:
            rows.add_events(rule, kept.events, kept.raw)
            return target
        gone = [written[index] for index in found.vanished]
        rows.add("vanished", [{"deleted": True, **row.columns} for row in gone])
        by_key = {row.key: row for row in written}
        back = [by_key[event_key(kept.events[index])] for index in found.restored]
        rows.add("vanished", [{"deleted": False, **row.columns} for row in back])
        new = [kept.events[index] for index in found.new]
        rows.add_events(rule, new, [kept.raw[index] for index in found.new] if kept.raw else ())
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

    def _rows_to_keep(self, events: _Events) -> list[WrittenRow]:
        """What the ledger keeps of rows whose part may leave the directory."""
        if not self.options.moved:
            return []
        return [(event_key(event), event.event_log_id) for event in events]

    def _written(self, user: int, rule: int) -> list[StoredRow]:
        """A target's rows in files; where parts may have left, only their ids."""
        ledger = self.directory.ledger
        if self.options.moved:
            return [
                StoredRow(key, rule, {"event_log_id": number, "target_rule_id": rule})
                for key, number in ledger.written(user, rule)
            ]
        return [
            row
            for part, start, length in ledger.row_ranges(user)
            for row in self.format.read_events(self.directory.part("events", part), start, length)
            if row.rule == rule
        ]


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


def _value(row: StoredRow, column: str) -> Any:
    value = row.columns.get(column)
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


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
