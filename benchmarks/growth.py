"""What grows with the work, and what must not: memory, CPU seconds an event, CPU seconds a user.

Contenders with a story of their own: they return figures, not a proof.
"""

from __future__ import annotations

import resource
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

from .contenders import client_of
from .workload import Work

__all__ = ["events_grow", "memory", "resident", "users_grow"]

_ENOUGH = 1.0
"""Seconds of CPU time that a figure is measured over, at least."""


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


async def events_grow(base: str, work: Work, sizes: list[int]) -> dict[int, float]:
    """CPU seconds an event, by the number of events of one target."""
    root = base.removesuffix(work.prefix)
    found = {}
    for size in sizes:
        each = replace(work, targets=1, events=size)
        async with client_of(root + each.prefix, each) as client:
            async for _ in client.events(1, 2001):  # warm, and connected
                break
            started, seen = time.process_time(), 0
            while time.process_time() - started < _ENOUGH:
                async for _ in client.events(1, 2001):
                    seen += 1
            found[size] = (time.process_time() - started) / seen
    return found


async def users_grow(base: str, work: Work, sizes: list[int]) -> dict[int, float]:
    """CPU seconds a user, by the number of users of one sweep."""
    found = {}
    async with client_of(base, work) as client:
        for size in chain(sizes[:1], sizes):  # the first one is done twice: warm, and connected
            started, seen = time.process_time(), 0
            while time.process_time() - started < _ENOUGH:
                async for outcome in client.sweep(range(1, size + 1)):
                    seen += outcome.complete
            found[size] = (time.process_time() - started) / seen
    return found
