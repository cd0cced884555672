"""What limits of a server do to a client: `python -m benchmarks.limits TABLE [--seconds N]`.

- `knees`: the server serves so many requests at a time, 50 ms each; more wait in a line, beyond
  which they are refused (503). How near the adaptive limit comes to the best fixed one, which is
  searched first.
- `refusals`: the server, 20 ms away, asks for a pause of whole seconds (429): at random whatever
  the pace, as with a key that is shared with tills; after others used up the first of its windows
  of 6 s; beyond 50 requests in any second, and after half of the time 100.
- `budget`: 100 requests in any second, counted as they arrive; a new connection takes 0.3 s, as
  TCP and TLS do over a distance. A limiter that stamps a request when it lets it go does not know
  when it arrives: the first ones are later than those of the next window. Ours frees a place one
  second after the *answer*.

Server and clients share one event loop, so compare within a server.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import aiohttp
from aiolimiter import AsyncLimiter
from botocore.retries.adaptive import ClientRateLimiter, RateClocker
from botocore.retries.bucket import Clock, TokenBucket
from botocore.retries.throttling import CubicCalculator
from pyrate_limiter import Duration, Limiter, Rate

from capillary_targets import AdaptiveConcurrency, BasicAuth, RateLimit, RetryPolicy, TargetsClient
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.sandbox.auth import basic_header

from .tables import line, table

Client: TypeAlias = Callable[[str], Coroutine[Any, Any, None]]
"""Asks the server at that address until it is cancelled."""
Second: TypeAlias = Counter[int | None]
"""The statuses of the answers of a second."""

KNEES = [(4, 8), (16, 16), (32, 100)]
FIXED = [2, 4, 6, 8, 12, 16, 24, 32, 48, 64]
BUDGET = 100
FAULTS = {
    "503": Fault.http(503),
    "connection reset": Fault.reset(),
    "429 without `Retry-After`": Fault.too_many_requests(),
}


def server(**settings: Any) -> Sandbox:
    """A million users of one target with two events."""
    return Sandbox(users=10**6, targets=1, events=2, exact_events=True, **settings)


class FarAway(aiohttp.TCPConnector):
    """Makes each new connection take its time."""

    async def _create_connection(self, *arguments: Any) -> Any:
        await asyncio.sleep(0.3)
        return await super()._create_connection(*arguments)


async def ours(url: str, connector: type = aiohttp.TCPConnector, **settings: Any) -> None:
    """A sweep."""
    sandbox = server()
    auth, rules = BasicAuth(*sandbox.credentials), [sandbox.world.rules()[0].id]
    async with (
        aiohttp.ClientSession(connector=connector(limit=0)) as http,
        TargetsClient(url, auth, session=http, **settings) as client,
    ):
        users = sandbox.world.user_ids()
        sweep = client.sweep(users, target_rule_ids=rules, fetch_targets=False)
        async with aclosing(aiter(sweep)) as outcomes:
            async for _ in outcomes:
                pass


class PauseAll:
    """A way to hold back: all pause at a refusal, and run freely between."""

    until = 0.0

    async def acquire(self) -> None:
        """Wait until a request may be sent."""
        await asyncio.sleep(self.until - time.monotonic())

    def answered(self, pause: float | None) -> float:
        """Learn that a request was served, or refused with a `Retry-After`; wait so long."""
        self.until = max(self.until, time.monotonic() + (pause or 0.0))
        return 0.0


class Told:
    """A limiter that is told the rate; a refused caller waits by itself."""

    def __init__(self, acquire: Callable[[], Awaitable[Any]]) -> None:
        self.acquire = acquire

    def answered(self, pause: float | None) -> float:
        """Wait as asked."""
        return pause or 0.0


class Botocore:
    """botocore's adaptive retry mode: refusals cut the rate, which then grows as a cube."""

    def __init__(self) -> None:
        clock = Clock()
        cubic, clocker = CubicCalculator(0, clock.current_time()), RateClocker(clock)
        self._bucket = TokenBucket(1, clock)
        self._limiter = ClientRateLimiter(cubic, clocker, self._bucket, self, clock)

    def is_throttling_error(self, *, pause: float | None) -> bool:
        """What botocore asks of an answer."""
        return pause is not None

    async def acquire(self) -> None:
        """Wait for a token once the first refusal came; botocore would block the thread."""
        while self._limiter._enabled:
            with suppress(Exception):  # there is none
                self._bucket.acquire(block=False)
                return
            await asyncio.sleep(self._bucket._sleep_amount(1))

    def answered(self, pause: float | None) -> float:
        """Tell the limiter; a refused caller waits as asked."""
        self._limiter.on_receiving_response(pause=pause)
        return pause or 0.0


