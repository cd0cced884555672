"""Progress on stderr: one line that renews itself on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from capillary_targets.limits import RateLimit
from capillary_targets.sweep import Summary
from capillary_targets.sweep.plan import seconds_for

from . import output

_TICK: Final = 0.2
_MOST_LINES: Final = 10_000
_LOG_EVERY: Final = 5.0


class ProgressDisplay:
    """Shows how far a sweep is, for as long as it is entered.

    A thread of its own does the writing. Whatever becomes of stderr (nobody reads it, its reader
    has gone, the terminal was stopped with Ctrl-S), the sweep goes on.

    Args:
        expected: About how many users the list holds, if that is known.
        rate: The budget that requests keep to, if any.
        quiet: Show no progress.
        clock: Seconds, from whenever.
    """

    def __init__(
        self,
        expected: int | None = None,
        *,
        rate: RateLimit | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._expected = expected
        self._rate = rate
        self._quiet = quiet
        self._clock = clock
        self._started = clock()
        self._before: tuple[int, int, int] | None = None
        self._summary: Summary | None = None
        self._limit: int | None = None
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def log(self, line: str) -> None:
        """Print a line with the time, soon. Where too many wait, the oldest is dropped."""
        self._lines.append(f"{output.timestamp()} {output.printable(line)}\n")

    def update(self, summary: Summary, limit: int | None = None) -> None:
        """Take note of how far it is, and of how many requests may be in flight."""
        if self._before is None:  # what earlier sessions did says nothing about this one's pace
            self._before = summary.users, summary.events, summary.requests
        self._summary = summary
        self._limit = limit

    def line(self, width: int | None = None) -> str:
        """How far it is in one line, of at most `width` cells: what matters less is left out."""
        summary = self._summary
        if summary is None or self._before is None:
            return "asking ..."
        seconds = max(self._clock() - self._started, 0.001)
        users = (summary.users - self._before[0]) / seconds
        events = (summary.events - self._before[1]) / seconds
        done = summary.users + summary.skipped + summary.bad_lines
        percent = left = ""
        if self._expected:
            percent = f"{min(1.0, done / self._expected):.0%}: "
            asked = summary.requests / max(1, summary.users) * max(0, self._expected - done)
            pace = (summary.requests - self._before[2]) / seconds
            seconds_left = seconds_for(asked, self._rate, pace) if users else None
            left = "" if seconds_left is None else f"{_time(seconds_left)} left"
        facts = [  # what matters most comes first
            f"{percent}{summary.users} users ({users:.0f}/s)",
            left,
            f"{summary.failed + summary.refused} failed",
            f"{_time(seconds)} elapsed",
            f"{summary.skipped} skipped" if summary.skipped else "",
            f"{summary.events} events ({events:.0f}/s)",
            f"{self._limit} at a time" if self._limit else "",
        ]
        line = ", ".join(filter(None, facts))
        while width is not None and len(line) > width and ", " in line:
            line = line.rpartition(", ")[0]
        return line[:width]

    def _show(self) -> None:
        """The thread."""
        live = sys.stderr.isatty() and not output.is_dumb()
        clear = output.CLEAR_LINE if live else ""
        due = self._clock() + _LOG_EVERY
        over = False
        while not over:
            over = self._over.wait(_TICK)
            while self._lines:
                _write(f"{clear}{self._lines.popleft()}")
            if live and not self._quiet:
                _write(clear if over else f"{clear}{self.line(_columns() - 1)}")
            elif not self._quiet and self._summary is not None and self._clock() >= due:
                due = self._clock() + _LOG_EVERY
                _write(f"{output.timestamp()} {self.line()}\n")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(1)  # it may be stuck in a write


def _write(text: str) -> None:
    """Past Python's buffer, whose lock a blocked write would keep, even from the process's exit."""
    with suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), text.encode())


def _columns() -> int:
    """The width of stderr's terminal as it is now."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _time(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
