"""What a walk believes of the server. A wrong belief costs requests, never an event."""

from __future__ import annotations

from functools import lru_cache
from math import isqrt
from typing import Any, Final

from .dialect import Dialect, PastEndKind, TotalKind, dialect_of
from .types import PageRequest, Window

LEAST_CAP: Final = 3
"""No server is believed to cap its pages below this silently."""
_CERTAIN: Final = 2
_ROWS: Final = (None, "rows")
_MOST: Final = 4


class ServerModel:
    """How `offset`, `limit` and `total` are read, detected from where known rows turn up."""

    given: Dialect
    """What the caller is certain of."""
    cached: Dialect
    """What earlier walks detected."""
    page_size: int
    votes: int
    """Observations in favour of page numbers, less those in favour of rows. The documented reading
    counts as one, a cached one as two; a given one is not put to the vote."""
    doubted: bool = False
    """Whether a page was not where a certain reading of `offset` has it."""
    cap: int | None
    cap_echoed: bool = False
    largest: int = LEAST_CAP
    """The most rows that any page had: a page of so many is not cut short by a cap."""
    granted: int = 0
    """The largest page that was asked for and came: one as large is not refused for its size."""
    total: TotalKind | None
    """How `total` is read; None until it is known: rows, if nothing speaks against it."""
    total_certain: bool
    """Whether that reading was given, cached, or shown by the end of the list."""
    past_end: PastEndKind | None = None
    latest: int | None = None
    constant: bool = True
    """Whether every response named the same total, and one that was a count."""
    avoided: frozenset[int] = frozenset()
    """Page numbers that came back short."""
    stretches: bool = True
    """Whether pages a little above the size asked for may be tried."""
    heads: int = 0
    """Pages in a row that began at the head of the list, though they were asked for elsewhere."""
    _silent: TotalKind | None = None

    def __init__(self, given: Dialect, cached: Dialect, page_size: int) -> None:
        self.given, self.cached, self.page_size = given, cached, page_size
        known = given.fill_from(cached)
        self.votes = {"row": -_CERTAIN, "page": _CERTAIN}.get(known.offset or "", 1)
        self.cap = known.cap
        # Whether a total is absent or 0 shows with each response.
        total = cached.total if cached.total in {"rows", "pages", "wrong"} else None
        self.total = given.total or total
        self.total_certain = self.total is not None
        self._totals: dict[int, int] = {}
        """The latest total by rows on a page: a count of pages differs, one of rows does not."""

    # --- offset and limit ---

    @property
    def by_page(self) -> bool:
        """Whether `offset` is read as a page number, else as a row."""
        return self.votes > 0

    @property
    def certain(self) -> bool:
        """Whether more than one coincidence would be needed for the reading to be wrong."""
        return abs(self.votes) >= _CERTAIN

    @property
    def ignored(self) -> bool:
        """Whether three pages in a row, and not just one, began at the head."""
        return self.heads >= 3

    def observe(self, by_page: int, by_row: int) -> bool:
        """A page began so many rows from where each reading of `offset` has it.

        Returns whether that agrees with the reading so far. A page that begins exactly where the
        other reading has it takes all certainty from this one.
        """
        by_page, by_row = abs(by_page), abs(by_row)
        near, far = sorted((by_page, by_row))
        if self.given.offset is not None or 3 * near >= far:
            return True  # neither: rows moved
        vote = 1 if by_page < by_row else -1
        agrees = vote * self.votes > 0
        self.doubted |= self.certain and not agrees
        if not agrees and not (self.certain and near):
            self.votes = vote
        else:
            self.votes = max(-_MOST, min(_MOST, self.votes + vote))
        return agrees

    def doubt(self) -> None:
        """A page was not where a reading has it that hardly any page of this walk has confirmed."""
        if abs(self.votes) <= _CERTAIN and self.given.offset is None:
            self.doubted |= self.certain
            self.votes = 1 if self.by_page else -1

    def flip(self) -> None:
        """Try the other reading of `offset`, unless this one is certain."""
        if not self.certain:
            self.votes = -self.votes

    def served(self, limit: int) -> int:
        """The rows of a full page."""
        return limit if self.cap is None else min(limit, self.cap)

    def start(self, limit: int, offset: int) -> int:
        """The row that a page should begin with."""
        return offset * self.served(limit) if self.by_page else offset

    def is_full(self, window: Window) -> bool:
        """Whether a page has as many rows as were asked for, or as the server's cap lets pass."""
        return window.size >= self.served(window.request.limit)

    def shows_end(self, window: Window) -> bool:
        """Whether a page's last row must be the list's: it is not full, and by no silent cap."""
        return 0 < window.size < min(self.served(window.request.limit), self.largest)

    def is_placed(self, window: Window) -> bool:
        """Whether it is known which rows of the list a page shows.

        The reading of `offset` must be beyond doubt, and a silent cap, which would move a page
        asked for by number, ruled out.
        """
        if not window.request.offset:
            return True
        uncapped = self.is_full(window) or self.shows_end(window) or not self.by_page
        return self.certain and not self.doubted and uncapped

    def page_at(
        self, row: int, limit: int, *, stretch: bool = False, least: int = 0
    ) -> PageRequest:
        """The page that begins at or before `row`, not before `least`, and ends furthest on.

        Page numbers fix where a page of a given size begins, so sizes are tried up to `limit`; with
        `stretch` a little above it, for overlap, if that brings `limit` new rows at most.
        """
        row = max(row, 0)
        if not self.by_page or row == 0:
            return PageRequest(limit, row, row)
        stretch = stretch and self.stretches and self.cap is None
        limit, number = _widest_page(row, limit, least, self.avoided, stretch=stretch)
        return PageRequest(limit, number, number * limit)

    def avoid(self, request: PageRequest) -> None:
        """Ask no more for the page of that number: it may be the number that lacks rows."""
        self.stretches &= request.limit <= self.page_size
        if request.offset and self.by_page:
            self.avoided |= {request.offset}

    # --- total ---

    def record(self, window: Window) -> None:
        """Note the size and the numbers of a response."""
        limit, total, numbers = window.request.limit, window.total, window.numbers
        echo = numbers.limit
        if 0 < (numbers.offset or 0) < window.request.offset and window.size:
            self.past_end = "clamped"
        self.largest = max(self.largest, window.size)
        self.granted = max(self.granted, limit)
        if echo and 0 < echo < limit and window.size <= echo and self.given.limit != "kept":
            self.cap, self.cap_echoed = min(echo, self.cap or echo), True
        if self._totals or self._silent:
            self.constant &= total is not None and total == self.latest
        self.latest = total
        if total is None:
            self._silent = "zero" if numbers.total == 0 else "absent"
            return
        self._silent = None
        self._totals[self.served(limit)] = total
        if self.total == "wrong" and self.given.total is None and self.rows_by_pages:
            self.total, self.total_certain = "pages", False

    def note_pages(self, limit: int, total: int, end: int) -> None:
        """Full pages of at most `limit` rows came as expected up to row `end`, beside one total."""
        self.largest, self.granted, self.latest = max(self.largest, limit), limit, total
        self._totals[self.served(limit)] = total
        if end > limit:
            self.votes = _MOST if self.by_page else -_MOST

    def rows(self, window: Window) -> tuple[int, int] | None:
        """The least and the most rows in the list by the response's total; None if not known."""
        return self.counted(window.total, window.request.limit)

    def counted(self, total: int | None, limit: int) -> tuple[int, int] | None:
        """The same, for a total beside a page of `limit` rows."""
        if self.total == "pages" and total is not None:
            size = self.served(limit)
            return (total - 1) * size + 1, total * size
        return (total, total) if total is not None and self.total in _ROWS else None

    def drop_pages(self) -> None:
        """The total is no number of pages, or not any more."""
        if self.given.total is None:
            self.total, self.total_certain = None, False

    def distrust(self) -> None:
        """More rows came than the total allows: it is no count of rows, but perhaps of pages."""
        agree = self.total != "pages" and self.rows_by_pages
        self.total, self.total_certain = "pages" if agree else "wrong", False

    def note_end(self, window: Window) -> None:
        """The list ended with the window: see what its total counted."""
        end, total, size = window.end, window.total, self.served(window.request.limit)
        if self.given.total is not None or total is None:
            return
        if total == end > 1 and size > 1 and (self.certain or not window.request.offset):
            self.total, self.total_certain = "rows", True
        elif end in self.rows_by_pages:
            self.total, self.total_certain = "pages", True

    @property
    def rows_by_pages(self) -> range:
        """The rows of which all totals are numbers of pages; none if that may be a coincidence.

        Only totals that differ, for pages of different size, agree by no coincidence.
        """
        totals = self._totals
        if len(set(totals.values())) < 2:
            return range(0)
        low = max((total - 1) * size + 1 for size, total in totals.items())
        return range(low, min(total * size for size, total in totals.items()) + 1)

    # --- what was detected ---

    def dialect(self) -> Dialect:
        """What is known by now: given, detected, or cached."""
        return self.given.fill_from(dialect_of(*self._detected)).fill_from(self.cached)

    @property
    def _detected(self) -> tuple[Any, ...]:
        """What the answers showed, the fields of a dialect."""
        offset = limit = None
        if self.ignored:
            offset = "ignored"
        elif self.certain:
            offset = "page" if self.by_page else "row"
        if self.cap is not None:
            limit = "capped" if self.cap_echoed else self.cached.limit or "capped-silent"
        return offset, self._silent or self.total, limit, self.cap, self.past_end

    def lesson(self, *, moved: bool) -> Dialect:
        """What the next walk should know: not what was merely given, or seen in motion only.

        What was cached and turned out otherwise is not known any more.
        """
        given, cached = self.given, self.cached
        offset, total, limit, cap, past_end = self._detected
        if offset is None and cached.offset != ("row" if self.by_page else "page"):
            offset = cached.offset
        total = total or cached.total
        if moved:
            offset = offset if cached.offset else None
            total = total if total == cached.total else None
        return dialect_of(
            offset if given.offset is None else cached.offset,
            total if given.total is None else cached.total,
            cached.limit if given.limit or given.cap else limit or cached.limit,
            cached.cap if given.cap else cap,
            given.past_end or past_end or cached.past_end,
        )


@lru_cache(maxsize=64)
def initial_model(given: Dialect, cached: Dialect, page_size: int) -> ServerModel:
    """The model that a walk begins with, to be looked at only: it is the same for many walks."""
    return ServerModel(given, cached, page_size)


@lru_cache(maxsize=4096)
def _widest_page(
    row: int, limit: int, least: int, avoided: frozenset[int], *, stretch: bool
) -> tuple[int, int]:
    """(limit, page number) of the page that begins from `least` to `row` and ends furthest on."""
    best, furthest = (limit, row // limit), -1
    most = limit + 2 * isqrt(limit) if stretch else limit
    for size in (*range(limit, 0, -1), *range(limit + 1, most + 1)):
        if size == limit + 1 and furthest >= row + limit - limit // 10:
            break  # far enough without
        number = row // size
        end = (number + 1) * size
        if furthest < end <= row + 1 + limit and number * size >= least and number not in avoided:
            best, furthest = (size, number), end
    return best
