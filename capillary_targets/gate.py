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

__all__ = ["Gate", "Outcome", "Patience", "Ticket", "Waited"]

Reason: TypeAlias = Literal["place", "budget", "pause"]
Outcome: TypeAlias = Literal["served", "refused", "overload", "cancelled"]
"""How a request ended: `refused` is 429; `overload` a time-out, a lost connection, a 502 or 503."""


@define
class Waited:
    """Seconds spent waiting at the gate so far, by all requests together."""

    place: float = 0.0
    budget: float = 0.0
    pause: float = 0.0


@define
class Ticket:
    """A request let through: when, how many were then in flight, and its place in the budget."""

    sent: float
    in_flight: int
    budget: str = ""


class Patience:
    """How long one call may wait at the gate: until its deadline, or as long as it takes.

    A web request would rather be told at once that the budget is used up. A sweep waits: its
    deadline stands still meanwhile.
    """

    __slots__ = ("_deadline", "_endless")

    def __init__(self, deadline: asyncio.Timeout, *, endless: bool = False) -> None:
        self._deadline = deadline
        self._endless = endless

    @property
    def endless(self) -> bool:
        """Whether waiting does not count."""
        return self._endless

    def left(self) -> float:
        """Seconds until the deadline."""
        ends = self._deadline.when()
        return float("inf") if ends is None else ends - asyncio.get_running_loop().time()

    def stop(self) -> float | None:
        """Stand still, if patient; the seconds left."""
        if not self._endless:
            return None
        left = self.left()
        self._deadline.reschedule(None)
        return left

    def go_on(self, left: float | None) -> None:
        """Run again with the seconds that were left."""
        if left is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time() + left)


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

    async def enter(self, patience: Patience) -> Ticket:
        """Wait for a place, the pace and the budget.

        Raises `RateLimited` if waiting would pass the deadline of an impatient call.
        """
        await self._place(patience)
        try:
            budget = await self._permission(patience) if self._held_back() else ""
        except BaseException:
            self._free_place()
            raise
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

    async def _place(self, patience: Patience) -> None:
        if self.in_flight < self.limit:  # then nobody is waiting
            self.in_flight += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        started, left = time.monotonic(), patience.stop()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._free_place()  # it was given just before
            raise
        finally:
            patience.go_on(left)
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

    async def _permission(self, patience: Patience) -> str:
        """The budget's ticket. One waits at a time, so that first come is first served."""
        left = patience.stop()
        try:
            async with self._turn:
                return await self._wait_for_permission(patience)
        finally:
            patience.go_on(left)

    async def _wait_for_permission(self, patience: Patience) -> str:
        paced = False
        while True:
            wait = self.rate.pause_left(time.monotonic())
            if not wait and not paced:
                wait = self.rate.wait(time.monotonic())
                paced = not wait
            if wait:
                await self._sleep("pause", wait, patience)
                continue
            if self._budget is None:
                return ""
            await self.settle()
            self._freed.clear()
            ticket, wait = await self._budget.take()
            if not wait:
                return ticket
            await self._sleep("budget", wait, patience)

    async def _sleep(self, reason: Reason, seconds: float, patience: Patience) -> None:
        """Sleep; without end: until some request is answered."""
        started = time.monotonic()
        if seconds == math.inf:
            await self._freed.wait()
        elif not patience.endless and patience.left() <= seconds:
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
