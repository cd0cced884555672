"""Concurrency limit and rate limit: every request acquires a permit, and releases it afterwards.

The sums are in `limits`; here is who waits. Two lanes: calls of people (foreground) go before calls
of sweeps (background), each lane first come, first served.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import msgspec
from attrs import define

from .budget import Budget, SharedBudget
from .errors import (
    AuthorizationUnavailable,
    CapillaryError,
    ConnectionFailed,
    RateLimited,
    RequestTimeout,
    ServiceUnavailable,
)
from .hooks import Hooks, LimiterState, WaitDetails, WaitReason
from .limits import (
    AdaptiveConcurrency,
    CircuitBreaker,
    ConcurrencyController,
    RateController,
    RateLimit,
    Window,
)
from .retry import waiting_disabled

__all__ = ["Deadline", "Outcome", "Permit", "RequestLimiter", "outcome_of"]

Outcome: TypeAlias = Literal["ok", "throttled", "overload", "cancelled"]
"""How a request ended: `throttled` is 429; `overload` a time-out, a broken connection, 502, 503."""


def outcome_of(error: CapillaryError) -> Outcome:
    """What a failed request says about the server's load."""
    if isinstance(error, RateLimited):
        return "throttled"
    if isinstance(error, RequestTimeout | ConnectionFailed):
        return "overload"
    if isinstance(error, ServiceUnavailable | AuthorizationUnavailable) and error.status != 500:
        return "overload"  # a plain 500 is a bug of the server's more often than its load
    return "ok"


class Permit(msgspec.Struct, eq=False):
    """The right to send one request: when it was given, and how many were then in flight."""

    sent: float
    in_flight: int
    probe: bool
    """Whether it tries if an outage is over."""
    ticket: str | None = None
    """Its place in the budget."""


class Deadline:
    """Until when one call may take, in monotonic seconds.

    A web request would rather fail at once than wait for the rate limit. A sweep waits: its
    deadline stands still while a request is queued (`paused_while_queued`), and its requests go
    in the background lane.
    """

    __slots__ = ("ends", "paused_while_queued")

    def __init__(self, seconds: float, *, paused_while_queued: bool = False) -> None:
        self.ends: float = time.monotonic() + seconds
        self.paused_while_queued: bool = paused_while_queued

    def left(self) -> float:
        """Seconds until then; negative when it has passed."""
        return self.ends - time.monotonic()


@define(eq=False, repr=False)
class _Waiter:
    deadline: Deadline
    granted: asyncio.Future[Permit]


