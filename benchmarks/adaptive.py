"""How near the adaptive limit comes to the best fixed one: `python -m benchmarks.adaptive`.

The server serves `capacity` requests at a time, 50 ms each; more wait in a line, and beyond the
line's length they are refused (503). The client knows none of that. For each knee the best fixed
limit is searched first, then the adaptive one runs for as long; a last server moves its knee while
the sweep runs. Server and client share one process and one event loop, on purpose: what counts is
the share of the best, and both pay alike.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing

from attrs import frozen

from capillary_targets import AdaptiveConcurrency, BasicAuth, RetryPolicy, TargetsClient
from capillary_targets.sandbox import Sandbox

LATENCY = 0.05
KNEES = [(4, 8), (16, 16), (32, 100)]
FIXED = [2, 4, 6, 8, 12, 16, 24, 32, 48, 64]
MOVES = [(0.0, 16), (10.0, 48), (20.0, 6)]


@frozen
class Run:
    """One run: requests served a second after the warm-up, the share refused, and each second."""

    served: float
    refused: float
    by_second: list[int]


async def run(
    sandbox: Sandbox,
    concurrency: int | AdaptiveConcurrency,
    seconds: float,
    warm_up: float = 2.0,
    meanwhile: Callable[[float], None] = lambda _: None,
) -> Run:
    """Sweep for so long."""
    sandbox.reset()
    rule = sandbox.world.rules()[0].id
    seconds_of: Counter[int] = Counter()
    auth = BasicAuth(*sandbox.credentials)
    async with TargetsClient(
        sandbox.url, auth, concurrency=concurrency, retry=RetryPolicy(quota=10**6)
    ) as client:
        sweep = client.sweep(sandbox.world.user_ids(), target_rule_ids=[rule], fetch_targets=False)
        started = time.monotonic()
        async with aclosing(aiter(sweep)) as outcomes:
            async for _ in outcomes:
                now = time.monotonic() - started
                meanwhile(now)
                seconds_of[int(now)] += 1
                if now >= seconds:
                    break
        requests, retries = sweep.stats.requests, sweep.stats.retries
    by_second = [seconds_of[second] for second in range(int(seconds))]
    kept = by_second[int(warm_up) :]
    return Run(sum(kept) / len(kept), retries / requests, by_second)


def world(capacity: int, line: int) -> Sandbox:
    """A server with that knee."""
    return Sandbox(
        users=10**6,
        targets=1,
        events=2,
        exact_events=True,
        latency=LATENCY,
        capacity=capacity,
        queue_limit=line,
    )


async def one_knee(capacity: int, line: int, seconds: float) -> dict[str, object]:
    """The best fixed limit of those tried, and the adaptive one."""
    sandbox = world(capacity, line)
    async with sandbox:
        fixed = {limit: await run(sandbox, limit, 5) for limit in FIXED if limit <= 2 * capacity}
        clean = {limit: result for limit, result in fixed.items() if result.refused <= 0.01}
        best = max(clean, key=lambda limit: clean[limit].served)
        adaptive = await run(sandbox, AdaptiveConcurrency(), seconds)
    return {
        "knee": capacity,
        "best fixed limit": best,
        "best fixed, requests/s": round(clean[best].served, 1),
        "adaptive, requests/s": round(adaptive.served, 1),
        "share": round(adaptive.served / clean[best].served, 3),
        "refused": round(adaptive.refused, 4),
    }


async def moving_knee(seconds: float) -> dict[str, object]:
    """Each second's share of what the server could serve while its knee moves."""
    sandbox = world(MOVES[0][1], 200)

    def move(now: float) -> None:
        sandbox.settings.capacity = next(knee for start, knee in reversed(MOVES) if now >= start)

    async with sandbox:
        result = await run(sandbox, AdaptiveConcurrency(), seconds, meanwhile=move)
    shares = []
    for second, served in enumerate(result.by_second):
        knee = next(knee for start, knee in reversed(MOVES) if second >= start)
        shares.append(round(served / (knee / LATENCY), 2))
    return {
        "moves": MOVES,
        "share of the server's capacity, by second": shares,
        "refused": round(result.refused, 4),
    }


async def main(seconds: float) -> None:
    """Print the table."""
    rows = [await one_knee(capacity, line, seconds) for capacity, line in KNEES]
    head = list(rows[0])
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in head) + " |")
    moved = await moving_knee(30)
    print("\nA knee that moves " + ", ".join(f"to {knee} at {start:g} s" for start, knee in MOVES))
    print("\nshare by second:", moved["share of the server's capacity, by second"])
    print("\nrefused:", moved["refused"])


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 15.0))
