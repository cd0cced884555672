"""One user: which targets, and which of their events are not in the files yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from operator import attrgetter
from typing import Final, TypeAlias

import attrs
from attrs import define, field, frozen

from capillary_targets import endpoints
from capillary_targets.errors import (
    AuthError,
    CapillaryError,
    ClientClosed,
    EndpointGone,
    NoRecordFound,
)
from capillary_targets.fanout import prefetch_depth
from capillary_targets.models import EventsPage, Target, TargetEvent
from capillary_targets.pager import EventPager
from capillary_targets.pagination import PagingReport
from capillary_targets.session import Session

from .incremental import Mark, digest, heal, judge, mark_after, more_follows
from .rows import EncodedRows, RowEncoder, encode, plain, raw_rows

__all__ = ["Visit", "Visitor"]

_Take: TypeAlias = Callable[[Sequence[TargetEvent], Sequence[bytes | None]], None]
"""Takes some events, and their rows as the server sent them, if that was asked for."""


@frozen
class Visit:
    """What came of one user: `targets` and `rows` are those to be written.

    `reports` are by rule id, and so are `marks`, where to go on from. The user is in `enrolled`
    targets, and has `left` those rule ids since the last run. `healed` targets had a late or
    deleted event before their mark: `late` events were found so, `vanished` ones are in the files
    but no longer on the server.
    """

    user_id: int
    targets: tuple[Target, ...]
    rows: EncodedRows
    reports: Mapping[int, PagingReport]
    error: CapillaryError | None
    marks: Mapping[int, Mark]
    enrolled: int
    left: tuple[int, ...]
    healed: int
    late: int
    vanished: int

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.error is None and all(report.complete for report in self.reports.values())


@frozen
class _Read:
    """What was found out about one target's events."""

    mark: Mark
    report: PagingReport
    healed: bool = False
    late: int = 0
    vanished: int = 0


@define
class _Kept:
    """Events that are to be held against the files before they are taken."""

    events: list[TargetEvent] = field(factory=list)
    raw: dict[int, bytes | None] = field(factory=dict)
    """By the identity of the event: event ids may repeat."""

    def take(self, events: Sequence[TargetEvent], raw: Sequence[bytes | None]) -> None:
        self.events += events
        self.raw.update(zip(map(id, events), raw, strict=False))


