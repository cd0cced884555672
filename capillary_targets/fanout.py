"""Fan-out: many users concurrently, as a stream of results.

Every sweep goes through `FanOut`, so look-ahead, order, users in progress, and which errors are
fatal for all users are decided here and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

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
from .frames import EventList, Frame
from .hooks import Scope, ScopeDetails, within
from .lookups import checked_period
from .models import Target, TargetEvent, short_repr
from .pager import EventPager
from .pagination import Checkpoint, PagingReport
from .session import Session

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FanOut", "Sweep", "SweepStats", "UserOutcome", "UserQuery"]

F = TypeVar("F", bound="Fetched")

_MOST_PREFETCH: Final = 4
_PAGE_SIZE: Final = 100
_END: Final[Any] = object()


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
        checked_period(self.period)
        if self.page_size is not None and self.page_size < 1:
            raise UsageError(f"page_size must be at least 1, not {self.page_size}")


class Fetched(Protocol):
    """What a fetch returns: at least the error that stopped it, if any."""

    @property
    def error(self) -> Exception | None: ...


@define(eq=False)
class FanOut(Generic[F]):
    """Worker pool over users: calls `fetch` for each of them, and yields what the calls return.

    As many users are in progress as requests may be in flight: more would only queue in the
    limiter. At most twice as many are taken and not yet consumed, so `users` may be endless. A user
    who comes again while in progress is not fetched twice.

    Args:
        session: An open session, whose concurrency limit the number of workers follows.
        users: User ids.
        query: What to ask for each of them.
        fetch: Fetches one user; its second argument is this object. At least the `error` that
            stopped it, if any, is in what it returns.
        ordered: Yield results in the order of `users`, else as they are ready.
        most: At most so many users in progress.
    """

    session: Session
    users: Iterable[int] | AsyncIterable[int]
    query: UserQuery
    fetch: Callable[[int, FanOut[F]], Awaitable[F]]
    ordered: bool = False
    most: int | None = None
    active: dict[int, int] = field(init=False, factory=dict)
    """The users in progress, by their number among those taken."""
    _taken: int = field(init=False, default=0)
    _workers: int = field(init=False, default=1)
    _returned: int = field(init=False, default=0)
    _consumed: int = field(init=False, default=0)
    _reorder_buffer: dict[int, F] = field(init=False, factory=dict)
    _ready: deque[tuple[F, bool]] = field(init=False, factory=deque)
    """Results, and whether each is what a call returned, not what it emitted before."""
    _news: asyncio.Event = field(init=False, factory=asyncio.Event)
    _room: asyncio.Event = field(init=False, factory=asyncio.Event)

    async def results(self) -> AsyncGenerator[F, None]:
        """What the calls emit and return; to be iterated once. However it ends, no task is left.

        Raises:
            CapillaryError: An error that is fatal for every user.
        """
        pool = asyncio.create_task(self._run())
        pool.add_done_callback(lambda _: self._news.set())
        try:
            while self._ready or not pool.done():
                while self._ready:
                    result, returned = self._ready.popleft()
                    self._consumed += returned
                    self._room.set()
                    yield result
                    del result  # not to be kept alive while the next one is awaited
                self._news.clear()
                if not pool.done():
                    await self._news.wait()
        finally:
            pool.cancel()
            (failure,) = await asyncio.gather(pool, return_exceptions=True)
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        if failure is not None:
            raise failure

    async def emit(self, result: F) -> None:
        """Yield a result before the call returns. Waits while many are not consumed yet."""
        while len(self._ready) >= 2 * self.size():
            await self._wait_for_room()
        self._ready.append((result, False))
        self._news.set()

    async def _wait_for_room(self) -> None:
        self._room.clear()
        await self._room.wait()

    async def _run(self) -> None:
        async with aclosing(_iterate(self.users)) as users, asyncio.TaskGroup() as group:
            await self._work(users, group, asyncio.Lock())

    async def _work(
        self, users: AsyncGenerator[int, None], group: asyncio.TaskGroup, turn: asyncio.Lock
    ) -> None:
        """Take a user and fetch it, until there are no more.

        A task goes on with the next user in the same step: where all of them end in one step, and
        begin in another, the garbage collector runs ten times as often.
        """
        while True:
            async with turn:
                while not self._has_room():
                    await self._wait_for_room()
                user = await anext(users, _END)
                if user is _END:
                    return
                if user in self.active.values():
                    await asyncio.sleep(0)  # a list of repetitions must not block the others
                    continue
                number, self._taken = self._taken, self._taken + 1
                self.active[number] = user
            while self._workers < self.size():
                self._workers += 1
                group.create_task(self._work(users, group, turn))
            await self._visit(number, user)

    def _has_room(self) -> bool:
        size = self.size()
        return len(self.active) < size and self._taken - self._consumed < 2 * size

    async def _visit(self, number: int, user: int) -> None:
        result = await self.fetch(user, self)
        del self.active[number]
        if isinstance(result.error, CapillaryError) and self._is_fatal(result.error):
            raise result.error
        self._reorder_buffer[number if self.ordered else self._returned] = result
        while self._returned in self._reorder_buffer:
            self._ready.append((self._reorder_buffer.pop(self._returned), True))
            self._returned += 1
        self._news.set()
        self._room.set()

    def _is_fatal(self, error: CapillaryError) -> bool:
        """Whether every other user would fail with this error too."""
        if (error.retry_after or 0.0) > self.session.settings.retry.retry_after_max:
            return True  # the limiter refuses everybody until then
        if isinstance(error, AuthError | BudgetUnavailable):
            return not error.retryable  # a rejected token may be good again
        if isinstance(error, ClientClosed | EndpointGone):
            return True
        # Explicit ids that do not exist are the caller's mistake; an enrolled target's the user's.
        explicit = not self.query.fetch_targets
        return explicit and isinstance(error, TargetRuleNotFound | TargetPeriodNotFound)

    def size(self) -> int:
        """Users in progress at once."""
        limit = self.session.limiter.limit
        return max(1, limit if self.most is None else min(limit, self.most))

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
        share = self.size() // max(1, len(self.active))
        return EventPager(
            self.session,
            user_id,
            rule,
            self.query.period,
            page_size=self.query.page_size or _PAGE_SIZE,
            start=start,
            prefetch=min(_MOST_PREFETCH, share) if share > 1 else 0,
        )


async def _iterate(users: Iterable[int] | AsyncIterable[int]) -> AsyncGenerator[int, None]:
    if isinstance(users, AsyncIterable):
        async for user in users:
            yield user
    else:
        for user in users:
            yield user


@frozen(repr=False)
class UserOutcome(Frame):
    """What a sweep found for one user.

    `complete` is True only if every target was asked for and every walk proved complete. Where
    `error` is set, `targets` and `events` hold what arrived before it, and `error.checkpoint` is
    where the failed walk can resume. `reports` are by target rule id.
    """

    user_id: int
    targets: tuple[Target, ...] = ()
    events: tuple[TargetEvent, ...] = ()
    reports: Mapping[int, PagingReport] = field(factory=dict, hash=False)
    error: CapillaryError | None = field(default=None, eq=False)

    def to_arrow(self) -> pa.Table:
        """The events, as `EventList.to_arrow()`."""
        return EventList(self.events, self.user_id).to_arrow()

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.error is None and all(report.complete for report in self.reports.values())


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
    """Seconds in which the client held requests back, pauses that the server asked for included."""
    seconds: float = 0.0


@define(eq=False)
class Sweep:
    """Many users' outcomes, for one `async for` over the sweep or over its `.events()`.

    `async with aclosing(sweep.events()) as events:` closes it at a certain line. Made by
    `TargetsClient.sweep`.
    """

    _session: Session = field(repr=False)
    _users: Iterable[int] | AsyncIterable[int] = field(repr=False)
    _query: UserQuery
    _ordered: bool = False
    _counted: SweepStats = field(init=False, factory=SweepStats, repr=False)
    _started: float = field(init=False, factory=time.monotonic, repr=False)
    _scope: Scope | None = field(init=False, default=None, repr=False)
    __repr__ = short_repr

    def __attrs_post_init__(self) -> None:
        users = self._users
        if isinstance(users, str | bytes) or not isinstance(users, Iterable | AsyncIterable):
            raise UsageError(
                "user_ids must be numbers, one after the other: for a file of ids use "
                "capillary_targets.sweep.run with UsersFile"
            )

    def __aiter__(self) -> AsyncGenerator[UserOutcome, None]:  # noqa: PYI058 - it can be closed
        return self._stream(by_page=False)

    async def events(self) -> AsyncGenerator[TargetEvent, None]:
        """Every event of every user as one flat stream. A failed user's error is raised.

        Pages are yielded as they come, so that not even one user's events are held together: those
        of a user towards a target are in order, and others may come in between. An ordered sweep
        goes user by user.
        """
        async with aclosing(self._stream(by_page=not self._ordered)) as results:
            async for result in results:
                for event in result.events if isinstance(result, UserOutcome) else result:
                    yield event
                if isinstance(result, UserOutcome) and result.error is not None:
                    raise result.error

    async def _stream(self, *, by_page: bool) -> AsyncGenerator[Any, None]:
        """Outcomes, and with `by_page` their events before; counted, and reported to hooks."""
        self._started = time.monotonic()
        hooks, failure, stats = self._session.hooks, None, self._counted
        self._scope = scope = hooks.begin("sweep")
        fetch = partial(self._fetch, by_page=by_page)
        fan = FanOut[Any](self._session, self._users, self._query, fetch, self._ordered)
        try:
            async with aclosing(fan.results()) as results:
                async for result in results:
                    if isinstance(result, UserOutcome):
                        stats.users_done += 1
                        stats.users_failed += not result.complete
                        stats.targets += len(result.reports)
                        stats.events += len(result.events)
                    else:
                        stats.events += len(result)
                    yield result
                    del result
        except Exception as error:
            failure = error
            raise
        finally:
            if scope is not None:
                hooks.emit(
                    ScopeDetails(scope=scope, phase="over", outcome=self.stats, error=failure)
                )

    async def _fetch(self, user_id: int, fan: FanOut[Any], *, by_page: bool) -> UserOutcome:
        """A user with all events, or (`by_page`) one whose events are emitted instead."""
        targets: tuple[Target, ...] = ()
        events: list[TargetEvent] = []
        reports: dict[int, PagingReport] = {}
        error = None
        try:
            with within(self._scope):
                targets, rules = await fan.targets(user_id)
                for rule in rules:
                    pager = fan.pager(user_id, rule)
                    try:
                        async with aclosing(pager.stream()) as pages:
                            async for page in pages:
                                if by_page:
                                    await fan.emit(page.events)
                                else:
                                    events += page.events
                                del page
                    finally:
                        reports[rule] = pager.report
        except CapillaryError as failure:
            error = failure
        return UserOutcome(user_id, targets, tuple(events), reports, error)

    @property
    def stats(self) -> SweepStats:
        """How far it is now."""
        session, limiter = self._session, self._session.limiter
        waited = limiter.waited()
        return evolve(
            self._counted,
            requests=session.counts.requests,
            retries=session.counts.retries,
            in_flight=limiter.in_flight,
            limit=limiter.limit,
            waited_for_budget=waited["budget"] + waited["pause"],
            seconds=time.monotonic() - self._started,
        )
