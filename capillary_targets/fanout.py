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
from itertools import chain
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar
from weakref import ReferenceType, ref

from attrs import define, evolve, field, frozen

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
from .hooks import Scope, ScopeDetails, current_scope, within
from .lookups import resolve_period
from .models import EventsPage, Target, TargetEvent
from .pager import EventPager
from .pagination import START, Checkpoint, PagingReport
from .session import Session

__all__ = [
    "FanOut",
    "Sweep",
    "SweepStats",
    "UserOutcome",
    "UserQuery",
    "WorkerPool",
    "fan_out",
    "prefetch_depth",
]

T = TypeVar("T")
R = TypeVar("R")
_Events: TypeAlias = tuple[TargetEvent, ...]

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


def prefetch_depth(limit: int, active: int) -> int:
    """Pages of a target to keep in flight, with `active` users sharing `limit` requests."""
    share = limit // max(1, active)
    return min(_MOST_PREFETCH, share) if share > 1 else 0


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
        self._items = items
        self._call = call
        self._size = size
        self._ordered = ordered
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._exhausted = False
        self._lock = asyncio.Lock()
        self._ready: deque[tuple[R, bool]] = deque()
        """Results, and whether each is what a call returned, not what it emitted before."""
        self._news, self._capacity = asyncio.Event(), asyncio.Event()
        self._taken = self._returned = self._consumed = 0
        self._reorder_buffer: dict[int, R] = {}

    async def results(self) -> AsyncGenerator[R, None]:
        """What the calls emit and return; to be iterated once."""
        try:
            self._spawn()
            while True:
                while self._ready:
                    self._capacity.set()
                    result, returned = self._ready.popleft()
                    self._consumed += returned
                    yield result
                    del result  # not to be kept alive while the next one is awaited
                if self._failure is not None:
                    raise self._failure
                if not self._tasks:
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            self._exhausted = True
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def emit(self, result: R) -> None:
        """Yield a result before the call returns. Waits while many are not consumed yet."""
        while len(self._ready) >= 2 * self._size():
            await self._wait_for_consumer()
        self._ready.append((result, False))
        self._news.set()

    async def _wait_for_consumer(self) -> None:
        self._capacity.clear()
        await self._capacity.wait()

    def _spawn(self) -> None:
        if not self._exhausted and len(self._tasks) < self._size():
            self._tasks.add(asyncio.create_task(self._work()))

    async def _work(self) -> None:
        task = asyncio.current_task()
        try:
            # The size follows the concurrency limit, down as well as up; one worker always stays.
            while len(self._tasks) <= max(1, self._size()):
                async with self._lock:
                    while self._taken - self._consumed >= 2 * self._size():
                        await self._wait_for_consumer()
                    if self._exhausted:
                        break
                    try:
                        item = await anext(self._items)
                    except StopAsyncIteration:
                        self._exhausted = True
                        break
                    number, self._taken = self._taken, self._taken + 1
                self._spawn()
                self._finish(number, await self._call(item))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - raised by the consumer
            self._failure, self._exhausted = error, True
        finally:
            if task is not None:
                self._tasks.discard(task)
            self._news.set()

    def _finish(self, number: int, result: R) -> None:
        if self._ordered:
            self._reorder_buffer[number] = result
            while self._returned in self._reorder_buffer:
                self._ready.append((self._reorder_buffer.pop(self._returned), True))
                self._returned += 1
        else:
            self._ready.append((result, True))
        self._news.set()


class _StallCounter:
    """Counts how often the event loop stood still: a stopped process, a closed lid.

    Its timer is due before those of the requests that were in flight, so it counts first.
    """

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._tick()

    def _tick(self) -> None:
        now = self._loop.time()
        self.count += now - self._due > _STALL
        self._due = now + _TICK
        self._timer = self._loop.call_at(self._due, self._tick)

    def cancel(self) -> None:
        self._timer.cancel()


