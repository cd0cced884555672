"""What refusals (429) do to a client: `python -m benchmarks.refusals [seconds [server]]`.

Servers 20 ms away that ask for a pause of whole seconds. *Random*: some requests are refused
whatever the pace, as with a key that is shared with tills. *Used up*: of 100 requests a second,
counted over 6 s, somebody else has spent the first window. *Limit*: 50 requests in any second, and
after half of the time 100.

Besides ours: a client that pauses all its requests at each refusal and runs freely between; one
behind aiolimiter, which is told the limit at the start; and one with the adaptive retry mode of
botocore (a rate that is cut by refusals and grows as a cube). Server and client share one process,
so compare within a server.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import aiohttp
from aiolimiter import AsyncLimiter
from attrs import define, field

from capillary_targets import BasicAuth, TargetsClient
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.sandbox.auth import basic_header

LATENCY, PLACES, WINDOW = 0.02, 16, 6.0
PATH = "/v3/users/1000001/trackedTargetEvents/3000"


class Pacer(Protocol):
    """How a hand-written client holds back."""

    async def acquire(self) -> None:
        """Wait until a request may be sent."""

    def accepted(self) -> None:
        """It was served."""

    def refused(self, seconds: float) -> float:
        """It was refused, with a `Retry-After`; the seconds that this caller waits."""


@define
class PauseAll:
    """Everybody pauses at each refusal."""

    until: float = 0.0

    async def acquire(self) -> None:
        """Wait for the end of the pause."""
        if (wait := self.until - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def accepted(self) -> None:
        """Nothing to learn."""

    def refused(self, seconds: float) -> float:
        """Pause all."""
        self.until = max(self.until, time.monotonic() + seconds)
        return 0.0


class Told:
    """Behind aiolimiter, told the rate; a refused caller waits by itself."""

    def __init__(self, rate: float) -> None:
        self._limiter = AsyncLimiter(rate, 1.0)

    async def acquire(self) -> None:
        """A place in the leaky bucket."""
        await self._limiter.acquire()

    def accepted(self) -> None:
        """Nothing to learn."""

    def refused(self, seconds: float) -> float:
        """Wait as asked."""
        return seconds


@define
class Cubic:
    """botocore's adaptive mode: after a refusal the rate is cut to 0.7, then grows as a cube."""

    rate: float = float("inf")
    _max: float = 0.0
    _refused_at: float = 0.0
    _next: float = 0.0
    _measured: float = 0.0
    _bucket: float = field(factory=lambda: time.monotonic() // 0.5)
    _count: int = 0

    async def acquire(self) -> None:
        """Wait for the pace."""
        now = time.monotonic()
        self._next = max(self._next, now) + 1.0 / self.rate
        if self._next - 1.0 / self.rate > now:
            await asyncio.sleep(self._next - 1.0 / self.rate - now)

    def _measure(self) -> None:
        bucket = time.monotonic() // 0.5
        self._count += 1
        if bucket > self._bucket:
            now = self._count / ((bucket - self._bucket) * 0.5)
            self._measured = 0.8 * now + 0.2 * self._measured
            self._count, self._bucket = 0, bucket

    def accepted(self) -> None:
        """Grow."""
        self._measure()
        if self.rate < float("inf"):
            passed = time.monotonic() - self._refused_at
            back = (self._max * 0.3 / 0.4) ** (1 / 3)
            grown = 0.4 * (passed - back) ** 3 + self._max
            self.rate = max(0.5, min(grown, 2 * self._measured or grown))

    def refused(self, seconds: float) -> float:
        """Cut the rate; the caller backs off."""
        self._measure()
        self._max = min(self.rate, self._measured or self.rate)
        self._refused_at = time.monotonic()
        self.rate = max(0.5, 0.7 * self._max)
        return max(seconds, random.random())


async def by_hand(sandbox: Sandbox, pacer: Pacer, requests: float = float("inf")) -> None:
    """A hand-written loop of `PLACES` workers behind a pacer."""
    header = {"Authorization": basic_header(*sandbox.credentials)}
    async with aiohttp.ClientSession(headers=header) as session:

        async def work() -> None:
            nonlocal requests
            while requests > 0:
                requests -= 1
                await pacer.acquire()
                async with session.get(sandbox.url + PATH) as response:
                    await response.read()
                if response.status == 429:
                    await asyncio.sleep(pacer.refused(float(response.headers["Retry-After"])))
                else:
                    pacer.accepted()

        await asyncio.gather(*(work() for _ in range(PLACES)))


async def ours(sandbox: Sandbox, _: float) -> None:
    """A sweep."""
    rule = sandbox.world.rules()[0].id
    auth = BasicAuth(*sandbox.credentials)
    async with TargetsClient(sandbox.url, auth, concurrency=PLACES) as client:
        users = sandbox.world.user_ids()
        async for _outcome in client.sweep(users, target_rule_ids=[rule], fetch_targets=False):
            pass


CLIENTS: dict[str, Callable[[Sandbox, float], Awaitable[None]]] = {
    "capillary-targets": ours,
    "pauses all, runs freely": lambda sandbox, _: by_hand(sandbox, PauseAll()),
    "aiolimiter, told the limit": lambda sandbox, limit: by_hand(sandbox, Told(limit)),
    "botocore's adaptive mode": lambda sandbox, _: by_hand(sandbox, Cubic()),
}
SERVERS = ("random 1%", "random 5%", "random 10%", "used up", "limit")


async def measure(client: str, server: str, seconds: int) -> list[Counter[int | None]]:
    """The statuses of the answers, second by second."""
    limit = 50.0 if server == "limit" else 100.0 if server == "used up" else 500.0
    sandbox = Sandbox(users=10**6, targets=1, events=2, exact_events=True)
    async with sandbox:
        if server.startswith("random"):
            share = float(server.split()[1].rstrip("%")) / 100
            sandbox.faults.add(Fault.too_many_requests(1), times=None, probability=share)
        elif server == "limit":
            sandbox.settings.rate_limit = (50, 1.0)
        else:
            sandbox.settings.rate_limit = (int(limit * WINDOW), WINDOW)
            await by_hand(sandbox, PauseAll(), limit * WINDOW)
        sandbox.settings.latency = LATENCY
        running = asyncio.ensure_future(CLIENTS[client](sandbox, limit))
        statuses = []
        for second in range(seconds):
            if server == "limit" and second == seconds // 2:
                sandbox.settings.rate_limit = (100, 1.0)
            sandbox.requests.clear()
            await asyncio.sleep(1.0)
            statuses.append(Counter(entry.status for entry in sandbox.requests))
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    return statuses


FAULTS = {
    "503": Fault.http(503),
    "connection reset": Fault.reset(),
    "429 without `Retry-After`": Fault.too_many_requests(),
}


async def wall(users: int, fault: str = "", share: float = 0.0) -> float:
    """Seconds of a sweep of so many users, none of whom may fail."""
    sandbox = Sandbox(users=users, targets=1, events=2, exact_events=True, latency=LATENCY)
    if fault:
        sandbox.faults.add(FAULTS[fault], times=None, probability=share)
    async with sandbox, TargetsClient(sandbox.url, BasicAuth(*sandbox.credentials)) as client:
        began = time.monotonic()
        async for outcome in client.sweep(sandbox.world.user_ids()):
            assert outcome.complete, outcome.error
        return time.monotonic() - began


async def main(seconds: int, servers: Sequence[str]) -> None:
    """Print the table."""
    print(f"{seconds} s each; served and refused in the last 10 s of each half\n")
    print("| server | client | served/s, first half | refused | second half | refused |")
    print("| --- | --- | --- | --- | --- | --- |")
    for server in servers:
        for client in CLIENTS:
            statuses = await measure(client, server, seconds)
            figures = []
            for half in statuses[: seconds // 2], statuses[seconds // 2 :]:
                late = sum(half[-10:], Counter())
                served = late.total() - late[429]
                figures += [f"{served / len(half[-10:]):.1f}", f"{late[429] / late.total():.1%}"]
            print(f"| {server} | {client} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    asyncio.run(main(int((sys.argv[1:2] or ["40"])[0]), sys.argv[2:] or SERVERS))
