"""A history that can change: seeded rows by index, and whatever was put between or taken out."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import Event, Period


class EventHistory:
    """The rows of one (user, rule), chronological. An untouched log copies nothing.

    A touched one holds an index for each original row and the row itself for each new one.
    """

    __slots__ = ("_origin", "_refs", "added", "squeezed")

    def __init__(self, origin: Sequence[Event]) -> None:
        self._origin = origin
        self._refs: Sequence[int | Event] = range(len(origin))
        self.added = 0
        self.squeezed: set[int] = set()
        """Log ids given out between two others: a deleted row's id never comes back."""

    @property
    def touched(self) -> bool:
        """Whether it ever changed."""
        return isinstance(self._refs, list)

    def __len__(self) -> int:
        return len(self._refs)

    def rows(self, start: int, stop: int) -> list[Event]:
        """Rows [start, stop), as far as they exist."""
        return [self._row(ref) for ref in self._refs[start:stop]]

    def span(self, period: Period | None) -> tuple[int, int]:
        """The rows of a period as (start, stop): they stand together, being chronological."""
        if period is None:
            return 0, len(self._refs)
        start = bisect_left(self._refs, period.first_moment, key=self._date)
        return start, bisect_right(self._refs, period.last_moment, lo=start, key=self._date)

    def place(self, date: str) -> int:
        """Where a row of that date belongs: behind all rows that are not later."""
        return bisect_right(self._refs, date, key=self._date)

    def insert(self, index: int, row: Event) -> None:
        """Put a new row in front of row `index`."""
        self._own().insert(index, row)
        self.added += 1

    def delete(self, index: int | slice) -> None:
        """Take a row, or a slice of rows, out."""
        del self._own()[index]

    def _own(self) -> list[int | Event]:
        if not isinstance(self._refs, list):
            self._refs = list(self._refs)
        return self._refs

    def _row(self, ref: int | Event) -> Event:
        return self._origin[ref] if isinstance(ref, int) else ref

    def _date(self, ref: int | Event) -> str:
        return self._row(ref).event_date
