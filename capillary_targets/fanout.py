"""Fan-out: many users concurrently, as a stream of results.

Every sweep goes through `fan_out`, so look-ahead, order, users in progress, and which errors are
fatal for all users are decided here and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar
from weakref import ReferenceType, ref

from attrs import define, field, frozen

from .endpoints import active_targets, checked_id
from .errors import (
    AuthError,
    BudgetUnavailable,
    CapillaryError,
    ClientClosed,
    EndpointGone,
    TargetPeriodNotFound,
    TargetRuleNotFound,
    UsageError,
)
from .frames import EventList, Frame
from .hooks import Scope, ScopeDetails, current_scope, within
from .lookups import resolve_period
from .models import Target, TargetEvent, short_repr
from .pager import EventPager
from .pagination import Checkpoint, PagingReport
from .session import Session

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "FanOut",
    "Sweep",
    "SweepStats",
    "UserOutcome",
    "UserQuery",
    "WorkerPool",
    "fan_out",
]

T = TypeVar("T")
R = TypeVar("R")
F = TypeVar("F", bound="Fetched")

_MOST_PREFETCH: Final = 4
_PAGE_SIZE: Final = 100
_TICK: Final = 1.0
_STALL: Final = 3.0
"""Seconds that the event loop must have stood still for requests to have timed out of it."""


def _rule_ids(rules: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(checked_id("target_rule_ids", rule) for rule in rules))


@frozen(kw_only=True)
class UserQuery:
    """What to ask for each user.

    Args:
        target_rule_ids: Only these targets; empty for all that the user is enrolled in.
        fetch_targets: Ask which targets a user is enrolled in. False goes straight to the events
            of `target_rule_ids`, one request less for each user.
        period: Only events of this period: its id, or its name ("current", a refCode), which costs
            a request or two more for each target.
        page_size: Events asked for in one request; None for the client's.

    Raises:
        UsageError: A value that no request can be made of.
    """

    target_rule_ids: tuple[int, ...] = field(default=(), converter=_rule_ids)
    fetch_targets: bool = True
    period: int | str | None = None
    page_size: int | None = None

    def __attrs_post_init__(self) -> None:
        if not self.fetch_targets and not self.target_rule_ids:
            raise UsageError(
                "fetch_targets=False needs target_rule_ids: name the targets whose events you want"
            )
        if isinstance(self.period, str):
            if not self.period.strip():
                raise UsageError('period must be "current", a refCode or an id')
        elif self.period is not None:
            checked_id("period", self.period)
        if self.page_size is not None and self.page_size < 1:
            raise UsageError(f"page_size must be at least 1, not {self.page_size}")


def is_fatal(error: CapillaryError, query: UserQuery, retry_after_max: float) -> bool:
    """Whether every other user would fail with this error too."""
    if (error.retry_after or 0.0) > retry_after_max:
        return True  # the limiter refuses everybody until then
    if isinstance(error, AuthError | BudgetUnavailable):
        return not error.retryable  # a rejected token may be good again
    if isinstance(error, ClientClosed | EndpointGone):
        return True
    # Explicit ids that do not exist are the caller's mistake; an enrolled target's are the user's.
    return not query.fetch_targets and isinstance(error, TargetRuleNotFound | TargetPeriodNotFound)


class Fetched(Protocol):
    """What a fetch returns: at least the error that stopped it, if any."""

    @property
    def error(self) -> Exception | None: ...


class WorkerPool(Generic[T, R]):
    """Worker pool: calls `call` for every item, `size()` at a time, and yields the results.

    Results come as they are ready, or in the items' order. At most twice `size()` items are taken
    and not yet consumed. The first exception of `call` or of `items` ends the stream. However it
    ends, no task is left.
    """

    def __init__(
        self,
        items: AsyncIterator[T],
        call: Callable[[T], Awaitable[R]],
        size: Callable[[], int],
        *,
        ordered: bool = False,
    ) -> None:
        self._items, self._call, self._size, self._ordered = items, call, size, ordered
        self._ready: deque[tuple[R, bool]] = deque()
        """Results, and whether each is what a call returned, not what it emitted before."""
        self._reorder_buffer: dict[int, R] = {}
        self._running = self._taken = self._returned = self._consumed = 0
        self._news, self._room = asyncio.Event(), asyncio.Event()

    async def results(self) -> AsyncGenerator[R, None]:
        """What the calls emit and return; to be iterated once."""
        producer = asyncio.create_task(self._produce())
        producer.add_done_callback(lambda _: self._news.set())
        try:
            while self._ready or not producer.done():
                while self._ready:
                    result, returned = self._ready.popleft()
                    self._consumed += returned
                    self._room.set()
                    yield result
                    del result  # not to be kept alive while the next one is awaited
                self._news.clear()
                if not producer.done():
                    await self._news.wait()
        finally:
            producer.cancel()
            (failure,) = await asyncio.gather(producer, return_exceptions=True)
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        if failure is not None:
            raise failure

    async def emit(self, result: R) -> None:
        """Yield a result before the call returns. Waits while many are not consumed yet."""
        while len(self._ready) >= 2 * self._size():
            await self._wait_for_room()
        self._ready.append((result, False))
        self._news.set()

    async def _wait_for_room(self) -> None:
        self._room.clear()
        await self._room.wait()

    async def _produce(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                # The size follows the concurrency limit, down as well as up.
                while (
                    self._running >= max(1, self._size())
                    or self._taken - self._consumed >= 2 * self._size()
                ):
                    await self._wait_for_room()
                try:
                    item = await anext(self._items)
                except StopAsyncIteration:
                    return
                group.create_task(self._run(self._taken, item))
                self._taken += 1
                self._running += 1

    async def _run(self, number: int, item: T) -> None:
        result = await self._call(item)
        self._reorder_buffer[number if self._ordered else self._returned] = result
        while self._returned in self._reorder_buffer:
            self._ready.append((self._reorder_buffer.pop(self._returned), True))
            self._returned += 1
        self._running -= 1
        self._news.set()
        self._room.set()


class _StallCounter:
    """Counts how often the event loop stood still: a stopped process, a closed lid.

    Its timer is due before those of the requests that were in flight, so it counts first.
    """

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._tick(self._loop.time())

    def _tick(self, due: float) -> None:
        now = self._loop.time()
        self.count += now - due > _STALL
        self.timer = self._loop.call_at(now + _TICK, self._tick, now + _TICK)


@define(eq=False)
class FanOut(Generic[F]):
    """One fan-out, as each of its fetches sees it. Made by `fan_out`.

    `active` are the users in progress, `most` of them at a time; `emit` yields a result before the
    fetch returns.
    """

    session: Session
    query: UserQuery
    most: int | None = None
    emit: Callable[[F], Awaitable[None]] = field(init=False)
    active: set[int] = field(init=False, factory=set)

    async def targets(self, user_id: int) -> tuple[tuple[Target, ...], tuple[int, ...]]:
        """A user's targets, each row once, and the ids of those whose events are asked for."""
        rules = self.query.target_rule_ids
        checked_id("user_id", user_id)
        if not self.query.fetch_targets:
            return (), rules
        found = await active_targets(self.session, user_id, target_rule_ids=rules)
        ids = tuple(dict.fromkeys([target.id for target in found]))
        if len(ids) == len(found):  # else rows are compared, which is dear
            return tuple(found), ids
        return tuple(row for n, row in enumerate(found) if row not in found[:n]), ids

    def pager(self, user_id: int, rule: int, start: Checkpoint | None = None) -> EventPager:
        """A pager over a target's events behind `start`."""
        query, period, resolve = self.query, self.query.period, None
        if isinstance(period, str):
            resolve = partial(resolve_period, self.session, user_id, rule, period)
            period = None
        share = self.size() // max(1, len(self.active))
        return EventPager(
            self.session,
            user_id,
            rule,
            period_id=period,
            page_size=query.page_size or _PAGE_SIZE,
            start=start,
            prefetch=min(_MOST_PREFETCH, share) if share > 1 else 0,
            resolve=resolve,
        )

    def size(self) -> int:
        """Users in progress at once."""
        limit = self.session.limiter.limit
        return limit if self.most is None else min(limit, self.most)