async def by_hand(
    url: str, pacer: Any, workers: int = 16, connector: type = aiohttp.TCPConnector
) -> None:
    """Workers that hold back in one of these ways."""
    header = {"Authorization": basic_header(*server().credentials)}
    async with aiohttp.ClientSession(url, headers=header, connector=connector(limit=0)) as session:

        async def work() -> None:
            while True:
                await pacer.acquire()
                async with session.get("/v3/users/1000001/trackedTargetEvents/3000") as response:
                    await response.read()
                wait = response.headers.get("Retry-After")
                await asyncio.sleep(pacer.answered(None if wait is None else float(wait)))

        await asyncio.gather(*(work() for _ in range(workers)))


async def by_second(
    sandbox: Sandbox,
    client: Client,
    seconds: int,
    meanwhile: Callable[[int], None] = lambda _: None,
) -> list[Second]:
    """What a client was answered, second by second from its first request on.

    Args:
        sandbox: the server, which is started and stopped.
        client: who asks.
        seconds: how long.
        meanwhile: called as each second begins.
    """
    found = []
    async with sandbox as url:
        asking = asyncio.ensure_future(client(url))
        while not sandbox.requests and not asking.done():  # noqa: ASYNC110 - what counts begins then
            await asyncio.sleep(0.01)
        started = time.monotonic()
        for second in range(seconds):
            meanwhile(second)
            await asyncio.sleep(started + second + 1 - time.monotonic())
            found.append(Counter(request.status for request in sandbox.requests))
            sandbox.requests.clear()
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    return found


def served(seconds: list[Second]) -> float:
    """Answers a second that were no refusals."""
    total = sum(seconds, Counter())
    return (total.total() - total[429] - total[503]) / max(1, len(seconds))


def refused(seconds: list[Second]) -> float:
    """The share of the answers that were refusals."""
    total = sum(seconds, Counter())
    return (total[429] + total[503]) / max(1, total.total())


def knees(seconds: int = 15) -> Iterator[str]:
    """Fixed limits and the adaptive one."""

    def swept(
        concurrency: int | AdaptiveConcurrency, seconds: int, capacity: int, places: int
    ) -> list[Second]:
        sandbox = server(latency=0.05, capacity=capacity, queue_limit=places)
        retry = RetryPolicy(quota=10**6)
        client = lambda url: ours(url, concurrency=concurrency, retry=retry)  # noqa: E731
        return asyncio.run(by_second(sandbox, client, seconds))[2:]

    limits, rates = ("knee", "best fixed limit"), ("best fixed, requests/s", "adaptive, requests/s")
    yield table((*limits, *rates, "share", "refused"))
    for knee in KNEES:
        fixed = {limit: swept(limit, 5, *knee) for limit in FIXED if limit <= 2 * knee[0]}
        clean = {limit: served(each) for limit, each in fixed.items() if refused(each) <= 0.01}
        best = max(clean, key=lambda limit: clean[limit])
        adaptive = swept(AdaptiveConcurrency(), seconds, *knee)
        rate, least = served(adaptive), clean[best]
        shares = (f"{rate / least:.3f}", f"{refused(adaptive):.4f}")
        yield line(knee[0], best, f"{least:.1f}", f"{rate:.1f}", *shares)


CLIENTS: dict[str, Callable[[str, float], Coroutine[Any, Any, None]]] = {
    "capillary-targets": lambda url, _: ours(url, concurrency=16),
    "pauses all, runs freely": lambda url, _: by_hand(url, PauseAll()),
    "behind aiolimiter, told the limit": lambda url, limit: by_hand(
        url, Told(AsyncLimiter(limit, 1.0).acquire)
    ),
    "botocore's adaptive mode": lambda url, _: by_hand(url, Botocore()),
}
SERVERS = {"random 1%": 500, "random 5%": 500, "random 10%": 500, "used up": 100, "limit": 50}
"""And what a client is told that has to be told a limit, in requests a second."""


