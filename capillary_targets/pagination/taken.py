"""The events taken so far, and how to find one's place among them in a page of a list that moved.

The claim that every walk rests on: *the events taken so far are a prefix, in the server's order, of
all events that exist throughout the walk*. A page is one atomic look at a contiguous part of the
list. If it contains an event already taken, then every lasting event not yet taken lies behind that
event, so none lies before the page, and the lasting events behind the last taken one in it can be
taken in order: the claim holds again. When the answers were made plays no part in this, so pages
may be asked for at once. An event not taken that stands *before* a taken one arrived during the
walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from attrs import define, field

from capillary_targets.models import TargetEvent

from .values import Checkpoint, order_key
from .window import Window

__all__ = ["Taken"]


@define(eq=False, repr=False)
class Taken:
    """The events taken, by id, in the order taken."""

    seen: dict[int, int] = field(factory=dict)
    """Event id to its place in the order taken."""
    count: int = 0
    last: int | None = None
    blind: bool = False
    """Whether events were taken that are not in `seen`: the walk began at a checkpoint."""
    _mark: tuple[datetime, int] | None = None
    """Order key of the last event taken, if the walk began at a checkpoint."""

    @classmethod
    def at(cls, checkpoint: Checkpoint) -> Taken:
        """As a checkpoint remembers it."""
        if not checkpoint.last:
            return cls()
        first = checkpoint.row - len(checkpoint.last)
        seen = {event: first + place for place, event in enumerate(checkpoint.last)}
        newest = checkpoint.last[-1]
        mark = None if checkpoint.date is None else (checkpoint.date, newest)
        return cls(seen, checkpoint.row, newest, blind=True, mark=mark)

    def add(self, ids: Sequence[int], events: Sequence[TargetEvent] = ()) -> None:
        """Take events, in the server's order. After a checkpoint, they themselves are needed."""
        if not ids:
            return
        self.seen.update(zip(ids, range(self.count, self.count + len(ids)), strict=True))
        self.count += len(ids)
        self.last = ids[-1]
        if self.blind:
            self._mark = order_key(events[-1])

    def anchor(self, window: Window, least: int) -> int | None:
        """The index in a window behind which its unseen events can be taken, or None.

        The last event taken is the anchor; `least` events must stand before it, so that a page
        whose first event is not in its place is not believed. Where that event is not there, the
        latest of those taken is, if the window begins among events taken: so everything between
        was deleted. A walk from a checkpoint may also go by the order of dates.
        """
        ids = window.ids
        if self.last in self.seen and self.last in ids:
            index = ids.index(self.last)
            return index if index >= least or window.row_zero else None
        places = [
            (self.seen[event], index) for index, event in enumerate(ids) if event in self.seen
        ]
        if places and (self.blind or window.row_zero or ids[0] in self.seen):
            index = max(places)[1]
            return index if index >= least or window.row_zero else None
        if self.blind and not places:
            return self._by_order(window)
        return -1 if window.row_zero and not self.blind else None

    def _by_order(self, window: Window) -> int | None:
        """As `anchor`, from the documented order alone; None unless the window bears it out."""
        keys = self._keys(window)
        if not keys or self._mark is None or keys != sorted(keys):
            return None
        before = sum(key <= self._mark for key in keys)
        return before - 1 if before or window.row_zero else None

    def _keys(self, window: Window) -> list[tuple[datetime, int]]:
        """The order keys of a window's events, if all have one that compares with the mark's."""
        keys: list[tuple[datetime, int]] = []
        for event in window.events:
            key = order_key(event)
            if key is None or self._mark is None:
                return []
            if (key[0].tzinfo is None) is not (self._mark[0].tzinfo is None):
                return []
            keys.append(key)
        return keys

    def lies_right_of(self, window: Window) -> bool:
        """Whether the last event taken must be behind the end of a window that lacks it."""
        if not window.ids:
            return False
        if window.ids[-1] in self.seen:
            return True
        keys = self._keys(window) if self.blind else []
        return bool(keys) and self._mark is not None and keys[-1] <= self._mark

    def found_at(self, window: Window) -> int | None:
        """The row that a window seems to begin with, from the first event in it that is known."""
        for index, event in enumerate(window.ids):
            place = self.seen.get(event)
            if place is not None:
                return place - index
        return None
