"""The walk: pages that overlap, one after the other or several in flight, until the end is seen.

`Walk` is fed one response at a time and is in one of these states:

    READ        ask for the page across the frontier, the boundary between rows taken and not
                taken; if a page does not show the last row taken, look for it elsewhere (`_miss`)
    CHECK_END   a page is not full and may be the last: look across its end before it is believed
    FIND_END    rows arrive faster than pages are read: find the row that is the last one now
    done        complete, or failed with a reason

It is complete when the last row of the list is taken: a page ends where the total does; or, without
a total to rely on, two looks show nothing behind it. What `offset`, `limit` and `total` mean only
picks the page to look at next; the rows on it decide (see `seen`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

from attrs import define, evolve, field

from capillary_targets.errors import (
    ApiError,
    CapillaryError,
    EndpointGone,
    NoRecordFound,
    PaginationError,
)
from capillary_targets.models import EventsPage, TargetEvent

from .dialect import UNKNOWN, Dialect
from .search import EndMarker, GallopingSearch, Pace
from .seen import Alignment, SeenEvents
from .server_model import LEAST_CAP, ServerModel
from .types import START, Batch, Checkpoint, PageRequest, PagingReport, Window

__all__ = ["Walk"]

_COUNTS_ROWS: Final = Dialect(total="rows")
_NO_ROWS: Final = ("pages", "wrong")

_RECUTS: Final = 3
"""How often a page that is short in the middle of the list is asked for again, cut differently."""
_MOST_IDLE: Final = 32
_GAPS: Final = 2
"""How many pages in a row may be left out altogether."""
_CALM: Final = 4
"""Full pages after which smaller cuts are given up."""
_GROWTHS: Final = 3
"""How often the end may move on while it is checked before it is taken where it is."""
_REPLACEMENTS: Final = 3
"""How often the whole list may be replaced by other rows."""
_AHEAD: Final = 10
"""Without a total, one page is asked for ahead for so many read: at most a tenth is wasted."""
_CANNOT_VOUCH: Final = "some pages lacked events, and the total changed: it cannot vouch"


@define(eq=False, repr=False)
class _Held:
    """A page that may be the last: its new rows are taken, and given out once it is checked."""

    window: Window
    match: Alignment
    taken: list[TargetEvent | int]
    """The rows taken before it."""
    last: int
    """The number under which its last row is taken."""


@define(eq=False, repr=False)
class Walk:
    """One walk. Ask for the pages of `requests()`, feed their responses in order, until `done`.

    Args:
        page_size: new events in one page, at most (but 8 where fewer are asked for).
        max_items: end after so many events.
        prefetch: the most pages to have in flight.
        dialect: what is certain about the server.
        cached: what earlier walks detected of it.
        start: where to resume.
    """

    page_size: int
    max_items: int | None = None
    prefetch: int = 1
    dialect: Dialect = UNKNOWN
    cached: Dialect = UNKNOWN
    start: Checkpoint = START

    done: bool = field(init=False, default=False)
    reason: str = field(init=False, default="not started")
    complete: bool = field(init=False, default=False)
    """The walk is over, and nothing is missing."""
    failed: bool = field(init=False, default=False)
    """The walk is over, and cannot prove that nothing is missing."""
    events: int = field(init=False, default=0)
    """Given out."""
    moved: bool = field(init=False, default=False)
    """Whether the list was seen to shift."""
    _plan: list[PageRequest] = field(init=False, factory=list)
    _requests: int = field(init=False, default=0)
    _batches: list[Batch] = field(init=False, factory=list)
    _error: CapillaryError | None = field(init=False, default=None)
    _no_record: bool = field(init=False, default=False)
    _total: int | None = field(init=False, default=None)
    _glance: Dialect | None = field(init=False, default=UNKNOWN)
    """What the first page showed, as long as it sufficed. The fields below are set when more is
    to be read."""
    _state: Literal["READ", "CHECK_END", "FIND_END"] = field(init=False)
    _server: ServerModel = field(init=False)
    _seen: SeenEvents = field(init=False)
    _row: int = field(init=False)
    """The row behind the last one taken, as the server last counted."""
    _limit: int = field(init=False)
    """The most rows to ask for: fewer than `_most` while short pages are cut differently."""
    _rows: tuple[int, int] | None = field(init=False)
    """The least and the most rows in the list, by the latest response."""
    _pages: int = field(init=False)
    _drift: int = field(init=False)
    """Rows that vanished before the frontier between the latest two responses."""
    _overlap: int = field(init=False)
    _before: tuple[int, int, int] = field(init=False)
    """Where the latest page with an anchor began: as a page, as a row, and among the rows taken."""
    _aim: int | None = field(init=False)
    """Where to look for the frontier, if not at `_row`."""
    _search: GallopingSearch = field(init=False)
    _flipped: bool = field(init=False)
    _missing: bool = field(init=False)
    _unsure: bool = field(init=False)
    """Whether the list may have shifted, or offsets were not yet understood."""
    _restarts: int = field(init=False, default=0)
    _duplicates: int = field(init=False, default=0)
    _idle: int = field(init=False)
    """Responses since new rows were last taken."""
    _recuts: int = field(init=False)
    _calm: int = field(init=False)
    _short: tuple[int, int] = field(init=False)
    """Size and start of the latest page that was not full."""
    _held: _Held | None = field(init=False)
    _growths: int = field(init=False)
    _replaced: int = field(init=False)
    _owing: bool = field(init=False)
    """Whether rows came from pages that lacked some, so that only the total can vouch."""
    _gaps: int = field(init=False)
    _excused: bool = field(init=False)
    _by_position: bool = field(init=False)
    """Whether pages were joined by position alone, so that only the total can vouch."""
    _marker: EndMarker | None = field(init=False)
    _pace: Pace = field(init=False)
    _date: datetime | None = field(init=False)
    """Of the last row taken, where the walk was resumed."""

    def __attrs_post_init__(self) -> None:
        if self.max_items == 0:
            self._stop()
        if self.start is not START:
            self.cached = self.cached.fill_from(self.start.dialect)
        if self.start.row:
            self._begin()

    def _begin(self) -> None:
        """Prepare to read more than one page."""
        start, self._glance, self._state = self.start, None, "READ"
        self._server = ServerModel(self.dialect, self.cached, self.page_size)
        self._seen = SeenEvents.at(start)
        self._row, self._limit = start.row, self._most
        self._date = start.date
        self._overlap = max(1, len(self._seen.rows) - 1)
        self._before = self._seen.skipped, self._seen.skipped, 0
        self._search, self._pace = GallopingSearch(), Pace()
        self._rows = self._aim = self._held = self._marker = None
        self._pages = self._drift = self._idle = self._recuts = self._calm = 0
        self._growths = self._replaced = self._gaps = 0
        self._short = 0, 0
        self._flipped = self._missing = self._unsure = False
        self._owing = self._excused = self._by_position = False

    # --- what the driver sees ---

    @property
    def error(self) -> PaginationError | None:
        """Why the walk is not complete, once it is over."""
        if not self.failed:
            return None
        report = self.report
        error = PaginationError(
            f"the pages do not add up: {report.reason}; {report.events} events in "
            f"{report.requests} requests, of {report.total} by the server's total",
            report=report,
        )
        error.__cause__ = self._error
        return error

    @property
    def report(self) -> PagingReport:
        """What was done so far."""
        return PagingReport(
            self.events,
            self._requests,
            0 if self._no_record else self._total,
            self.complete,
            self._no_record,
            self.reason,
            self._duplicates,
            self._restarts,
            self.moved,
            self.detected,
        )

    @property
    def detected(self) -> Dialect:
        """The dialect as far as it is known."""
        if self._glance is None:
            return self._server.dialect()
        return self.dialect.fill_from(self._glance).fill_from(self.cached)

    @property
    def lesson(self) -> Dialect:
        """What the next walk should know."""
        if self._glance is None:
            return self._server.lesson(moved=self.moved)
        return self.cached if self.dialect.total else self._glance.fill_from(self.cached)

    def requests(self) -> tuple[PageRequest, ...]:
        """The pages to have in flight now, the next to be fed first; none once it is done."""
        if self.done:
            return ()
        plan = self._plan
        before = len(plan)
        if not plan:
            plan.append(self._next())
        while len(plan) < self.prefetch and self._glance is None and self._may_read_on(plan[-1]):
            plan.append(self._across(self._end(plan[-1]), self._limit))
        self._requests += len(plan) - before
        return tuple(plan)

    def is_response(self, request: PageRequest, error: CapillaryError) -> bool:
        """Whether an error may mean "past the end", so that it is a response to be fed."""
        if isinstance(error, NoRecordFound):
            return True
        unspecific = type(error) is ApiError and not error.retryable
        return request.offset > 0 and (unspecific or isinstance(error, EndpointGone))

    def feed(self, request: PageRequest, answer: EventsPage | CapillaryError) -> list[Batch]:
        """Take in the response to the first of `requests()`; return the events it proves.

        Raises:
            ValueError: this is not the first of `requests()`.
        """
        if self.done or not self._plan or request is not self._plan[0]:
            raise ValueError("not the response to the next request")
        del self._plan[0]
        page = None
        if isinstance(answer, CapillaryError):
            self._error = answer
        else:
            page = answer
        if self._glance is None or not self._shows_all(request, page):
            if self._glance is not None:
                self._begin()
            window = Window(request, page)
            self._take_in(window)
            if self._wanted == 0:
                self._stop()
            if self._plan and (self.done or not self._is_across(self._plan[0])):
                self._plan.clear()
        batches, self._batches = self._batches, []
        return batches

    def _shows_all(self, request: PageRequest, page: EventsPage | None) -> bool:
        """Whether the first page is the whole list: one look, and the walk is over."""
        if page is None:
            self._no_record = True
            self._complete("no record")
            return True
        total, size, echo = page.pagination.total, len(page.events), page.pagination.limit
        if total != size or (echo and 0 < echo < request.limit):
            return False
        kind = self.dialect.total or self.cached.total
        if kind != "rows" and (size >= request.limit or kind in _NO_ROWS or self.dialect.total):
            return False  # perhaps the first of as many pages
        self._total = total
        if total > 1 and request.limit > 1:
            self._glance = _COUNTS_ROWS
        self._emit(page, page.events, 0)
        self._complete("the last page ends where the total does")
        return True

    def _emit(self, page: EventsPage, events: tuple[TargetEvent, ...], row: int) -> None:
        """Give out events of a page, the first of which stands in `row`."""
        wanted = self._wanted
        if wanted is not None and len(events) > wanted:
            events = events[:wanted]
            self._stop()
        if events:
            self.events += len(events)
            if len(events) != len(page.events):
                page = evolve(page, events=events)
            self._batches.append(Batch(page, row))

    @property
    def _wanted(self) -> int | None:
        """How many more events are wanted; None: all there are."""
        return None if self.max_items is None else self.max_items - self.events

    def _stop(self) -> None:
        """End: as many events as were wanted are given out."""
        if not self.done:
            self.done, self.reason = True, f"max_items ({self.max_items}) are given out"

    def _complete(self, reason: str) -> None:
        """End: nothing is missing."""
        if not self.done:
            self.done, self.complete, self.reason = True, True, reason

    def _fail(self, problem: str) -> None:
        """End: nothing proves that no event is missing."""
        if not self.done:
            self.done, self.failed, self.reason = True, True, problem

    def _take_in(self, window: Window) -> None:
        request, server = window.request, self._server
        self._idle += 1
        if window.page is None:
            if request.offset == 0:
                self._no_record = self.events == 0
                self._release()
                self._complete("no record")
                return
            if request.limit > self.page_size and type(self._error) is ApiError:
                server.refuse_stretch()
                self._limit = min(self._limit, self.page_size)
                return
        else:
            self._total = window.total
        server.record(window)
        if self._state == "FIND_END" and self._marker is not None:
            self._find_end(self._marker, window)
        elif self._state == "CHECK_END" and self._held is not None:
            self._check_end(self._held, window)
        else:
            self._read(window)
        rows = max(self._total or 0, len(self._seen.rows))
        if self._idle > _MOST_IDLE + 4 * rows // self._limit:
            self._fail("pages come without end and show nothing new")

    # --- where to look ---

    @property
    def _most(self) -> int:
        return self._server.served(max(self.page_size, LEAST_CAP))

    def _next(self) -> PageRequest:
        """The page to ask for now."""
        if self._glance is not None:
            cap = self.dialect.cap or self.cached.cap or self.page_size
            return PageRequest(min(self.page_size, cap), 0, 0)
        server = self._server
        self._limit = min(self._limit, self._most)
        if self._state == "FIND_END" and self._marker is not None:
            return self._across(self._marker.aim, self._limit)
        if self._held is not None:
            # Cut differently, which also shows what the total counts.
            half = max(LEAST_CAP, min(self._most, server.largest) // 2)
            return self._across(self._held.window.end, min(self._most, half))
        if self._aim is not None:
            return server.page_at(self._aim, self._limit)
        if not self._requests and server.by_page and server.certain:
            # Resumed: fewer rows than any cap has show at once that nothing is new.
            least = self._row + 1 - LEAST_CAP
            return server.page_at(self._row - 4, self._limit, stretch=True, least=least)
        return self._across(self._row, self._limit)

    def _across(self, row: int, limit: int) -> PageRequest:
        """A page that begins some rows before `row` and ends behind it.

        Page numbers may have no such cut: row 2520 lies between two pages of any size up to 10.
        Then less overlap is tried, then larger pages than were asked for, at last none at all.
        """
        server = self._server
        overlap = min(max(self._overlap, self._seen.overlap), max(1, limit // 2))
        first = server.page_at(row - self._drift - overlap, limit, stretch=limit >= self._most)
        if self._drift or self._end(first) > row or not row:
            return first
        for size in (limit, limit if server.cap is not None else 2 * limit):
            for less in range(overlap, 0, -1):
                request = server.page_at(row - less, size)
                if self._end(request) > row:
                    return request
        return server.page_at(row, limit)

    def _end(self, request: PageRequest) -> int:
        """The row behind a full page."""
        return request.start + self._server.served(request.limit)

    def _is_across(self, request: PageRequest) -> bool:
        """Whether a page asked for ahead is still the one to read next."""
        undisturbed = self._state == "READ" and self._aim is None and not self.moved
        return undisturbed and not self._recuts and request.start < self._row < self._end(request)

    def _may_read_on(self, last: PageRequest) -> bool:
        """Whether a page behind `last` can be asked for before that one is read."""
        if not self._server.certain or not self._row or not self._is_across(self._plan[0]):
            return False
        end, wanted = self._end(last), self._wanted
        if self._owing or self._overlap > 1 or (wanted is not None and end - self._row >= wanted):
            return False
        if self._rows is None and self._marker is not None:
            return end < self._marker.row
        if self._rows is None:
            return len(self._plan) <= self._pages // _AHEAD
        return end < self._rows[0]

    # --- READ: what a page across the frontier means ---

    def _read(self, window: Window) -> None:
        self._aim = None
        server, seen = self._server, self._seen
        match = seen.align(window.events)
        self._locate(window, match)
        if match is not None and window.request.offset > 1:
            at_head = match.at == match.taken and not seen.skipped
            server.heads = server.heads + 1 if at_head else 0
        if server.ignored:
            self._fail("the server sends the head of the list whatever the offset")
            return
        match = self._anchor(window, match)
        if self.done:
            return
        if match is None:
            self._miss(window)
        elif self._settle(window, match):
            self._judge(window, match)

    def _locate(self, window: Window, match: Alignment | None) -> None:
        """Set where a page begins: where its offset says, unless the rows on it contradict that.

        How `offset` is read shows how far apart two pages lie that show rows taken.
        """
        server, request, agrees = self._server, window.request, True
        if match is not None:
            here = request.offset * server.served(request.limit), request.offset
            index, before = match.taken - match.at, self._before
            end = self._row if self._held is None else self._held.window.end
            first = end - len(self._seen.rows)  # the row of the first one taken
            if server.certain:
                before = first, first, 0
            self._before = *here, index
            if request.offset:
                apart = index - before[2]
                by_page, by_row = here[0] - before[0] - apart, here[1] - before[1] - apart
                agrees = server.observe(by_page, by_row)
        window.start = server.start(request.limit, request.offset)
        if match is not None and not agrees and server.certain:
            window.start, self._unsure = first + index, True

    def _anchor(self, window: Window, match: Alignment | None) -> Alignment | None:
        """The alignment of a page, if it can be believed.

        The anchor is the last row taken, with another one before it where one was asked for, so
        that a page whose first row is out of place is not believed. If that row is gone, the
        latest one that is still there will do, provided that the page begins among rows taken.
        """
        at_head = window.request.offset == 0 and window.page is not None
        seen, events = self._seen, window.events
        if match is not None:
            last = match.taken == len(seen.rows) - 1
            if not (last or at_head or seen.skipped or seen.find(events[0]) is not None):
                return None
            least = 0 if at_head or self._row - 1 <= window.start else 1
            return match if match.at >= least else None
        if self.start.row:
            # First the other reading of `offset`: the order of dates only helps if rows are gone.
            tried = self._flipped or self._server.certain or at_head
            return self._by_date(events, at_head=at_head) if tried else None
        if at_head:
            match = seen.extend(events, Alignment(-1, -1))
            if seen.rows and events and match.at < 0:
                self._replaced += 1
                if self._replaced > _REPLACEMENTS:
                    self._fail("the server sends other rows each time")
            return match
        server, placed = self._server, window.start == self._row
        if (server.certain or placed) and server.constant and not self.moved:
            match = seen.in_place(events, self._row - window.start)
            unknown = not any(seen.find(event) is not None for event in events)
            if match is not None and match.at < 0 and not unknown:
                match = None
            self._by_position |= match is not None
            if match is None and self._owing and unknown:  # all that came before it was left out
                return Alignment(-1, len(seen.rows) - 1)
        return match

    def _by_date(self, events: tuple[TargetEvent, ...], *, at_head: bool) -> Alignment | None:
        """Align by the documented chronological order alone."""
        dates: list[Any] = [event.event_date for event in events]
        try:
            if dates != sorted(dates) or self._date in dates:
                return None  # rows of that date may stand on either side of the frontier
            before = sum(date < self._date for date in dates)
        except TypeError:  # without a date, or not to be compared
            return None
        if not before and not (at_head and self._date is not None):
            return None
        self.moved = True
        # Where all rows are older, the last one taken stood behind the page.
        last = len(self._seen.rows) - 1
        return Alignment(before - 1, last if before < len(dates) else max(0, last - 1))

    def _settle(self, window: Window, match: Alignment) -> bool:
        """Note how the list shifted. False if the page ends before the frontier."""
        index, server = match.at, self._server
        later = len(self._seen.rows) - 1 - match.taken if index >= 0 else 0
        shift = self._row - 1 - later - window.start - index
        if (later or shift) and not self._excused:
            if server.certain or window.request.offset == 0:
                self.moved = True
            else:
                self._unsure = True
        self._excused = self._excused and bool(later)
        self._flipped = self._missing = False
        if server.certain and not later:
            self._duplicates += max(0, -shift)
        surprise, self._drift = abs(shift - self._drift), max(0, shift)
        self._overlap = max(1, self._overlap // 2, min(2 * surprise, self._limit // 2))
        if index + 1 < window.size or not later:
            return True
        if not self._full(window):  # the last row taken should be behind it, or is gone
            rows = server.rows(window)
            if rows is not None and self._is_placed(window):
                ends = rows[0] <= window.end <= rows[1]
            else:
                ends = self._shows_end(window)
            if ends or self._recuts >= _RECUTS:
                return True
            self._recut(window)
        self._row = self._search.right_of(window.end, window.end + later)
        return False

    def _judge(self, window: Window, match: Alignment) -> None:
        """What an aligned page means: more to read, the end, or something missing."""
        new = window.events[match.at + 1 :]
        full = self._full(window)
        rows = self._rows = self._counted(window, new)
        if self.done:
            return
        if self._owing and (new or full):
            self._owe(window, match)
        elif full:
            self._note_silent_cap(window)
            self._take(window, match)
            if rows is not None and self._server.total_certain and self._ends(window, rows[1]):
                self._finish(window, "the page ends where the total does")
            else:
                self._mark_end()
        elif rows is not None and self._reaches(window, new, rows):
            self._take(window, match)
            self._finish(window, "the last page ends where the total does")
        elif self._suffices(window, new):
            self._take(window, match)
        elif rows is not None and window.end < rows[0] and self._recuts < _RECUTS:
            self._recut(window)
        elif rows is not None and window.end < rows[0] and self._still(window):
            self._owe(window, match)
        elif rows is None and not new and match.at >= 0 and self._shows_end(window):
            self._take(window, match)
            self._finish(window, "nothing comes behind the last row taken")
        elif self._server.counts_pages(window.end) and self._server.certain and not self.moved:
            self._take(window, match)
            self._finish(window, "the last page by the server's counts of pages")
        else:
            self._hold(window, match)

    def _note_silent_cap(self, window: Window) -> None:
        """A full page, of as many rows as came for a larger limit before: a silent cap."""
        if self._short == (window.size, window.start) and window.size == window.request.limit:
            self._server.cap = self._server.cap or window.size

    def _reaches(self, window: Window, new: tuple[TargetEvent, ...], rows: tuple[int, int]) -> bool:
        """Whether a page that is not full ends where the total says that the list does."""
        server = self._server
        count = self._seen.count + len(new)
        if server.constant and count == rows[0] == rows[1] and not self.start.row:
            return True  # as many rows came as an unchanging total counts
        if not (rows[0] <= window.end <= rows[1] and self._is_placed(window)):
            return False
        if server.constant and count < rows[0] and not self.start.row:
            return False  # the page is not where it was asked for
        return server.total_certain or server.constant or self._shows_end(window)

    def _ends(self, window: Window, total: int) -> bool:
        """Whether a full page ends where a total says that the list does."""
        if window.end == total and self._is_placed(window):
            return True
        return self._server.total != "pages" and self._taken_all(total)

    def _is_placed(self, window: Window) -> bool:
        """Whether it is known which rows of the list a page shows.

        The reading of `offset` must be beyond doubt, and a silent cap, which would move a page
        asked for by number, ruled out.
        """
        server = self._server
        if not window.request.offset:
            return True
        uncapped = self._full(window) or self._shows_end(window) or not server.by_page
        return server.certain and not server.doubted and uncapped

    def _taken_all(self, total: int) -> bool:
        unmoved = self._server.constant and not self.moved and not self.start.row
        return unmoved and self._seen.count == total

    def _suffices(self, window: Window, new: tuple[TargetEvent, ...]) -> bool:
        """Whether the walk ends with these rows, whatever stands behind them."""
        wanted, marker = self._wanted, self._marker
        if wanted is not None and len(new) >= wanted:
            return True
        return marker is not None and marker.last in window.events

    def _full(self, window: Window) -> bool:
        return window.size >= self._server.served(window.request.limit)

    def _shows_end(self, window: Window) -> bool:
        """Whether a page's last row must be the list's: it is not full, and by no silent cap."""
        size, limit, server = window.size, window.request.limit, self._server
        if not 0 < size < server.served(limit):
            return False
        return limit <= server.largest or size < LEAST_CAP

    def _counted(self, window: Window, new: tuple[TargetEvent, ...]) -> tuple[int, int] | None:
        """The rows in the list by the total, unless more have come than it allows."""
        server, page = self._server, window.page
        if server.total == "pages" and window.end == window.total and not self._full(window):
            server.drop_pages()  # it counts rows now
        rows = server.rows(window)
        if rows is None or page is None or window.end <= rows[1] or self._owing:
            return rows
        echo, taken = page.pagination.offset, self._seen.count + len(new)
        if echo is not None and 0 < echo < window.request.offset:
            start = server.start(window.request.limit, echo)
            if start + window.size <= rows[1]:  # the last page was sent instead
                server.past_end, window.start = "clamped", start
                return rows
        if server.constant and taken <= rows[1] and not self.start.row:
            return rows  # a row came twice
        if server.given.total is not None:
            self._fail(f"row {window.end} came, though the total is {window.total}")
        elif window.request.offset == 0 or server.certain or not self.moved:
            server.distrust()
        return None

    def _take(self, window: Window, match: Alignment) -> None:
        """Take a page's new rows and give them out."""
        self._seen.add(window.events[match.at + 1 :], match.taken)
        self._give_out(window, match)

    def _give_out(self, window: Window, match: Alignment) -> None:
        """Give out a page's new rows."""
        new = window.events[match.at + 1 :]
        self._row = window.end
        self._pages += 1
        self._calm += 1
        if self._calm >= _CALM:
            self._limit = self._most
        if not new or window.page is None:
            return
        self._emit(window.page, new, window.start + match.at + 1)
        if self._search.step or self._search.low is not None:
            self._search = GallopingSearch()
        self._idle = self._recuts = 0
        if self.start.row:
            self._date = new[-1].event_date
        if self._marker is not None and self._marker.last in new:
            self._release()
            self._finish(
                window, "the row that was the last when the list was seen to grow has come"
            )

    # --- no anchor ---

    def _miss(self, window: Window) -> None:
        """Nothing ties the page to the rows taken: look elsewhere."""
        server, rows, seen = self._server, self._server.rows(window), self._seen
        self._restarts += not self._missing
        self._missing = True
        request = window.request
        if request.offset == 0:
            if window.page is not None:
                self._fail("the rows that the checkpoint remembers are gone")
            return
        known = any(seen.find(event) is not None for event in window.events)
        server.doubt()
        if window.size and not known and not self.start.row:
            if rows is not None and server.by_page and request.limit * request.offset >= rows[1]:
                server.observe(1, 0)  # as a page it would be past the end
            elif 2 * request.offset < self._row:
                server.observe(0, 1)  # a row would be known
        if not server.certain and not self._flipped and not known:
            self._flipped, self._aim = True, request.start
            server.flip()
            return
        empty = not window.size and window.page is not None
        if empty and server.certain and self._recuts < _RECUTS:
            self._recut(window)  # nothing came where rows were taken before
            return
        if not known:
            server.flip()
            self._flipped = False
        overlap = max(2, self._overlap, self._limit // 20)
        self._aim = self._search.left_of(min(window.start, self._row), 2 * overlap)
        if rows is not None:
            self._aim = min(self._aim, rows[1] - overlap)
        self._aim = max(0, self._aim)

    # --- pages that are not full: the end, or something missing ---

    def _recut(self, window: Window) -> None:
        """Ask for the rows of a page again, cut differently: what it lacks may be an accident."""
        limit, size, (size_before, start_before) = window.request.limit, window.size, self._short
        self._recuts += 1
        self._calm = 0
        self._server.stretches = False
        self._server.avoid(window.request)
        # A total gives away even a cap of a few rows, but only where few were asked for at all.
        counted = self._server.rows(window) is not None and self.page_size <= LEAST_CAP
        self._limit = size if (1 if counted else 4) <= size < limit else max(4, limit // 2)
        if (1 if counted else LEAST_CAP) <= size < limit:
            self._short = size, window.start
            if size == size_before and start_before != window.start and self._server.cap is None:
                self._server.cap = size  # here as there: the server caps its pages silently

    def _hold(self, window: Window, match: Alignment) -> None:
        """Take a page that may be the last, and look across its end before giving it out."""
        new, taken = window.events[match.at + 1 :], list(self._seen.rows)
        self._server.avoid(window.request)
        self._server.stretches = False
        self._seen.add(new, match.taken)
        self._held = _Held(window, match, taken, match.taken + len(new))
        self._state = "CHECK_END"

    def _release(self) -> None:
        """Give out what is held."""
        held, self._held = self._held, None
        if held is not None:
            self._state = "READ"
            self._give_out(held.window, held.match)

    def _drop(self, held: _Held) -> None:
        """Take back what is held: it is to be read again."""
        self._held, self._state = None, "READ"
        self._seen.restore(held.taken)

    def _check_end(self, held: _Held, window: Window) -> None:
        """A look across the end of the page that may be the last."""
        match = self._seen.align(window.events)
        if match is None and not window.size and not held.window.size:
            self._release()  # an empty list
            self._conclude(held.window)
            return
        self._locate(window, match)
        if match is None or match.taken < held.last:
            self._drop(held)  # the page is not where it was: look for it again
            if match is None:
                self._server.doubt()
                self._server.flip()
        elif match.at + 1 < window.size:
            self._more_behind(held, window, match)
        elif self._shows_end(window):
            self._release()
            self._conclude(window)

    def _conclude(self, window: Window) -> None:
        """Two looks showed nothing behind the last row taken."""
        rows = self._server.rows(window)
        if self._server.total == "pages" and not self._server.counts_pages(window.end):
            self._server.drop_pages()
        if rows is not None and not rows[0] <= window.end <= rows[1] and not self.moved:
            self._fail(f"the total is {window.total}, and nothing comes behind row {window.end}")
        elif self._server.total != "pages" and self._server.speaks_of_more(window.end):
            self._fail("the totals, as numbers of pages, speak of more events")
        else:
            self._finish(window, "a page that is not full, and nothing behind it")

    def _more_behind(self, held: _Held, window: Window, match: Alignment) -> None:
        """The page was not the last, or is not any more."""
        if not self._full(window) and self._growths < _GROWTHS:
            self._growths += 1  # the end moved on
            self._release()
            self._hold(window, match)
        elif not self._full(window) and self._marker is None:
            # It would show something new for ever.
            self._marker = EndMarker(0, None, window.events[-1], window.end)
            self._release()
            self._take(window, match)
        elif self._recuts < _RECUTS:
            self._drop(held)
            self._recut(held.window)
        elif self._still(window):
            self._release()
            self._owe(window, match)
        else:
            self._fail(f"behind row {self._row} a page lacks events, and more come after it")

    def _owe(self, window: Window, match: Alignment) -> None:
        """Take rows from a page that may lack some: whether it did, only the total can tell."""
        if not self._still(window):
            self._fail(_CANNOT_VOUCH)
            return
        recuts, self._owing = self._recuts, True
        new, full = match.at + 1 < window.size, self._full(window)
        self._gaps = 0 if new else self._gaps + 1
        if self._gaps > _GAPS:
            count = self._seen.count
            self._fail(f"the total is {window.total}, and nothing comes behind row {count}")
            return
        self._take(window, match)
        self._recuts = max(recuts, _RECUTS)
        if not new:
            self._limit = self._most
        if not full:
            self._row = window.start + self._server.served(window.request.limit)
            self._excused = True
        if self._seen.count >= (window.total or 0) and not (new and full):
            self._finish(window, "as many events came as the total names")

    def _still(self, window: Window) -> bool:
        """Whether nothing suggests that the list moved, and its total can be relied on."""
        rows = self._server.rows(window)
        undisturbed = self._server.constant and not self.moved and not self._unsure
        return undisturbed and rows is not None and rows[0] == rows[1]

    def _finish(self, window: Window, reason: str) -> None:
        """The end of the list was seen: all is well, if what came also adds up."""
        server, total, count = self._server, window.total, self._seen.count
        if self.done:
            return
        exact = server.constant and total is not None and server.total in {None, "rows"}
        known = server.given.total is None and server.cached.total not in {"pages", "wrong"}
        if self._marker is None and not self.start.row and self._disagrees(window, known=known):
            self._fail(f"the total is {total}, and {count} events came")
        elif self._by_position and not (exact and count == total):
            self._fail("pages do not overlap, and no total can vouch for them")
        elif self._owing and not self._still(window):
            self._fail(_CANNOT_VOUCH)
        else:
            self.moved |= bool(self.start.row) and exact and count != total
            server.note_end(window)
            self._complete(reason)

    def _disagrees(self, window: Window, *, known: bool) -> bool:
        """Whether an unchanging total counts other rows than came."""
        total, count = window.total, self._seen.count
        if total is None or not self._server.constant:
            return False
        if self._still(window) and count != total:
            return True
        return count < total and known and not self._server.counts_pages(window.end)

    # --- FIND_END: a list that grows faster than it can be read ---

    def _mark_end(self) -> None:
        """If the end does not come nearer, agree on one: the row that is the last *now*.

        All that lasts stands at or before it; once it is taken the walk is complete.
        """
        total, marker = self._exact(self._rows), self._marker
        if self.done or (marker is not None and self._row <= marker.row + self._limit):
            return
        expected = 0 if self._rows is None else self._rows[1] // self._limit
        if not self._pace.outrun(self._row, total, expected):
            return
        if self._pace.markers == 4:
            self._fail("the list grows faster than it can be read")
            return
        self._pace = Pace(self._pace.markers + 1)
        self._marker = EndMarker.begin(self._row, total, self._limit)
        self._state = "FIND_END"

    @staticmethod
    def _exact(rows: tuple[int, int] | None) -> int | None:
        return None if rows is None or rows[0] != rows[1] else rows[1]

    def _find_end(self, marker: EndMarker, window: Window) -> None:
        server, rows = self._server, self._server.rows(window)
        if not window.size:
            server.flip()
        window.start = server.start(window.request.limit, window.request.offset)
        if self._shows_end(window):
            marker.last, marker.row = window.events[-1], window.end
            self._state = "READ"
            return
        marker.look_on(window, self._exact(rows), self._row, self._limit)
        if marker.problem is not None:
            self._fail(marker.problem)