class FanOut(Generic[R]):
    """One fan-out, as each of its fetches sees it. Made by `fan_out`."""

    def __init__(self, session: Session, query: UserQuery, most: int | None = None) -> None:
        self.session = session
        self.query = query
        self._most = most
        self.emit: Callable[[R], Awaitable[None]]
        """Yields a result before the fetch returns."""
        self._active: set[int] = set()
        self._stalls = _StallCounter()

    async def for_each_target(
        self, user_id: int, fetch_events: Callable[[int], Awaitable[None]]
    ) -> tuple[tuple[Target, ...], CapillaryError | None]:
        """Ask for a user's targets, then call `fetch_events` with each rule id, each once.

        Returns the targets and the error that stopped it, if any. Raises errors that are fatal for
        every user.
        """
        query = self.query
        targets: tuple[Target, ...] = ()
        try:
            checked_id("user_id", user_id)
            rules: Iterable[int] = query.target_rule_ids
            if query.fetch_targets:
                targets = await self._active_targets(user_id)
                rules = dict.fromkeys(target.id for target in targets)
            for rule in rules:
                await fetch_events(rule)
        except CapillaryError as error:
            if is_fatal(error, query, self.session.settings.retry.retry_after_max):
                raise
            return targets, error
        return targets, None

    async def _active_targets(self, user_id: int) -> tuple[Target, ...]:
        """The targets, each row once: servers repeat them where rule ids are repeated."""
        while True:
            stalls = self.stalls
            try:
                found = await active_targets(
                    self.session, user_id, target_rule_ids=self.query.target_rule_ids
                )
            except CapillaryError as error:
                if not self.timed_out_asleep(error, stalls):
                    raise
            else:
                return tuple(row for n, row in enumerate(found) if row not in found[:n])

    def walk(self, user_id: int, rule: int, start: Checkpoint = START) -> TargetWalk:
        """A walk over a target's events behind `start`."""
        return TargetWalk(self, user_id, rule, start)

    def prefetch_depth(self) -> int:
        """Pages of a target to keep in flight now."""
        return prefetch_depth(self.size(), len(self._active))

    def size(self) -> int:
        """Users in progress at once."""
        limit = self.session.limiter.limit
        return limit if self._most is None else min(limit, self._most)

    def timed_out_asleep(self, error: CapillaryError, stalls: int) -> bool:
        """Whether a request failed because the process was suspended since there were `stalls`."""
        return error.retryable and self._stalls.count > stalls

    @property
    def stalls(self) -> int:
        """How often the process was suspended."""
        return self._stalls.count

    async def unique_users(
        self, users: Iterable[int] | AsyncIterable[int]
    ) -> AsyncGenerator[int, None]:
        """The users, without those who are in progress at that moment."""
        async for user in _iterate(users):
            if user in self._active:
                await asyncio.sleep(0)  # a list of repetitions must not block the others
            else:
                self._active.add(user)
                yield user

    def done(self, user_id: int) -> None:
        """The user is in progress no more."""
        self._active.discard(user_id)

    def close(self) -> None:
        """Stop the timer."""
        self._stalls.cancel()


class TargetWalk:
    """A walk over one target's events. One that times out while the process is suspended resumes.

    `report` and `checkpoint` tell how far it is.
    """

    def __init__(self, fan: FanOut[Any], user_id: int, rule: int, start: Checkpoint) -> None:
        self.report = PagingReport()
        self.checkpoint = start
        self._fan = fan
        self._user_id, self._rule = user_id, rule

    async def pages(self) -> AsyncGenerator[EventsPage, None]:
        """The events, page by page."""
        before = self.report
        while True:
            stalls = self._fan.stalls
            pager = self._pager()
            try:
                async with aclosing(pager.stream()) as pages:
                    async for page in pages:
                        yield page
                        del page
            except CapillaryError as error:
                if not self._fan.timed_out_asleep(error, stalls):
                    raise
            else:
                return
            finally:
                self.checkpoint = pager.checkpoint
                report = pager.report
                self.report = before = evolve(
                    report,
                    events=before.events + report.events,
                    requests=before.requests + report.requests,
                    moved=before.moved or report.moved,
                )

    def moved(self, start: Checkpoint) -> bool:
        """Whether rows before `start` have changed places or number."""
        report, now = self.report, self.checkpoint.row
        counted = report.total if report.dialect.total == "rows" else now
        return (
            report.moved
            or (report.no_record and start.row > 0)
            or now != start.row + report.events
            or counted not in {None, now}
        )

    def _pager(self) -> EventPager:
        session, query = self._fan.session, self._fan.query
        period, resolve = query.period, None
        if isinstance(period, str):
            resolve = partial(resolve_period, session, self._user_id, self._rule, period)
            period = None
        return EventPager(
            session,
            self._user_id,
            self._rule,
            period_id=period,
            page_size=query.page_size or _PAGE_SIZE,
            start=self.checkpoint,
            prefetch=self._fan.prefetch_depth(),
            resolve=resolve,
        )


