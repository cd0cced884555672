"""Where to look for the last event taken after a page did not show it: further back, or between."""

from __future__ import annotations

from typing import Final

from attrs import define

from .window import Window

__all__ = ["Search"]

_MISSES: Final = 32


@define(eq=False, repr=False)
class Search:
    """A step back that doubles on each miss, and bisects once both sides have been seen."""

    misses: int = 0
    _back: int = 0
    _low: int | None = None
    """The place lies at or behind this row."""
    _high: int | None = None
    """The place lies before this row."""

    @property
    def lost(self) -> bool:
        """Whether it was looked for long enough."""
        return self.misses > _MISSES

    def progress(self) -> None:
        """New events were taken: whatever was looked for is found."""
        self.misses = self._back = 0
        self._low = self._high = None

    def before(self, window: Window, row: int, overlap: int, room: int) -> int:
        """The place lies before a window (or is not known); `row` is where it was believed to be.

        Returns the row at which to look next.
        """
        self.misses += 1
        self._high = window.start
        if self._low is not None and self._low < self._high:
            return max(self._low - overlap, (self._low + self._high - room) // 2)
        self._low = None
        self._back = max(2 * self._back, 2 * overlap)
        return max(0, min(window.start, row) - self._back)

    def behind(self, window: Window, guess: int) -> int:
        """The place lies behind a window's end, perhaps as far as row `guess`.

        Returns the row that it is now believed to be in.
        """
        self._low = window.end
        if self._high is not None and self._low < self._high:
            return min(guess, (self._low + self._high) // 2)
        self._high = None
        return guess
