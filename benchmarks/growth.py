"""What grows with the work, and what must not: memory, CPU seconds an event, CPU seconds a user.

Contenders with a story of their own: they return figures, not a proof.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from .contenders import client_of
from .workload import Work

__all__ = ["events_grow", "memory", "resident", "users_grow"]

_TURN: Final = 0.25
"""Seconds of CPU time that a size works before it is the next one's turn."""


def resident() -> int:
    """Bytes of memory in use now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def memory(base: str, work: Work, marks: list[int]) -> dict[int, int]:
    """The memory in use when so many users are done, in one sweep of `work.users`."""
    done = 0
    found = {}
    async with client_of(base, work) as client:
        async for _ in client.sweep(range(1, work.users + 1)):
            done += 1
            if done in marks:
                found[done] = resident()
    return found


async def events_grow(
    base: str, work: Work, sizes: list[int], turns: int
) -> list[dict[int, float]]:
    """CPU seconds an event, by the number of events of one target, turn by turn."""
    root = base.removesuffix(work.prefix)
    async with AsyncExitStack() as stack:
        growing = []
        for size in sizes:
            each = replace(work, targets=1, events=size)
            client = await stack.enter_async_context(client_of(root + each.prefix, each))
            growing.append(_Growing(size, client, partial(client.events, 1, 2001), 500))
        return await _in_turns(growing, turns)


async def users_grow(base: str, work: Work, sizes: list[int], turns: int) -> list[dict[int, float]]:
    """CPU seconds a user, by the number of users of one sweep, turn by turn."""
    async with AsyncExitStack() as stack:
        growing = []
        for size in sizes:
            client = await stack.enter_async_context(client_of(base, work))
            users = range(1, size + 1)
            growing.append(_Growing(size, client, partial(client.sweep, users), 10))
        return await _in_turns(growing, turns)


@dataclass
class _Growing:
    """Work of one size, which is begun again whenever it is done."""

    size: int
    client: Any
    begin: Callable[[], Any]
    at_once: int
    """Items between two looks at the clock."""
    stream: AsyncIterator[object] | None = None
    times: int = 0
    """How often it is done."""

    async def turn(self) -> float:
        """CPU seconds an item."""
        started, seen = time.process_time(), 0
        while (spent := time.process_time() - started) < _TURN:
            seen += await self._some()
        # What it has in flight is its own, too.
        while self.client.session.limiter.in_flight:
            await asyncio.sleep(0.001)
            spent = time.process_time() - started
        return spent / seen

    async def _some(self) -> int:
        self.stream = self.stream or aiter(self.begin())
        for seen in range(self.at_once):
            try:
                await anext(self.stream)
            except StopAsyncIteration:
                self.stream = None
                self.times += 1
                return seen
        return self.at_once


async def _in_turns(growing: list[_Growing], turns: int) -> list[dict[int, float]]:
    """Rounds in which each has its turn, to and fro: so many, and until the largest is done.

    The machine is quicker at one time and slower at another: that hits all of a round alike.
    """
    for one in growing:
        await one.turn()  # warm, and connected
        one.times = 0
    rounds: list[dict[int, float]] = []
    while not growing[-1].times or len(rounds) < turns:
        order = growing if len(rounds) % 2 else growing[::-1]
        found = {one.size: await one.turn() for one in order}
        rounds.append(dict(sorted(found.items())))
    for one in growing:
        if one.stream is not None:
            await one.stream.aclose()  # type: ignore[attr-defined]
    return rounds
