"""The walk: pages that overlap, one after the other or several in flight, until the end is seen.

`Walk` is fed one response at a time and is in one of these states:

    FIRST       ask for the head of the list; a page that holds all of it ends the walk
    STILL       the server is known, and all pages were what a list that keeps still would show
    READ        ask for the page across the frontier, the boundary between rows taken and not
                taken; if a page does not show the last row taken, look for it elsewhere (`_miss`)
    CHECK_END   a page is not full and may be the last: look across its end before it is believed
    FIND_END    rows arrive faster than pages are read: find the row that is the last one now
    done        complete, or failed with a reason

Why a page ends the walk is decided by `_why_last` alone, or in CHECK_END by a second look at the
end. What `offset`, `limit` and `total` mean only picks the page to look at next; the rows on it
decide (see `seen`).
"""

from __future__ import annotations

from typing import Any, Final, Literal

from attrs import define

from capillary_targets.errors import (
    ApiError,
    CapillaryError,
    EndpointGone,
    NoRecordFound,
    PaginationError,
)
from capillary_targets.models import EventsPage, TargetEvent

from .dialect import UNKNOWN, Dialect
from .seen import Alignment, SeenEvents
from .server_model import LEAST_CAP, ServerModel, initial_model
from .types import START, Batch, Checkpoint, PageRequest, PagingReport, Window

