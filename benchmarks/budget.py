"""Who keeps a budget as the server counts it: `python -m benchmarks.budget`.

The server allows 100 requests in any second, counted as they arrive, and refuses the rest. Each
client has 64 places, and a new connection takes 0.3 s, as TCP and TLS do over a distance. A limiter
that stamps a request when it lets it go does not know when it arrives: the first ones, on new
connections, are later than those of the next window. Ours frees a place one second after the
*answer*.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiolimiter import AsyncLimiter
from pyrate_limiter import Duration, Limiter, Rate

from capillary_targets import BasicAuth, RateLimit, TargetsClient
from capillary_targets.sandbox import Sandbox
from capillary_targets.sandbox.auth import basic_header

BUDGET, PER, PLACES, HANDSHAKE = 100, 1.0, 64, 0.3

_CHILD = """
import asyncio, sys, time
from benchmarks.budget import ours
asyncio.run(ours(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
"""


class FarAway(AbstractResolver):
    """Makes each new connection take its time."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The loopback address, after a while."""
        await asyncio.sleep(HANDSHAKE)
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        """Nothing to let go of."""


def session() -> aiohttp.ClientSession:
    """A session of cold, slow connections."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=PLACES, resolver=FarAway(), use_dns_cache=False)
    )


async def ours(url: str, seconds: float, shared: str | None = None) -> None:
    """Our client with a `RateLimit`."""
    sandbox = Sandbox(users=10**6)
    auth = BasicAuth(*Sandbox().credentials)
    budget = RateLimit(BUDGET, per=PER, shared=shared)
    async with (
        session() as http,
        TargetsClient(url, auth, concurrency=PLACES, rate=budget, session=http) as client,
    ):
        rule = sandbox.world.rules()[0].id
        users = sandbox.world.user_ids()
        sweep = client.sweep(users, target_rule_ids=[rule], fetch_targets=False)
        until = time.monotonic() + seconds
        async with aclosing(aiter(sweep)) as outcomes:
            async for _ in outcomes:
                if time.monotonic() > until:
                    break


async def by_hand(url: str, seconds: float, permit: Callable[[], Awaitable[object]]) -> None:
    """A hand-written loop behind a limiter."""
    header = {"Authorization": basic_header(*Sandbox().credentials)}
    until = time.monotonic() + seconds
    async with session() as http:

        async def work() -> None:
            while time.monotonic() < until:
                await permit()
                target = f"{url}/v3/users/1000001/trackedTargetEvents/3000"
                async with http.get(target, headers=header) as response:
                    await response.read()

        await asyncio.gather(*(work() for _ in range(PLACES)))


async def four_processes(url: str, seconds: float, path: str) -> None:
    """Our client four times, one budget in a file."""
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CHILD, url, str(seconds), f"sqlite:///{path}"
        )
        for _ in range(4)
    ]
    for child in children:
        await child.wait()


async def main(seconds: float, path: str) -> None:
    """Print the table."""
    pyrate = Limiter(Rate(BUDGET, Duration.SECOND))
    leaky = AsyncLimiter(BUDGET, PER)
    contenders: dict[str, Callable[[str], Awaitable[None]]] = {
        "capillary-targets": lambda url: ours(url, seconds),
        "capillary-targets, 4 processes (SQLite)": lambda url: four_processes(url, seconds, path),
        "pyrate-limiter": lambda url: by_hand(
            url, seconds, lambda: pyrate.try_acquire_async("budget")
        ),
        "aiolimiter": lambda url: by_hand(url, seconds, leaky.acquire),
    }
    print(f"budget: {BUDGET} requests in any {PER:g} s, for {seconds:g} s\n")
    print(
        "| client | most in any window | refused | used of the budget |\n| --- | --- | --- | --- |"
    )
    for name, client in contenders.items():
        sandbox = Sandbox(users=10**6, targets=1, events=2, rate_limit=(BUDGET, PER))
        async with sandbox as url:
            await client(url.replace("127.0.0.1", "localhost"))
        sent = sandbox.counts["trackedTargetEvents"]
        refused = sum(entry.status == 429 for entry in sandbox.requests)
        allowed = BUDGET * seconds / PER
        print(f"| {name} | {sandbox.peak_window} | {refused} | {(sent - refused) / allowed:.0%} |")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0, f"{folder}/budget.db"))