async def fan_out(
    session: Session,
    users: Iterable[int] | AsyncIterable[int],
    query: UserQuery,
    fetch: Callable[[int, FanOut[R]], Awaitable[R]],
    *,
    ordered: bool = False,
    most: int | None = None,
) -> AsyncGenerator[R, None]:
    """Call `fetch` for many users concurrently; yield what the calls emit and return.

    As many users are in progress as requests may be in flight: more would only queue in the
    limiter. About twice as many are started before their results are consumed, so `users` may be
    endless. A user who comes again while in progress is not fetched twice.

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
    fan: FanOut[R] = FanOut(session, query, most)

    async def call(user_id: int) -> R:
        try:
            return await fetch(user_id, fan)
        finally:
            fan.done(user_id)

    try:
        async with aclosing(fan.unique_users(users)) as unique:
            pool = WorkerPool[int, R](unique, call, fan.size, ordered=ordered)
            fan.emit = pool.emit
            async with aclosing(pool.results()) as results:
                async for result in results:
                    yield result
                    del result
    finally:
        fan.close()


async def _iterate(users: Iterable[int] | AsyncIterable[int]) -> AsyncIterator[int]:
    if isinstance(users, AsyncIterable):
        async for user in users:
            yield user
    else:
        for user in users:
            yield user


@frozen
class UserOutcome:
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

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.error is None and all(report.complete for report in self.reports.values())

    @property
    def checkpoint(self) -> Any:
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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what is in flight; nothing is left running."""
        stream = None if self._running is None else self._running()
        if stream is not None:
            await stream.aclose()

    def __aiter__(self) -> AsyncGenerator[UserOutcome, None]:  # noqa: PYI058 - it can be closed
        return self._start(self._fetch)

    async def events(self) -> AsyncGenerator[TargetEvent, None]:
        """Every event of every user as one flat stream. A failed user's error is raised.

        Pages are yielded as they come, so that not even one user's events are held together: those
        of a user towards a target are in order, and others may come in between. An ordered sweep
        goes user by user.
        """
        async with aclosing(
            self._start(self._fetch if self._ordered else self._fetch_by_page)
        ) as results:
            async for result in results:
                for event in result.events if isinstance(result, UserOutcome) else result:
                    yield event
                if isinstance(result, UserOutcome) and result.error is not None:
                    raise result.error

    def _start(
        self, fetch: Callable[[int, FanOut[Any]], Awaitable[UserOutcome]]
    ) -> AsyncGenerator[Any, None]:
        stream = self._stream(fetch)
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

    def _count(self, result: UserOutcome | _Events) -> None:
        stats = self._counted
        if not isinstance(result, UserOutcome):
            stats.events += len(result)
            return
        stats.users_done += 1
        stats.users_failed += not result.complete
        stats.targets += len(result.reports)
        stats.events += len(result.events)

    async def _fetch(self, user_id: int, fan: FanOut[Any]) -> UserOutcome:
        """A user with all events."""
        pages: list[_Events] = []

        async def keep(events: _Events) -> None:
            pages.append(events)

        outcome = await self._fetch_user(user_id, fan, keep)
        return evolve(outcome, events=tuple(chain.from_iterable(pages)))

    async def _fetch_by_page(self, user_id: int, fan: FanOut[Any]) -> UserOutcome:
        """A user whose events are emitted page by page."""
        return await self._fetch_user(user_id, fan, fan.emit)

    async def _fetch_user(
        self, user_id: int, fan: FanOut[Any], take: Callable[[_Events], Awaitable[None]]
    ) -> UserOutcome:
        reports: dict[int, PagingReport] = {}

        async def fetch_events(rule: int) -> None:
            walk = fan.walk(user_id, rule)
            try:
                async with aclosing(walk.pages()) as pages:
                    async for page in pages:
                        await take(page.events)
                        del page
            finally:
                reports[rule] = walk.report

        with within(self._scope):
            targets, error = await fan.for_each_target(user_id, fetch_events)
        return UserOutcome(user_id, targets, (), reports, error)

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
