"""One user: which targets, and which of their events are not in the files yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from itertools import chain
from operator import attrgetter
from typing import Final

import attrs
from attrs import field, frozen

from capillary_targets import endpoints
from capillary_targets.errors import (
    AuthError,
    CapillaryError,
    ClientClosed,
    EndpointGone,
    NoRecordFound,
)
from capillary_targets.fanout import UserOutcome, prefetch_for
from capillary_targets.models import EventsPage, Target, TargetEvent
from capillary_targets.pager import EventPager
from capillary_targets.pagination import PagingReport
from capillary_targets.session import Session

from .incremental import Mark, digest, heal, judge, mark_after, more_follows
from .rows import Memo, by_event, encode, plain

__all__ = ["Visit", "Visitor"]


@frozen
class Visit(UserOutcome):
    """What came of one user: `targets` and `events` are those to be written.

    `marks` are where to go on from, by rule id. `healed` targets had a late or deleted event
    before their mark: `late` events were found so, `vanished` ones are in the files but no longer
    on the server.
    """

    sent: tuple[bytes | None, ...] = ()
    """The events' rows as the server sent them, if that was asked for."""
    marks: Mapping[int, Mark] = field(factory=dict, hash=False)
    enrolled: int = 0
    healed: int = 0
    late: int = 0
    vanished: int = 0


@frozen
class _Read:
    """What was read of one target's events."""

    events: tuple[TargetEvent, ...]
    mark: Mark
    report: PagingReport
    sent: Mapping[int, bytes]
    healed: bool = False
    late: int = 0
    vanished: int = 0


@frozen
class Visitor:
    """Visits users, one at a time, many side by side.

    `rules` keeps only those targets; without `enrolled`, nobody is asked which targets a user is
    in: the events of `rules` are. `marks` gives a user's marks of earlier runs (none: everything
    is read), `written` the event ids that the files hold of a user's target. `raw` keeps each row
    as the server sent it.
    """

    session: Session
    page_size: int
    marks: Callable[[int], Mapping[int, Mark]]
    written: Callable[[int, int], set[int]]
    rules: tuple[int, ...] = ()
    enrolled: bool = True
    raw: bool = False
    _under_way: set[int] = field(init=False, factory=set)
    _digest: Memo[bytes] = field(init=False, factory=lambda: Memo(_digest))

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
                reads[rule] = await self._events(user, rule, marks.get(rule))
        except (AuthError, ClientClosed, EndpointGone):
            raise
        except CapillaryError as error:
            failure = error
        rows = [(target, self._digest(target)) for target in targets]
        return _outcome(user, rows, reads, marks, failure)

    async def _events(self, user: int, rule: int, mark: Mark | None) -> _Read:
        if mark is None:
            return await self._all(user, rule)
        read = await self._behind(user, rule, mark) if mark.count else None
        moved = read is None
        if read is None:
            read = await self._all(user, rule)
        if not mark.gone and (not moved or not mark.count):
            return read  # nothing of it can be in the files already
        if not moved and not read.events:
            return attrs.evolve(read, mark=attrs.evolve(read.mark, gone=True))
        found = heal(read.events, self.written(user, rule))
        if not moved:  # these are only the events behind the mark
            return attrs.evolve(read, events=found.new, mark=attrs.evolve(read.mark, gone=True))
        return attrs.evolve(
            read,
            events=found.new,
            mark=attrs.evolve(read.mark, gone=found.vanished > 0),
            healed=bool(found.late or found.vanished),
            late=found.late,
            vanished=found.vanished,
        )

    async def _all(self, user: int, rule: int) -> _Read:
        """Walk over everything."""
        pager = EventPager(
            self.session,
            user,
            rule,
            page_size=self.page_size,
            prefetch=prefetch_for(self.session, len(self._under_way)),
        )
        events: list[TargetEvent] = []
        sent: dict[int, bytes] = {}
        async with aclosing(pager.pages()) as pages:
            async for page in pages:
                events += page.events
                if self.raw:
                    sent |= by_event(page)
                del page  # the answer's bytes need not wait for those of the next one
        report = pager.report
        size = min(report.dialect.cap or self.page_size, self.page_size)
        before = max(0, len(events) - 1) // size * size
        ids = [event.event_log_id for event in events[before:]]
        mark = mark_after(ids, before=before, page_size=size)
        return _Read(_of_rule(events, rule), mark, report, sent)

    async def _behind(self, user: int, rule: int, mark: Mark) -> _Read | None:
        """Go on from the mark. None where it is not where it was, or anything does not add up."""
        number = mark.page
        page = await self._page(user, rule, mark.page_size, number)
        verdict = judge(mark, page)
        if verdict.moved:
            return None
        ids = [event.event_log_id for event in page.events]
        new = list(verdict.new)
        sent = by_event(page) if self.raw and new else {}
        more = verdict.more
        while more:
            if page.total is None:
                return None  # whether a page follows is for the walk to find out
            number += 1
            page = await self._page(user, rule, mark.page_size, number)
            ids += (event.event_log_id for event in page.events)
            new += page.events
            if self.raw:
                sent |= by_event(page)
            more = bool(page.events) and more_follows(number, page, mark)
        before = mark.page * mark.page_size
        if len(set(ids)) != len(ids) or (page.total or before + len(ids)) != before + len(ids):
            return None
        report = PagingReport(
            events=len(new), requests=number - mark.page + 1, total=page.total, complete=True
        )
        end = mark_after(ids, before=before, page_size=mark.page_size)
        return _Read(_of_rule(new, rule), end, report, sent)

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


_rule: Final = attrgetter("target_rule_id")


def _of_rule(events: Sequence[TargetEvent], rule: int) -> tuple[TargetEvent, ...]:
    """The events, knowing the target that they were asked for, should the server not say."""
    if all(map(_rule, events)):
        return tuple(events)
    return tuple(
        attrs.evolve(event, target_rule_id=rule) if event.target_rule_id is None else event
        for event in events
    )


def _digest(target: Target) -> bytes:
    return digest([encode(plain(target))])


def _outcome(
    user: int,
    targets: Sequence[tuple[Target, bytes]],
    reads: Mapping[int, _Read],
    marks: Mapping[int, Mark],
    failure: CapillaryError | None,
) -> Visit:
    """The outcome; of the targets, given with their digests, those that are new or have changed."""
    rows = {target.id: row for target, row in targets}
    changed = [t for t, row in targets if t.id not in marks or marks[t.id].target != row]
    return Visit(
        user,
        tuple(changed),
        tuple(chain.from_iterable(read.events for read in reads.values())),
        {rule: read.report for rule, read in reads.items()},
        failure,
        sent=tuple(
            read.sent.get(event.event_log_id)
            for read in reads.values()
            for event in (read.events if read.sent else ())
        ),
        marks={
            rule: attrs.evolve(read.mark, target=rows.get(rule)) for rule, read in reads.items()
        },
        enrolled=len(targets),
        healed=sum(read.healed for read in reads.values()),
        late=sum(read.late for read in reads.values()),
        vanished=sum(read.vanished for read in reads.values()),
    )
