"""Concurrency limit and rate limit: every request acquires a permit and releases it when over.

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

__all__ = ["Deadline", "Outcome", "Permit", "RequestLimiter", "WaitTimes", "outcome_of"]

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


@define(eq=False, repr=False)
class WaitTimes:
    """Seconds spent waiting for permits, by all requests together, by what they waited for."""

    slot: float = 0.0
    budget: float = 0.0
    pause: float = 0.0
    lane: float = 0.0


@define(eq=False, repr=False)
class Permit:
    """The right to send one request: when it was given, and how many were then in flight."""

    sent: float
    in_flight: int
    probe: bool = False
    """Whether it tries if an outage is over."""
    ticket: str = ""
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
    unlimited: bool
    """Whether only concurrency limits it, in tests that do not wait."""


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

    """

    def __init__(
        self,
        concurrency: int | AdaptiveConcurrency,
        rate: RateLimit | Budget | None,
        hooks: Hooks,
        *,
        retry_after_max: float = 900.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._controller = (
            ConcurrencyController(concurrency)
            if isinstance(concurrency, AdaptiveConcurrency)
            else None
        )
        self._fixed = concurrency if isinstance(concurrency, int) else 0
        self._window: Window | None = None
        self._shared: SharedBudget | None = None
        if isinstance(rate, RateLimit):  # if shared, only counts the places of this process
            self._window = Window(rate.requests, rate.per)
        if rate is not None and not (isinstance(rate, RateLimit) and rate.shared is None):
            self._shared = SharedBudget(rate, self._dispatch, self._fail_next, clock)
        self._hooks = hooks
        self._clock = clock
        self._foreground: deque[_Waiter] = deque()
        self._background: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._blocked: WaitReason | None = None  # what the head of the queue waits for
        self._blocked_lane = self._foreground
        self._blocked_since = 0.0
        reasons: tuple[WaitReason, ...] = get_args(WaitReason)
        self._elapsed = dict.fromkeys(reasons, 0.0)
        self._elapsed_background = dict.fromkeys(reasons, 0.0)
        self._budget_name = (
            f" ({rate.requests} requests in {rate.per:g} s)" if isinstance(rate, RateLimit) else ""
        )
        self.rate: RateController = RateController()
        self.breaker: CircuitBreaker = CircuitBreaker(retry_after_max)
        self.in_flight: int = 0
        self.wait_times: WaitTimes = WaitTimes()

    @property
    def limit(self) -> int:
        """Requests allowed in flight now."""
        return self._fixed if self._controller is None else self._controller.limit

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
        unlimited = waiting_disabled.get()
        lane = self._background if deadline.paused_while_queued else self._foreground
        if not self._foreground and not lane:
            now = self._clock()
            if self._blocked_by(now, lane, unlimited=unlimited)[0] is None:
                return self._grant(now, lane, unlimited=unlimited)
        waiter = _Waiter(deadline, asyncio.get_running_loop().create_future(), unlimited)
        lane.append(waiter)
        started, before = self._clock(), dict(self._elapse(lane))
        try:
            self._dispatch()
            async with asyncio.timeout(None if deadline.paused_while_queued else deadline.left()):
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
            self._note_wait(lane, before)
            if deadline.paused_while_queued:
                deadline.ends += self._clock() - started

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
        self.in_flight -= 1
        self.rate.ended()
        self.breaker.ended(probe=permit.probe)
        if outcome == "ok":
            self.rate.accepted(permit.sent)
            if self.breaker.succeeded(permit.sent) and self._controller is not None:
                self._controller.restart()
        elif outcome == "throttled":
            paused = self.breaker.refused(now, permit.sent, retry_after)
            # Without a hint it takes many refusals to pause, which a lack of requests has not.
            queued = bool(self._foreground or self._background)
            busy = 2 * permit.in_flight >= max(4, min(self.limit, self.rate.burst))
            saturated = retry_after is None or queued or busy
            self.rate.refused(now, permit.sent, paused=paused, saturated=saturated)
        elif outcome == "overload":
            self.breaker.failed(now, permit.sent, retry_after)
        overload = outcome == "overload"
        if self._shared is not None and (pause := self.breaker.paused_until - now) > 0:
            self._shared.pause(pause)
        if self._controller is not None and (
            outcome == "ok" or (overload and not self.breaker.half_open)
        ):
            seconds = now - permit.sent
            self._controller.on_response(now, seconds, permit.in_flight, overload=overload)
        if self._window is not None and permit.ticket:
            self._window.release(self._clock())
        if self._shared is not None and permit.ticket:
            self._shared.release(permit.ticket)
        if self._foreground or self._background:
            self._dispatch()

    def state(self) -> LimiterState:
        """How busy it is now. May be called from another thread."""
        window, own = self._window, self._shared is None
        return LimiterState(
            in_flight=self.in_flight,
            limit=self.limit,
            foreground_queue=_waiting(self._foreground),
            background_queue=_waiting(self._background),
            budget_used=None if window is None else window.used(self._clock()),
            budget_limit=window.requests if window is not None and own else None,
        )

    async def aclose(self) -> None:
        """Report to the shared budget, and close it unless it is the caller's."""
        if self._timer is not None:
            self._timer.cancel()
        if self._shared is not None:
            await self._shared.aclose()

    def _blocked_by(
        self, now: float, lane: deque[_Waiter], *, unlimited: bool
    ) -> tuple[WaitReason | None, float]:
        """What holds a lane's next request back, and for how many seconds (inf: until told)."""
        if self.in_flight >= self.limit:
            return "slot", math.inf
        if unlimited:
            return None, 0.0
        background = lane is self._background
        if wait := self.breaker.delay(now, background=background) or self.rate.delay(now):
            return "pause", wait
        wait = 0.0
        if self._shared is not None:
            wait = self._shared.delay(now)
        elif self._window is not None:
            wait = self._window.delay(now, background=background)
        return ("budget" if wait else None), wait

    def _grant(self, now: float, lane: deque[_Waiter], *, unlimited: bool) -> Permit:
        self.in_flight += 1
        self.rate.sent(now)
        ticket = ""
        if self._window is not None and not unlimited:
            self._window.acquire(now, background=lane is self._background)
            ticket = "local"
        if self._shared is not None and not unlimited:
            ticket = self._shared.acquire()
        return Permit(now, self.in_flight, self.breaker.sent(now), ticket)

    def _dispatch(self) -> None:
        """Grant permits, the foreground lane first, until something holds the next one back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reason, wait = None, 0.0
        while (lane := self._next_lane()) is not None:
            now, waiter = self._clock(), lane[0]
            reason, wait = self._blocked_by(now, lane, unlimited=waiter.unlimited)
            if reason is None:
                waiter.granted.set_result(self._grant(now, lane, unlimited=waiter.unlimited))
            elif wait < math.inf and self._refuse_late(now, reason, wait):
                reason = None
            else:
                break
        self._elapse()
        self._blocked, self._blocked_lane = reason, lane or self._foreground
        if reason is not None and wait < math.inf:
            self._timer = asyncio.get_running_loop().call_later(wait, self._dispatch)
        elif reason == "budget" and self._shared is not None:
            self._shared.fetch()

    def _next_lane(self) -> deque[_Waiter] | None:
        """The lane whose turn it is; calls that gave up are dropped."""
        for lane in (self._foreground, self._background):
            while lane and lane[0].granted.done():
                lane.popleft()
            if lane:
                return lane
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
        lane = self._next_lane()
        if lane is not None:
            lane[0].granted.set_exception(error)

    def _elapse(self, lane: deque[_Waiter] | None = None) -> dict[WaitReason, float]:
        """Seconds for which a lane was blocked so far, by what blocked it."""
        now = self._clock()
        if self._blocked is not None:
            passed, ahead = now - self._blocked_since, self._blocked_lane is self._foreground
            if ahead:
                self._elapsed[self._blocked] += passed
            self._elapsed_background["lane" if ahead else self._blocked] += passed
        self._blocked_since = now
        return self._elapsed_background if lane is self._background else self._elapsed

    def _note_wait(self, lane: deque[_Waiter], before: dict[WaitReason, float]) -> None:
        background = lane is self._background
        for reason, seconds in self._elapse(lane).items():
            if waited := seconds - before[reason]:
                setattr(self.wait_times, reason, getattr(self.wait_times, reason) + waited)
                if self._hooks:
                    self._hooks.emit(
                        WaitDetails(reason=reason, seconds=waited, background=background)
                    )


def _waiting(lane: deque[_Waiter]) -> int:
    return sum(not waiter.granted.done() for waiter in lane.copy())
