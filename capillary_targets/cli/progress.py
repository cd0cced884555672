"""Long work shows itself: a bar on a terminal, a line now and then elsewhere. Both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from capillary_targets.sweep import Summary

__all__ = ["Shown", "progress"]

_EVERY = 5.0


class Shown(AbstractContextManager["Shown"], Protocol):
    """Shows a sweep's progress for as long as it is entered."""

    def update(self, summary: Summary) -> None:
        """Take note of how far it is."""


def progress() -> Shown:
    """The fitting one for where stderr goes."""
    return _Bar() if sys.stderr.isatty() else Lines()


class Lines:
    """A plain line at most every five seconds, for logs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = clock() + _EVERY

    def update(self, summary: Summary) -> None:
        """Print a line if it is time."""
        now = self._clock()
        if now >= self._next:
            self._next = now + _EVERY
            print(_words(summary), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class _Bar:
    """A rich progress bar."""

    def __init__(self) -> None:
        self._bar = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=Console(stderr=True, markup=False, emoji=False, highlight=False),
        )
        self._task: TaskID = self._bar.add_task("asking ...", total=None)

    def update(self, summary: Summary) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=summary.users, description=_words(summary))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()


def _words(summary: Summary) -> str:
    seconds = summary.seconds or 1.0
    return (
        f"{summary.users} users ({summary.users / seconds:.0f}/s), "
        f"{summary.events} events ({summary.events / seconds:.0f}/s), {summary.failed} failed"
    )
