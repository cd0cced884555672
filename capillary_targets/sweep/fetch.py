"""One user of a sweep to files: which targets, and which of their events are not in files yet."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from decimal import Decimal
from functools import partial, reduce
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

from attrs import evolve, frozen
from msgspec.structs import asdict, replace

from capillary_targets.errors import (
    CapillaryError,
    PaginationError,
    TargetPeriodNotFound,
    UnknownPeriod,
)
from capillary_targets.fanout import FanOut
from capillary_targets.models import JSON, Target, TargetEvent
from capillary_targets.notifications.store import Announced, StoreUnavailable
from capillary_targets.pagination import START, Checkpoint

from .announced import EventIds, columns, compare
from .groups import GroupsReader, MemberGroups
from .ledger import Mark, States, UserRecord, WrittenRow
from .options import RunState, Summary, SweepOptions
from .rows import BATCH_ROWS, EncodedRows, Format, event_key, plain, raw_rows
from .stats import EXACT
from .store import Directory, UserResult, format_named

_log = logging.getLogger("capillary_targets")

_Take: TypeAlias = Callable[[Sequence[TargetEvent], Sequence[bytes | None]], None]


class Unwritable(ValueError):
    """The format cannot hold a row exactly."""


class StoredRow(NamedTuple):
    """A row in a part: its `event_key`, and its columns by name as far as they are known."""

    key: int
    columns: Mapping[str, Any]


class UserFetcher:
    """Fetches one user: `fetch` for a `FanOut`."""

    def __init__(self, directory: Directory, options: SweepOptions, state: RunState) -> None:
        """For the run that the ledger is in; `state` is what earlier ones learned of the server."""
        run = directory.ledger.run
        self.directory = directory
        self.options = options
        self.format: Format = format_named(options.format, raw=options.raw, run=run)
        self.groups: GroupsReader | None = None
        if options.detect == "groups":
            self.groups = GroupsReader(options, run, state.sends_ids)

    async def fetch(self, user: int, fan: FanOut[UserResult]) -> UserResult:
        """Everything of one user that is not in files yet. Failures are in `UserResult.error`.

        Raises:
            OSError: The directory cannot be read.
            sqlite3.Error: The ledger cannot be read.
            StoreUnavailable: The notifications cannot be read.
        """
        return await _UserFetch(self, fan, user).fetch()


class _UserFetch:
    """The fetch of one user. `_state` is what the ledger will have of them, `_before` what it has.

    `_look` is what the target groups told, None where they are not used.
    """

    def __init__(self, shared: UserFetcher, fan: FanOut[UserResult], user: int) -> None:
        self._shared, self._fan, self._user = shared, fan, user
        self._options, self._ledger = shared.options, shared.directory.ledger
        self._rows = EncodedRows(user, shared.format)
        self._before, self._proven = self._ledger.user(user)
        self._state = replace(self._before, marks={**self._before.marks})
        self._written: list[WrittenRow] = []
        self._sums = Summary(complete=1)
        self._look: MemberGroups | None = None

    async def fetch(self) -> UserResult:
        """All of it."""
        error: Exception | None = None
        try:
            await self._fetch()
        except Exception as failure:
            is_ours = isinstance(failure, CapillaryError)
            not_of_this_user = StoreUnavailable if is_ours else (OSError, sqlite3.Error)
            if isinstance(failure, not_of_this_user):
                raise
            if not is_ours:
                _log.debug("user %d cannot be written", self._user, exc_info=True)
            misfit = not is_ours and isinstance(failure, ValueError | ArithmeticError)
            error = Unwritable(f"{failure}") if misfit else failure
        self._sums.events = self._rows.counts["events"]
        self._sums.value_sum = reduce(EXACT.add, (one[-1] for one in self._rows.sums), Decimal(0))
        proven = self._look is None or "by_value" not in self._look.reasons.values()
        record = UserRecord(self._user, self._state, self._written, proven)
        return UserResult(self._rows, record, self._sums, error)

    async def _fetch(self) -> None:
        source, unmatched = self._options.notifications, self._before.unmatched
        position = unmatched.position if unmatched else 0
        due = [] if source is None else await source.announced(self._user, position)
        self._rows.ids = None if source is None else []
        targets, rules, read = await self._targets()
        news, strangers = set(), 0
        for rule in read:
            count = self._rows.counts.total()
            try:
                await self._fetch_target(rule)
            except (TargetPeriodNotFound, UnknownPeriod):  # a period is of one group's targets
                strangers += 1
                if strangers == len(rules):
                    raise
            if self._rows.counts.total() > count:
                news.add(rule)
        self._add_targets(targets, rules)
        before = self._before.progress
        kept: States
        if self._look is not None:
            kept, progress = self._look.settled(news)
            self._rows.add("progress", progress)
        else:  # what the ledger has of a target's progress is of before its new events
            kept = {
                rule: {cycle: one._replace(settled=False) for cycle, one in before[rule].items()}
                for rule in news & before.keys()
            }
        self._state.progress = _without_empty({**before, **kept})
        if source is not None:
            self._compare(due, await source.announced(self._user, position))

    async def _targets(self) -> tuple[Sequence[Target], set[int], Sequence[int]]:
        """The definitions that are known, all targets that the user is in, and those to read."""
        groups, sums, look = self._shared.groups, self._sums, None
        if groups is not None:
            look = await groups.look(self._fan, self._user, self._before, self._proven)
            sums.requests, sums.groups_refused = int(look is not None), int(look is None)
        if look is None:
            targets, read = await self._fan.targets(self._user)
            rules = {*read}
            sums.requests += self._options.fetch_targets
        else:
            targets, rules, read = look.targets, {*look.reasons}, look.read
            why = Counter(look.reasons.values())
            sums.by_update, sums.by_value = why["by_update"], why["by_value"]
            sums.no_record = why["no_record"]
        sums.by_events = len(read)
        sums.targets = len(rules) if self._options.fetch_targets else 0
        self._look = look
        return targets, rules, read

    def _compare(self, due: Sequence[Announced], meanwhile: Sequence[Announced]) -> None:
        """Compare the new events with what was announced; encode what is found or settled."""
        asked, moved = {*self._options.target_rule_ids}, self._options.moved

        def written(announced: Announced) -> Iterator[EventIds]:
            for rule in announced.rule_ids:
                for _, row in self._stored_rows(rule):
                    yield EventIds(rule, row["event_log_id"], row.get("unique_id"))

        def is_wanted(one: Announced) -> bool:
            # Where parts may have left, only log ids are known of the events in them.
            known = not moved or one.event_log_id is not None
            return known and (not asked or not asked.isdisjoint(one.rule_ids))

        self._state.unmatched, new, settled = compare(
            self._before.unmatched,
            self._rows.ids or (),
            [*filter(is_wanted, due)],
            [*filter(is_wanted, meanwhile)],
            written,
        )
        for found, are in ((new, False), (settled, True)):
            self._rows.add("announcements", [columns(one, settled=are) for one in found])
        self._sums.unannounced_events = sum(isinstance(one, EventIds) for one in new)
        self._sums.missing_events = len(new) - self._sums.unannounced_events

    def _add_targets(self, targets: Sequence[Target], rules: set[int]) -> None:
        """Encode targets that are new, have changed or were left, and mark them so.

        The user is in `rules`; of some of them the definition may not have been asked for.
        """
        marks, digests = self._state.marks, dict[int, bytes]()
        known = {rule: mark.target for rule, mark in self._before.marks.items()}
        for target in targets:
            digests[target.id] = _digest(digests.get(target.id, b""), target)
        changed = [one for one in targets if known.get(one.id) != digests[one.id]]
        left = [rule for rule, digest in known.items() if digest and rule not in rules]
        if not self._options.fetch_targets:
            left = []
        self._rows.names.update((target.id, target.name or "") for target in changed)
        self._rows.add(
            "targets",
            [{"enrolled": True, **plain(target), "raw": target.raw} for target in changed]
            + [{"enrolled": False, "id": rule} for rule in left],
        )
        for rule in (*rules, *left):
            digest = None if rule in left else digests.get(rule, known.get(rule))
            marks[rule] = replace(marks.get(rule, Mark()), target=digest)

    async def _fetch_target(self, rule: int) -> None:
        """Encode a target's new events, and those that vanished or came back.

        Where the service says that it has changed and nothing is new behind the others, a late
        event and a deletion before them may cancel out: all is read again.
        """
        start = self._before.marks.get(rule, Mark()).checkpoint
        deleted = Counter(self._before.deleted.get(rule, {}))
        if not start.row and not deleted:
            await self._walk(rule, START, partial(self._write, rule))  # none of it is in files
            return
        kept: list[TargetEvent] = []
        raw: list[bytes | None] = []

        def keep(events: Sequence[TargetEvent], sent: Sequence[bytes | None]) -> None:
            kept.extend(events)
            raw.extend(sent)

        changed = self._look is not None and self._look.reasons[rule] == "changed"
        try:
            moved = await self._walk(rule, start, keep)
        except PaginationError:  # the list has changed so much that its place is not found
            moved = True
        whole = moved or (changed and not kept)
        if whole:
            kept.clear()
            raw.clear()
            await self._walk(rule, START, keep)
        # Behind all others, no row in files can be but a deleted one.
        written = self._stored_rows(rule) if whole else []
        keys = [row.key for row in written] if whole else [*deleted.elements()]
        found = reconcile([*map(event_key, kept)], keys, deleted)
        if whole:
            self._sums.late_events += found.late
            self._sums.vanished_events += len(found.vanished)
            self._sums.reconciled_targets += bool(found.late or found.vanished)
        elif found.restored:
            written = self._stored_rows(rule)
        by_key = {row.key: row for row in written}
        back = [by_key[event_key(kept[index])] for index in found.restored]
        for gone, rows in (True, [written[index] for index in found.vanished]), (False, back):
            self._rows.add("vanished", [{"deleted": gone, **row.columns} for row in rows])
        new = [kept[index] for index in found.new]
        self._write(rule, new, [raw[index] for index in found.new if raw])
        self._state.deleted = _without_empty({**self._state.deleted, rule: found.deleted})

    def _write(
        self, rule: int, events: Sequence[TargetEvent], sent: Sequence[bytes | None]
    ) -> None:
        self._rows.add_events(rule, events, sent)
        if self._options.moved:
            self._written += [(rule, event_key(one), one.event_log_id) for one in events]

    async def _walk(self, rule: int, start: Checkpoint, take: _Take) -> bool:
        """Walk over a target's events behind `start`, and `take` them some thousands at a time.

        Returns whether rows before `start` have changed places or number.
        """
        events: list[TargetEvent] = []
        raw: list[bytes | None] = []
        pager = self._fan.pager(self._user, rule, start)
        try:
            async with aclosing(pager.stream()) as pages:
                async for page in pages:
                    if self._options.raw:
                        raw += raw_rows(page.body, page.events)
                    events += [
                        one if one.target_rule_id is not None else evolve(one, target_rule_id=rule)
                        for one in page.events
                    ]
                    del page  # a body of its own: it need not wait for that of the next one
                    if len(events) >= BATCH_ROWS:
                        take(events, raw)
                        events, raw = [], []
            take(events, raw)
        finally:
            self._sums.requests += pager.report.requests
        report, end = pager.report, pager.checkpoint
        self._state.marks[rule] = Mark.of(end, self._state.marks.get(rule, Mark()).target)
        counted = report.total if report.dialect.total == "rows" else end.row
        return (
            report.moved
            or (report.no_record and start.row > 0)
            or end.row != start.row + report.events
            or counted not in {None, end.row}
        )

    def _stored_rows(self, rule: int) -> list[StoredRow]:
        """A target's rows in files; where parts may have left, only their ids."""
        rows: list[StoredRow] = []
        for name, start, length, written in self._ledger.row_ranges(self._user):
            if self._options.moved:
                rows += [
                    StoredRow(key, {"event_log_id": number, "target_rule_id": rule})
                    for of, key, number in written
                    if of == rule
                ]
            else:
                path = self._shared.directory.part("events", name)
                found = self._shared.format.read_events(path, start, length)
                mine = (row for row in found if row.target_rule_id == rule)
                rows += [StoredRow(event_key(row), asdict(row)) for row in mine]
        return rows


