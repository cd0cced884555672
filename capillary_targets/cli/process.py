"""The process around a command: its event loop, and what a signal does to it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["collector_at_rest", "run_until_done"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_until_done(command: Coroutine[Any, Any, int]) -> int:
    """Run a command to its exit status.

    SIGINT and SIGTERM cancel it, so that it can put its things in order, and give 130 and 143. A
    second signal ends the process on the spot.
    """
    with collector_at_rest(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_with_signals(command))


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Let the garbage collector look rarely, and not at what was imported, for as long as it lasts.

    A sweep makes events by the hundred thousand, all of them freed without its help; looking
    through them takes a fifth of the time.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where the extra `speed` is installed."""
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415 - it is optional

        return uvloop.new_event_loop
    return None


async def _with_signals(command: Coroutine[Any, Any, int]) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    caught: list[int] = []

    def stop(number: int) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        if task is not None:
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await command
    except asyncio.CancelledError:
        if not caught:
            raise
        return 128 + caught[0]
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
