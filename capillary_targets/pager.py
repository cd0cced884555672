"""EventPager: drives the pure walk of `pagination` over the endpoint; `async for`."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any, Generic, Self, TypeAlias, TypeVar

from attrs import define, field

from .endpoints import checked_id, target_events
from .errors import CapillaryError, UsageError
from .hooks import Scope, ScopeDetails, current_scope, within
from .models import EventsPage, TargetEvent
from .pagination import (
    START,
    UNKNOWN,
    Checkpoint,
    Cursor,
    Dialect,
    PageRequest,
    PagingReport,
    Walk,
)
from .session import Session

__all__ = ["EventPager"]

T = TypeVar("T")
_Answer: TypeAlias = EventsPage | CapillaryError


@define(eq=False, repr=False)
class _Loop:
    """One loop over a pager: its walk, what its consumer received, and requests in flight."""

    walk: Walk
    cursor: Cursor
    in_flight: dict[PageRequest, asyncio.Task[_Answer]] = field(factory=dict)

    def cancel(self, *, keep: tuple[PageRequest, ...] = ()) -> list[asyncio.Task[_Answer]]:
        """Cancel all requests in flight but those of `keep`. Returns their tasks."""
        tasks = [self.in_flight.pop(one) for one in list(self.in_flight) if one not in keep]
        for task in tasks:
            if not task.cancel():
                task.cancelled() or task.exception()  # retrieved: nobody awaits it
        return tasks


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
    _loop: _Loop | None = field(init=False, default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        for name in ("user_id", "target_rule_id"):
            checked_id(name, getattr(self, name))
        if self.page_size < 1:
            raise UsageError(f"page_size must be at least 1, not {self.page_size}")
        if self.max_items is not None and self.max_items < 0:
            raise UsageError(f"max_items cannot be negative: {self.max_items}")
        if self.prefetch < 0:
            raise UsageError(f"prefetch cannot be negative: {self.prefetch}")

    @property
    def report(self) -> PagingReport:
        """What the latest loop did so far."""
        return PagingReport() if self._loop is None else self._loop.walk.report

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the latest loop stands: behind the event, or page, that it gave out last."""
        if self._loop is None:
            return self.start or START
        return self._loop.cursor.checkpoint(self._loop.walk.detected)

    def __aiter__(self) -> Events:
        loop = self._begin()
        return Events(loop, self._stream(loop))

    def pages(self) -> Pages:
        """The same events page by page, empty pages left out."""
        loop = self._begin()
        return Pages(loop, self._stream(loop))

    async def stream(self) -> AsyncGenerator[EventsPage, None]:
        """The same pages for a task that is cancelled only to end it: no task for each step.

        Use it with `aclosing`; once an `anext()` was cancelled, it is over.
        """
        loop = self._begin()
        async with aclosing(self._stream(loop)) as pages:
            async for page in pages:
                loop.cursor.finish()
                yield page
                del page  # the answer's bytes need not wait for those of the next one

    async def collect(self) -> list[TargetEvent]:
        """All events as a list."""
        async with aclosing(self.stream()) as pages:
            return [event async for page in pages for event in page.events]

    def _begin(self) -> _Loop:
        start = self.start or START
        walk = Walk(
            self.page_size,
            self.max_items,
            self.prefetch,
            self.dialect,
            self.session.dialect,
            start,
        )
        self._loop = _Loop(walk, Cursor(start))
        return self._loop

    async def _stream(self, loop: _Loop) -> AsyncGenerator[EventsPage, None]:
        """Drive the walk: the pages it proves, as its requests are answered."""
        walk, cursor, hooks = loop.walk, loop.cursor, self.session.hooks
        scope: Scope | None = None
        failure: Exception | None = None
        if hooks:
            facts = {"user_id": self.user_id, "target_rule_id": self.target_rule_id}
            scope = Scope(kind="walk", facts=facts, parent=current_scope())
            hooks.emit(ScopeDetails(scope=scope, phase="begins"))
        try:
            fetch = _Fetch(self, walk, scope)
            if self.resolve is not None:
                fetch.period_id = await self.resolve()
            while requests := walk.requests():
                loop.cancel(keep=requests)
                if self.prefetch and len(requests) > 1:
                    self._prefetch(loop, fetch, requests)
                task = loop.in_flight.get(requests[0])
                answer = await (fetch(requests[0]) if task is None else task)
                loop.in_flight.pop(requests[0], None)
                batches = walk.feed(requests[0], answer)
                del answer
                if batches and self.prefetch:
                    self._prefetch(loop, fetch, walk.requests())
                while batches:
                    cursor.advance(batches.pop(0))
                    yield cursor.page
                cursor.advance(None)
            if self.strict and (error := walk.error) is not None:
                raise error  # noqa: TRY301 - annotated like any other
        except Exception as error:
            failure = error
            if isinstance(error, CapillaryError):
                error.checkpoint = self.checkpoint
            raise
        finally:
            cancelled = loop.cancel()
            self.session.dialect = walk.lesson.fill_from(self.session.dialect)
            if scope is not None:
                hooks.emit(
                    ScopeDetails(scope=scope, phase="over", outcome=walk.report, error=failure)
                )
            if cancelled:
                await asyncio.gather(*cancelled, return_exceptions=True)

    @staticmethod
    def _prefetch(loop: _Loop, fetch: _Fetch, requests: tuple[PageRequest, ...]) -> None:
        """Have the requests in flight."""
        for request in requests:
            if request not in loop.in_flight:
                loop.in_flight[request] = asyncio.create_task(fetch(request))