async def fan_out(
    session: Session,
    users: Iterable[int] | AsyncIterable[int],
    query: UserQuery,
    fetch: Callable[[int, FanOut[F]], Awaitable[F]],
    *,
    ordered: bool = False,
    most: int | None = None,
) -> AsyncGenerator[F, None]:
    """Call `fetch` for many users concurrently; yield what the calls emit and return.

    As many users are in progress as requests may be in flight: more would only queue in the
    limiter. About twice as many are started before their results are consumed, so `users` may be
    endless. A user who comes again while in progress is not fetched twice. One who failed because
    the process was suspended is fetched again.

    Args:
        session: An open session, which bounds the number of users in progress.
        users: User ids.
        query: What to ask for each of them.
        fetch: Fetches one user; the second argument offers what all fetches share.
        ordered: Yield results in the order of `users`, else as they are ready.
        most: At most so many users in progress.

    Raises:
        CapillaryError: An error that is fatal for every user. What is in flight is cancelled.
    """
    fan: FanOut[F] = FanOut(session, query, most)
    stalls = _StallCounter()

    async def unique() -> AsyncGenerator[int, None]:
        async for user in _iterate(users):
            if user in fan.active:
                await asyncio.sleep(0)  # a list of repetitions must not block the others
            else:
                fan.active.add(user)
                yield user

    async def call(user: int) -> F:
        try:
            while True:
                before = stalls.count
                result = await fetch(user, fan)
                error = result.error
                if not isinstance(error, CapillaryError):
                    return result
                if is_fatal(error, query, session.settings.retry.retry_after_max):
                    raise error
                if stalls.count == before or not error.retryable:
                    return result
        finally:
            fan.active.discard(user)

    try:
        async with aclosing(unique()) as items:
            pool = WorkerPool[int, F](items, call, fan.size, ordered=ordered)
            fan.emit = pool.emit
            async with aclosing(pool.results()) as results:
                async for result in results:
                    yield result
                    del result
    finally:
        stalls.timer.cancel()


