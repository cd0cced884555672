"""The documented walk: pages side by side, each asked for once, all vouched for by the total."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from attrs import define, field

from capillary_targets.errors import CapillaryError
from capillary_targets.models import EventsPage, TargetEvent

from .book import Book
from .dialect import OffsetGuess
from .values import PageRequest
from .window import ids_of

__all__ = ["PlainPass"]


@define(eq=False, repr=False)
class PlainPass:
    """Pages 1, 2, 3 ... of `size` rows behind page 0, as long as nothing speaks against it.

    Pages side by side say nothing about what moved between two requests. So they are believed only
    while every answer is what an unmoving list of `total` rows would give; at the least sign
    otherwise, nothing but the first page counts any more.
    """

    book: Book
    guess: OffsetGuess
    pending: deque[PageRequest]
    size: int
    total: int
    prefetch: int
    taken: list[int] = field(init=False, factory=list)
    """The ids of the events taken, in order."""
    _seen: set[int] = field(init=False, factory=set)
    _ahead: int = field(init=False, default=0)

    def plan(self) -> None:
        """Fill the plan up with the pages that are known to be needed."""
        due = self.total
        if self.book.wanted is not None:
            due = min(due, len(self.taken) + self.book.wanted)
        while len(self.pending) < self.prefetch and self._ahead < due:
            self.pending.append(PageRequest(self.size, self._ahead // self.size, self._ahead))
            self._ahead += self.size

    def feed(self, request: PageRequest, page: EventsPage | CapillaryError) -> bool:
        """Take the next page in. False if it cannot be believed."""
        if isinstance(page, CapillaryError) or not self._fits(request, page):
            return False
        events = page.events
        if not self.take(events, ids_of(events), page):
            return False
        if self.size > 1:
            self.guess.page_held()
        return True

    def take(self, events: Sequence[TargetEvent], ids: list[int], page: EventsPage | None) -> bool:
        """Take a page in, unless an event comes twice."""
        taken, seen = self.taken, self._seen
        before = len(taken)
        seen.update(ids)
        if len(seen) != before + len(ids):
            return False
        taken += ids
        self.book.give(page, events, before)
        self._ahead = self._ahead or self.size
        if len(taken) == self.total:
            self.book.end("all events that the total names have come", "totals")
        return True

    def _fits(self, request: PageRequest, page: EventsPage) -> bool:
        """Whether an unmoving list in the documented dialect would give this page."""
        numbers = page.pagination
        return (
            numbers.total == self.total
            and len(page.events) == min(self.size, self.total - request.start)
            and (numbers.offset is None or numbers.offset == request.offset)
        )
