"""One rate budget for a Ray cluster: a named actor keeps the window, the workers ask it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

import ray

from .budget import Budget, SqliteBudget
from .limits import RateLimit

__all__ = ["ClusterBudget", "shared_budget"]

_NAMESPACE: Final = "capillary-targets"


class BudgetActor:
    """The actor. A window with leases, so that a worker that dies gives its places back.

    Were it to die itself, the one that Ray makes in its place knows nothing of the requests before:
    it lets a whole window pass first.
    """

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._window = SqliteBudget(limit, ":memory:")
        self._restarted = bool(ray.get_runtime_context().was_current_actor_reconstructed)

    async def acquire(self) -> tuple[str, float]:
        """As the budget's."""
        if self._restarted:
            self._restarted = False
            await self._window.pause(self._limit.per)
        return await self._window.acquire()

    async def release(self, ticket: str) -> None:
        """As the budget's."""
        await self._window.release(ticket)

    async def pause(self, seconds: float) -> None:
        """As the budget's."""
        await self._window.pause(seconds)


class ClusterBudget:
    """The budget, as a worker sees it: asks the actor that keeps it, from wherever it is sent."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def acquire(self) -> tuple[str, float]:
        """A place in the window, or how long to wait for one."""
        ticket, wait = await self._actor.acquire.remote()
        return ticket, wait

    async def release(self, ticket: str) -> None:
        """Start the time after which the place is free."""
        await self._actor.release.remote(ticket)

    async def pause(self, seconds: float) -> None:
        """Tell everybody."""
        await self._actor.pause.remote(seconds)

    async def close(self) -> None:
        """The actor lives as long as its sweep."""


@contextmanager
def shared_budget(limit: RateLimit | Budget | None) -> Iterator[RateLimit | Budget | None]:
    """The limit as the workers are told it: kept by an actor, unless it is shared already."""
    if not isinstance(limit, RateLimit) or limit.shared is not None:
        yield limit
        return
    remote: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(BudgetActor)
    actor = remote.options(name=f"budget-{uuid4().hex}", namespace=_NAMESPACE).remote(limit)
    try:
        yield ClusterBudget(actor)
    finally:
        ray.kill(actor)
