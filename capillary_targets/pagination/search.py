"""Searches along the list for a boundary among rows."""

from __future__ import annotations

from attrs import define

__all__ = ["GallopingSearch"]


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
