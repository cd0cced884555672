"""How many users to have under way: as many as may be, or fewer while the processor is busy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Crowd", "next_size"]

_WINDOW: Final = 0.1
"""Seconds between two looks."""
_LEAST: Final = 8
"""Enough to keep a processor busy with any server that is quick enough to make it so."""
_BUSY: Final = 0.95
_IDLE: Final = 0.8
_LESS: Final = 0.75
_MORE: Final = 1.5
_ANY: Final = 1_000_000
"""More than there ever are."""


def next_size(size: int, limit: int, busy: float) -> int:
    """The size that follows on `size`, of which `limit` is in use at most.

    `busy` is the share of the time at work. A processor with time to spare restrains nobody.
    """
    if busy > _BUSY:
        size = min(size, limit)
        return min(size, max(_LEAST, math.floor(size * _LESS)))
    return min(_ANY, math.ceil(size * _MORE)) if busy < _IDLE else size


class Crowd:
    """The size in force, by how busy this thread was in the last two tenths of a second.

    `limit` is the most: as many users as requests may be in flight, for more would only queue at
    the gate. Where the processor is busy all the time, answers wait for it, not it for them: they
    take memory, and are out of its caches when their turn comes.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._size = _ANY
        self._looked, self._worked = time.monotonic(), time.thread_time()
        self._busy = 0.0

    def __call__(self) -> int:
        """Users at a time, now."""
        now, limit = time.monotonic(), self._limit()
        if (passed := now - self._looked) >= _WINDOW:
            worked = time.thread_time()
            before, self._busy = self._busy, (worked - self._worked) / passed
            self._size = next_size(self._size, limit, min(before, self._busy))
            self._looked, self._worked = now, worked
        return min(self._size, limit)
