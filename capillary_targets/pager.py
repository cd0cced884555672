"""EventPager: drives the pure walk of `pagination` over the endpoint; `async for`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Generic, Literal, Self, TypeVar

from attrs import define, field

from .endpoints import checked_id, target_events
from .errors import CapillaryError, UsageError
from .hooks import Scope, ScopeDetails, current_scope, within
from .models import EventsPage, TargetEvent
from .pagination import (
    NOTHING,
    START,
    Batch,
    Checkpoint,
    Dialect,
    PageRequest,
    PagingReport,
    Progress,
    Walk,
)
from .session import Session

__all__ = ["EventPager"]

T = TypeVar("T")
Answer = EventsPage | CapillaryError


@define(eq=False)
class EventPager:
    """The events of one user towards one target, in chronological order.

    A pager is a value: each loop over it starts afresh and asks the server again. `report` and
    `checkpoint` tell of the latest loop. A user without any record in the target (310149) simply
    has no events.

    Every event that exists throughout a loop arrives exactly once, or the loop raises
    `PaginationError`; with `strict=False` it ends, and `report` says that it is not complete and
    why. See `docs/pagination.md` for what that rests on.

    However a loop ends, by `break`, by an exception in its body or by `aclose()` of its iterator,
    requests in flight are cancelled at once.
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
    anchored: bool = False
    dialect: Dialect = NOTHING
    resolve: Callable[[], Awaitable[int]] | None = field(default=None, repr=False)
    """Finds the id of a period that was given by name: asked anew when a loop starts."""
    _progress: Progress | None = field(init=False, default=None, repr=False)

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
        return PagingReport() if self._progress is None else self._progress.walk.report

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the latest loop stands: behind the event, or page, that it gave out last."""
        if self._progress is None:
            return self.start or START
        return self._progress.checkpoint

    def __aiter__(self) -> Events:
        return Events(self._begin())

    def pages(self) -> Pages:
        """The same events page by page, empty pages left out."""
        return Pages(self._begin())

    def _begin(self) -> _Loop:
        walk = Walk(
            self.page_size,
            self.max_items,
            self.prefetch,
            self.anchored,
            self.dialect,
            self.session.learned.dialect,
            self.start or START,
        )
        # The pager holds how far the loop is, not the loop, which holds the pager: events that
        # nobody needs any more are gone at once, and do not wait for the garbage collector.
        self._progress = Progress(walk)
        return _Loop(self, self._progress)

    async def collect(self) -> list[TargetEvent]:
        """All events as a list."""
        return [event async for page in self.pages() for event in page.events]


class _Loop:
    """One loop over a pager: the walk, the requests in flight, and what is ready to be given out.

    Whoever drives it calls `finish` in the end, however it ends.
    """

    def __init__(self, pager: EventPager, progress: Progress) -> None:
        self.pager = pager
        self.period_id = pager.period_id
        self.progress = progress
        self.walk = progress.walk
        self._requests: tuple[PageRequest, ...] = ()
        self._ready: list[Batch] = []
        self._flight: dict[PageRequest, asyncio.Task[Answer]] = {}
        self._cancelled: set[asyncio.Task[Answer]] = set()
        self._scope: Scope | None = None  # only where somebody looks on
        self._phase: Literal["new", "on", "over"] = "new"

    async def next(self) -> EventsPage | None:
        """The next events that the walk proves, in order; None when it is over.

        Pages that follow are asked for before it returns.
        """
        if self._phase == "over":
            return None
        try:
            if self._phase == "new":
                await self._start()
            while not self._ready and self._requests:
                request = self._requests[0]
                self._ready = self.walk.feed(request, await self._answer(request))
                self._requests = self._ask(at_once=not self._ready)
            if self._ready:
                batch = self._ready.pop(0)
                self.progress.begin(batch)
                return batch.page
            if self.pager.strict and (error := self.walk.error) is not None:
                raise error  # noqa: TRY301 - it ends the loop like any other
        except BaseException as error:
            if isinstance(error, CapillaryError):
                error.checkpoint = self.progress.checkpoint
            await self.aclose(error if isinstance(error, Exception) else None)
            raise
        await self.aclose()
        return None

    async def _start(self) -> None:
        hooks = self.pager.session.hooks
        self._phase = "on"
        if hooks:
            facts = {"user_id": self.pager.user_id, "target_rule_id": self.pager.target_rule_id}
            self._scope = Scope(kind="walk", facts=facts, parent=current_scope())
            hooks.emit(ScopeDetails(scope=self._scope, phase="begins"))
        if self.pager.resolve is not None:
            self.period_id = await self.pager.resolve()
        self._requests = self._ask(at_once=True)

    def finish(self, failure: BaseException | None = None) -> None:
        """It is over: cancel what is in flight, keep what was learned, tell who looks on."""
        if self._phase == "on":
            self.pager.session.learned.take(self.walk.learnt)
            if self._scope is not None:
                self.pager.session.hooks.emit(
                    ScopeDetails(
                        scope=self._scope, phase="over", outcome=self.walk.report, error=failure
                    )
                )
        self._phase = "over"
        while self._flight:
            self._cancel(self._flight.popitem()[1])

    async def aclose(self, failure: BaseException | None = None) -> None:
        """Finish, and return once nothing is in flight any more."""
        self.finish(failure)
        if self._cancelled:
            await asyncio.gather(*self._cancelled, return_exceptions=True)

    def _ask(self, *, at_once: bool = False) -> tuple[PageRequest, ...]:
        """Have in flight what the walk wants, and nothing else.

        A single page that is waited for `at_once` needs no task of its own.
        """
        requests, flight = self.walk.requests(), self._flight
        for unwanted in flight.keys() - set(requests) if flight else ():
            self._cancel(flight.pop(unwanted))
        if self.pager.prefetch and not (at_once and len(requests) == 1):
            for request in requests:
                if request not in flight:
                    flight[request] = asyncio.create_task(self._fetch(request))
        return requests

    async def _answer(self, request: PageRequest) -> Answer:
        task = self._flight.get(request)
        if task is None:
            return await self._fetch(request)
        answer = await task
        del self._flight[request]
        return answer

    async def _fetch(self, request: PageRequest) -> Answer:
        if self._scope is None:
            return await self._fetch_page(request)
        with within(self._scope):
            return await self._fetch_page(request)

    async def _fetch_page(self, request: PageRequest) -> Answer:
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
            if self.walk.ends_here(request, error):
                return error
            raise

    def _cancel(self, task: asyncio.Task[Answer]) -> None:
        if task.done():
            task.cancelled() or task.exception()  # looked at, so that nobody complains
            return
        self._cancelled.add(task)
        task.add_done_callback(self._cancelled.discard)
        task.cancel()


class _Iterator(AsyncIterator[T], Generic[T]):
    """A loop's iterator. Dropped by `break` or an exception, it cancels at once what is in flight.

    A generator alone would be closed too, by the event loop, but only some turns later.
    """

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop

    def __aiter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        """End the loop. Returns once nothing is in flight any more."""
        await self._loop.aclose()

    def __del__(self) -> None:
        self._loop.finish()


class Pages(_Iterator[EventsPage]):
    """A loop over pages."""

    async def __anext__(self) -> EventsPage:
        page = await self._loop.next()
        if page is None:
            raise StopAsyncIteration
        progress = self._loop.progress
        progress.given = len(page.events)
        progress.let_go()
        return page


class Events(_Iterator[TargetEvent]):
    """A loop over single events."""

    def __init__(self, loop: _Loop) -> None:
        super().__init__(loop)
        self._generator = self._events(loop)

    def __anext__(self) -> Awaitable[TargetEvent]:
        return self._generator.__anext__()

    async def aclose(self) -> None:
        await self._generator.aclose()
        await super().aclose()

    @staticmethod
    async def _events(loop: _Loop) -> AsyncGenerator[TargetEvent, None]:
        progress = loop.progress
        while (page := await loop.next()) is not None:
            for event in page.events:
                progress.given += 1
                yield event
