"""EventPager: drives the pure walk of `pagination` over the endpoint; `async for`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from attrs import define, field

from .endpoints import checked_id, target_events
from .errors import CapillaryError, UsageError
from .frames import EventList
from .hooks import Scope, ScopeDetails, current_scope, within
from .lookups import checked_period, resolve_period
from .models import EventsPage, TargetEvent
from .pagination import (
    START,
    UNKNOWN,
    Batch,
    Checkpoint,
    Cursor,
    Dialect,
    PageRequest,
    PagingReport,
    Walk,
)
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

    def __attrs_post_init__(self) -> None:
        checked_id("user_id", self.user_id)
        checked_id("target_rule_id", self.target_rule_id)
        checked_period(self.period)
        if self.page_size < 1:
            raise UsageError(f"page_size must be at least 1, not {self.page_size}")
        if self.max_items is not None and self.max_items < 0:
            raise UsageError(f"max_items cannot be negative: {self.max_items}")
        if self.prefetch < 0:
            raise UsageError(f"prefetch cannot be negative: {self.prefetch}")

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
        walk = self._begin()
        return Loop(walk, walk.take_event)

    def pages(self) -> Loop[EventsPage]:
        """The same events page by page, empty pages left out."""
        walk = self._begin()
        return Loop(walk, walk.take_page)

    def stream(self) -> Loop[EventsPage]:
        """The same pages for a task that is cancelled only to end it: no task for each request.

        Use it with `aclosing`; what a cancelled `anext()` was waiting for is requested again.
        """
        walk = self._begin(in_task=False)
        return Loop(walk, walk.take_page)

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

    def _begin(self, *, in_task: bool = True) -> _RunningWalk:
        start, known = self.start or START, self.session.dialect
        walk = Walk(self.page_size, self.max_items, self.prefetch or 1, self.dialect, known, start)
        self._walk, self._cursor = walk, Cursor(start)
        return _RunningWalk(self, walk, self._cursor, known, in_task)


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
    in_task: bool
    """Whether each request has a task, which goes on if `fill` is cancelled."""
    ready: deque[Batch] = field(init=False, factory=deque)
    over: bool = field(init=False, default=False)
    _in_flight: dict[PageRequest, asyncio.Task[_Answer]] = field(init=False, factory=dict)
    _taken: int = field(init=False, default=0)
    """Events of the first batch that is ready."""
    _period: int | str | None = field(init=False)
    _scope: Scope | None = field(init=False, default=None)
    _waiting: bool = field(init=False, default=False)
    _error: Exception | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._period = self.pager.period

    def take_page(self) -> EventsPage:
        """The next page that is ready."""
        batch = self.ready.popleft()
        self.cursor.advance(batch.row, batch.page.events)
        return batch.page

    def take_event(self) -> TargetEvent:
        """The next event that is ready."""
        batch, index = self.ready[0], self._taken
        events = batch.page.events
        self.cursor.advance(batch.row + index, events[index : index + 1])
        self._taken = index + 1
        if self._taken == len(events):
            self.ready.popleft()
            self._taken = 0
        return events[index]

    async def fill(self) -> bool:
        """Wait until events are ready; False at the end. An error is raised by each later call."""
        if self._waiting:
            raise UsageError("another task is waiting for this iterator: give each its own loop")
        if self._error is not None:
            raise self._error
        self._waiting = True
        try:
            while not (self.ready or self.over):
                await self._step()
        except Exception as error:
            self._error = error
            if isinstance(error, CapillaryError):
                error.checkpoint = self.cursor.checkpoint(self.walk.detected)
            await self.aclose()
            raise
        finally:
            self._waiting = False
        return bool(self.ready)

    async def _step(self) -> None:
        """Feed the walk with the answer to its next request."""
        walk, pager = self.walk, self.pager
        if self._scope is None and pager.session.hooks:
            self._enter_scope()
        if requests := walk.requests():
            if self.in_task or self._in_flight or len(requests) > 1:
                self._send(requests)
                await asyncio.wait((self._in_flight[requests[0]],))
                if self.over:  # closed meanwhile
                    return
                answer = self._in_flight.pop(requests[0]).result()
            else:
                answer = await self._fetch(requests[0])
            self.ready += walk.feed(requests[0], answer)
        if walk.failed and pager.strict:
            if not self.ready and (failure := walk.error):
                raise failure
        elif walk.done:
            self.cancel()
        elif self.ready and pager.prefetch:
            self._send(walk.requests())

    def _enter_scope(self) -> None:
        facts = {"user_id": self.pager.user_id, "target_rule_id": self.pager.target_rule_id}
        self._scope = Scope(kind="walk", facts=facts, parent=current_scope())
        self.pager.session.hooks.emit(ScopeDetails(scope=self._scope, phase="begins"))

    def _send(self, requests: tuple[PageRequest, ...]) -> None:
        """Have these requests in flight, and no others."""
        for stale in self._in_flight.keys() - requests:
            _cancel(self._in_flight.pop(stale))
        for request in requests:
            if request not in self._in_flight:
                self._in_flight[request] = asyncio.create_task(self._fetch(request))

    async def _fetch(self, request: PageRequest) -> _Answer:
        """A page; or an error that means "past the end", which is a response, too."""
        pager = self.pager
        with nullcontext() if self._scope is None else within(self._scope):
            session, user, rule = pager.session, pager.user_id, pager.target_rule_id
            if isinstance(self._period, str):
                self._period = await resolve_period(session, user, rule, self._period)
            try:
                return await target_events(
                    session,
                    user,
                    rule,
                    period_id=self._period,
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
        for task in self._in_flight.values():
            _cancel(task)
        session, walk = self.pager.session, self.walk
        if (lesson := walk.lesson) is not self.known:
            session.dialect = session.dialect.updated(self.known, lesson)
        if self._scope is not None:
            session.hooks.emit(
                ScopeDetails(
                    scope=self._scope, phase="over", outcome=walk.report, error=self._error
                )
            )

    async def aclose(self) -> None:
        """End the walk. Returns once nothing is in flight any more."""
        self.ready.clear()
        self.cancel()
        if self._in_flight:
            await asyncio.wait(self._in_flight.values())


def _cancel(task: asyncio.Task[Any]) -> None:
    if not task.cancel():
        task.cancelled() or task.exception()  # retrieved: nobody awaits it


class Loop(AsyncIterator[T], Generic[T]):
    """Async iterator over a walk. Dropped, as by `break`, it cancels at once what is in flight.

    A cancelled `anext()` leaves it as it is: an async generator would be over, as if complete.
    """

    def __init__(self, walk: _RunningWalk, take: Callable[[], T]) -> None:
        self._walk, self._take = walk, take

    async def __anext__(self) -> T:
        if not self._walk.ready:
            try:
                more = await self._walk.fill()
            except BaseException:
                del self  # a traceback must not keep it, and its requests, alive
                raise
            if not more:
                raise StopAsyncIteration
        return self._take()

    async def aclose(self) -> None:
        """End the loop. Returns once nothing is in flight any more."""
        await self._walk.aclose()

    def __del__(self) -> None:
        self._walk.cancel()
