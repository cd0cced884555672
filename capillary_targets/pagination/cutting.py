"""How to cut windows out of the list: how large, how much overlap, and over which rows."""

from __future__ import annotations

from typing import Final

from attrs import define, field

from .dialect import OffsetGuess
from .geometry import place
from .values import PageRequest
from .window import Window

__all__ = ["LEAST_CAP", "Cutter"]

LEAST_CAP: Final = 8
"""No server is believed to cap its pages below this without saying so."""
_LEAST_ROOM: Final = LEAST_CAP
"""An overlap and something new must fit in a window, however small the pages asked for."""
_LEAST_CUT: Final = 4
_CALM: Final = 4


@define(eq=False, repr=False)
class Cutter:
    """Makes requests for windows, from all that is known about what the server does with them."""

    guess: OffsetGuess
    page_size: int
    cap: int | None
    largest: int = LEAST_CAP
    """The most rows that any page had: a page of so many is surely not cut short by a cap."""
    overlap: int = 0
    """What the latest shift of the list suggests; there always is a little."""
    _squeeze: int | None = None
    _cut_to: tuple[int, int] = (0, 0)
    """Size and start of the latest page that was not full."""
    _calm: int = 0
    _avoid: set[int] = field(factory=set)

    @property
    def room(self) -> int:
        """The most rows in a window."""
        return self._full_room if self._squeeze is None else min(self._full_room, self._squeeze)

    @property
    def _full_room(self) -> int:
        room = max(self.page_size, _LEAST_ROOM)
        return room if self.cap is None else min(room, self.cap)

    @property
    def least_overlap(self) -> int:
        """Rows by which the next window should reach into what is known."""
        room = self.room
        return min(max(self.overlap, 2, room // 20), max(1, room // 2))

    def window(
        self, target: int, *, room: int | None = None, avoid: bool = True, fence: bool = False
    ) -> PageRequest:
        """The best window that begins at or before row `target`."""
        avoided = self._avoid if avoid else ()
        limit, offset = place(
            target, by_page=self.guess.by_page, room=room or self.room, avoid=avoided
        )
        return PageRequest(limit, offset, self.start(limit, offset), fence)

    def across(self, end: int, *, back: int = 0, room: int | None = None) -> PageRequest:
        """A window that begins some rows (and `back` more) before row `end` and ends behind it.

        Page numbers may have no such cut: row 2520 lies between two pages of any size up to 10.
        Then a smaller overlap is tried, and then larger pages than were asked for.
        """
        room = room or self.room
        first = self.window(end - back - self.least_overlap, room=room)
        if first.end > end or back:
            return first
        most = 2 * room if self.cap is None else max(room, self.cap)
        for size, avoid in ((room, True), (room, False), (most, False)):
            for overlap in range(min(self.least_overlap, room - 1), 0, -1):
                request = self.window(end - overlap, room=size, avoid=avoid)
                if request.end > end:
                    return request
        return first

    def surely_across(self, end: int, *, back: int = 0) -> PageRequest:
        """The same, no larger than pages surely served in full if it can be."""
        return self.across(end, back=back, room=min(self._full_room, self.largest))

    def beyond(self, end: int, *, other: bool = False) -> PageRequest:
        """A full-sized window that goes on behind row `end`; or by the `other` reading."""
        room = self._full_room
        if self.guess.by_page is (other and not self.guess.confirmed):
            return PageRequest(room, max(end, room), max(end, room))
        number = end // room  # never page 0: that one has been looked at
        while number == 0 or number in self._avoid:
            number += 1
        return PageRequest(room, number, number * room)

    def start(self, limit: int, offset: int) -> int:
        """The row that a page should begin with."""
        if not self.guess.by_page:
            return offset
        return offset * (limit if self.cap is None else min(limit, self.cap))

    def due(self, window: Window) -> int:
        """How many rows a window has that lies within the list."""
        limit = window.request.limit
        return limit if self.cap is None else min(limit, self.cap)

    def holds_the_last(self, window: Window) -> bool:
        """Whether a window's last row must be the list's: it is not full, and by no cap."""
        return 0 < window.size < window.request.limit <= self.largest

    def avoid(self, window: Window) -> None:
        """Ask no more for the page of that number: it may be the number that lacks rows."""
        if window.request.offset and self.guess.by_page:
            self._avoid.add(window.request.offset)

    def cut_differently(self, window: Window) -> None:
        """Cut the stretch of a window another way: it lacked rows, perhaps because of its cut."""
        limit, size = window.request.limit, window.size
        self._calm = 0
        self.avoid(window)
        if LEAST_CAP <= size < limit:
            before, self._cut_to = self._cut_to, (size, window.start)
            if before[0] == size and before[1] != window.start and self.cap is None:
                self.cap = size  # here as there: the server caps its pages and does not say so
        self._squeeze = size if _LEAST_CUT <= size < limit else max(_LEAST_CUT, limit // 2)

    def be_sure(self) -> None:
        """Cut the next window no larger than pages surely served in full."""
        self._calm, self._squeeze = 0, max(self.largest, LEAST_CAP)

    def relax(self) -> None:
        """A window was fine; after some of them, smaller cuts are given up."""
        self._calm += 1
        if self._calm >= _CALM:
            self._squeeze = None