class RequestLimiter:
    """Concurrency slots, pauses, pace and rate budget of a session, shared by all its calls.

    Args:
        concurrency: requests in flight at once, or the bounds to find the number within.
        rate: the budget to keep: a `RateLimit`, which is opened and closed here, or the caller's
            own `Budget`, which is only used.
        hooks: told of every wait.
        retry_after_max: seconds; for a longer pause than this that the server asks for, calls fail
            instead of waiting, in sweeps too.
        clock: monotonic seconds.
        cpu: seconds of processor time that this thread has used.

    """

    def __init__(
        self,
        concurrency: int | AdaptiveConcurrency,
        rate: RateLimit | Budget | None,
        hooks: Hooks,
        *,
        retry_after_max: float = 900.0,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        if isinstance(concurrency, int):
            concurrency = AdaptiveConcurrency(concurrency, concurrency, concurrency)
        self._concurrency = ConcurrencyController(concurrency, cpu, clock())
        self._budget: Window | SharedBudget | None = None
        self._budget_name = ""
        if isinstance(rate, RateLimit):
            self._budget_name = f" ({rate.requests} requests in {rate.per:g} s)"
            if rate.shared is None:
                self._budget = Window(rate)
        if rate is not None and self._budget is None:
            self._budget = SharedBudget(rate, self._dispatch, self._fail_next, clock)
        self._hooks = hooks
        self._clock = clock
        self._foreground: deque[_Waiter] = deque()
        self._background: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._blocked: WaitReason | None = None  # what the next request waits for
        self._blocked_since = 0.0
        self._waited: dict[WaitReason, float] = dict.fromkeys(get_args(WaitReason), 0.0)
        self.rate: RateController = RateController()
        self.breaker: CircuitBreaker = CircuitBreaker(retry_after_max)
        self.in_flight: int = 0

    @property
    def limit(self) -> int:
        """Requests allowed in flight now."""
        return self._concurrency.limit

    async def acquire(self, deadline: Deadline) -> Permit:
        """Wait for a slot, the pace and the budget.

        Raises:
            RateLimited: a wait that is known beforehand would pass the deadline of a call whose
                deadline does not stand still while queued, or the server asks for a pause of more
                than `retry_after_max`.
            ServiceUnavailable: the same, for a pause that came with a 503.
            BudgetUnavailable: the shared budget's store failed.
            TimeoutError: the deadline passed.

        """
        background, now = deadline.paused_while_queued, self._clock()
        if waiting_disabled.get():
            self.in_flight += 1
            return Permit(now, self.in_flight, probe=False)
        lane = self._background if background else self._foreground
        if not self._foreground and not lane:
            reason, _ = self._blocked_by(now, background=background)
            if reason is None:
                return self._grant(now, background=background)
        waiter = _Waiter(deadline, asyncio.get_running_loop().create_future())
        lane.append(waiter)
        before = self.waited() if self._hooks else {}
        try:
            if not background or self._next_waiter() is waiter:  # else others come first
                self._dispatch()
            async with asyncio.timeout(None if background else deadline.left()):
                return await waiter.granted
        except BaseException:
            if waiter.granted.done() and not waiter.granted.cancelled():
                if waiter.granted.exception() is None:  # granted just before
                    self.release(waiter.granted.result(), "cancelled")
            else:
                waiter.granted.cancel()
                self._dispatch()  # a foreground call may have held the background lane back
            raise
        finally:
            if background:
                deadline.ends += self._clock() - now
            for reason, since in before.items():
                if seconds := self.waited()[reason] - since:
                    self._hooks.emit(
                        WaitDetails(reason=reason, seconds=seconds, background=background)
                    )

    def release(
        self,
        permit: Permit,
        outcome: Outcome,
        retry_after: float | None = None,
        ended: float | None = None,
    ) -> None:
        """Give the slot back and report how the request ended. Never raises, never waits.

        Args:
            permit: what `acquire` returned.
            outcome: see `Outcome`.
            retry_after: seconds for which the server asked to be left alone.
            ended: monotonic seconds at which the answer had come; now, if not given.

        """
        now = self._clock() if ended is None else ended
        queued = self._foreground or self._background
        self.in_flight -= 1
        if permit.probe:
            self.breaker.probe_ended()
        if outcome == "ok":
            self.rate.accepted(permit.sent)
            if self.breaker.succeeded(permit.sent):
                self._concurrency.restart()
            self._concurrency.on_response(now, permit.sent, permit.in_flight)
        elif outcome == "throttled":
            paused = self.breaker.refused(now, permit.sent, retry_after)
            # Without a hint it takes many refusals to pause, which a lack of requests has not.
            busy = 2 * permit.in_flight >= max(4, min(self.limit, self.rate.burst))
            saturated = retry_after is None or bool(queued) or busy
            self.rate.refused(now, permit.sent, paused=paused, saturated=saturated)
        elif outcome == "overload":
            self.breaker.failed(now, permit.sent, retry_after)
            if not self.breaker.half_open:
                self._concurrency.on_response(now, permit.sent, permit.in_flight, overload=True)
        if self._budget is not None and permit.ticket is not None:
            pause = self.breaker.paused_until - now
            if outcome != "ok" and pause > 0 and isinstance(self._budget, SharedBudget):
                self._budget.pause(pause)
            self._budget.release(now, permit.ticket)
        if queued:
            self._dispatch()

    def waited(self) -> dict[WaitReason, float]:
        """Seconds for which requests were held back so far, by what they waited for."""
        now, waited = self._clock(), self._waited
        if self._blocked is not None:
            waited[self._blocked] += now - self._blocked_since
        self._blocked_since = now
        return waited.copy()

    def state(self) -> LimiterState:
        """How busy it is now. May be called from another thread."""
        budget = self._budget
        return LimiterState(
            in_flight=self.in_flight,
            limit=self.limit,
            foreground_queue=_waiting(self._foreground),
            background_queue=_waiting(self._background),
            budget_used=None if budget is None else budget.used(self._clock()),
            budget_limit=budget.limit.requests if isinstance(budget, Window) else None,
        )

    async def aclose(self) -> None:
        """Report to the shared budget, and close it unless it is the caller's."""
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(self._budget, SharedBudget):
            await self._budget.aclose()

    def _blocked_by(self, now: float, *, background: bool) -> tuple[WaitReason | None, float]:
        """What holds a lane's next request back, and for how many seconds (inf: until told)."""
        if self.in_flight >= self._concurrency.limit:
            return "slot", math.inf
        wait = self.breaker.delay(now, background=background)
        if wait or (wait := self.rate.delay(now, self.in_flight)):
            return "pause", wait
        if self._budget is not None and (wait := self._budget.delay(now, background=background)):
            return "budget", wait
        return None, 0.0

    def _grant(self, now: float, *, background: bool) -> Permit:
        self.in_flight += 1
        self.rate.sent(now)
        ticket = None
        if self._budget is not None:
            ticket = self._budget.acquire(now, background=background)
        return Permit(now, self.in_flight, self.breaker.sent(now), ticket)

    def _dispatch(self) -> None:
        """Grant permits, the foreground lane first, until something holds the next one back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reason: WaitReason | None = None
        wait = 0.0
        while (waiter := self._next_waiter()) is not None:
            now, background = self._clock(), waiter.deadline.paused_while_queued
            reason, wait = self._blocked_by(now, background=background)
            if reason is None:
                waiter.granted.set_result(self._grant(now, background=background))
            elif wait == math.inf or not self._refuse_late(now, reason, wait):
                break
            reason = None
        self.waited()
        self._blocked = reason
        if reason is not None and wait < math.inf:
            self._timer = asyncio.get_running_loop().call_later(wait, self._dispatch)

    def _next_waiter(self) -> _Waiter | None:
        """Whose turn it is; calls that gave up are dropped."""
        for lane in (self._foreground, self._background):
            while lane and lane[0].granted.done():
                lane.popleft()
            if lane:
                return lane[0]
        return None

    def _refuse_late(self, now: float, reason: WaitReason, wait: float) -> bool:
        """Fail the calls for whom a known wait is too long; returns whether there were any."""
        announced = self.breaker.announced_until - now if reason == "pause" else 0.0
        too_long = announced > self.breaker.retry_after_max
        late = [
            waiter
            for waiter in (*self._foreground, *(self._background if too_long else ()))
            if not waiter.granted.done() and (too_long or waiter.deadline.left() <= wait)
        ]
        for waiter in late:
            waiter.granted.set_exception(self._refusal(now, reason, max(wait, announced)))
        return bool(late)

    def _refusal(self, now: float, reason: WaitReason, wait: float) -> CapillaryError:
        if reason == "budget":
            said = f"our own rate budget{self._budget_name} is used up"
        elif now >= self.breaker.paused_until:
            said = (
                f"our own pace of {self.rate.rate(now):.3g} requests a second, learned from the "
                "server's refusals, leaves no room before the deadline"
            )
        elif self.breaker.overloaded:
            said = f"the server is unavailable and asked for a pause of another {wait:.0f} s"
            return ServiceUnavailable(said, retry_after=wait)
        else:
            said = f"the server asked for a pause of another {wait:.0f} s"
        return RateLimited(said, retry_after=wait)

    def _fail_next(self, error: CapillaryError) -> None:
        if (waiter := self._next_waiter()) is not None:
            waiter.granted.set_exception(error)


def _waiting(lane: deque[_Waiter]) -> int:
    return sum(not waiter.granted.done() for waiter in lane.copy())
