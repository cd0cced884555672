"""EventPager: drives the pure walk of `pagination` over the endpoint; `async for`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from attrs import define, field

from .endpoints import checked_id, target_events
from .errors import CapillaryError, UsageError
from .frames import EventList
from .hooks import Scope, ScopeDetails, within
from .lookups import checked_period, resolve_period
from .models import EventsPage, TargetEvent, short_repr
from .pagination import START, UNKNOWN, Checkpoint, Cursor, Dialect, PageRequest, PagingReport, Walk
from .retry import count, whole_number
from .session import Session

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

__all__ = ["EventPager"]

T = TypeVar("T")
_Answer: TypeAlias = EventsPage | CapillaryError


@define(eq=False)
class EventPager:
    """The events of one user towards one target, in chronological order.

    A pager is a value: each loop over it starts afresh and asks the server again. `report` and
    `checkpoint` tell of the latest loop. A user without any record in the target (310149) has no
    events.

    Every event that exists throughout a loop arrives exactly once, or the loop raises
    `PaginationError`; with `strict=False` it ends, and `report` says that it is not complete and
    why. See `docs/pagination.md`.

    A loop that ends early, by `break`, an exception in its body, `aclose()` of its iterator or a
    cancelled task, cancels its requests in flight. An `anext()` that is cancelled, as by a
    time-out, leaves them alone as long as the iterator is kept: the next `anext()` goes on.

    Args:
        session: an open session.
        user_id: the member's id.
        target_rule_id: the `id` of a target.
        period: only the events of this period: its id, "current" or a refCode, whose id is looked
            up when a loop starts.
        page_size: events on one page, at most.
        max_items: end after so many events.
        start: a checkpoint to resume from.
        strict: whether to raise `PaginationError`.
        prefetch: pages to ask for while earlier ones are consumed; 0 asks for each when it is due.
        dialect: what is certain about the server's pagination; the rest is detected.
    """

    session: Session = field(repr=False)
    user_id: int
    target_rule_id: int
    period: int | str | None = None
    page_size: int = 100
    max_items: int | None = None
    start: Checkpoint | None = None
    strict: bool = True
    prefetch: int = 4
    dialect: Dialect = UNKNOWN
    _walk: Walk | None = field(init=False, default=None, repr=False)
    _cursor: Cursor | None = field(init=False, default=None, repr=False)
    __repr__ = short_repr

    def __attrs_post_init__(self) -> None:
        checked_id("user_id", self.user_id)
        checked_id("target_rule_id", self.target_rule_id)
        checked_period(self.period)
        self.page_size = whole_number("page_size", self.page_size)
        self.prefetch = count("prefetch", self.prefetch)
        if self.max_items is not None:
            self.max_items = count("max_items", self.max_items)

    @property
    def report(self) -> PagingReport:
        """What the latest loop did so far."""
        return PagingReport() if self._walk is None else self._walk.report

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the latest loop stands: behind the event, or page, that it gave out last."""
        if self._walk is None or self._cursor is None:
            return self.start or START
        return self._cursor.checkpoint(self._walk.detected)

    def __aiter__(self) -> Loop[TargetEvent]:
        return Loop(self._begin(by_event=True))

    def pages(self) -> Loop[EventsPage]:
        """The same events page by page, empty pages left out."""
        return Loop(self._begin())

    def stream(self) -> Loop[EventsPage]:
        """The same pages for a task that is cancelled only to end it: no task for each request.

        Use it with `aclosing`; what a cancelled `anext()` was waiting for is requested again.
        """
        return Loop(self._begin(in_task=False))

    async def collect(self) -> EventList:
        """All events as a list, which is a data frame, too: `to_arrow()`, `to_pandas()`, ..."""
        async with aclosing(self.stream()) as pages:
            events = [event async for page in pages for event in page.events]
        return EventList(events, self.user_id)

    async def to_arrow(self) -> pa.Table:
        """All events as a pyarrow table, see `EventList`."""
        return (await self.collect()).to_arrow()

    async def to_pandas(self) -> pd.DataFrame:
        """All events as a pandas frame, see `EventList`."""
        return (await self.collect()).to_pandas()

    async def to_polars(self) -> pl.DataFrame:
        """All events as a polars frame, see `EventList`."""
        return (await self.collect()).to_polars()

    def _begin(self, *, by_event: bool = False, in_task: bool = True) -> _RunningWalk:
        start, known, hooks = self.start or START, self.session.dialect, self.session.hooks
        walk = Walk(
            self.page_size,
            self.max_items,
            prefetch=self.prefetch or 1,
            dialect=self.dialect,
            cached=known,
            start=start,
        )
        self._walk, self._cursor = walk, Cursor(start)
        scope = hooks.begin("walk", user_id=self.user_id, target_rule_id=self.target_rule_id)
        return _RunningWalk(
            self, walk, self._cursor, known, scope, self.period, by_event=by_event, in_task=in_task
        )


