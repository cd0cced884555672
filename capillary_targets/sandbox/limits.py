"""How much the sandbox takes: calls served at a time, and calls within a window of time."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import define, field

from .faults import Fault
from .settings import SandboxSettings


@define(eq=False)
class CapacityLimit:
    """Serves up to `capacity` calls at a time; more wait in line: the knee of the latency."""

    _settings: SandboxSettings
    _served: int = 0
    _queue: deque[asyncio.Future[None]] = field(factory=deque)

    @property
    def waiting(self) -> int:
        """Calls in line."""
        return sum(not turn.done() for turn in self._queue)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[bool]:
        """Wait for a slot, keep it for `latency` seconds and the block; False: the line is full."""
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._admit()
        limit = self._settings.queue_limit
        if not turn.done() and limit is not None and self.waiting > limit:
            turn.cancel()
            yield False
            return
        try:
            await turn
            if self._settings.latency:
                await asyncio.sleep(self._settings.latency)
            yield True
        finally:
            if not turn.cancelled():  # it may have left just as its turn came
                self._served -= 1
                self._admit()

    def _admit(self) -> None:
        """Give the first in line their turns; those who have left are cancelled."""
        capacity = math.inf if self._settings.capacity is None else self._settings.capacity
        while self._queue and (self._served < capacity or self._queue[0].done()):
            turn = self._queue.popleft()
            if not turn.done():
                self._served += 1
                turn.set_result(None)


@define(eq=False)
class RateWindow:
    """Allows the first calls of each sliding window of time."""

    _settings: SandboxSettings
    _arrived: deque[float] = field(factory=deque)
    _allowed: deque[float] = field(factory=deque)
    peak: int = 0
    """The most calls that arrived within one window, rejected ones included."""

    def clear(self) -> None:
        """Forget every call."""
        self._arrived.clear()
        self._allowed.clear()
        self.peak = 0

    def count(self) -> Fault | None:
        """Count a call; a fault if the window is full."""
        if self._settings.rate_limit is None:
            return None
        most, seconds = self._settings.rate_limit
        now = self._settings.clock()
        for times in (self._arrived, self._allowed):
            while times and times[0] <= now - seconds:
                times.popleft()
        self._arrived.append(now)
        self.peak = max(self.peak, len(self._arrived))
        if len(self._allowed) >= most:
            wait = self._allowed[0] + seconds - now if self._allowed else seconds
            return Fault.too_many_requests(wait, self._settings.retry_hint)
        self._allowed.append(now)
        return None
