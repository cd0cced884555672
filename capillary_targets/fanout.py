"""Many users at once, as a stream of outcomes: a pool of workers with a bounded look-ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing

from attrs import field, frozen

from .errors import CapillaryError
from .models import Target, TargetEvent
from .pagination import PagingReport

__all__ = ["UserOutcome", "fan_out"]


@frozen
class UserOutcome:
    """What a sweep found for one user.

    `complete` is True only if every target was asked for and every walk proved complete. Where
    `error` is set, `targets` and `events` hold what had arrived before it.
    """

    user_id: int
    targets: tuple[Target, ...] = ()
    events: tuple[TargetEvent, ...] = ()
    reports: Mapping[int, PagingReport] = field(factory=dict, hash=False)
    error: CapillaryError | None = field(default=None, eq=False)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.error is None and all(report.complete for report in self.reports.values())


async def _each(users: Iterable[int] | AsyncIterable[int]) -> AsyncGenerator[int, None]:
    if isinstance(users, AsyncIterable):
        async for user in users:
            yield user
    else:
        for user in users:
            yield user


async def fan_out(
    users: Iterable[int] | AsyncIterable[int],
    visit: Callable[[int], Awaitable[UserOutcome]],
    workers: int,
) -> AsyncGenerator[UserOutcome, None]:
    """Visit every user with `workers` at a time; yield outcomes as they come.

    At most twice `workers` users are started and not yet consumed. An exception of `visit` or of
    `users` is not a user's failure: it ends the stream. However the stream ends, no task is left.
    """
    source = _each(users)
    taking = asyncio.Lock()
    done: asyncio.Queue[UserOutcome | BaseException | None] = asyncio.Queue(workers)

    async def work() -> None:
        try:
            while True:
                async with taking:
                    user = await anext(source, None)
                if user is None:
                    break
                await done.put(await visit(user))
        except Exception as error:  # noqa: BLE001 - carried to the consumer, who raises it
            await done.put(error)
        else:
            await done.put(None)

    async with aclosing(source):
        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        try:
            running = workers
            while running:
                outcome = await done.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                if outcome is None:
                    running -= 1
                else:
                    yield outcome
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