@define(eq=False, repr=False)
class _RunningWalk:
    """A walk and its requests: in flight, then ready to be taken, then over.

    A cancelled `fill` loses nothing. It is not known to its pager, so that both go as soon as the
    consumer drops them.
    """

    pager: EventPager
    walk: Walk
    cursor: Cursor
    known: Dialect
    """Of the server, at the beginning."""
    scope: Scope | None
    period: int | str | None
    by_event: bool
    in_task: bool
    """Whether each request has a task, which goes on if `fill` is cancelled."""
    ready: deque[tuple[int, Sequence[TargetEvent], Any]] = field(init=False, factory=deque)
    """The row of the first event, the events, and what is given out: a page, or an event."""
    over: bool = field(init=False, default=False)
    in_flight: dict[PageRequest, asyncio.Task[_Answer]] = field(init=False, factory=dict)
    error: Exception | None = field(init=False, default=None)
    waiting: bool = field(init=False, default=False)

    async def fill(self) -> None:
        """Wait until events are ready, or the walk is over. An error is raised again each time."""
        if self.waiting:
            raise UsageError("another task is waiting for this iterator: give each its own loop")
        if self.error is not None:
            raise self.error
        self.waiting = True
        try:
            while not (self.ready or self.over):
                await self._step()
        except Exception as error:
            self.error = error
            if isinstance(error, CapillaryError):
                error.checkpoint = self.cursor.checkpoint(self.walk.detected)
            await self.aclose()
            raise
        finally:
            self.waiting = False

    async def _step(self) -> None:
        """Feed the walk with the answer to its next request."""
        walk, pager = self.walk, self.pager
        if requests := walk.requests():
            if self.in_task or self.in_flight or len(requests) > 1:
                self._send(requests)
                await asyncio.wait((self.in_flight[requests[0]],))
                if self.over:  # closed meanwhile
                    return
                answer = self.in_flight.pop(requests[0]).result()
            else:
                answer = await self._fetch(requests[0])
            for batch in walk.feed(requests[0], answer):
                row, events = batch.row, batch.page.events
                if self.by_event:
                    self.ready += [(row + n, (event,), event) for n, event in enumerate(events)]
                else:
                    self.ready.append((row, events, batch.page))
        if walk.failed and pager.strict:
            if not self.ready and (failure := walk.error):
                raise failure
        elif walk.done:
            self.cancel()
        elif self.ready and pager.prefetch and not self.over:
            self._send(walk.requests())

    def _send(self, requests: tuple[PageRequest, ...]) -> None:
        """Have these requests in flight, and no others."""
        for stale in self.in_flight.keys() - requests:
            _cancel(self.in_flight.pop(stale))
        for request in requests:
            if request not in self.in_flight:
                self.in_flight[request] = asyncio.create_task(self._fetch(request))

    async def _fetch(self, request: PageRequest) -> _Answer:
        """A page; or an error that means "past the end", which is a response, too."""
        pager = self.pager
        with nullcontext() if self.scope is None else within(self.scope):
            session, user, rule = pager.session, pager.user_id, pager.target_rule_id
            if isinstance(self.period, str):
                self.period = await resolve_period(session, user, rule, self.period)
            try:
                return await target_events(
                    session,
                    user,
                    rule,
                    period_id=self.period,
                    limit=request.limit,
                    offset=request.offset,
                )
            except CapillaryError as error:
                if self.walk.is_response(request, error):
                    return error
                raise

    def cancel(self) -> None:
        """End the walk and cancel what is in flight."""
        if self.over:
            return
        self.over = True
        for task in self.in_flight.values():
            _cancel(task)
        session, walk = self.pager.session, self.walk
        if (lesson := walk.lesson) is not self.known:
            session.dialect = session.dialect.updated(self.known, lesson)
        if self.scope is not None:
            session.hooks.emit(
                ScopeDetails(scope=self.scope, phase="over", outcome=walk.report, error=self.error)
            )

    async def aclose(self) -> None:
        """End the walk. Returns once nothing is in flight any more."""
        self.ready.clear()
        self.cancel()
        if self.in_flight:
            await asyncio.wait(self.in_flight.values())


def _cancel(task: asyncio.Task[Any]) -> None:
    if not task.cancel():
        task.cancelled() or task.exception()  # retrieved: nobody awaits it


class Loop(AsyncIterator[T], Generic[T]):
    """Async iterator over a walk. Dropped, as by `break`, it cancels at once what is in flight.

    A cancelled `anext()` leaves it as it is: an async generator would be over, as if complete.
    """

    def __init__(self, walk: _RunningWalk) -> None:
        self._walk = walk

    async def __anext__(self) -> T:
        walk = self._walk
        if not walk.ready and (walk.error or not walk.over):
            try:
                await walk.fill()
            except BaseException:
                del self  # a traceback must not keep it, and its requests, alive
                raise
        if not walk.ready:
            raise StopAsyncIteration
        row, events, item = walk.ready.popleft()
        walk.cursor.advance(row, events)
        return cast(T, item)

    async def aclose(self) -> None:
        """End the loop. Returns once nothing is in flight any more."""
        await self._walk.aclose()

    def __del__(self) -> None:
        self._walk.cancel()
