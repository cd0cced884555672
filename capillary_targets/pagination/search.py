"""Searches along the list: for a boundary among rows, and for the last row of a list that grows."""

from __future__ import annotations

from typing import Final

from attrs import define, field

from capillary_targets.models import TargetEvent

from .types import Window

__all__ = ["EndMarker", "GallopingSearch"]

_FAR: Final = 2**31
"""No history has so many rows: rows at this offset mean an endless server."""
_TRIES: Final = 64
_TRIES_BY_TOTAL: Final = 12


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
class EndMarker:
    """The row that was the last of the list when it was looked at, or the search for it."""

    aim: int
    total: int | None
    last: TargetEvent | None = None
    row: int = 0
    _tries: int = field(init=False, default=0)
    _search: GallopingSearch = field(init=False, factory=GallopingSearch)

    @classmethod
    def begin(cls, row: int, total: int | None, limit: int) -> EndMarker:
        """Look near the end that the total names; without one, where no list has rows."""
        return cls(max(row, _FAR if total is None else total - limit // 2), total)

    def problem(self, window: Window) -> str | None:
        """Why the end cannot be found, after a look that did not show it."""
        echo = None if window.page is None else window.page.pagination.offset
        self._tries += 1
        if self.aim >= _FAR and window.size and (echo or _FAR) >= window.request.offset:
            return "the server never ends: it makes events up"
        if self._tries > (_TRIES if self.total is None else _TRIES_BY_TOTAL):
            return "the list moves faster than its end can be found"
        return None

    def look_on(self, window: Window, total: int | None, row: int, limit: int) -> None:
        """A window did not show the end: where to look next.

        Args:
            window: the latest look.
            total: rows in the list by its total.
            row: how far the walk has come.
            limit: rows to a window.
        """
        search = self._search
        edge = window.end if window.size else window.start
        if self.aim >= _FAR:
            self.aim = max(2 * row, row + limit)
            search.low = row
        elif total is not None and self.total is not None:
            ahead = max(0, total - self.total) if window.size else 0
            self.total = total
            self.aim = max(0, total + ahead - limit // 2, window.end if window.size else 0)
        elif edge in (search.low, search.high):
            self.aim = edge  # between two looks
        elif window.size:
            if search.high is not None and window.end >= search.high:
                search.step = 0  # it has moved on: start with small steps again
            self.aim = search.right_of(window.end, step=limit // 2)
        else:
            self.aim = max(0, search.left_of(window.start, limit))