async def _iterate(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


@frozen(repr=False)
class UserOutcome(Frame):
    """What a sweep found for one user.

    `complete` is True only if every target was asked for and every walk proved complete. Where
    `error` is set, `targets` and `events` hold what arrived before it, and `checkpoint` is where
    the failed walk can resume. `reports` are by target rule id.
    """

    user_id: int
    targets: tuple[Target, ...] = ()
    events: tuple[TargetEvent, ...] = ()
    reports: Mapping[int, PagingReport] = field(factory=dict, hash=False)
    error: CapillaryError | None = field(default=None, eq=False)

    def __repr__(self) -> str:
        return short_repr(self)

    def to_arrow(self) -> pa.Table:
        """The events, as `EventList.to_arrow()`."""
        return EventList(self.events, self.user_id).to_arrow()

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.error is None and all(report.complete for report in self.reports.values())

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Where to resume after an error, if it came in the middle of a walk."""
        return None if self.error is None else self.error.checkpoint


@define
class SweepStats:
    """Progress of a sweep; a value of the moment it was read. Times in seconds."""

    users_done: int = 0
    users_failed: int = 0
    targets: int = 0
    events: int = 0
    requests: int = 0
    retries: int = 0
    in_flight: int = 0
    limit: int = 0
    """Requests allowed in flight now."""
    waited_for_budget: float = 0.0
    """By all requests of the client together, pauses that the server asked for included."""
    seconds: float = 0.0


@define(eq=False)
class Sweep:
    """Many users' outcomes, for one `async for` over the sweep or over its `.events()`.

    Also an async context manager, for a sweep that is to be closed at a certain line. Made by
    `TargetsClient.sweep`.
    """

    _session: Session = field(repr=False)
    _users: Iterable[int] | AsyncIterable[int] = field(repr=False)
    _query: UserQuery
    _ordered: bool = False
    _counted: SweepStats = field(init=False, factory=SweepStats, repr=False)
    _started: float = field(init=False, factory=time.monotonic, repr=False)
    _scope: Scope | None = field(init=False, default=None, repr=False)
    _emitted: dict[int, dict[int, Checkpoint]] = field(init=False, factory=dict, repr=False)
    """How far the walks are whose pages were emitted, by user and target."""
    _running: ReferenceType[AsyncGenerator[Any, None]] | None = field(
        init=False, default=None, repr=False
    )

    def __attrs_post_init__(self) -> None:
        users = self._users
        if isinstance(users, str | bytes) or not isinstance(users, Iterable | AsyncIterable):
            raise UsageError(
                "user_ids must be numbers, one after the other: for a file of ids use "
                "capillary_targets.sweep.run with UsersFile"
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what is in flight; nothing is left running."""
        stream = None if self._running is None else self._running()
        if stream is not None:
            await stream.aclose()

    def __aiter__(self) -> AsyncGenerator[UserOutcome, None]:  # noqa: PYI058 - it can be closed
        return self._start(by_page=False)

    async def events(self) -> AsyncGenerator[TargetEvent, None]:
        """Every event of every user as one flat stream. A failed user's error is raised.

        Pages are yielded as they come, so that not even one user's events are held together: those
        of a user towards a target are in order, and others may come in between. An ordered sweep
        goes user by user.
        """
        async with aclosing(self._start(by_page=not self._ordered)) as results:
            async for result in results:
                for event in result.events if isinstance(result, UserOutcome) else result:
                    yield event
                if isinstance(result, UserOutcome):
                    self._emitted.pop(result.user_id, None)
                    if result.error is not None:
                        raise result.error

    def _start(self, *, by_page: bool) -> AsyncGenerator[Any, None]:
        stream = self._stream(partial(self._fetch, by_page=by_page))
        # A weak reference: a loop that is broken off drops its stream, which closes it at once.
        self._running = ref(stream)
        return stream

    async def _stream(
        self, fetch: Callable[[int, FanOut[Any]], Awaitable[UserOutcome]]
    ) -> AsyncGenerator[Any, None]:
        """Outcomes, and events where `fetch` emits them; counted, and reported to hooks."""
        self._started = time.monotonic()
        hooks, failure = self._session.hooks, None
        if hooks:
            self._scope = Scope(kind="sweep", parent=current_scope())
            hooks.emit(ScopeDetails(scope=self._scope, phase="begins"))
        results = fan_out(self._session, self._users, self._query, fetch, ordered=self._ordered)
        try:
            async with aclosing(results):
                async for result in results:
                    self._count(result)
                    yield result
                    del result
        except Exception as error:
            failure = error
            raise
        finally:
            if self._scope is not None:
                hooks.emit(
                    ScopeDetails(scope=self._scope, phase="over", outcome=self.stats, error=failure)
                )

    def _count(self, result: UserOutcome | tuple[TargetEvent, ...]) -> None:
        stats = self._counted
        if not isinstance(result, UserOutcome):
            stats.events += len(result)
            return
        stats.users_done += 1
        stats.users_failed += not result.complete
        stats.targets += len(result.reports)
        stats.events += len(result.events)

    async def _fetch(self, user_id: int, fan: FanOut[Any], *, by_page: bool) -> UserOutcome:
        """A user with all events, or (`by_page`) one whose events are emitted instead."""
        events: list[TargetEvent] = []
        reports: dict[int, PagingReport] = {}
        emitted = self._emitted.setdefault(user_id, {}) if by_page else {}

        async def fetch_events(rule: int) -> None:
            pager = fan.pager(user_id, rule, emitted.get(rule))
            try:
                async with aclosing(pager.stream()) as pages:
                    async for page in pages:
                        if by_page:
                            await fan.emit(page.events)
                        else:
                            events.extend(page.events)
                        del page
            finally:
                reports[rule] = pager.report
                if by_page:
                    emitted[rule] = pager.checkpoint

        targets: tuple[Target, ...] = ()
        error = None
        try:
            with within(self._scope):
                targets, rules = await fan.targets(user_id)
                for rule in rules:
                    await fetch_events(rule)
        except CapillaryError as failure:
            error = failure
        return UserOutcome(user_id, targets, tuple(events), reports, error)

    @property
    def stats(self) -> SweepStats:
        """How far it is now."""
        stats, limiter = self._counted, self._session.limiter
        stats.requests = self._session.counts.requests
        stats.retries = self._session.counts.retries
        stats.in_flight, stats.limit = limiter.in_flight, limiter.limit
        stats.waited_for_budget = limiter.wait_times.budget + limiter.wait_times.pause
        stats.seconds = time.monotonic() - self._started
        return stats
