"""Memory in use while a list grows: `python -m benchmarks.memory [USERS]`, 1,000,000 by default.

One sweep, one request a user. The list is a generator; nothing of a user who is done may stay.
"""

from __future__ import annotations

import asyncio
import sys
import time

from .contenders import client_of
from .growth import resident
from .running import serving
from .workload import Work

RULE = 2001


def _marks(users: int) -> list[int]:
    return [mark for mark in (10_000, 30_000, 100_000, 300_000, 1_000_000) if mark <= users]


async def measure(base: str, work: Work) -> list[tuple[int, float, float]]:
    """Users done, seconds so far, and megabytes in use then."""
    marks, found = _marks(work.users), []
    started = time.monotonic()
    async with client_of(base, work) as client:
        users = (user for user in range(1, work.users + 1))
        done = 0
        async for outcome in client.sweep(users, target_rule_ids=[RULE], fetch_targets=False):
            done += outcome.complete
            if done in marks:
                found.append((done, time.monotonic() - started, resident() / 2**20))
                print(f"| {done:,} | {found[-1][1]:.0f} | {found[-1][2]:.1f} |", flush=True)
    return found


def main() -> None:
    """Print the table."""
    work = Work(users=int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, targets=1, events=5)
    print("| users done | seconds | MB in use |\n| --- | --- | --- |", flush=True)
    with serving() as server:
        base = f"http://127.0.0.1:{server.port}{work.prefix}"
        (_, _, first), *_, (_, _, last) = asyncio.run(measure(base, work))
    print(f"\n{last - first:.1f} MB more at the end")


if __name__ == "__main__":
    main()
