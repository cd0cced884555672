"""The limiter in simulated time: an event loop whose clock jumps to the next timer."""

import asyncio
import math
import random
import selectors
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from email.utils import formatdate
from typing import Any, TypeVar

from attrs import define, field

from capillary_targets import RateLimited, RetryPolicy, ServiceUnavailable
from capillary_targets.limiter import Deadline, Outcome, RequestLimiter
from capillary_targets.retry import parse_retry_after

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


@define
class Bucket:
    """A token bucket of `rate` a second.

    `hint` says what its `Retry-After` is: "whole" seconds, "exact", a quarter ("short") or thrice
    ("long") of that, a number of seconds, or "none".
    """

    rate: float
    capacity: float
    hint: str
    tokens: float = field(init=False, default=0.0)
    at: float = field(init=False, default=0.0)

    def __call__(self, now: float) -> Answer:
        self.tokens = min(self.capacity, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return OK
        return _throttled((1 - self.tokens) / self.rate, self.hint)


@define
class Window:
    """So many requests in each window of `per` seconds; somebody else has `used` of the first."""

    requests: int
    per: float
    hint: str = "exact"
    used: int = 0
    others: Callable[[float], int] = lambda _: 0
    """Requests of others in a window that begins at this time."""
    number: int = field(init=False, default=0)

    def __call__(self, now: float) -> Answer:
        if now // self.per != self.number:
            self.number, self.used = int(now // self.per), self.others(now)
        self.used += 1
        if self.used <= self.requests:
            return OK
        return _throttled((self.number + 1) * self.per - now, self.hint)


@define
class SlidingWindow:
    """So many requests in any `per` seconds."""

    requests: int
    per: float
    hint: str
    served: deque[float] = field(init=False, factory=deque)

    def __call__(self, now: float) -> Answer:
        while self.served and self.served[0] <= now - self.per:
            self.served.popleft()
        if len(self.served) < self.requests:
            self.served.append(now)
            return OK
        return _throttled(self.served[0] + self.per - now, self.hint)


def _throttled(wait: float, hint: str) -> Answer:
    if hint == "none":
        return "throttled", None
    if hint.startswith("date"):  # of a clock that is so many seconds ahead of ours
        now = clock() + float(hint.removeprefix("date"))
        dates = [formatdate(int(at), usegmt=True) for at in (now + wait, now)]
        return "throttled", parse_retry_after(*dates)
    known = {"whole": float(math.ceil(wait)), "exact": wait, "short": wait / 4, "long": 3 * wait}
    return "throttled", known[hint] if hint in known else float(hint)


@define
class Queue:
    """A leaky bucket: `rate` a second leave it, evenly; what does not fit into it is refused."""

    rate: float
    length: int
    hint: str
    empty_at: float = field(init=False, default=0.0)

    def __call__(self, now: float) -> Answer:
        self.empty_at = max(self.empty_at, now)
        if (self.empty_at - now) * self.rate < self.length:
            self.empty_at += 1 / self.rate
            return OK
        return _throttled(self.empty_at - now - self.length / self.rate, self.hint)


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


Server = Callable[[float], Answer]
LIMITS: dict[str, tuple[Callable[[float, str], Server], tuple[str, ...]]] = {
    "token bucket of a second": (lambda rate, hint: Bucket(rate, rate, hint), ("whole", "none")),
    "token bucket of 10": (lambda rate, hint: Bucket(rate, 10, hint), ("whole", "exact")),
    "bucket of one token": (lambda rate, hint: Bucket(rate, 1, hint), ("whole", "exact")),
    "leaky bucket": (lambda rate, hint: Queue(rate, 5, hint), ("exact", "none")),
    "fixed window, 1 s": (lambda rate, hint: Window(int(rate), 1.0, hint), ("whole", "exact")),
    "sliding window, 1 s": (lambda rate, hint: SlidingWindow(int(rate), 1.0, hint), ("whole",)),
    "sliding window, 6 s": (lambda rate, hint: SlidingWindow(int(6 * rate), 6.0, hint), ("exact",)),
    "fixed window, 60 s": (lambda rate, hint: Window(int(60 * rate), 60.0, hint), ("whole",)),
    "sliding window, 60 s": (
        lambda rate, hint: SlidingWindow(int(60 * rate), 60.0, hint),
        ("whole", "exact", "none"),
    ),
}
"""Servers that allow so many requests a second, and the hints they may give."""


async def use(
    client: Client, server: Server, rate: float, *, after: float, seconds: float
) -> tuple[float, float]:
    """A sweep's share of what a server allows in a second, and the share that is refused.

    Both are of `seconds`, which begin `after` the sweep has met this server.
    """
    client.answer = server
    await client.sweep(after)
    began, before = clock(), Counter(client.outcomes)
    await client.sweep(seconds)
    answers = client.outcomes - before
    refused = answers["throttled"] / (answers["throttled"] + answers["ok"])
    return client.rate(began, clock()) / rate, refused
