"""Long work shows itself: a bar on a terminal, a line now and then elsewhere. Both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from attrs import define, field
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from capillary_targets.sweep import Summary

__all__ = ["Bar", "Lines", "ProgressDisplay", "progress"]

_EVERY = 5.0

Limit = Callable[[], int]
Clock = Callable[[], float]


class ProgressDisplay(AbstractContextManager["ProgressDisplay"], Protocol):
    """Shows a sweep's progress for as long as it is entered."""

    def update(self, summary: Summary) -> None:
        """Take note of how far it is."""

    def interrupted(self, what: str) -> None:
        """Say that it was interrupted, and how to go on."""


def progress(limit: Limit, expected: int | None = None) -> ProgressDisplay:
    """The fitting one for where stderr goes.

    `limit` tells how many requests may be in flight; `expected` is about how many users the list
    holds, if that is known.
    """
    return Bar(limit, expected) if sys.stderr.isatty() else Lines(limit, expected)


@define
class _Throughput:
    """Users and events a second, over the session so far."""

    _limit: Limit
    _clock: Clock
    _started: float = field(init=False)
    _first: tuple[int, int] | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._started = self._clock()

    def words(self, summary: Summary) -> str:
        """All of it in one line."""
        if self._first is None:  # what earlier sessions did is not of this one's making
            self._first = (summary.users, summary.events)
        seconds = max(self._clock() - self._started, 0.001)
        users, events = summary.users - self._first[0], summary.events - self._first[1]
        told = [
            f"{summary.users} users ({users / seconds:.0f}/s)",
            f"{summary.events} events ({events / seconds:.0f}/s)",
            f"{self._limit()} at a time",
            f"{summary.failed} failed",
        ]
        if summary.skipped:
            told.insert(1, f"{summary.skipped} skipped")
        return ", ".join(told)


def _done(summary: Summary) -> int:
    """Lines of the list that are dealt with."""
    return summary.users + summary.skipped + summary.bad_lines


class Lines:
    """A plain line at most every five seconds, for logs."""

    def __init__(
        self, limit: Limit, expected: int | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._throughput = _Throughput(limit, clock)
        self._expected = expected
        self._clock = clock
        self._next = clock() + _EVERY

    def update(self, summary: Summary) -> None:
        """Print a line if it is time."""
        words = self._throughput.words(summary)
        now = self._clock()
        if now >= self._next:
            self._next = now + _EVERY
            if self._expected:
                words = f"{min(1.0, _done(summary) / self._expected):.0%}: {words}"
            print(words, file=sys.stderr, flush=True)

    def interrupted(self, what: str) -> None:
        """Print it."""
        print(f"interrupted: {what}; run the same command again to go on", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class Bar:
    """A rich progress bar; with the time left, where the list's length is known."""

    def __init__(
        self,
        limit: Limit,
        expected: int | None = None,
        console: Console | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._throughput = _Throughput(limit, clock)
        console = console or Console(stderr=True, markup=False, emoji=False, highlight=False)
        self._bar = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._task: TaskID = self._bar.add_task("asking ...", total=expected)

    def update(self, summary: Summary) -> None:
        """Move the bar."""
        words = self._throughput.words(summary)
        self._bar.update(self._task, completed=_done(summary), description=words)

    @property
    def fraction(self) -> float | None:
        """How much of the list is dealt with; None where its length is not known."""
        task = self._bar.tasks[0]
        return None if task.total is None else task.completed / task.total

    def interrupted(self, what: str) -> None:
        """Print it above the bar."""
        self._bar.console.print(f"interrupted: {what}; run the same command again to go on")

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
