"""The documented walk: pages side by side, each asked for once, all vouched for by the total."""

from __future__ import annotations

from collections import deque

from attrs import define, field

from .book import Book
from .dialect import OffsetGuess
from .taken import Taken
from .values import PageRequest
from .window import Window

__all__ = ["PlainPass"]


@define
class PlainPass:
    """Pages 1, 2, 3 ... of `size` rows, as long as nothing speaks against it.

    Pages side by side say nothing about what moved between two requests. So they are believed only
    while every answer is what an unmoving list of `total` rows would give, and at the least sign
    otherwise `evidence` says what was seen: nothing but the first page then counts any more.
    """

    book: Book
    taken: Taken
    guess: OffsetGuess
    pending: deque[PageRequest]
    size: int
    total: int
    prefetch: int
    evidence: str | None = field(init=False, default=None)
    _ahead: int = field(init=False)

    @_ahead.default
    def _after_first_page(self) -> int:
        return self.size

    def plan(self) -> None:
        """Fill the plan up with the pages that are known to be needed."""
        due = self.total
        if self.book.wanted is not None:
            due = min(due, self.taken.count + self.book.wanted)
        while len(self.pending) < self.prefetch and self._ahead < due:
            self.pending.append(PageRequest(self.size, self._ahead // self.size, self._ahead))
            self._ahead += self.size

    def feed(self, window: Window) -> None:
        """Take the next page in, or say in `evidence` why it cannot be believed."""
        self.evidence = self._against(window)
        if self.evidence is not None:
            return
        row = self.taken.count
        self.taken.add(window.events, window.ids)
        if self.size > 1:
            self.guess.page_held()
        self.book.give(window, window.events, row)
        if self.taken.count == self.total:
            self.book.end("all events that the total names have come", "totals")

    def _against(self, window: Window) -> str | None:
        """What in a page an unmoving list in the documented dialect would not show."""
        request, page = window.request, window.page
        if page is None:
            return "a page within the total was refused"
        due = min(self.size, self.total - request.start)
        if window.total != self.total:
            return f"the total changed from {self.total} to {window.total}"
        if window.size != due or len(window.ids) != window.size:
            return f"a page of {due} events had {window.size}, {len(window.ids)} of them different"
        if self.taken.known(window):
            return "an event came on two pages"
        if page.pagination.offset not in {None, request.offset}:
            return f"page {page.pagination.offset} came instead of {request.offset}"
        return None
