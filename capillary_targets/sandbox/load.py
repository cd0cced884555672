"""How busy the sandbox is: calls in flight, the line behind a limited capacity, and the budget."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .faults import Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .settings import SandboxSettings


class Overloaded(Exception):
    """A call that is turned away; `fault` says how.

    Args:
        fault: the answer.

    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


class Load:
    """Data calls in flight. With a `capacity`, those above it wait: the knee of the latency.

    Args:
        settings: `latency`, `capacity` and `queue_limit` may change at any time.

    """

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._served = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0
        self.max_in_flight = 0

    @property
    def waiting(self) -> int:
        """Calls that stand in line."""
        return len(self._line)

    def clear(self) -> None:
        """Forget the highest number seen."""
        self.max_in_flight = self.in_flight

    @asynccontextmanager
    async def seen(self) -> AsyncIterator[None]:
        """Count a call as in flight, from its arrival to its answer."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Wait for a place, keep it for `latency` seconds and the body of the block."""
        await self._enter()
        try:
            if self._settings.latency:
                await asyncio.sleep(self._settings.latency)
            yield
        finally:
            self._served -= 1
            self._admit()

    def _room(self) -> bool:
        capacity = self._settings.capacity
        return capacity is None or self._served < capacity

    async def _enter(self) -> None:
        # The settings may have changed since the last call left.
        self._admit()
        if self._room() and not self._line:
            self._served += 1
            return
        limit = self._settings.queue_limit
        if limit is not None and len(self._line) >= limit:
            raise Overloaded(Fault.http(503))
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._line.remove(turn)
            else:
                # It left just as its turn came: the next one has it.
                self._served -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        waiting = (turn for turn in tuple(self._line) if not turn.done())
        while self._room() and (turn := next(waiting, None)) is not None:
            self._line.remove(turn)
            self._served += 1
            turn.set_result(None)


class Budget:
    """Data calls in sliding windows of time: allows the first n of each, refuses the rest.

    Args:
        settings: `rate_limit`, `retry_hint` and `clock` may change at any time.

    """

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._arrivals: deque[float] = deque()
        self._allowed: deque[float] = deque()
        self.peak_window = 0
        """The most calls that arrived within one window, refused ones included."""

    def clear(self) -> None:
        """Forget every call."""
        self._arrivals.clear()
        self._allowed.clear()
        self.peak_window = 0

    def spend(self) -> None:
        """Count a call, and refuse it if the window is full."""
        if self._settings.rate_limit is None:
            return
        most, seconds = self._settings.rate_limit
        now = self._settings.clock()
        for times in (self._arrivals, self._allowed):
            while times and times[0] <= now - seconds:
                times.popleft()
        self._arrivals.append(now)
        self.peak_window = max(self.peak_window, len(self._arrivals))
        if len(self._allowed) < most:
            self._allowed.append(now)
            return
        wait = self._allowed[0] + seconds - now if self._allowed else seconds
        raise Overloaded(Fault.too_many_requests(wait, self._settings.retry_hint))
