"""Many users at once, as a stream of outcomes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from contextlib import aclosing
from itertools import chain
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar
from weakref import ReferenceType, ref

from attrs import define, field

from .crowd import Crowd
from .endpoints import active_targets, checked_id
from .errors import (
    AuthError,
    CapillaryError,
    ClientClosed,
    EndpointGone,
    TargetPeriodNotFound,
    TargetRuleNotFound,
)
from .hooks import Scope, ScopeDetails, current_scope, within
from .limiter import WaitTimes
from .models import Target, TargetEvent
from .outcomes import SweepPlan, SweepStats, UserOutcome
from .pager import EventPager
from .pagination import PagingReport
from .session import Session
from .workers import Pool, visit_all

__all__ = ["Sweep", "SweepPlan", "SweepStats", "UserOutcome", "prefetch_for"]

T = TypeVar("T")
_Events: TypeAlias = tuple[TargetEvent, ...]
_Give: TypeAlias = Callable[[_Events], Awaitable[None]]

_PREFETCH: Final = 4


def prefetch_for(size: int, users: int) -> int:
    """Pages of a target to have in flight while so many of `size` users are under way.

    Several only where the users leave places free.
    """
    places = size // max(1, users)
    return min(_PREFETCH, places) if places > 1 else 0


@define(eq=False)
class Sweep:
    """Many users' outcomes, for one `async for` over the sweep or over its `.events()`.

    Also an async context manager, for whoever wants it closed at a certain line. Made by
    `TargetsClient.sweep`.
    """

    _session: Session = field(repr=False)
    _users: Iterable[int] | AsyncIterable[int] = field(repr=False)
    _plan: SweepPlan
    _ordered: bool = False
    _under_way: set[int] = field(init=False, factory=set, repr=False)
    _crowd: Crowd = field(init=False, repr=False)
    _counted: SweepStats = field(init=False, factory=SweepStats, repr=False)
    _started: float = field(init=False, factory=time.monotonic, repr=False)
    _scope: Scope | None = field(init=False, default=None, repr=False)
    _stream: ReferenceType[AsyncGenerator[Any, None]] | None = field(
        init=False, default=None, repr=False
    )

    def __attrs_post_init__(self) -> None:
        limiter = self._session.limiter
        self._crowd = Crowd(lambda: limiter.limit)

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
        stream = None if self._stream is None else self._stream()
        if stream is not None:
            await stream.aclose()

    def __aiter__(self) -> AsyncGenerator[UserOutcome, None]:  # noqa: PYI058 - it can be closed
        return self._begun(self._outcomes())

    async def events(self) -> AsyncGenerator[TargetEvent, None]:
        """Every event of every user as one flat stream. A failed user's error is raised.

        Pages are given out as they come, so that not even one user's events are held together:
        those of a user towards a target are in order, and others may come in between. An ordered
        sweep goes on user by user.
        """
        if self._ordered:
            async with aclosing(self.__aiter__()) as outcomes:
                async for outcome in outcomes:
                    for event in outcome.events:
                        yield event
                    if outcome.error is not None:
                        raise outcome.error
            return
        async with aclosing(self._begun(self._parts())) as parts:
            async for part in parts:
                if isinstance(part, UserOutcome):
                    if part.error is not None:
                        raise part.error
                    continue
                for event in part:
                    yield event

    def _begun(self, stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        self._started = time.monotonic()
        watched = self._watched(stream)
        # Not held: a loop that is broken off drops its stream, which closes it at once.
        self._stream = ref(watched)
        return watched

    async def _watched(self, stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        hooks = self._session.hooks
        if hooks:
            self._scope = Scope(kind="sweep", parent=current_scope())
            hooks.emit(ScopeDetails(scope=self._scope, phase="begins"))
        failure: BaseException | None = None
        try:
            async with aclosing(stream):
                async for part in stream:
                    yield part
        except Exception as error:
            failure = error
            raise
        finally:
            if self._scope is not None:
                hooks.emit(
                    ScopeDetails(scope=self._scope, phase="over", outcome=self.stats, error=failure)
                )

    async def _outcomes(self) -> AsyncGenerator[UserOutcome, None]:
        """The users, each with all that was found."""
        async with (
            aclosing(self._each()) as users,
            aclosing(visit_all(users, self._visit, self._crowd, ordered=self._ordered)) as visits,
        ):
            async for visit in visits:
                yield self._count(visit.outcome())

    async def _parts(self) -> AsyncGenerator[_Events | UserOutcome, None]:
        """Events as they come; each user, without them, when all are given out."""

        async def visit_and_give(user_id: int) -> _Visit:
            return await self._visit(user_id, pool.give)

        async with aclosing(self._each()) as users:
            pool = Pool[int, "_Visit | _Events"](users, visit_and_give, self._crowd)
            async with aclosing(pool.results()) as parts:
                async for part in parts:
                    if isinstance(part, _Visit):
                        yield self._count(part.outcome())
                    else:
                        self._counted.events += len(part)
                        yield part

    def _count(self, outcome: UserOutcome) -> UserOutcome:
        stats = self._counted
        stats.users_done += 1
        stats.users_failed += not outcome.complete
        stats.targets += len(outcome.reports)
        stats.events += len(outcome.events)
        return outcome

    @property
    def stats(self) -> SweepStats:
        """How far it is: a value of this moment."""
        stats, limiter = self._counted, self._session.limiter
        stats.requests = self._session.counts.requests
        stats.retries = self._session.counts.retries
        stats.in_flight, stats.limit = limiter.in_flight, limiter.limit
        stats.waited_for_budget = _held_back(limiter.wait_times)
        stats.seconds = time.monotonic() - self._started
        return stats

    def _prefetch(self) -> int:
        return prefetch_for(self._crowd(), len(self._under_way))

    async def _each(self) -> AsyncGenerator[int, None]:
        """The users, without those who are under way at that moment."""
        async for user in _stream_of(self._users):
            if user in self._under_way:
                await asyncio.sleep(0)  # a list of nothing else must not stop the others
            else:
                self._under_way.add(user)
                yield user

    async def _visit(self, user_id: int, give: _Give | None = None) -> _Visit:
        visit = _Visit(self._session, self._plan, user_id, self._prefetch, give)
        try:
            with within(self._scope):
                await visit.run()
        except (AuthError, ClientClosed, EndpointGone):
            raise  # nobody else would fare better: the sweep ends
        except (TargetRuleNotFound, TargetPeriodNotFound) as refusal:
            if not self._plan.enrolled:
                raise  # the caller named it, for everybody
            visit.error = refusal
        except CapillaryError as failure:
            visit.error = failure
        finally:
            self._under_way.discard(user_id)
        return visit


class _Visit:
    """One user's targets and events, as far as they have come.

    With `give`, events are not held here but given away.
    """

    def __init__(
        self,
        session: Session,
        plan: SweepPlan,
        user_id: int,
        prefetch: Callable[[], int],
        give: _Give | None,
    ) -> None:
        self._session = session
        self._plan = plan
        self._user_id = user_id
        self._prefetch = prefetch
        self._give = give
        self.targets: tuple[Target, ...] = ()
        self.pages: list[_Events] = []
        self.reports: dict[int, PagingReport] = {}
        self.error: CapillaryError | None = None

    def outcome(self) -> UserOutcome:
        """What there is to show."""
        return UserOutcome(
            self._user_id,
            self.targets,
            tuple(chain.from_iterable(self.pages)),
            self.reports,
            self.error,
        )

    async def run(self) -> None:
        plan = self._plan
        checked_id("user_id", self._user_id)
        rules = plan.target_rule_ids
        if plan.enrolled:
            self.targets = tuple(
                await active_targets(self._session, self._user_id, target_rule_ids=rules)
            )
            rules = tuple(target.id for target in self.targets)
        for rule in rules:
            pager = EventPager(
                self._session,
                self._user_id,
                rule,
                period_id=plan.period_id,
                page_size=plan.page_size,
                prefetch=self._prefetch(),
            )
            try:
                async with aclosing(pager.pages()) as pages:
                    async for page in pages:
                        if self._give is None:
                            self.pages.append(page.events)
                        else:
                            await self._give(page.events)
                        del page  # the answer's bytes need not wait for those of the next one
            finally:
                self.reports[rule] = pager.report


async def _stream_of(users: Iterable[int] | AsyncIterable[int]) -> AsyncIterator[int]:
    if isinstance(users, AsyncIterable):
        async for user in users:
            yield user
    else:
        for user in users:
            yield user


def _held_back(waited: WaitTimes) -> float:
    return waited.budget + waited.pause
