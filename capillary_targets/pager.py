"""EventPager: drives the pure walk of `pagination` over the endpoint; `async for`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from attrs import define, field

from .endpoints import checked_id, pages_of
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
_Ask: TypeAlias = Callable[[int, int], Awaitable[EventsPage]]
"""What asks for a page by limit and offset."""


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

    `TargetsClient.events` makes one, and explains the parameters.
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
    _latest: tuple[Walk, Cursor] | None = field(init=False, default=None, repr=False)
    __repr__ = short_repr

    def __attrs_post_init__(self) -> None:
        checked_id("user_id", self.user_id)
        checked_id("target_rule_id", self.target_rule_id)
        checked_period(self.period)
        # To read a number takes 7,000 instructions, a tenth of a walk of one page.
        if type(self.page_size) is not int or self.page_size < 1:
            self.page_size = whole_number("page_size", self.page_size)
        if type(self.prefetch) is not int or self.prefetch < 0:
            self.prefetch = count("prefetch", self.prefetch)
        if self.max_items is not None:
            self.max_items = count("max_items", self.max_items)

    @property
    def report(self) -> PagingReport:
        """What the latest loop did so far."""
        return self._latest[0].report if self._latest else PagingReport()

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the latest loop stands: behind the event, or page, that it gave out last."""
        if self._latest is None:
            return self.start or START
        walk, cursor = self._latest
        return cursor.checkpoint(walk.detected)

    def __aiter__(self) -> Loop[TargetEvent]:
        return Loop(self, by_event=True)

    def pages(self) -> Loop[EventsPage]:
        """The same events page by page, empty pages left out."""
        return Loop(self)

    def stream(self) -> Loop[EventsPage]:
        """The same pages for a task that is cancelled only to end it: no task for each request.

        Use it with `aclosing`; what a cancelled `anext()` was waiting for is requested again.
        """
        return Loop(self, in_task=False)

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


class Loop(AsyncIterator[T]):
    """Walk with its requests in flight, as an async iterator. Dropped, it cancels them at once.

    A cancelled `anext()` leaves it as it is: an async generator would be over, as if complete.
    """

    def __init__(self, pager: EventPager, *, by_event: bool = False, in_task: bool = True) -> None:
        self._pager, self._by_event, self._in_task = pager, by_event, in_task
        start, session = pager.start or START, pager.session
        self._known = session.dialect
        self._ask: _Ask | None = None  # known once a period that was named is found
        self._walk = walk = Walk(
            pager.page_size,
            pager.max_items,
            prefetch=pager.prefetch or 1,
            dialect=pager.dialect,
            cached=self._known,
            start=start,
        )
        self._cursor = Cursor(start)
        pager._latest = walk, self._cursor  # noqa: SLF001 - both are of this module
        user, rule = pager.user_id, pager.target_rule_id
        self._scope = session.hooks.begin("walk", user_id=user, target_rule_id=rule)
        self._fetch = partial(_fetch, pager, walk, self._scope)
        # The row of the first event, the events, and what is given out: a page, or an event.
        self._ready: deque[tuple[int, Sequence[TargetEvent], Any]] = deque()
        self._in_flight: dict[PageRequest, asyncio.Task[tuple[_Answer, _Ask]]] = {}
        self._over = self._waiting = False
        self._error: Exception | None = None

    async def __anext__(self) -> T:
        if self._waiting:
            raise UsageError("another task is waiting for this iterator: give each its own loop")
        if self._error is not None:
            raise self._error
        if not (self._ready or self._over):
            self._waiting = True
            try:
                while not (self._ready or self._over):
                    if requests := self._walk.requests():
                        if self._in_task or self._in_flight or len(requests) > 1:
                            self._send(requests)
                            await asyncio.wait((self._in_flight[requests[0]],))
                            if self._over:  # closed meanwhile
                                break
                            found = self._in_flight.pop(requests[0]).result()
                        else:
                            found = await self._fetch(self._ask, requests[0])
                        answer, self._ask = found
                        self._feed(requests[0], answer)
                    self._go_on()
            except Exception as error:
                self._error, self._waiting = error, False
                if isinstance(error, CapillaryError):
                    error.checkpoint = self._cursor.checkpoint(self._walk.detected)
                await self.aclose()
                raise
            except BaseException:
                self._waiting = False
                del self  # a traceback must not keep it, and its requests, alive
                raise
            self._waiting = False
        if not self._ready:
            raise StopAsyncIteration
        item: T
        row, events, item = self._ready.popleft()
        self._cursor.advance(row, events)
        return item

    def _feed(self, request: PageRequest, answer: _Answer) -> None:
        """Make ready what the walk proves by an answer, unless it was closed meanwhile."""
        for batch in () if self._over else self._walk.feed(request, answer):
            row, events = batch.row, batch.page.events
            if self._by_event:
                self._ready += [(row + n, (event,), event) for n, event in enumerate(events)]
            else:
                self._ready.append((row, events, batch.page))

    def _go_on(self) -> None:
        """End with the walk, or ask for the next pages while these are consumed."""
        walk, pager = self._walk, self._pager
        if walk.failed and pager.strict:
            if not self._ready and (failure := walk.error):
                raise failure
        elif walk.done:
            self._end()
        elif self._ready and pager.prefetch:
            self._send(walk.requests())

    def _send(self, requests: tuple[PageRequest, ...]) -> None:
        """Have these requests in flight, and no others."""
        for stale in self._in_flight.keys() - requests:
            _cancel(self._in_flight.pop(stale))
        for request in requests:
            if request not in self._in_flight:
                self._in_flight[request] = asyncio.create_task(self._fetch(self._ask, request))

    def _end(self) -> None:
        """End the walk and cancel what is in flight."""
        if self._over:
            return
        self._over = True
        for task in self._in_flight.values():
            _cancel(task)
        session, walk, scope = self._pager.session, self._walk, self._scope
        if (lesson := walk.lesson) is not self._known:
            session.dialect = session.dialect.updated(self._known, lesson)
        if scope is not None:
            session.hooks.emit(
                ScopeDetails(scope=scope, phase="over", outcome=walk.report, error=self._error)
            )

    async def aclose(self) -> None:
        """End the loop. Returns once nothing is in flight any more."""
        self._ready.clear()
        self._end()
        if self._in_flight:
            await asyncio.wait(self._in_flight.values())

    def __del__(self) -> None:
        self._end()


async def _fetch(
    pager: EventPager, walk: Walk, scope: Scope | None, ask: _Ask | None, request: PageRequest
) -> tuple[_Answer, _Ask]:
    """A page, or an error that means "past the end", which is a response, too; and what asked.

    No method of the loop, which a task would keep alive although it is dropped.
    """
    if scope is not None:
        with within(scope):
            return await _fetch(pager, walk, None, ask, request)
    if ask is None:
        session, period = pager.session, pager.period
        user, rule = pager.user_id, pager.target_rule_id
        if isinstance(period, str):
            period = await resolve_period(session, user, rule, period)
        ask = pages_of(session, user, rule, period)
    try:
        return await ask(request.limit, request.offset), ask
    except CapillaryError as error:
        if walk.is_response(request, error):
            return error, ask
        raise


def _cancel(task: asyncio.Task[Any]) -> None:
    if not task.cancel():
        task.cancelled() or task.exception()  # retrieved: nobody awaits it