async def refusing(client: str, kind: str, seconds: int) -> list[Second]:
    """One of the clients on a server that refuses."""
    limit = SERVERS[kind]
    sandbox = server(latency=0.02)
    if kind.startswith("random"):
        share = int(kind.split()[1].rstrip("%")) / 100
        sandbox.faults.add(Fault.too_many_requests(1), times=None, probability=share)
    elif kind == "limit":
        sandbox.settings.rate_limit = (limit, 1.0)
    else:
        sandbox.settings.rate_limit = (6 * limit, 6.0)
        for _ in range(6 * limit):
            sandbox._rate.count()

    def more(second: int) -> None:
        if kind == "limit" and second == seconds // 2:
            sandbox.settings.rate_limit = (2 * limit, 1.0)

    return await by_second(sandbox, lambda url: CLIENTS[client](url, limit), seconds, more)


def refusals(seconds: int = 40) -> Iterator[str]:
    """Served and refused in the last ten seconds of each half."""
    head = ("server", "client", "served/s, first half", "refused", "second half", "refused")
    yield table(head)
    for kind in SERVERS:
        for client in CLIENTS:
            found = asyncio.run(refusing(client, kind, seconds))
            halves = [found[: seconds // 2][-10:], found[seconds // 2 :][-10:]]
            figures = [(f"{served(half):.1f}", f"{refused(half):.1%}") for half in halves]
            yield line(kind, client, *figures[0], *figures[1])


def budget(seconds: int = 20) -> Iterator[str]:
    """Who keeps a budget as the server counts it."""
    pyrate, leaky = Limiter(Rate(BUDGET, Duration.SECOND)), AsyncLimiter(BUDGET, 1.0)
    clients: dict[str, Client] = {
        "capillary-targets": keeping,
        "capillary-targets, 4 processes (SQLite)": four_processes,
        "pyrate-limiter": lambda url: by_hand(
            url, Told(lambda: pyrate.try_acquire_async("budget")), 64, FarAway
        ),
        "aiolimiter": lambda url: by_hand(url, Told(leaky.acquire), 64, FarAway),
    }
    yield table(("client", "most in any window", "refused", "used of the budget"))
    for name, client in clients.items():
        sandbox = server(rate_limit=(BUDGET, 1.0))
        found = asyncio.run(by_second(sandbox, client, seconds))
        over = sum(second[429] for second in found)
        yield line(name, sandbox.peak_window, over, f"{served(found) / BUDGET:.0%}")


async def keeping(url: str, shared: str | None = None) -> None:
    """Ours with the budget, in a process of its own if it is shared."""
    await ours(url, FarAway, concurrency=64, rate=RateLimit(BUDGET, per=1.0, shared=shared))


async def four_processes(url: str) -> None:
    """Ours four times, one budget in a file."""
    with TemporaryDirectory() as folder:
        code = "import asyncio, sys; from benchmarks.limits import keeping\n"
        code += f"asyncio.run(keeping({url!r}, 'sqlite:///{folder}/budget.db'))"
        children = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", code) for _ in range(4)
        ]
        try:
            await asyncio.gather(*(child.wait() for child in children))
        finally:
            for child in children:
                child.kill()
                await child.wait()


async def wall(users: int, fault: str = "", share: float = 0.0) -> float:
    """Seconds of a sweep of so many users, none of whom may fail."""
    sandbox = server(latency=0.02)
    if fault:
        sandbox.faults.add(FAULTS[fault], times=None, probability=share)
    async with sandbox, TargetsClient(sandbox.url, BasicAuth(*sandbox.credentials)) as client:
        began = time.monotonic()
        async for outcome in client.sweep(sandbox.world.user_ids()[:users]):
            assert outcome.complete, outcome.error
        return time.monotonic() - began


def main() -> None:
    """Print a table, row by row."""
    tables = {one.__name__: one for one in (knees, refusals, budget)}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", choices=tables)
    parser.add_argument("--seconds", type=int, metavar="N", help="that each client is given")
    asked = parser.parse_args()
    for row in tables[asked.table](*filter(None, [asked.seconds])):
        print(row, flush=True)


if __name__ == "__main__":
    main()