_COUNTS_ROWS: Final = Dialect(total="rows")
_NO_ROWS: Final = frozenset({"pages", "wrong"})
_LEAST_PAGE: Final = 8
"""Rows to ask for at least: overlaps would cost most of smaller pages."""
_RECUTS: Final = 3
"""How often a page that is short in the middle of the list is asked for again, cut differently."""
_MOST_IDLE: Final = 32
_REPLACEMENTS: Final = 3
"""How often the whole list may be replaced by other rows."""
_AHEAD: Final = 10
"""Without a total, one page is asked for ahead for so many read: at most a tenth is wasted."""
_GROWTHS: Final = 3
"""How often the end may move on, while it is checked or before it is reached."""
_LATE: Final = 4
"""Pages after which the end is looked for, if it is as far away as when the walk began."""
_LONG: Final = 64
"""The same where no total says where to expect it."""
_LOOKS: Final = 12
"""How often the end is looked for where a total says where to expect it."""
_FAR: Final = 2**31
"""No history has so many rows: rows at this offset mean an endless server."""
_TOTAL_ENDS: Final = "the last page ends where the total does"
_WAS_LAST: Final = "the row that was the last when the list was seen to grow has come"


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

    # Nearly all walks of a sweep are one page: what others need is set by `_begin`, or below.
    page_size: int
    max_items: int | None
    prefetch: int
    dialect: Dialect
    cached: Dialect
    start: Checkpoint
    done: bool = False
    reason: str = "not walked to its end"
    complete: bool = False
    """The walk is over, and nothing is missing."""
    failed: bool = False
    """The walk is over, and cannot prove that nothing is missing."""
    events: int = 0
    """Given out."""
    moved: bool = False
    """Whether the list was seen to shift."""
    _state: Literal["FIRST", "STILL", "READ", "CHECK_END", "FIND_END"] = "FIRST"
    _requests = _restarts = _duplicates = 0
    _error: CapillaryError | None = None
    _total: int | None = None
    _no_record = False
    _server: ServerModel
    """In STILL one that all walks share, which learns nothing."""
    _seen: SeenEvents
    _row = 0
    """The row behind the last one taken, as the server last counted."""
    _granted = 0
    """The largest page that came in STILL."""
    _limit: int
    """The most rows to ask for: fewer than `_most` while a short page is cut differently."""
    _overlap = 1
    _before = 0, 0, 0
    """Where the latest page with an anchor began: as a page, as a row, and among the rows taken."""
    _search: GallopingSearch
    _rows: tuple[int, int] | None = None
    """The least and the most rows in the list, by the latest response."""
    _drift = 0
    """Rows that vanished before the frontier between the latest two responses."""
    _aim: int | None = None
    """Where to look for the frontier, if not at `_row`."""
    _lost = 0
    """Pages in a row that did not show the last row taken."""
    _idle = 0
    """Responses since new rows were last taken."""
    _recuts = 0
    _short = 0, 0
    """Size and start of the latest page that was not full."""
    _held: tuple[Window, Alignment, list[TargetEvent | int], int] | None = None
    """A page that may be the last, not given out yet; and the rows taken, and `_row`, before it."""
    _growths = 0
    """How often the end has moved on."""
    _replaced = 0
    _joined = False
    """Whether pages did not overlap, so that only the total can vouch."""
    _marker: tuple[TargetEvent, int] | None = None
    """The row that was the last of the list when it was looked for, and the row behind it."""
    _distance: int | None = None
    """Rows that the list had by its total when the walk began."""

    def __init__(
        self,
        page_size: int,
        max_items: int | None = None,
        *,
        prefetch: int = 1,
        dialect: Dialect = UNKNOWN,
        cached: Dialect = UNKNOWN,
        start: Checkpoint = START,
    ) -> None:
        self.page_size, self.max_items, self.prefetch = page_size, max_items, prefetch
        self.dialect, self.cached, self.start = dialect, cached, start
        self._plan: list[PageRequest] = []
        self._batches: list[Batch] = []
        if max_items == 0:
            self._stop()
        if start is not START:
            self.cached = cached.fill_from(start.dialect)
            if start.row:
                self._resume(start)

    def _begin(self) -> None:
        """Prepare to read more than the first page."""
        self._seen, self._state = SeenEvents(), "STILL"
        self._server = initial_model(self.dialect, self.cached, self.page_size)
        if not self._server.certain:
            self._learn()
        self._limit = self._most

    def _resume(self, start: Checkpoint) -> None:
        """Prepare to go on behind a checkpoint."""
        self._seen = seen = SeenEvents.at(start)
        self._learn()
        self._server.largest = _LEAST_PAGE  # a cap was detected then
        self._row, self._limit = start.row, self._most
        self._overlap = max(1, len(seen.rows) - 1)
        self._before = seen.skipped, seen.skipped, 0

    def _learn(self) -> None:
        """READ from now on, with a model of the server that learns from the pages."""
        self._server = ServerModel(self.dialect, self.cached, self.page_size)
        self._search = GallopingSearch()
        self._state = "READ"
        if self._row and self._total is not None:
            self._server.note_pages(self._granted, self._total, self._row)

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
        if self._state in {"FIRST", "STILL"}:
            return self.dialect.fill_from(self.lesson)
        return self._server.dialect()

    @property
    def lesson(self) -> Dialect:
        """What the next walk should know."""
        if self._state not in {"FIRST", "STILL"}:
            return self._server.lesson(moved=self.moved)
        if (self._total or 0) < 2 or self.cached.total == "rows" or self.dialect.total:
            return self.cached
        return _COUNTS_ROWS.fill_from(self.cached)

    def requests(self) -> tuple[PageRequest, ...]:
        """The pages to have in flight now, the next to be fed first; none once it is done."""
        plan = self._plan
        if not (plan or self.done):
            plan.append(self._next())
            self._requests += 1
        while 0 < len(plan) < self.prefetch and self._may_read_on(plan[-1]):
            plan.append(self._across(self._behind(plan[-1]), self._limit))
            self._requests += 1
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
        if not self._plan or request is not self._plan.pop(0):
            raise ValueError("not the response to the next request")
        page = None
        if isinstance(answer, CapillaryError):
            self._error = answer
        else:
            page = answer
        if self._state != "FIRST" or not self._shows_all(request, page):
            if self._state == "FIRST":
                self._begin()
            if self._state == "STILL" and not self._fits(request, page):
                self._learn()
            if self._state != "STILL":
                self._take_in(Window(request, page))
                self._limit = min(self._limit, self._most)
            if self._suffice(0):
                self._stop()
            if self._plan and (self.done or not self._is_across(self._plan[0])):
                self._plan.clear()
        batches, self._batches = self._batches, []
        return batches

    # --- FIRST: one look at all of the list ---

    def _shows_all(self, request: PageRequest, page: EventsPage | None) -> bool:
        """Whether the first page is the whole list: one look, and the walk is over."""
        if page is None:
            self._no_record = True
            self._end("no record", complete=True)
            return True
        numbers, size = page.pagination, len(page.events)
        if numbers.total != size or (numbers.limit and 0 < numbers.limit < request.limit):
            return False
        kind = self.dialect.total or self.cached.total
        if kind != "rows" and (size >= request.limit or kind in _NO_ROWS or self.dialect.total):
            return False  # perhaps the first of as many pages
        self._total = size
        self._give_out(page, page.events, 0)
        self._end(_TOTAL_ENDS, complete=True)
        return True

    # --- STILL: the page that is expected ---

    def _fits(self, request: PageRequest, page: EventsPage | None) -> bool:
        """Take a page that is what a list that keeps still would show; False if it may not be.

        The last row taken is where it should be and the total is what it was: those behind it are
        new, and none has to be compared with the rows taken before.
        """
        if page is None:
            return False
        server, row, taken, events = self._server, self._row, self._seen.rows, page.events
        size, index, end = len(events), row - 1 - request.start, request.start + len(events)
        numbers = page.pagination
        rows = server.counted(numbers.total, request.limit)
        if rows is None or (row and numbers.total != self._total):
            return False
        if index >= size - 1 or (row and (index < 0 or events[index] != taken[-1])):
            return False
        new = events[index + 1 :]
        last = end >= rows[0]
        if last:
            if not (end == rows[1] == len(taken) + len(new) and server.total_certain):
                return False
        elif size < request.limit:
            return False
        self._total, self._rows, self._row = numbers.total, rows, end
        self._granted = max(self._granted, request.limit)
        taken += new
        self._give_out(page, new, end - len(new))
        if last:
            self._end(_TOTAL_ENDS, complete=True)
        return True

    # --- giving out, and the ways to be done ---

    def _give_out(self, page: EventsPage, new: tuple[TargetEvent, ...], row: int) -> None:
        """Give out the new events of a page, the first of which stands in `row`."""
        if self._idle:
            self._search = GallopingSearch()
            self._idle = self._recuts = 0
            self._limit = self._most
        if self.max_items is not None and len(new) > self.max_items - self.events:
            new = new[: self.max_items - self.events]
            self._stop()
        if new:
            self.events += len(new)
            if len(new) < len(page.events):
                numbers = page.pagination
                page = EventsPage(new, numbers, page.warnings, page.request_id, page.body)
            self._batches.append(Batch(page, row))

    def _suffice(self, count: int) -> bool:
        """Whether so many events more are all that are wanted."""
        return self.max_items is not None and self.events + count >= self.max_items

    def _stop(self) -> None:
        """End: as many events as were wanted are given out."""
        self._end(f"max_items ({self.max_items}) are given out")

    def _fail(self, problem: str) -> None:
        """End: nothing proves that no event is missing."""
        self._end(problem, failed=True)

    def _end(self, reason: str, *, complete: bool = False, failed: bool = False) -> None:
        if not self.done:
            self.done, self.reason = True, reason
            self.complete, self.failed = complete, failed

    def _finish(self, window: Window, reason: str) -> None:
        """End: the last row was seen, and all is well if what came also adds up."""
        server, total, count = self._server, window.total, self._seen.count
        if self.done:
            return
        unchanged, rows = server.constant and total is not None, server.rows(window)
        exact = unchanged and rows == (total, total)
        still = exact and not (self.moved or server.doubted)
        if unchanged and self._marker is None and not self.start.row:
            counts_rows = server.given.total is None and server.cached.total not in _NO_ROWS
            few = count < (total or 0) and counts_rows and window.end not in server.rows_by_pages
            if few or (still and count != total):
                self._fail(f"the total is {total}, and {count} events came")
                return
        if self._joined and not (still and count == total):
            self._fail("pages did not overlap, and no total vouches for them")
            return
        self.moved |= bool(self.start.row) and exact and count != total
        server.note_end(window)
        self._end(reason, complete=True)

    # --- where to look ---

    @property
    def _most(self) -> int:
        return self._server.served(max(self.page_size, _LEAST_PAGE))

    def _next(self) -> PageRequest:
        """The page to ask for now."""
        if self._state == "FIRST":
            cap = self.dialect.cap or self.cached.cap or self.page_size
            return PageRequest(min(self.page_size, cap), 0, 0)
        server = self._server
        if self._state == "FIND_END" and self._aim is not None:
            return self._across(self._aim, self._limit)
        if self._held is not None:
            return self._across_end()
        if self._aim is not None:
            return server.page_at(self._aim, self._limit)
        if not self._requests and server.by_page and server.certain:
            # Resumed: fewer rows than any cap has show at once that nothing is new.
            least = self._row + 1 - _LEAST_PAGE
            return server.page_at(self._row - 4, self._limit, stretch=True, least=least)
        return self._across(self._row, self._limit)

    def _across_end(self) -> PageRequest:
        """A page across the end of one that may be the last, cut differently.

        It is of fewer rows than a page had already: a cap is no reason if it is not full. Of so few
        rows that none is, the page behind it is asked for.
        """
        row, server = self._row, self._server
        if row < LEAST_CAP:
            size = min(row or 1, self._most)
            return PageRequest(size, 1, size if server.by_page else 1)
        most, overlap = min(self._most, server.largest), self._seen.overlap
        size = max(most // 2, min(most - 1, 4), 1)
        if overlap > 1:  # to where a run of rows alike begins
            size = max(size, min(most, 2 * overlap))
        request = self._across(row, size)
        # Perhaps no page of so few rows begins before the end.
        return request if request.start < row else self._across(row, most)

    def _across(self, row: int, limit: int) -> PageRequest:
        """A page that begins some rows before `row` and ends behind it.

        Page numbers may have no such cut: row 2520 lies between two pages of any size up to 10.
        Then less overlap is tried, then larger pages than were asked for, at last none at all.
        """
        server = self._server
        overlap = min(max(self._overlap, self._seen.overlap), max(1, limit // 2))
        stretch = server.by_page and limit >= self._most
        first = server.page_at(row - self._drift - overlap, limit, stretch=stretch)
        if self._drift or self._behind(first) > row or not row:
            return first
        for size in (limit, limit if server.cap is not None else 2 * limit):
            for less in range(overlap, 0, -1):
                request = server.page_at(row - less, size)
                if self._behind(request) > row:
                    return request
        return server.page_at(row, limit)

    def _behind(self, request: PageRequest) -> int:
        """The row behind a full page."""
        return request.start + self._server.served(request.limit)

    def _is_across(self, request: PageRequest) -> bool:
        """Whether a page asked for ahead is still the one to read next."""
        undisturbed = self._state in {"STILL", "READ"} and self._aim is None and not self.moved
        return (
            undisturbed and not self._recuts and request.start < self._row < self._behind(request)
        )

    def _may_read_on(self, last: PageRequest) -> bool:
        """Whether a page behind `last` can be asked for before that one is read."""
        if not (self._row and self._server.certain and self._is_across(self._plan[0])):
            return False
        end = self._behind(last)
        if self._joined or self._overlap > 1 or self._suffice(end - self._row):
            return False
        if self._rows is not None:
            return end < self._rows[0]
        if self._marker is not None:
            return end < self._marker[1]
        return len(self._plan) <= self._seen.count // (_AHEAD * self._limit)

    # --- READ: what a page across the frontier means ---

    def _take_in(self, window: Window) -> None:
        request, server = window.request, self._server
        if window.page is not None:
            server.record(window)
        self._idle += 1
        if window.page is None and request.offset == 0:
            self._no_record = self.events == 0
            if self._held is not None:
                window, match, *_ = self._held
                self._let_go()
                self._take(window, match)
            self._end("no record", complete=True)
            return
        if window.page is not None:
            self._total = window.total
        elif request.limit <= max(self.page_size, server.granted):
            server.past_end = "refused"
        elif type(self._error) is ApiError:
            server.stretches, server.cap = False, self.page_size
            return
        if self._state == "FIND_END":
            self._find_end(window)
        elif self._held is not None:
            self._check_end(*self._held[:2], window)
        else:
            self._read(window)
        rows = max(self._total or 0, len(self._seen.rows))
        if self._idle > _MOST_IDLE + 4 * rows // self._most:
            self._fail("pages come without end and show nothing new")

    def _read(self, window: Window) -> None:
        self._aim = None
        server, seen = self._server, self._seen
        match = seen.align(window.events)
        self._locate(window, match)
        if seen.out_of_order(window.events):
            self._fail("rows change places: the server's order is not the same in all pages")
            return
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

        Which also shows how `offset` is read.
        """
        server, request, agrees = self._server, window.request, True
        window.start = server.start(request.limit, request.offset)
        if match is None:
            return
        index, before = match.taken - match.at, self._before
        first = self._row - len(self._seen.rows)  # the row of the first one taken
        here = request.offset * server.served(request.limit), request.offset
        if server.certain:
            before = first, first, 0
        self._before = *here, index
        if request.offset:
            apart = index - before[2]
            agrees = server.observe(here[0] - before[0] - apart, here[1] - before[1] - apart)
        window.start = server.start(request.limit, request.offset)
        if not agrees and server.certain:
            window.start = first + index

    def _anchor(self, window: Window, match: Alignment | None) -> Alignment | None:
        """The alignment of a page, if it can be believed.

        The anchor is the last row taken, with another one before it where one was asked for, so
        that a page whose first row is out of place is not believed. If that row is gone, the
        latest one that is still there will do, provided that the page begins among rows taken.
        """
        at_head = window.request.offset == 0 and window.page is not None
        server, seen, events = self._server, self._seen, window.events
        if match is not None:
            last = match.taken == len(seen.rows) - 1
            if not (last or at_head or seen.skipped or 0 in seen.known(events)):
                return None
            least = 0 if at_head or self._joined or self._row - 1 <= window.start else 1
            return match if match.at >= least else None
        if self.start.row:
            # First the other reading of `offset`: the order of dates only helps if rows are gone.
            tried = self._lost or server.certain or at_head
            return self._by_date(events, at_head=at_head) if tried else None
        if at_head:
            match = seen.extend(events, Alignment(-1, -1))
            if seen.rows and events and match.at < 0:
                self._replaced += 1
                if self._replaced > _REPLACEMENTS:
                    self._fail("the server sends other rows each time")
            return match
        if (server.certain or window.start == self._row) and server.constant and not self.moved:
            match = seen.in_place(events, self._row - window.start)
            if match is not None and match.at < 0 and seen.known(events):
                match = None
            self._joined |= match is not None
        return match

    def _by_date(self, events: tuple[TargetEvent, ...], *, at_head: bool) -> Alignment | None:
        """Align by the documented chronological order alone."""
        rows, dates = self._seen.rows, [event.event_date for event in events]
        newest: Any = self.start.date
        if rows and not isinstance(rows[-1], int):
            newest = rows[-1].event_date
        try:
            if dates != sorted(dates) or newest in dates:  # type: ignore[type-var]
                return None  # rows of that date may stand on either side of the frontier
            before = sum(date < newest for date in dates)
        except TypeError:  # without a date, or not to be compared
            return None
        if not before and not (at_head and newest is not None):
            return None
        self.moved = True
        # Where all rows are older, the last one taken stood behind the page.
        last = len(rows) - 1
        return Alignment(before - 1, last if before < len(dates) else max(0, last - 1))

    def _settle(self, window: Window, match: Alignment) -> bool:
        """Note how the list shifted. False if the page ends before the frontier."""
        index, server = match.at, self._server
        later = len(self._seen.rows) - 1 - match.taken if index >= 0 else 0
        shift = self._row - 1 - later - window.start - index
        if shift or later:
            if server.certain or window.request.offset == 0:
                self.moved = True
            else:
                server.doubted = True
        self._lost = 0
        if server.certain and not later:
            self._duplicates += max(0, -shift)
        surprise, self._drift = abs(shift - self._drift), max(0, shift)
        self._overlap = max(1, self._overlap // 2, min(2 * surprise, self._limit // 2))
        if index + 1 < window.size or not later:
            return True
        if not server.is_full(window):  # the last row taken should be behind it, or is gone
            if server.shows_end(window) or self._recuts >= _RECUTS:
                return True
            self._recut(window)
        self._row = self._search.right_of(window.end, window.end + later)
        return False

    def _judge(self, window: Window, match: Alignment) -> None:
        """What an aligned page means: the end, more to read, or something missing."""
        new = window.events[match.at + 1 :]
        full = self._server.is_full(window)
        rows = self._rows = self._counted(window, new)
        if self.done:
            return
        reason = self._why_last(window, match, rows)
        if reason is not None:
            self._take(window, match)
            self._finish(window, reason)
        elif full:
            server, size = self._server, window.size
            again = self._short == (size, window.start) and size == window.request.limit
            if again and server.largest <= size:  # as many as when more were due
                server.cap = server.cap or size
            self._take(window, match)
            self._watch_end(rows)
        elif self._suffice(len(new)) or self._is_marked(window):
            self._take(window, match)
        elif rows is not None and window.end < rows[0] and self._recuts < _RECUTS:
            self._recut(window)
        else:
            self._hold(window, match)

    def _why_last(
        self, window: Window, match: Alignment, rows: tuple[int, int] | None
    ) -> str | None:
        """Why nothing can stand behind an aligned page; None if something may.

        Either the page ends in the row that the total names, and it is certain which rows it
        shows; or all rows that an unchanging total counts have come.
        """
        server, end, new = self._server, window.end, window.size - match.at - 1
        full, count, certain = server.is_full(window), self._seen.count + new, server.total_certain
        if rows is None:
            reached = match.taken == len(self._seen.rows) - 1
            behind = reached and not full and not new and server.shows_end(window)
            known = server.cap is not None or end >= LEAST_CAP
            return "nothing comes behind the last row taken" if behind and known else None
        counting = server.constant and not self.start.row
        placed = rows[0] <= end <= rows[1] and server.is_placed(window)
        if full:
            counts = counting and not self.moved and server.total != "pages"
            if certain and ((placed and end == rows[1]) or (counts and count == rows[1])):
                return _TOTAL_ENDS
        elif counting and count == rows[0] == rows[1]:
            return "as many events came as an unchanging total counts"
        elif (
            placed
            and not (counting and count < rows[0])
            and (certain or server.constant or server.shows_end(window))
        ):
            return _TOTAL_ENDS
        elif end in server.rows_by_pages and server.certain and not self.moved:
            return "the last page by the server's counts of pages"
        return None

    def _counted(self, window: Window, new: tuple[TargetEvent, ...]) -> tuple[int, int] | None:
        """The rows in the list by the total, unless more have come than it allows."""
        server, page = self._server, window.page
        if server.total == "pages" and window.end == window.total and not server.is_full(window):
            server.drop_pages()  # it counts rows now
        rows = server.rows(window)
        if rows is None or page is None or window.end <= rows[1] or self._joined:
            return rows
        taken = self._seen.count + len(new)
        if server.constant and taken <= rows[1] and not self.start.row:
            return rows  # a row came twice
        if server.given.total is not None:
            self._fail(f"row {window.end} came, though the total is {window.total}")
        elif window.request.offset == 0 or server.certain or not self.moved:
            server.distrust()
            self._distance = None
        return None

    def _take(self, window: Window, match: Alignment) -> None:
        """Take a page's new rows and give them out."""
        self._row, new = window.end, window.events[match.at + 1 :]
        if new and window.page is not None:
            self._seen.add(new, match.taken)
            self._give_out(window.page, new, window.end - len(new))
        if self._is_marked(window):
            self._finish(window, _WAS_LAST)

    # --- no anchor ---

    def _miss(self, window: Window) -> None:
        """Nothing ties the page to the rows taken: look elsewhere."""
        server, request, rows = self._server, window.request, self._server.rows(window)
        self._restarts += not self._lost
        self._lost += 1
        if request.offset == 0:
            self._fail("the rows that the checkpoint remembers are gone")
            return
        known = bool(self._seen.known(window.events))
        server.doubt()
        if window.size and not known and not self.start.row:
            if rows is not None and server.by_page and request.limit * request.offset >= rows[1]:
                server.observe(1, 0)  # as a page it would be past the end
            elif 2 * request.offset < self._row:
                server.observe(0, 1)  # a row would be known
        if not server.certain and not known:
            server.flip()
            if self._lost % 2:  # first the same row under the other reading of `offset`
                self._aim = request.start
                return
        empty = window.page is not None and not window.size
        if empty and server.certain and self._recuts < _RECUTS:
            self._recut(window)  # nothing came where rows were taken before
            return
        overlap = max(2, self._overlap, self._limit // 20)
        self._aim = self._search.left_of(min(window.start, self._row), 2 * overlap)
        self._aim = max(0, self._aim)

    # --- pages that lack rows, and CHECK_END ---

    def _recut(self, window: Window) -> None:
        """Ask for the rows of a page again, cut differently: what it lacks may be an accident."""
        server, limit, size = self._server, window.request.limit, window.size
        self._recuts += 1
        server.avoid(window.request)
        if 0 < size < limit:
            (size_before, start_before), self._short = self._short, (size, window.start)
            again = size == size_before and start_before != window.start
            if again and server.cap is None and server.largest <= max(size, LEAST_CAP):
                server.cap = size  # here as there: the server caps its pages silently
            self._limit = size
        else:
            self._limit = max(4, limit // 2)

    def _hold(self, window: Window, match: Alignment) -> None:
        """Give out no row of a page that may be the last until its end is checked."""
        seen, taken = self._seen, match.taken + 1
        self._server.avoid(window.request)
        self._server.stretches = False
        self._held, self._state = (window, match, seen.rows, self._row), "CHECK_END"
        seen.restore([*seen.rows[:taken], *window.events[match.at + 1 :], *seen.rows[taken:]])
        self._row = window.end

    def _let_go(self) -> None:
        """Take back the rows of the page that was held."""
        if self._held is not None:
            *_, rows, self._row = self._held
            self._held, self._state = None, "READ"
            self._seen.restore(rows)

    def _check_end(self, held: Window, match: Alignment, window: Window) -> None:
        """CHECK_END: a look across the end of the page that may be the last."""
        server, row, last = self._server, self._row, match.taken + held.size - 1 - match.at
        shown = self._seen.align(window.events)
        if shown is None and not window.size and row < LEAST_CAP:  # nothing stands behind it
            self._let_go()
            self._take(held, match)
            self._conclude(held)
            return
        self._locate(window, shown)
        if shown is None or shown.taken < last:  # it is not where it was: look for it again
            self._let_go()
            if shown is None:
                server.doubt()
                server.flip()
            return
        more, ends = shown.at + 1 < window.size, server.shows_end(window)
        if not more and not ends:
            return
        self._let_go()
        held.start = window.start + shown.at + 1 - held.size  # where it ends by now
        if not ends:
            if self._recuts < _RECUTS:
                self._recut(held)
            else:
                self._fail(f"behind row {held.end} a page lacks events, and more come after it")
            return
        self._take(held, match)
        self._growths += more
        if not more:
            self._conclude(window)
        elif self._growths <= _GROWTHS:
            self._hold(window, shown)
        else:
            self._take(window, shown)
            self._finish(window, _WAS_LAST)

    def _conclude(self, window: Window) -> None:
        """Two looks showed nothing behind the last row taken."""
        server, end, rows = self._server, window.end, self._server.rows(window)
        if server.total == "pages" and end not in server.rows_by_pages:
            server.drop_pages()
        if rows is not None and not rows[0] <= end <= rows[1] and not self.moved:
            self._fail(f"the total is {window.total}, and nothing comes behind row {end}")
        elif server.total != "pages" and end < min(server.rows_by_pages, default=0):
            self._fail("the totals, as numbers of pages, speak of more events")
        else:
            self._finish(window, "a page that is not full, and nothing behind it")

    # --- FIND_END: a list that grows faster than it can be read ---

    def _watch_end(self, rows: tuple[int, int] | None) -> None:
        """Where the end should have come, agree on one: the row that is the last *now*.

        All that lasts stands at or before it; once it is taken the walk is complete.
        """
        base, late = self._marker[1] if self._marker else self.start.row, _LATE * self._limit
        read = self._row - base
        if rows is None:
            early = read < _LONG * self._limit
        else:
            left = rows[1] - self._row
            if self._distance is None:
                self._distance = left + read
            nearer = left < self._distance and read < self._distance + late
            early = read < late or nearer
        if self.done or early:
            return
        self._growths += 1
        if self._growths > _GROWTHS:
            self._fail("the list grows faster than it can be read")
            return
        self._state, self._search = "FIND_END", GallopingSearch(low=self._row)
        self._aim = _FAR if rows is None else max(self._row, rows[0] - self._limit // 2)

    def _is_marked(self, window: Window) -> bool:
        """Whether a page shows the row that was the last, and no row before it that is alike."""
        if self._marker is None or self._marker[0] not in window.events:
            return False
        return self.moved or window.end >= self._marker[1]

    def _find_end(self, window: Window) -> None:
        """FIND_END: a look at where the list may end."""
        server, request, search, half = self._server, window.request, self._search, self._limit // 2
        if not window.size:
            server.flip()
        window.start = server.start(request.limit, request.offset)
        before, rows = self._rows, server.rows(window)
        far, self._rows = self._aim == _FAR, rows
        if server.shows_end(window):
            self._marker, self._state = (window.events[-1], window.end), "READ"
            self._aim, self._search = None, GallopingSearch()
        elif far and window.size and (window.numbers.offset or _FAR) >= request.offset:
            self._fail("the server never ends: it makes events up")
        elif rows is not None and self._idle > _LOOKS:
            self._fail("the list grows faster than its end can be found")
        elif far:
            self._aim = max(2 * self._row, self._row + self._limit)
        elif not window.size:
            self._aim = max(0, search.left_of(window.start, self._limit))
        elif before is not None and rows is not None:
            self._aim = max(rows[0] + max(0, rows[0] - before[0]) - half, window.end)
        else:
            if search.high is not None and window.end >= search.high:
                search.step = 0  # it has moved on: start with small steps again
            self._aim = search.right_of(window.end, step=half)