def _digest(before: bytes, target: Target) -> bytes:
    row = JSON.encode(plain(target)) if target.raw is None else target.raw
    return blake2b(before + row, digest_size=8).digest()


def _without_empty(by_rule: Mapping[int, Any]) -> dict[int, Any]:
    return {rule: found for rule, found in by_rule.items() if found}


@frozen
class Reconciled:
    """What a target's rows on the server are to those in files, by index into either.

    `new` rows were never written; `restored` ones were, then deleted, and are on the server again.
    `late` of both stand before a row that was there all the time. `vanished` written rows are no
    longer on the server. `deleted` are the keys of all rows in files that are not on the server.
    """

    new: Sequence[int]
    restored: Sequence[int]
    vanished: Sequence[int]
    late: int
    deleted: Counter[int]


def reconcile(keys: Sequence[int], written: Sequence[int], deleted: Counter[int]) -> Reconciled:
    """Compare all rows on the server with all rows in files. Pure.

    Rows are told apart by their keys, digests of all fields; equal rows are counted, so that
    repeated and missing event ids lose nothing.

    Args:
        keys: Of the rows on the server, in order.
        written: Of the rows in files, those deleted since included.
        deleted: Of the rows in files that were not on the server any more.
    """
    held = Counter(written) - deleted
    new, restored, gone, late, last_held = [], [], deleted.copy(), 0, -1
    for index, key in enumerate(keys):
        if held[key]:
            held[key] -= 1
            last_held = index
        elif gone[key]:
            gone[key] -= 1
            restored.append(index)
        else:
            new.append(index)
    late = sum(index < last_held for index in (*new, *restored))
    left = +held
    vanished = []
    for index in reversed(range(len(written))):  # of equal rows, the ones written last
        if left[written[index]]:
            left[written[index]] -= 1
            vanished.append(index)
    return Reconciled(new, restored, vanished[::-1], late, +gone + +held)
