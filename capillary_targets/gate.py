"""The gate before every request: a place among those in flight, the pace, and the budget.

The sums are in `limits`; here is who waits, in the order they came.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import deque
from typing import Literal, TypeAlias

from attrs import define

from .budget import Budget
from .errors import RateLimited
from .hooks import Hooks, WaitDetails
from .limits import AdaptiveConcurrency, ConcurrencyController, RateController

__all__ = ["Deadline", "Gate", "Outcome", "Ticket", "Waited"]

Reason: TypeAlias = Literal["place", "budget", "pause"]
Outcome: TypeAlias = Literal["served", "refused", "overload", "cancelled"]
"""How a request ended: `refused` is 429; `overload` a time-out, a lost connection, a 502 or 503."""


@define(eq=False, repr=False)
class Waited:
    """Seconds spent waiting at the gate so far, by all requests together."""

    place: float = 0.0
    budget: float = 0.0
    pause: float = 0.0


@define(eq=False, repr=False)
class Ticket:
    """A request let through: when, how many were then in flight, and its place in the budget."""

    sent: float
    in_flight: int
    budget: str = ""


class Deadline:
    """Until when one call may take, in monotonic seconds.

    A web request would rather be told at once that the budget is used up. A sweep waits: its
    deadline stands still meanwhile (`endless`).
    """

    __slots__ = ("endless", "ends")

    def __init__(self, seconds: float, *, endless: bool = False) -> None:
        self.ends = time.monotonic() + seconds
        self.endless = endless

    def left(self) -> float:
        """Seconds until then; negative when it has passed."""
        return self.ends - time.monotonic()


class Gate:
    """Lets requests through one by one; shared by all calls of a session."""

    def __init__(
        self, concurrency: int | AdaptiveConcurrency, budget: Budget | None, hooks: Hooks
    ) -> None:
        self._controller = (
            ConcurrencyController(concurrency)
            if isinstance(concurrency, AdaptiveConcurrency)
            else None
        )
        self._fixed = concurrency if isinstance(concurrency, int) else 0
        self._budget = budget
        self._hooks = hooks
        self._queue: deque[asyncio.Future[None]] = deque()
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self._owed: deque[str] = deque()
        self.rate = RateController()
        self.in_flight = 0
        self.waited = Waited()

    @property
    def limit(self) -> int:
        """Requests allowed in flight now."""
        return self._fixed if self._controller is None else self._controller.limit

    def enter_at_once(self) -> Ticket | None:
        """Let a request through that need not wait; None if it must, by `enter`."""
        if self._queue or self.in_flight >= self.limit or self._held_back():
            return None
        self.in_flight += 1
        return Ticket(time.monotonic(), self.in_flight)

    async def enter(self, deadline: Deadline) -> Ticket:
        """Wait for a place, the pace and the budget.

        Raises `RateLimited` if a wait that is known beforehand would pass the deadline of an
        impatient call, and `TimeoutError` when the deadline passes.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(None if deadline.endless else deadline.left()):
                await self._place()
                try:
                    budget = await self._permission(deadline) if self._held_back() else ""
                except BaseException:
                    self._free_place()
                    raise
        finally:
            if deadline.endless:
                deadline.ends += time.monotonic() - started
        return Ticket(time.monotonic(), self.in_flight, budget)

    def leave(
        self,
        ticket: Ticket,
        outcome: Outcome,
        retry_after: float | None = None,
        ended: float | None = None,
    ) -> None:
        """The request is over, however it ended; its answer had come at `ended`."""
        now = time.monotonic() if ended is None else ended
        if outcome == "refused":
            self.rate.refused(now, ticket.sent, retry_after)
        elif outcome == "served":
            self.rate.accepted(now)
        if self._controller is not None and outcome in {"served", "overload"}:
            self._controller.ended(
                now, now - ticket.sent, ticket.in_flight, overload=outcome == "overload"
            )
        self._free_place()
        if ticket.budget:
            self._owed.append(ticket.budget)

    async def settle(self, *, refused: bool = False) -> None:
        """Tell the budget which requests were answered.

        Apart from `leave`, because it may wait: a cancelled request leaves without it, and the
        next one settles for both.
        """
        if self._budget is None:
            return
        while self._owed:
            await self._budget.answered(self._owed.popleft())
        self._freed.set()
        if refused:
            await self._budget.pause(max(0.0, self.rate.paused_until - time.monotonic()))

    async def _place(self) -> None:
        if self.in_flight < self.limit:  # then nobody is waiting
            self.in_flight += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        started = time.monotonic()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._free_place()  # it was given just before
            raise
        finally:
            self._note("place", time.monotonic() - started)

    def _free_place(self) -> None:
        self.in_flight -= 1
        while self._queue and self.in_flight < self.limit:
            place = self._queue.popleft()
            if not place.done():  # else whoever waited was cancelled
                self.in_flight += 1
                place.set_result(None)

    def _held_back(self) -> bool:
        # In tests that do not wait, pace and budget are no concern.
        return (self._budget is not None or self.rate.restrains) and not _testing()

    async def _permission(self, deadline: Deadline) -> str:
        """The budget's ticket. One waits at a time, so that first come is first served."""
        async with self._turn:
            return await self._wait_for_permission(deadline)

    async def _wait_for_permission(self, deadline: Deadline) -> str:
        paced = False
        while True:
            wait = self.rate.pause_left(time.monotonic())
            if not wait and not paced:
                wait = self.rate.wait(time.monotonic())
                paced = not wait
            if wait:
                await self._sleep("pause", wait, deadline)
                continue
            if self._budget is None:
                return ""
            await self.settle()
            self._freed.clear()
            ticket, wait = await self._budget.take()
            if not wait:
                return ticket
            await self._sleep("budget", wait, deadline)

    async def _sleep(self, reason: Reason, seconds: float, deadline: Deadline) -> None:
        """Sleep; without end: until some request is answered."""
        started = time.monotonic()
        if seconds == math.inf:
            await self._freed.wait()
        elif not deadline.endless and deadline.left() <= seconds:
            raise RateLimited(
                "the rate budget is used up"
                if reason == "budget"
                else "the server has asked for a pause",
                retry_after=seconds,
            )
        else:
            await asyncio.sleep(seconds)
        self._note(reason, time.monotonic() - started)

    def _note(self, reason: Reason, seconds: float) -> None:
        setattr(self.waited, reason, getattr(self.waited, reason) + seconds)
        if self._hooks:
            self._hooks.emit(WaitDetails(reason=reason, seconds=seconds))


def _testing() -> bool:
    """Whether stamina's test mode is on. Who switched it on has imported it."""
    stamina = sys.modules.get("stamina")
    return stamina is not None and stamina.is_testing()
