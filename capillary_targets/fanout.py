"""Many users at once, as a stream of outcomes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from itertools import chain
from types import TracebackType
from typing import Any, Final, Self
from weakref import ReferenceType, ref

from attrs import define, field, frozen

from .endpoints import active_targets, checked_id
from .errors import (
    AuthError,
    CapillaryError,
    ClientClosed,
    EndpointGone,
    TargetPeriodNotFound,
    TargetRuleNotFound,
    UsageError,
)
from .gate import Waited
from .hooks import Scope, ScopeDetails, current_scope, within
from .models import Target, TargetEvent
from .pager import EventPager
from .pagination import PagingReport
from .session import Session
from .workers import visit_all

__all__ = ["Sweep", "SweepPlan", "SweepStats", "UserOutcome", "prefetch_for"]

_PREFETCH: Final = 4


def prefetch_for(session: Session, users: int) -> int:
    """Pages of a target to have in flight while so many users are under way.

    Several only where the users leave places free.
    """
    places = session.gate.limit // max(1, users)
    return min(_PREFETCH, places) if places > 1 else 0


@frozen
class UserOutcome:
    """What a sweep found for one user.

    `complete` is True only if every target was asked for and every walk proved complete. Where
    `error` is set, `targets` and `events` hold what had arrived before it, and `checkpoint` is
    where the walk that failed can go on.
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
        """Where to go on after an error, if it came in the middle of a walk."""
        return None if self.error is None else self.error.checkpoint


@frozen(kw_only=True)
class SweepPlan:
    """What is asked for each user."""

    target_rule_ids: tuple[int, ...] = ()
    """Only these targets; none given: all that the user is enrolled in."""
    enrolled: bool = True
    """Ask which targets a user is enrolled in; False goes straight to the events."""
    period_id: int | None = None
    page_size: int = 100

    def __attrs_post_init__(self) -> None:
        if self.page_size < 1:
            raise UsageError(f"page_size must be at least 1, not {self.page_size}")


@define
class SweepStats:
    """How far a sweep is; live while it runs. Times in seconds."""

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

    Also an async context manager, for whoever wants it closed at a certain line. Made by
    `TargetsClient.sweep`.
    """

    _session: Session = field(repr=False)
    _users: Iterable[int] | AsyncIterable[int] = field(repr=False)
    _plan: SweepPlan
    _ordered: bool = False
    _under_way: set[int] = field(init=False, factory=set, repr=False)
    _counted: SweepStats = field(init=False, factory=SweepStats, repr=False)
    _started: float = field(init=False, factory=time.monotonic, repr=False)
    _scope: Scope | None = field(init=False, default=None, repr=False)
    _stream: ReferenceType[AsyncGenerator[UserOutcome, None]] | None = field(
        init=False, default=None, repr=False
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
        stream = None if self._stream is None else self._stream()
        if stream is not None:
            await stream.aclose()

    def __aiter__(self) -> AsyncGenerator[UserOutcome, None]:
        self._started = time.monotonic()
        stream = self._outcomes()
        # Not held: a loop that is broken off drops its stream, which closes it at once.
        self._stream = ref(stream)
        return stream

    async def _outcomes(self) -> AsyncGenerator[UserOutcome, None]:
        hooks = self._session.hooks
        if hooks:
            self._scope = Scope(kind="sweep", parent=current_scope())
            hooks.emit(ScopeDetails(scope=self._scope, phase="begins"))
        failure: BaseException | None = None
        try:
            async with aclosing(self._run()) as outcomes:
                async for outcome in outcomes:
                    yield outcome
        except Exception as error:
            failure = error
            raise
        finally:
            if self._scope is not None:
                hooks.emit(
                    ScopeDetails(scope=self._scope, phase="over", outcome=self.stats, error=failure)
                )

    async def _run(self) -> AsyncGenerator[UserOutcome, None]:
        async with (
            aclosing(self._each()) as users,
            aclosing(visit_all(users, self._visit, self._size, ordered=self._ordered)) as visits,
        ):
            async for visit in visits:
                outcome = visit.outcome()
                stats = self._counted
                stats.users_done += 1
                stats.users_failed += not outcome.complete
                stats.targets += len(outcome.reports)
                stats.events += len(outcome.events)
                yield outcome

    async def events(self) -> AsyncGenerator[TargetEvent, None]:
        """Every event of every user as one flat stream. A failed user's error is raised."""
        async with aclosing(aiter(self)) as outcomes:
            async for outcome in outcomes:
                for event in outcome.events:
                    yield event
                if outcome.error is not None:
                    raise outcome.error

    @property
    def stats(self) -> SweepStats:
        """How far it is: a value of this moment."""
        stats, gate = self._counted, self._session.gate
        stats.requests = self._session.counts.requests
        stats.retries = self._session.counts.retries
        stats.in_flight, stats.limit = gate.in_flight, gate.limit
        stats.waited_for_budget = _held_back(gate.waited)
        stats.seconds = time.monotonic() - self._started
        return stats

    def _size(self) -> int:
        """Users at a time: as many as requests may be in flight.

        More would only queue at the gate: whoever works on an answer keeps all others waiting.
        """
        return self._session.gate.limit

    def _prefetch(self) -> int:
        return prefetch_for(self._session, len(self._under_way))

    async def _each(self) -> AsyncGenerator[int, None]:
        """The users, without those who are under way at that moment."""
        async for user in _stream_of(self._users):
            if user in self._under_way:
                await asyncio.sleep(0)  # a list of nothing else must not stop the others
            else:
                self._under_way.add(user)
                yield user

    async def _visit(self, user_id: int) -> _Visit:
        visit = _Visit(self._session, self._plan, user_id, self._prefetch)
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
    """One user's targets and events, as far as they have come."""

    def __init__(
        self, session: Session, plan: SweepPlan, user_id: int, prefetch: Callable[[], int]
    ) -> None:
        self._session = session
        self._plan = plan
        self._user_id = user_id
        self._prefetch = prefetch
        self.targets: tuple[Target, ...] = ()
        self.pages: list[tuple[TargetEvent, ...]] = []
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
                        self.pages.append(page.events)
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


def _held_back(waited: Waited) -> float:
    return waited.budget + waited.pause
