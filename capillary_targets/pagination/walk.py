"""The walk over one target's events as a pure state machine: answers in, requests out, no I/O."""

from __future__ import annotations

from collections import deque

import attrs
from attrs import define, field

from capillary_targets.errors import (
    ApiError,
    CapillaryError,
    EndpointGone,
    NoRecordFound,
    PaginationError,
)
from capillary_targets.models import EventsPage

from .anchored import AnchoredPass
from .book import Book, Totals
from .cutting import LEAST_CAP, Cutter
from .dialect import NOTHING, Dialect, OffsetGuess, known
from .plain import PlainPass
from .taken import Taken
from .values import START, Batch, Checkpoint, PageRequest, PagingReport
from .window import Window

__all__ = ["Walk"]


@define(eq=False, repr=False)
class Walk:
    """One walk. Ask for the pages of `requests()`, feed their answers in that order, until `done`.

    Args:
        page_size: events to ask for in one page.
        max_items: end after so many events.
        prefetch: the most pages to have in flight.
        anchored: overlap all pages from the first to the last, so that even deletions and
            arrivals that cancel out exactly cannot hide an event; costs about a tenth more.
        dialect: what is certain about the server, whatever it answers.
        learned: what earlier walks found out about it.
        start: where to go on.

    """

    page_size: int
    max_items: int | None = None
    prefetch: int = 1
    anchored: bool = False
    dialect: Dialect = NOTHING
    learned: Dialect = NOTHING
    start: Checkpoint = START

    _plan: deque[PageRequest] = field(init=False, factory=deque)
    _sent: tuple[PageRequest, ...] = field(init=False, default=())
    _asked: int = field(init=False, default=0)
    _book: Book = field(init=False)
    _guess: OffsetGuess = field(init=False)
    _cap: int | None = field(init=False)
    _echoed: bool = field(init=False, default=False)
    _largest: int = field(init=False, default=0)
    _refusal: CapillaryError | None = field(init=False, default=None)
    _pass: PlainPass | AnchoredPass | None = field(init=False, default=None)
    _first: tuple[int, int] = field(init=False, default=(0, 0))
    """Limit and size of the first page."""
    _found: Dialect | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.prefetch = self.prefetch or 1
        self.learned = self.learned.or_else(self.start.dialect)
        assumed = self.dialect.or_else(self.learned)
        # Whether a total is absent or 0 shows with each answer; what else is wrong with it may not.
        given, learned = self.dialect.total, self.learned.total
        hidden = learned if learned in {"pages", "wrong"} else None
        totals = Totals(given is not None, given or hidden)
        self._book = Book(self.max_items, totals)
        self._guess = OffsetGuess.start(self.dialect.offset, self.learned.offset)
        # A cap that was not spoken out may have been an accident, and shows again at no cost.
        self._cap = self.dialect.cap or (assumed.cap if assumed.limit == "capped" else None)
        if self.start.last or self.start.row:
            self._pass = self._anchored(Taken.at(self.start), self.start.row)
        self._book.enough()

    # --- what the driver sees ---

    @property
    def done(self) -> bool:
        """Whether the walk is over, proven or not."""
        return self._book.done

    @property
    def error(self) -> PaginationError | None:
        """What keeps the walk from being proven, once it is over."""
        if not self._book.broken:
            return None
        report = self.report
        error = PaginationError(
            f"the pages do not add up: {report.reason}; {report.events} events in "
            f"{report.requests} requests, of {report.total} by the server's total",
            report=report,
        )
        error.__cause__ = self._refusal
        return error

    @property
    def report(self) -> PagingReport:
        """What was done so far."""
        book = self._book
        return PagingReport(
            book.events,
            self._asked,
            0 if book.no_record else book.totals.latest,
            book.complete,
            book.no_record,
            book.reason,
            book.duplicates,
            book.passes,
            book.proof,
            self.found,
        )

    @property
    def found(self) -> Dialect:
        """The dialect as far as it was given, or found out by this walk or an earlier one."""
        if self._found is not None:
            return self._found
        guess, totals, careful = self._guess, self._book.totals, self._pass
        fresh = known(
            guess.found,
            totals.kind if self._book.complete else None,
            "capped" if self._echoed else None,
            None,
            "refused" if self._refusal is not None else None,
        )
        if isinstance(careful, AnchoredPass):
            fresh = careful.found.or_else(fresh)
            if careful.cut.cap is not None and not self._echoed:
                fresh = attrs.evolve(fresh, cap=careful.cut.cap, limit="capped-silent")
        if self._cap is not None:
            fresh = attrs.evolve(fresh, cap=self._cap)
        found = self.dialect.or_else(fresh.or_else(self.learned))
        if self.done:
            self._found = found  # for good
        return found

    @property
    def learnt(self) -> Dialect:
        """What of it the next walk should know. Not what was merely given, or seen in motion."""
        found, given = self.found, self.dialect
        quiet = not isinstance(self._pass, AnchoredPass) or self._pass.quiet
        if quiet and given is NOTHING:
            return found
        return known(
            offset=found.offset if quiet and given.offset is None else self.learned.offset,
            total=found.total if quiet and given.total is None else self.learned.total,
            limit=found.limit if given.limit is None else self.learned.limit,
            cap=found.cap if given.cap is None else self.learned.cap,
            past_end=found.past_end,
        )

    def requests(self) -> tuple[PageRequest, ...]:
        """The pages to have in flight now, the next to be fed first; none once it is done.

        A page that is no longer among them is no longer wanted.
        """
        if self.done:
            return ()
        if self._pass is not None:
            self._pass.plan()
        elif not self._plan:
            self._plan.append(PageRequest(self._size, 0, 0))
        requests = tuple(self._plan)
        for request in requests:
            self._asked += request not in self._sent
        self._sent = requests
        return requests

    def ends_here(self, request: PageRequest, error: CapillaryError) -> bool:
        """Whether a refusal may mean "behind the end", so that it is an answer to be fed."""
        if isinstance(error, NoRecordFound):
            return True
        unspecific = type(error) is ApiError and not error.retryable
        return request.offset > 0 and (unspecific or isinstance(error, EndpointGone))

    def feed(self, request: PageRequest, answer: EventsPage | CapillaryError) -> list[Batch]:
        """Take in the answer to the first of `requests()`; return the events it proves, in order.

        A refusal is an answer only if `ends_here` says so.
        """
        if self.done or not self._plan or request is not self._plan[0]:
            raise ValueError("not the answer to the next request")
        self._plan.popleft()
        book = self._book
        if isinstance(answer, CapillaryError):
            self._refusal = answer
        else:
            book.totals.hear(request.limit, answer.total, len(answer.events))
            self._hear_limit(request, answer)
        if not isinstance(self._pass, PlainPass):
            self._step(Window.of(request, answer))
        elif not self._pass.feed(request, answer):
            self._second_pass(self._pass, Window.of(request, answer))
        book.enough()
        if book.done:
            self._plan.clear()
        return book.take_batches()

    # --- inside ---

    @property
    def _size(self) -> int:
        """Rows to ask for in a page."""
        return self.page_size if self._cap is None else min(self.page_size, self._cap)

    def _hear_limit(self, request: PageRequest, page: EventsPage) -> None:
        """Learn from an echoed limit that pages are capped."""
        echo = page.pagination.limit
        if echo is None or self.dialect.limit == "kept":
            return
        if 0 < echo < request.limit and len(page.events) <= echo:
            self._cap, self._echoed = min(echo, self._cap or echo), True
            if isinstance(self._pass, AnchoredPass):
                self._pass.cut.cap = self._cap

    def _step(self, window: Window) -> None:
        """The first page, or another one of the careful walk."""
        self._largest = max(self._largest, window.size)
        if window.refused and window.request.offset == 0:
            self._book.no_record = self._book.events == 0
            self._book.end("no record", "anchored")
        elif isinstance(self._pass, AnchoredPass):
            self._pass.feed(window)
        else:
            self._begin(window)

    def _begin(self, window: Window) -> None:
        """The first page: decide how to go on."""
        self._first = (window.request.limit, window.size)
        total = self._book.totals.of(window)
        one_page = window.size == total
        if (
            total is not None
            and window.size <= total
            and not self.anchored
            and (one_page or self._guess.by_page)
        ):
            # A page that is short of the total may be capped without saying so: then pages of as
            # many rows follow it without a gap, and the total tells in the end.
            size = min(self._size, window.size)
            if one_page or size > 1 or size == self._size:
                plain = PlainPass(self._book, self._guess, self._plan, size, total, self.prefetch)
                if plain.take(window.events, window.ids, window.page):
                    self._pass = plain
                    return
        self._pass = self._anchored(Taken(), 0)
        self._pass.feed(window)

    def _second_pass(self, plain: PlainPass, window: Window) -> None:
        """Go back: without anchors, nothing behind the first page is proven any more."""
        self._plan.clear()
        self._largest = max(self._largest, window.size)
        limit, size = self._first
        taken, request = Taken(), window.request
        self._book.passes += 1
        self._book.given = set(plain.taken)
        self._book.duplicates += len(self._book.given.intersection(window.ids))
        row = {event: row for row, event in enumerate(plain.taken)}
        found = [row[event] - index for index, event in enumerate(window.ids) if event in row]
        if window.size > 1:
            began = found[0] if found else request.start
            self._guess.see(request.limit, request.offset, began)
        if size == min(limit, self._cap or limit):
            taken.add(plain.taken[:size])
        self._pass = self._anchored(taken, taken.count)

    def _anchored(self, taken: Taken, row: int) -> AnchoredPass:
        cut = Cutter(self._guess, self.page_size, self._cap, max(self._largest, LEAST_CAP))
        return AnchoredPass(
            self._book, taken, self._guess, cut, self._plan, prefetch=self.prefetch, row=row
        )
