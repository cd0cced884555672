"""The limiter in simulated time: an event loop whose clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from attrs import define, field

from capillary_targets import RateLimited, RetryPolicy, ServiceUnavailable
from capillary_targets.limiter import Deadline, Outcome, RequestLimiter

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Nothing is ever waited for: time passes at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that never comes")
        self.now += max(timeout, 0.0)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own, in seconds from 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def clock() -> float:
    """The running loop's time."""
    return asyncio.get_running_loop().time()


def simulate(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main)


class SimulatedDeadline(Deadline):
    """A deadline by the simulated clock."""

    def __init__(self, seconds: float, *, paused_while_queued: bool = False) -> None:
        super().__init__(0.0, paused_while_queued=paused_while_queued)
        self.ends = clock() + seconds

    def left(self) -> float:
        return self.ends - clock()


Answer = tuple[Outcome, float | None]
"""An outcome and its `Retry-After`."""
OK: Answer = ("ok", None)


@define(slots=False)
class Client:
    """Calls through a limiter as the transport makes them: attempts, back-off, deadlines.

    `answer(now)` is the server's answer to a request that arrives then.
    """

    limiter: RequestLimiter
    answer: Callable[[float], Answer]
    latency: float = 0.02
    capacity: int = 32
    """Requests in flight from which on the latency rises."""
    policy: RetryPolicy = field(factory=RetryPolicy)
    seed: int = 1
    _random: random.Random = field(init=False)
    outcomes: Counter[str] = field(factory=Counter)
    """Answers by outcome, and `failed` calls."""
    served_at: list[float] = field(factory=list)
    sent_at: list[float] = field(factory=list)
    waited: list[float] = field(factory=list)
    """Seconds that each served call took, from its beginning."""

    def __attrs_post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def call(self, *, sweep: bool = False, timeout: float = 30.0) -> bool:
        """One call; whether it was served."""
        began = clock()
        deadline = SimulatedDeadline(timeout, paused_while_queued=sweep)
        for attempt in range(1, self.policy.attempts + 1):
            try:
                permit = await self.limiter.acquire(deadline)
            except (RateLimited, ServiceUnavailable, TimeoutError) as error:
                self.outcomes[f"refused by us: {type(error).__name__}"] += 1
                break
            self.sent_at.append(clock())
            outcome: Outcome = "cancelled"
            retry_after = None
            try:
                answer = self.answer(clock())
                load = max(1.0, self.limiter.in_flight / self.capacity)
                await asyncio.sleep(self.latency * load * self._random.lognormvariate(0, 0.1))
                outcome, retry_after = answer
            finally:
                self.limiter.release(permit, outcome, retry_after)
            self.outcomes[outcome] += 1
            if outcome == "ok":
                self.served_at.append(clock())
                self.waited.append(clock() - began)
                return True
            if attempt == self.policy.attempts:
                break
            if sweep and retry_after:
                continue  # the limiter holds everybody back
            wait = self.policy.backoff(attempt, self._random.random(), retry_after)
            if wait >= deadline.left():
                break
            await asyncio.sleep(wait)
        self.outcomes["failed"] += 1
        return False

    async def sweep(self, seconds: float = float("inf"), calls: int = 10**9) -> None:
        """As many calls as the concurrency limit allows, one after the other."""
        ends, left, workers = clock() + seconds, calls, 0

        async def work() -> None:
            nonlocal left, workers
            workers += 1
            while left and workers <= self.limiter.limit and clock() < ends:
                left -= 1
                if workers < self.limiter.limit and left:
                    group.create_task(work())
                await self.call(sweep=True)
            workers -= 1

        with suppress(TimeoutError):
            async with asyncio.timeout_at(ends if ends < float("inf") else None):
                async with asyncio.TaskGroup() as group:
                    group.create_task(work())

    def share(self, outcome: str) -> float:
        """The share of an outcome among all answers."""
        return self.outcomes[outcome] / len(self.sent_at)

    def rate(self, since: float, until: float) -> float:
        """Served requests a second between two moments."""
        return sum(since <= at < until for at in self.served_at) / (until - since)
