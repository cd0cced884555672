"""Searches along the list: for a boundary among rows, and for the last row of a list that grows."""

from __future__ import annotations

from typing import Final

from attrs import define, field

from capillary_targets.models import TargetEvent

from .types import Window

__all__ = ["EndMarker", "GallopingSearch", "Pace"]

_FAR: Final = 2**31
"""No history has so many rows: rows at this offset mean an endless server."""
_TRIES: Final = 64
_TRIES_BY_TOTAL: Final = 12
_LONG: Final = 64
"""Pages after which to look for the end where no total says how near it is."""
_PATIENCE: Final = 4
"""Pages that may pass without the end coming nearer than it was."""


@define(eq=False, repr=False)
class GallopingSearch:
    """A search for a boundary among rows: steps that double, then bisection."""

    low: int | None = None
    high: int | None = None
    step: int = 0

    def left_of(self, row: int, step: int) -> int:
        """The boundary lies before `row`: where to look next."""
        self.high = row
        if self.low is not None and self.low < row:
            return (self.low + row) // 2
        self.low, self.step = None, max(2 * self.step, step)
        return row - self.step

    def right_of(self, row: int, guess: int | None = None, step: int = 0) -> int:
        """The boundary lies at or behind `row`, perhaps at `guess`: where to look next."""
        self.low = row
        if self.high is not None and row < self.high:
            middle = (row + self.high) // 2
            return middle if guess is None else min(guess, middle)
        self.high, self.step = None, max(2 * self.step, step)
        return row + self.step if guess is None else guess


@define(eq=False, repr=False)
class Pace:
    """Whether the walk comes nearer to the end."""

    markers: int = 0
    _steps: int = 0
    _first: int | None = None
    _nearest: int | None = None
    _away: int = 0

    def outrun(self, row: int, total: int | None, expected: int) -> bool:
        """Another full page was taken up to `row`; whether the end runs away.

        `total` rows are in the list; where that is not known, about `expected` pages.
        """
        self._steps += 1
        if total is None or self.markers:
            return self._steps >= max(_LONG, 2 * expected)
        self._first = self._first or total
        if total <= self._first or self._nearest is None or total - row < self._nearest:
            self._nearest, self._away = total - row, 0
        else:
            self._away += 1
        return self._away >= _PATIENCE


@define(eq=False, repr=False)
class EndMarker:
    """The row that was the last of the list when it was looked at, or the search for it."""

    aim: int
    total: int | None
    last: TargetEvent | None = None
    row: int = 0
    problem: str | None = None
    """Why it cannot be found."""
    _tries: int = field(init=False, default=0)
    _search: GallopingSearch = field(init=False, factory=GallopingSearch)

    @classmethod
    def begin(cls, row: int, total: int | None, limit: int) -> EndMarker:
        """Look near the end that the total names; without one, where no list has rows."""
        return cls(max(row, _FAR if total is None else total - limit // 2), total)

    def look_on(self, window: Window, total: int | None, row: int, limit: int) -> None:
        """A window did not show the end: where to look next.

        Args:
            window: the latest look.
            total: rows in the list by its total.
            row: how far the walk has come.
            limit: rows to a window.
        """
        search = self._search
        self._tries += 1
        if self._tries > (_TRIES if total is None else _TRIES_BY_TOTAL):
            self.problem = "the list moves faster than its end can be found"
        elif self.aim >= _FAR:
            echo = None if window.page is None else window.page.pagination.offset
            if window.size and (echo is None or echo >= window.request.offset):
                self.problem = "the server never ends: it makes events up"
            self.aim = max(2 * row, row + limit)
            search.low = row
        elif total is not None and self.total is not None:
            ahead = max(0, total - self.total) if window.size else 0
            self.total = total
            self.aim = max(0, total + ahead - limit // 2, window.end if window.size else 0)
        elif (window.end if window.size else window.start) in (search.low, search.high):
            self.aim = window.end if window.size else window.start  # between two looks
        elif window.size:
            if search.high is not None and window.end >= search.high:
                search.step = 0  # it has moved on: start with small steps again
            self.aim = search.right_of(window.end, step=limit // 2)
        else:
            self.aim = max(0, search.left_of(window.start, limit))
