"""A pool of workers over a stream of items: bounded look-ahead, a size that may change."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Pool", "visit_all"]

T = TypeVar("T")
R = TypeVar("R")


def visit_all(
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
    return Pool(items, visit, size, ordered=ordered).results()


class Pool(Generic[T, R]):
    """What `visit_all` runs on: the workers, and what lies between them and the consumer.

    A visit that has more to give than it returns passes it to `give` as it comes.
    """

    def __init__(
        self,
        items: AsyncIterator[T],
        visit: Callable[[T], Awaitable[R]],
        size: Callable[[], int],
        *,
        ordered: bool = False,
    ) -> None:
        self._items = items
        self._visit = visit
        self._size = size
        self._ordered = ordered
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._turn = asyncio.Lock()
        self._finished = False
        self._taken = 0
        self._consumed = 0
        self._gifts: deque[R] = deque()
        self._results: deque[R] = deque()
        self._early: dict[int, R] = {}  # in order: results whose turn has not come

    async def results(self) -> AsyncGenerator[R, None]:
        """What the visits give and return; once."""
        gifts, results = self._gifts, self._results
        try:
            self._grow()
            while True:
                # What a visit gave comes before what it returned.
                while gifts or results:
                    self._room.set()
                    if gifts:
                        yield gifts.popleft()
                    else:
                        self._consumed += 1
                        yield results.popleft()
                if self._failure is not None:
                    raise self._failure
                if not self._tasks:
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            await self._end()

    async def give(self, result: R) -> None:
        """Hand over a result while the visit goes on. Waits where many are not consumed yet."""
        while len(self._gifts) >= 2 * self._size():
            self._room.clear()
            await self._room.wait()
        self._gifts.append(result)
        self._news.set()

    def _grow(self) -> None:
        """Add a worker if there may be one more."""
        if not self._finished and len(self._tasks) < self._size():
            self._tasks.add(asyncio.create_task(self._work()))

    async def _end(self) -> None:
        """Cancel what is under way and wait for it."""
        self._finished = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        task = asyncio.current_task()
        try:
            # Where the pool is to be smaller, whoever is done first goes; one always stays.
            while len(self._tasks) <= max(1, self._size()):
                async with self._turn:
                    await self._wait_for_room()
                    if self._finished:
                        break
                    try:
                        item = await anext(self._items)
                    except StopAsyncIteration:
                        self._finished = True
                        break
                    number, self._taken = self._taken, self._taken + 1
                self._grow()
                self._done(number, await self._visit(item))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, who raises it
            self._failure, self._finished = error, True
        finally:
            if task is not None:
                self._tasks.discard(task)
            self._news.set()

    async def _wait_for_room(self) -> None:
        while self._taken - self._consumed >= 2 * self._size() and not self._finished:
            self._room.clear()
            await self._room.wait()

    def _done(self, number: int, result: R) -> None:
        if self._ordered:
            self._early[number] = result
            while (due := self._consumed + len(self._results)) in self._early:
                self._results.append(self._early.pop(due))
        else:
            self._results.append(result)
        self._news.set()
