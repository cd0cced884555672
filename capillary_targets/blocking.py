"""BlockingClient: the client for code without an event loop; a thread runs one for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import wraps
from threading import Thread
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, Unpack
from weakref import finalize

from yarl import URL

from .auth import Auth
from .client import TargetsClient
from .errors import ClientClosed, UsageError
from .fanout import Sweep, UserOutcome
from .frames import EventList
from .models import EventsPage, TargetEvent
from .pager import EventPager
from .settings import Options

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

_NOT_OPEN: Final = "this client is not open: use `with BlockingClient(...)`"


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # cancels what is left
        runner.get_loop().run_forever()


def _stop(loop: asyncio.AbstractEventLoop, thread: Thread, pid: int) -> None:
    if os.getpid() == pid and thread.is_alive():
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _method(
    call: Callable[Concatenate[TargetsClient, P], T], adapt: Callable[[BlockingClient, T], R]
) -> Callable[Concatenate[BlockingClient, P], R]:
    @wraps(call)
    def method(self: BlockingClient, /, *args: P.args, **options: P.kwargs) -> R:
        if self._loop is None:
            raise ClientClosed(_NOT_OPEN)
        return adapt(self, call(self.client, *args, **options))

    return method


def _outcomes(client: BlockingClient, sweep: Sweep) -> Iterator[UserOutcome]:
    return client.iterate(sweep.__aiter__)


class BlockingPager:
    """An `EventPager`, which is its `pager`, for a plain `for`."""

    def __init__(self, client: BlockingClient, pager: EventPager) -> None:
        self._client = client
        self.pager: EventPager = pager

    def __iter__(self) -> Iterator[TargetEvent]:
        return self._client.iterate(self.pager.__aiter__)

    def pages(self) -> Iterator[EventsPage]:
        """The same events page by page: less work for each."""
        return self._client.iterate(self.pager.pages)

    def collect(self) -> EventList:
        """All events as a list."""
        return self._client.run(self.pager.collect())


class BlockingClient:
    """`TargetsClient` without `await`, with the same settings: `with BlockingClient(...)`.

    Loops fetch ahead while you work on an item; one that is left has nothing in flight any more. A
    sweep reads its users in the background thread. Calls raise the same errors, and `UsageError`
    inside a running event loop and in a forked process. Threads may share a client.
    """

    def __init__(
        self, base_url: str | URL, auth: Auth, *, page_size: int = 100, **options: Unpack[Options]
    ) -> None:
        self.client: TargetsClient = TargetsClient(base_url, auth, page_size=page_size, **options)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        if self._loop is not None:
            raise ClientClosed("this client was opened before; make a new one")
        loop, self._pid = asyncio.new_event_loop(), os.getpid()
        self._loop = loop
        thread = Thread(target=_run, args=(loop,), name=__name__, daemon=True)
        thread.start()
        self._stop = finalize(self, _stop, loop, thread, self._pid)  # at interpreter exit, too
        self.run(self.client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ClientClosed):  # it may be closed already
            self.run(self.client.aclose())
        self._stop()

    def run(self, made: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine of `client`; interrupted (Ctrl-C), it is cancelled."""
        if self._loop is None or not self._stop.alive:
            refusal: Exception = ClientClosed(_NOT_OPEN)
        elif os.getpid() != self._pid:
            refusal = UsageError("this client was opened before a fork: open one in each process")
        elif asyncio._get_running_loop() is not None:  # noqa: SLF001 - the public one raises
            refusal = UsageError("an event loop is running here: use TargetsClient with await")
        else:
            future = asyncio.run_coroutine_threadsafe(made, self._loop)
            try:
                return future.result()
            except BaseException:
                future.cancel()
                raise
        made.close()
        raise refusal

    def iterate(self, made: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """A loop over an async iterator of `client`, which is closed with this one."""
        items: Any = made()

        async def step() -> T | None:
            return await anext(items, None)

        try:
            while (item := self.run(step())) is not None:
                yield item
        finally:
            with suppress(ClientClosed, UsageError):  # then nothing is in flight any more
                self.run(items.aclose())

    active_targets: Final = _method(TargetsClient.active_targets, run)
    find_customer: Final = _method(TargetsClient.find_customer, run)
    target_groups: Final = _method(TargetsClient.target_groups, run)
    target_periods: Final = _method(TargetsClient.target_periods, run)
    progress: Final = _method(TargetsClient.progress, run)
    reconcile: Final = _method(TargetsClient.reconcile, run)
    settle: Final = _method(TargetsClient.settle, run)
    events: Final = _method(TargetsClient.events, BlockingPager)
    sweep: Final = _method(TargetsClient.sweep, _outcomes)
