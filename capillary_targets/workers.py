"""A pool of workers over a stream of items: bounded look-ahead, a size that may change."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["visit_all"]

T = TypeVar("T")
R = TypeVar("R")


async def visit_all(
    items: AsyncIterator[T],
    visit: Callable[[T], Awaitable[R]],
    size: Callable[[], int],
    *,
    ordered: bool = False,
) -> AsyncGenerator[R, None]:
    """Visit every item, `size()` at a time; yield what the visits return.

    The results come as they are ready, or in the items' order. At most twice `size()` items are
    taken and not yet consumed. An exception of `visit` or of `items` ends the stream. However the
    stream ends, no task is left.
    """
    pool = _Pool(items, visit, size, ordered=ordered)
    try:
        pool.grow()
        while True:
            while pool.ready():
                yield pool.take()
            if pool.failure is not None:
                raise pool.failure
            if not pool.tasks:
                return
            pool.news.clear()
            await pool.news.wait()
    finally:
        await pool.end()


class _Pool(Generic[T, R]):
    """The workers, and what lies between them and the consumer."""

    def __init__(
        self,
        items: AsyncIterator[T],
        visit: Callable[[T], Awaitable[R]],
        size: Callable[[], int],
        *,
        ordered: bool,
    ) -> None:
        self.items = items
        self.visit = visit
        self.size = size
        self.ordered = ordered
        self.tasks: set[asyncio.Task[None]] = set()
        self.failure: Exception | None = None
        self.news = asyncio.Event()
        self._room = asyncio.Event()
        self._turn = asyncio.Lock()
        self._finished = False
        self._taken = 0
        self._consumed = 0
        self._results: deque[R] = deque()
        self._early: dict[int, R] = {}  # in order: results whose turn has not come

    def grow(self) -> None:
        """Add a worker if there may be one more."""
        if not self._finished and len(self.tasks) < self.size():
            self.tasks.add(asyncio.create_task(self._work()))

    def ready(self) -> bool:
        """Whether there is a result to yield."""
        return bool(self._results)

    def take(self) -> R:
        """The next result; makes room for another item."""
        self._consumed += 1
        self._room.set()
        return self._results.popleft()

    async def end(self) -> None:
        """Cancel what is under way and wait for it."""
        self._finished = True
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        task = asyncio.current_task()
        try:
            # Where the pool is to be smaller, whoever is done first goes; one always stays.
            while len(self.tasks) <= max(1, self.size()):
                async with self._turn:
                    await self._wait_for_room()
                    if self._finished:
                        break
                    try:
                        item = await anext(self.items)
                    except StopAsyncIteration:
                        self._finished = True
                        break
                    number, self._taken = self._taken, self._taken + 1
                self.grow()
                self._done(number, await self.visit(item))
        except Exception as error:  # noqa: BLE001 - carried to the consumer, who raises it
            self.failure, self._finished = error, True
        finally:
            if task is not None:
                self.tasks.discard(task)
            self.news.set()

    async def _wait_for_room(self) -> None:
        while self._taken - self._consumed >= 2 * self.size() and not self._finished:
            self._room.clear()
            await self._room.wait()

    def _done(self, number: int, result: R) -> None:
        if self.ordered:
            self._early[number] = result
            while (due := self._consumed + len(self._results)) in self._early:
                self._results.append(self._early.pop(due))
        else:
            self._results.append(result)
        self.news.set()
