"""The documented walk: pages side by side, each asked for once, all vouched for by the total."""

from __future__ import annotations

from collections import deque

from attrs import define, field

from .book import Book
from .dialect import OffsetGuess
from .values import PageRequest
from .window import Window

__all__ = ["PlainPass"]


@define
class PlainPass:
    """Pages 1, 2, 3 ... of `size` rows behind page 0, as long as nothing speaks against it.

    Pages side by side say nothing about what moved between two requests. So they are believed only
    while every answer is what an unmoving list of `total` rows would give, and at the least sign
    otherwise `evidence` says what was seen: nothing but the first page then counts any more.
    """

    book: Book
    guess: OffsetGuess
    pending: deque[PageRequest]
    size: int
    total: int
    prefetch: int
    evidence: str | None = field(init=False, default=None)
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

    def feed(self, window: Window) -> None:
        """Take the next page in, or say in `evidence` why it cannot be believed."""
        self.evidence = self._against(window) or self.take(window)
        if self.evidence is None and self.size > 1:
            self.guess.page_held()

    def take(self, window: Window) -> str | None:
        """Take a page in, or return why not."""
        before = len(self._seen)
        self._seen.update(window.ids)
        if len(self._seen) != before + window.size:
            return "an event came twice"
        self.book.give(window, window.events, before)
        self.taken += window.ids
        self._ahead = max(self._ahead, self.size)
        if before + window.size == self.total:
            self.book.end("all events that the total names have come", "totals")
        return None

    def _against(self, window: Window) -> str | None:
        """What in a page an unmoving list in the documented dialect would not show."""
        request, page = window.request, window.page
        if page is None:
            return "a page within the total was refused"
        if window.total != self.total:
            return f"the total changed from {self.total} to {window.total}"
        due = min(self.size, self.total - request.start)
        if window.size != due:
            return f"a page of {due} events had {window.size}"
        if page.pagination.offset not in {None, request.offset}:
            return f"page {page.pagination.offset} came instead of {request.offset}"
        return None