@define(eq=False, repr=False)
class _Fetch:
    """Fetches a page of a walk; errors that mean "past the end" are answers."""

    pager: EventPager
    walk: Walk
    scope: Scope | None
    period_id: int | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.period_id = self.pager.period_id

    async def __call__(self, request: PageRequest) -> _Answer:
        if self.scope is None:
            return await self._page(request)
        with within(self.scope):
            return await self._page(request)

    async def _page(self, request: PageRequest) -> _Answer:
        pager = self.pager
        try:
            return await target_events(
                pager.session,
                pager.user_id,
                pager.target_rule_id,
                period_id=self.period_id,
                limit=request.limit,
                offset=request.offset,
            )
        except CapillaryError as error:
            if self.walk.is_response(request, error):
                return error
            raise


@define(eq=False, repr=False)
class _Steps:
    """Steps through a loop's pages, each in a task of its own, which a cancelled `next` survives.

    An async generator alone would be finished by the cancellation, and look as if complete.
    """

    loop: _Loop
    pages: AsyncGenerator[EventsPage, None]
    events: Iterator[TargetEvent] = field(init=False, factory=lambda: iter(()))
    _step: asyncio.Task[EventsPage | None] | None = field(init=False, default=None)
    _error: BaseException | None = field(init=False, default=None)
    _waiting: bool = field(init=False, default=False)
    _over: bool = field(init=False, default=False)

    async def next_page(self) -> EventsPage | None:
        """The next page, None at the end. An error is raised again by each later call."""
        if self._waiting:
            raise UsageError("another task is waiting for this iterator: give each its own loop")
        if self._error is not None:
            raise self._error
        if self._over:
            return None
        step = self._step = self._step or asyncio.create_task(_advance(self.pages))
        self._waiting = True
        try:
            await asyncio.wait((step,))
        finally:
            self._waiting = False
        self._step = None
        if self._over:  # closed meanwhile
            return None
        self._error = asyncio.CancelledError() if step.cancelled() else step.exception()
        if self._error is not None:
            raise self._error
        page = step.result()
        self._over = page is None
        return page

    def cancel(self) -> list[asyncio.Task[Any]]:
        """End the loop and cancel what is in flight. Returns the tasks."""
        step, self._step, self._over = self._step, None, True
        self.events = iter(())
        if step is not None and not step.cancel():
            step.cancelled() or step.exception()  # retrieved: nobody awaits it
        return [*self.loop.cancel(), *([] if step is None else [step])]


async def _advance(pages: AsyncGenerator[EventsPage, None]) -> EventsPage | None:
    return await anext(pages, None)


class _Iterator(AsyncIterator[T], Generic[T]):
    """Dropped, by `break` or an exception, it cancels at once what is in flight."""

    def __init__(self, loop: _Loop, pages: AsyncGenerator[EventsPage, None]) -> None:
        self._steps = _Steps(loop, pages)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            item = await self._next(self._steps)
        except BaseException:
            del self  # a traceback must not keep it, and its requests, alive
            raise
        if item is None:
            raise StopAsyncIteration
        return item

    @staticmethod
    @abstractmethod
    async def _next(steps: _Steps) -> T | None:
        """The next item, None at the end."""

    async def aclose(self) -> None:
        """End the loop. Returns once nothing is in flight any more."""
        if tasks := self._steps.cancel():
            await asyncio.wait(tasks)
        await self._steps.pages.aclose()

    def __del__(self) -> None:
        self._steps.cancel()


class Pages(_Iterator[EventsPage]):
    """A loop over pages."""

    @staticmethod
    async def _next(steps: _Steps) -> EventsPage | None:
        page = await steps.next_page()
        if page is not None:
            steps.loop.cursor.finish()
        return page


class Events(_Iterator[TargetEvent]):
    """A loop over single events."""

    @staticmethod
    async def _next(steps: _Steps) -> TargetEvent | None:
        event = next(steps.events, None)
        if event is None:
            page = await steps.next_page()
            if page is None:
                return None
            steps.events = iter(page.events)
            event = next(steps.events)  # no page is empty
        steps.loop.cursor.received += 1
        return event