@frozen
class Visitor:
    """Visits users, one at a time, many side by side.

    `encoder` encodes the rows. `marks` gives a user's marks of earlier runs (none: everything
    is read), `written` the event ids that the files hold of a user's target, `limit` how many
    users there may be. `rules` keeps only those targets; without `enrolled`, nobody is asked which
    targets a user is in: the events of `rules` are. `raw` keeps each row as the server sent it.
    """

    session: Session
    encoder: RowEncoder
    page_size: int
    marks: Callable[[int], Mapping[int, Mark]]
    written: Callable[[int, int], set[int | None]]
    limit: Callable[[], int]
    rules: tuple[int, ...] = ()
    enrolled: bool = True
    raw: bool = False
    _under_way: set[int] = field(init=False, factory=set)

    async def visit(self, user: int) -> Visit:
        """Everything of one user. A failure is told in the outcome.

        Raised is what nobody else would fare better with: `AuthError`, `EndpointGone`,
        `ClientClosed`.
        """
        self._under_way.add(user)
        try:
            return await self._visit(user)
        finally:
            self._under_way.discard(user)

    async def _visit(self, user: int) -> Visit:
        marks = self.marks(user)
        targets: Sequence[Target] = ()
        rows = EncodedRows(user, self.encoder)
        reads: dict[int, _Read] = {}
        failure: CapillaryError | None = None
        try:
            rules: Sequence[int] = self.rules
            if self.enrolled:
                targets = await endpoints.active_targets(
                    self.session, user, target_rule_ids=self.rules
                )
                rules = [target.id for target in targets]
            for rule in rules:
                reads[rule] = await self._events(user, rule, marks.get(rule), rows)
        except (AuthError, ClientClosed, EndpointGone):
            raise
        except CapillaryError as error:
            failure = error
        digests = [(target, _digest(target)) for target in targets]
        return _outcome(rows, digests, reads, marks, failure)

    async def _events(self, user: int, rule: int, mark: Mark | None, rows: EncodedRows) -> _Read:
        if mark is None or not (mark.count or mark.gone):
            return await self._all(
                user, rule, rows.add_events
            )  # none of it can be in the files already
        kept = _Kept()
        read = await self._behind(user, rule, mark, kept.take) if mark.count else None
        moved = read is None
        if read is None:
            kept = _Kept()
            read = await self._all(user, rule, kept.take)
        new: Sequence[TargetEvent] = kept.events
        gone = mark.gone
        if moved or (gone and new):
            found = heal(new, self.written(user, rule))
            new = found.new
            if moved:
                gone = found.vanished > 0
                healed = bool(found.late or found.vanished)
                read = attrs.evolve(read, healed=healed, late=found.late, vanished=found.vanished)
        rows.add_events(new, [kept.raw.get(id(event)) for event in new])
        return attrs.evolve(read, mark=attrs.evolve(read.mark, gone=gone))

    async def _all(self, user: int, rule: int, take: _Take) -> _Read:
        """Walk over everything."""
        pager = EventPager(
            self.session,
            user,
            rule,
            page_size=self.page_size,
            prefetch=prefetch_depth(self.limit(), len(self._under_way)),
        )
        count = 0
        latest: deque[int] = deque(maxlen=self.page_size)
        async with aclosing(pager.pages()) as pages:
            async for page in pages:
                count += len(page.events)
                latest.extend(map(_id, page.events))
                self._pass_on(page, page.events, rule, take)
                del page  # the answer's bytes need not wait for those of the next one
        report = pager.report
        size = min(report.dialect.cap or self.page_size, self.page_size)
        before = max(0, count - 1) // size * size
        ids = list(latest)[before - count :] if count else []
        return _Read(mark_after(ids, before=before, page_size=size), report)

    def _pass_on(
        self, page: EventsPage, events: Sequence[TargetEvent], rule: int, take: _Take
    ) -> None:
        """Have events of a page taken."""
        if events:
            take(_of_rule(events, rule), raw_rows(page.body, events) if self.raw else ())

    async def _behind(self, user: int, rule: int, mark: Mark, take: _Take) -> _Read | None:
        """Go on from the mark. None where it is not where it was, or anything does not add up."""
        number = mark.page
        page = await self._page(user, rule, mark.page_size, number)
        verdict = judge(mark, page)
        if verdict.moved:
            return None
        ids = [event.event_log_id for event in page.events]
        new = len(verdict.new)
        self._pass_on(page, verdict.new, rule, take)
        more = verdict.more
        while more:
            if page.total is None:
                return None  # whether a page follows is for the walk to find out
            number += 1
            page = await self._page(user, rule, mark.page_size, number)
            ids += map(_id, page.events)
            new += len(page.events)
            self._pass_on(page, page.events, rule, take)
            more = bool(page.events) and more_follows(number, page, mark)
        before = mark.page * mark.page_size
        if len(set(ids)) != len(ids) or (page.total or before + len(ids)) != before + len(ids):
            return None
        report = PagingReport(
            events=new, requests=number - mark.page + 1, total=page.total, complete=True
        )
        return _Read(mark_after(ids, before=before, page_size=mark.page_size), report)

    async def _page(self, user: int, rule: int, size: int, number: int) -> EventsPage:
        """A page, asked for as this server counts. Its total is None unless it counts rows."""
        known = self.session.learned.dialect
        offset = number * size if known.offset == "row" else number
        try:
            page = await endpoints.target_events(
                self.session, user, rule, limit=size, offset=offset
            )
        except NoRecordFound:
            return EventsPage(())
        if known.total in {None, "rows"}:
            return page
        return attrs.evolve(page, pagination=attrs.evolve(page.pagination, total=None))


_id: Final = attrgetter("event_log_id")
_rule: Final = attrgetter("target_rule_id")


def _of_rule(events: Sequence[TargetEvent], rule: int) -> Sequence[TargetEvent]:
    """The events, knowing the target that they were asked for, should the server not say."""
    if all(map(_rule, events)):
        return events
    return [
        attrs.evolve(event, target_rule_id=rule) if event.target_rule_id is None else event
        for event in events
    ]


def _digest(target: Target) -> bytes:
    return digest([encode(plain(target))])


def _outcome(
    rows: EncodedRows,
    targets: Sequence[tuple[Target, bytes]],
    reads: Mapping[int, _Read],
    marks: Mapping[int, Mark],
    failure: CapillaryError | None,
) -> Visit:
    """The outcome; of the targets, given with their digests, those that are new or have changed."""
    digests = {target.id: row for target, row in targets}
    changed = [t for t, row in targets if t.id not in marks or marks[t.id].target != row]
    left = () if failure else [r for r, m in marks.items() if m.target and r not in digests]
    return Visit(
        rows.user_id,
        tuple(changed),
        rows,
        {rule: read.report for rule, read in reads.items()},
        failure,
        marks={
            **{rule: attrs.evolve(marks[rule], target=None) for rule in left},
            **{
                rule: attrs.evolve(read.mark, target=digests.get(rule))
                for rule, read in reads.items()
            },
        },
        enrolled=len(targets),
        left=tuple(left),
        healed=sum(read.healed for read in reads.values()),
        late=sum(read.late for read in reads.values()),
        vanished=sum(read.vanished for read in reads.values()),
    )
