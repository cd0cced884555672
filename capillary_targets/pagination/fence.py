"""An end for a walk that events outrun: the last event of the list, found by looking ahead.

All events that exist throughout the walk stand at or before the event that is last in the list at
any moment of it. Once that one is taken, the walk is complete, whatever arrived since.
"""

from __future__ import annotations

from typing import Final

from attrs import define

from .window import Window

__all__ = ["Fence"]

_FAR: Final = 2**31
"""No history has so many rows: a server that shows new ones there makes them up."""
_TRIES: Final = 64
_TRIES_BY_TOTAL: Final = 12
_FENCES: Final = 4
_PATIENCE: Final = 4
"""Windows that may pass without the end coming nearer than it was."""
_LONG: Final = 64
"""Windows after which to look for the end where no total says how near it is."""


@define(eq=False, repr=False)
class Fence:
    """When to look for the last event, and where: around row `aim`, until the list ends there."""

    room: int
    searching: bool = False
    aim: int = 0
    last: int | None = None
    """The id of the event that was last in the list when it was looked at."""
    problem: str | None = None
    _row: int = 0
    _rounds: int = 0
    _tries: int = 0
    _nearest: int | None = None
    _away: int = 0
    _steps: int = 0
    _first: int | None = None
    _low: int = 0
    _high: int | None = None
    _total: int | None = None

    @property
    def exhausted(self) -> bool:
        """Whether it was put up often enough."""
        return self._rounds >= _FENCES

    def patient(self, row: int, total: int | None) -> bool:
        """Whether the walk, now at `row`, comes nearer to its end."""
        self._steps += 1
        if self.last is not None:  # it may be deleted before it is reached
            return row <= self._row + self.room or self._steps < _LONG
        if total is None:
            return self._steps < _LONG
        gap = total - row
        self._first = total if self._first is None else self._first
        if total <= self._first or self._nearest is None or gap < self._nearest:
            self._nearest, self._away = gap, 0
        else:
            self._away += 1
        return self._away < _PATIENCE

    def begin(self, row: int, total: int | None) -> None:
        """Look for the end, first around the total, or beyond all reason without one."""
        self._rounds += 1
        self._tries = self._away = self._steps = 0
        self._nearest = self._high = self.last = None
        self._low, self._total, self.searching = row, total, True
        self.aim = _FAR if total is None else max(row, total - self.room // 2)

    def look(self, window: Window, total: int | None, *, last: bool) -> None:
        """Take in what stands around `aim`; `last` says that the list ends in this window."""
        self._tries += 1
        if last:
            self.searching, self.last, self._row = False, window.ids[-1], window.end
        elif self._tries > (_TRIES if total is None else _TRIES_BY_TOTAL):
            self.searching, self.problem = False, "the list moves faster than its end can be found"
        elif self.aim >= _FAR:
            self._look_far(window)
        elif total is not None and self._total is not None:
            self._look_by_total(window, total, self._total)
        else:
            self._look_by_halves(window)

    def _look_far(self, window: Window) -> None:
        """Beyond all reason is nothing, unless the server makes it up or sends the last page."""
        echo = None if window.page is None else window.page.pagination.offset
        if window.size and (echo is None or echo >= window.request.offset):
            self.searching, self.problem = False, "the server never ends: it makes events up"
        else:
            self.aim = max(2 * self._low, self._low + self.room)

    def _look_by_total(self, window: Window, total: int, before: int) -> None:
        """Aim where the end should be by now, judging by how fast the total grows."""
        self._total = total
        # Rows that arrive while the answer is on its way push the end out of the window.
        ahead = max(0, total - before) if window.size else 0
        self.aim = max(0, total + ahead - self.room // 2)

    def _look_by_halves(self, window: Window) -> None:
        """Without a total: double until nothing comes, then halve the gap."""
        if window.size:
            self._low = max(self._low, window.end)
        else:
            self._high = window.start
        if self._high is None or self._low >= self._high:
            self.aim, self._high = 2 * max(self._low, self.room), None
        elif self._high - self._low > self.room:
            self.aim = (self._low + self._high) // 2
        else:
            self.aim = self._high - self.room // 2
