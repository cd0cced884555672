"""EventPager: drives the pure walk of `pagination` over the endpoint; `async for`."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from attrs import define, field

from .endpoints import checked_id, target_events
from .errors import CapillaryError, UsageError
from .frames import EventList
from .hooks import Scope, ScopeDetails, current_scope, within
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
        period_id: only the events of this period.
        page_size: events on one page, at most.
        max_items: end after so many events.
        start: a checkpoint to resume from.
        strict: whether to raise `PaginationError`.
        prefetch: pages to ask for while earlier ones are consumed; 0 asks for each when it is due.
        dialect: what is certain about the server's pagination; the rest is detected.
        resolve: finds the id of a period given by name, when a loop starts.
    """

    session: Session = field(repr=False)
    user_id: int
    target_rule_id: int
    period_id: int | None = None
    page_size: int = 100
    max_items: int | None = None
    start: Checkpoint | None = None
    strict: bool = True
    prefetch: int = 4
    dialect: Dialect = UNKNOWN
    resolve: Callable[[], Awaitable[int]] | None = field(default=None, repr=False)
    _walk: Walk | None = field(init=False, default=None, repr=False)
    _cursor: Cursor | None = field(init=False, default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        checked_id("user_id", self.user_id)
        checked_id("target_rule_id", self.target_rule_id)
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

    def __aiter__(self) -> Events:
        return Events(self._begin())

    def pages(self) -> Pages:
        """The same events page by page, empty pages left out."""
        return Pages(self._begin())

    async def stream(self) -> AsyncGenerator[EventsPage, None]:
        """The same pages for a task that is cancelled only to end it: no task for each request.

        Use it with `aclosing`; once an `anext()` was cancelled, it is over.
        """
        loop = self._begin()
        try:
            while (batch := await loop.next_batch(in_task=False)) is not None:
                loop.cursor.advance(batch.row, batch.page.events)
                page = batch.page
                del batch
                yield page
                del page  # the answer's bytes need not wait for those of the next one
        finally:
            await loop.aclose()

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

    def _begin(self) -> _Loop:
        start = self.start or START
        self._walk = Walk(
            self.page_size,
            self.max_items,
            self.prefetch or 1,
            self.dialect,
            self.session.dialect,
            start,
        )
        self._cursor = Cursor(start)
        return _Loop(self, self._walk, self._cursor)


@define(eq=False, repr=False)
class _Loop:
    """One loop over a pager: its walk, and its requests in flight.

    All its state is kept here, so that a cancelled `next_batch` loses nothing. It is not known to
    its pager, so that both go as soon as the consumer drops them.
    """

    pager: EventPager
    walk: Walk
    cursor: Cursor
    _in_flight: dict[PageRequest, asyncio.Task[_Answer]] = field(init=False, factory=dict)
    _known: Dialect = field(init=False)
    """Of the server, when the loop began."""
    _ready: deque[Batch] = field(init=False, factory=deque)
    _period_id: int | None = field(init=False, default=None)
    _scope: Scope | None = field(init=False, default=None)
    _begun: bool = field(init=False, default=False)
    _waiting: bool = field(init=False, default=False)
    _over: bool = field(init=False, default=False)
    _error: Exception | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._known = self.pager.session.dialect

    async def next_batch(self, *, in_task: bool) -> Batch | None:
        """The next proven events; None at the end. An error is raised again by each later call.

        Args:
            in_task: whether each request has a task, which goes on if this call is cancelled.
        """
        if self._waiting:
            raise UsageError("another task is waiting for this iterator: give each its own loop")
        if self._error is not None:
            raise self._error
        self._waiting = True
        try:
            if not self._begun:
                self._begin()
            while not (self._ready or self._over):
                await self._step(in_task=in_task)
        except Exception as error:
            self._error = error
            if isinstance(error, CapillaryError):
                error.checkpoint = self.cursor.checkpoint(self.walk.detected)
            await self.aclose()
            raise
        finally:
            self._waiting = False
        return self._ready.popleft() if self._ready else None

    def _begin(self) -> None:
        self._begun, pager, hooks = True, self.pager, self.pager.session.hooks
        if hooks:
            facts = {"user_id": pager.user_id, "target_rule_id": pager.target_rule_id}
            self._scope = Scope(kind="walk", facts=facts, parent=current_scope())
            hooks.emit(ScopeDetails(scope=self._scope, phase="begins"))

    async def _step(self, *, in_task: bool) -> None:
        """Feed the walk with the response to its next request, or end the loop."""
        walk, prefetch = self.walk, self.pager.prefetch
        requests = walk.requests()
        if not requests:
            if self.pager.strict and (error := walk.error) is not None:
                raise error
            self.cancel()
            return
        for dropped in self._in_flight.keys() - requests:
            _cancel(self._in_flight.pop(dropped))
        if in_task or len(requests) > 1:
            self._send(requests)
        task = self._in_flight.get(requests[0])
        if task is None:
            answer = await self._fetch(requests[0])
        else:
            await asyncio.wait((task,))
            if self._over:  # closed meanwhile
                return
            answer = self._in_flight.pop(requests[0]).result()
        self._ready += walk.feed(requests[0], answer)
        if self._ready and prefetch and not walk.done:
            self._send(walk.requests())

    def _send(self, requests: tuple[PageRequest, ...]) -> None:
        """Have the requests in flight."""
        for request in requests:
            if request not in self._in_flight:
                self._in_flight[request] = asyncio.create_task(self._fetch(request))

    async def _fetch(self, request: PageRequest) -> _Answer:
        """A page; or an error that means "past the end", which is a response, too."""
        if self._scope is None:
            return await self._page(request)
        with within(self._scope):
            return await self._page(request)

    async def _page(self, request: PageRequest) -> _Answer:
        pager = self.pager
        if self._period_id is None:
            resolve = pager.resolve
            self._period_id = pager.period_id if resolve is None else await resolve()
        try:
            return await target_events(
                pager.session,
                pager.user_id,
                pager.target_rule_id,
                period_id=self._period_id,
                limit=request.limit,
                offset=request.offset,
            )
        except CapillaryError as error:
            if self.walk.is_response(request, error):
                return error
            raise

    def cancel(self) -> list[asyncio.Task[_Answer]]:
        """End the loop and cancel what is in flight. Returns the tasks."""
        tasks = list(self._in_flight.values())
        self._in_flight.clear()
        for task in tasks:
            _cancel(task)
        if not self._over:
            self._over = True
            session, walk = self.pager.session, self.walk
            session.dialect = session.dialect.updated(self._known, walk.lesson)
            if self._scope is not None:
                session.hooks.emit(
                    ScopeDetails(
                        scope=self._scope, phase="over", outcome=walk.report, error=self._error
                    )
                )
        return tasks

    async def aclose(self) -> None:
        """End the loop. Returns once nothing is in flight any more."""
        self._ready.clear()
        if tasks := self.cancel():
            await asyncio.wait(tasks)


def _cancel(task: asyncio.Task[Any]) -> None:
    if not task.cancel():
        task.cancelled() or task.exception()  # retrieved: nobody awaits it


class _Iterator(AsyncIterator[T], Generic[T]):
    """Dropped, by `break` or an exception, it cancels at once what is in flight.

    A cancelled `anext()` leaves it as it is: an async generator would be over, as if complete.
    """

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._batch: Batch | None = None
        self._taken = 0
        """Events of the batch."""

    async def __anext__(self) -> T:
        loop = self._loop
        while (item := self._take(loop.cursor)) is None:
            try:
                self._batch = await loop.next_batch(in_task=True)
            except BaseException:
                del self  # a traceback must not keep it, and its requests, alive
                raise
            if self._batch is None:
                raise StopAsyncIteration
            self._taken = 0
        return item

    @abstractmethod
    def _take(self, cursor: Cursor) -> T | None:
        """The next item of the batch; None if there is none left."""

    async def aclose(self) -> None:
        """End the loop. Returns once nothing is in flight any more."""
        self._batch = None
        await self._loop.aclose()

    def __del__(self) -> None:
        self._loop.cancel()


class Pages(_Iterator[EventsPage]):
    """A loop over pages."""

    def _take(self, cursor: Cursor) -> EventsPage | None:
        batch, self._batch = self._batch, None
        if batch is None:
            return None
        cursor.advance(batch.row, batch.page.events)
        return batch.page


class Events(_Iterator[TargetEvent]):
    """A loop over single events."""

    def _take(self, cursor: Cursor) -> TargetEvent | None:
        batch, index = self._batch, self._taken
        if batch is None or index == len(batch.page.events):
            return None
        event = batch.page.events[index]
        self._taken += 1
        cursor.advance(batch.row + index, (event,))
        return event
