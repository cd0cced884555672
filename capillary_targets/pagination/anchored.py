"""The careful walk: each page overlaps the events already taken, so that moving rows cannot hide.

It needs no total, no particular meaning of `offset`, and no list that keeps still: see `taken` for
why nothing is lost. What it can lack is an anchor, progress or an end; each is looked for within
bounds, and if it is not found the walk says so.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from attrs import define, evolve, field

from ..models import TargetEvent
from .book import Book
from .dialect import Dialect, OffsetGuess
from .fence import Fence
from .geometry import place
from .search import Search
from .taken import Taken
from .values import PageRequest
from .window import Window

__all__ = ["AnchoredPass"]

_LEAST_ROOM: Final = 8
"""An overlap and something new must fit in a window, however small the pages asked for."""
_STALLS: Final = 24
_LOOKS: Final = 2
_PROBES: Final = 3


@define
class _Held:
    """A page that may be the last: its unseen events wait for a look at what lies behind it."""

    window: Window
    new: list[TargetEvent]
    row: int
    probes: int


@define
class AnchoredPass:
    """Windows that overlap, one after the other or several at once, until the end is seen."""

    book: Book
    taken: Taken
    guess: OffsetGuess
    pending: deque[PageRequest]
    page_size: int
    prefetch: int
    cap: int | None
    row: int
    """The row behind the last event taken, as the server last counted."""

    found: Dialect = field(init=False, factory=Dialect)
    _overlap: int = field(init=False, default=0)
    _drift: int = field(init=False, default=0)
    """Rows that vanished before the last event taken between the latest two answers."""
    _moved: bool = field(init=False, default=False)
    _target: int | None = field(init=False, default=None)
    _search: Search = field(init=False, factory=Search)
    _stalls: int = field(init=False, default=0)
    _looks: int = field(init=False, default=0)
    _squeeze: int | None = field(init=False, default=None)
    _calm: int = field(init=False, default=0)
    _avoid: set[int] = field(init=False, factory=set)
    _owing: bool = field(init=False, default=False)
    """Whether events came from pages that lacked some, so that only the total can tell."""
    _repeats: int = field(init=False, default=0)
    _held: _Held | None = field(init=False, default=None)
    _sighted: PageRequest | None = field(init=False, default=None)
    """A page that showed events behind a page that seemed to be the last."""
    _fence: Fence = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._fence = Fence(self._room)

    # --- which windows ---

    def plan(self) -> None:
        """Fill the plan up: one window where the next step hangs on its answer, else several."""
        pending = self.pending
        if not pending:
            if self._fence.searching:
                pending.append(self._window(self._fence.aim, fence=True))
                return
            target = self._target
            if target is None:
                target = self.row - self._drift - self._least_overlap
            pending.append(self._window(target, reach=self.row))
        ahead = self.prefetch if self._held is None else min(self.prefetch, self._held.probes)
        while len(pending) < ahead and self._may_go_on_at(pending[-1].end):
            end = pending[-1].end
            pending.append(self._window(end - self._least_overlap, reach=end))

    def _may_go_on_at(self, end: int) -> bool:
        """Whether a window at row `end` can be asked for before the ones before it are read."""
        if self._held is not None:
            return True
        if self._moved or self._search.misses or self._looks or not self.guess.confirmed:
            return False
        if self._fence.searching:
            return False
        wanted, totals = self.book.wanted, self.book.totals
        if wanted is not None and end - self.row >= wanted:
            return False
        return not (totals.trusted and totals.latest is not None and end > totals.latest)

    @property
    def _room(self) -> int:
        """The most rows in a window."""
        room = max(self.page_size, _LEAST_ROOM)
        for bound in (self.cap, self._squeeze):
            room = room if bound is None else min(room, bound)
        return room

    @property
    def _least_overlap(self) -> int:
        room = self._room
        return min(max(self._overlap, 2, room // 20), max(1, room // 2))

    def _window(
        self, target: int, *, reach: int = 0, room: int | None = None, fence: bool = False
    ) -> PageRequest:
        kind = self.guess.kind
        limit, offset = place(
            kind, target, reach=reach, room=room or self._room, avoid=self._avoid
        )
        return PageRequest(limit, offset, self._start(limit, offset), fence)

    def _start(self, limit: int, offset: int) -> int:
        """The row that a page should begin with."""
        if self.guess.kind == "row":
            return offset
        return offset * (limit if self.cap is None else min(limit, self.cap))

    # --- what an answer means ---

    def feed(self, window: Window) -> None:
        """Take in the answer to the next window of the plan."""
        if window.request.fence:
            self._look_ahead(window)
        elif self._held is not None:
            self._probe(self._held, window)
        else:
            self._step(window)

    def _step(self, window: Window) -> None:
        """A window that should show the last event taken, and what follows it."""
        self._target = None
        place_found = self.taken.found_at(window)
        if place_found is not None:
            self.guess.see(window.request.limit, window.request.offset, place_found)
            if self.guess.ignored:
                self.book.fail("the server sends the head of the list whatever the offset")
                return
        window.start = self._start(window.request.limit, window.request.offset)
        index = self.taken.anchor(window, least=1 if self._least_overlap > 1 else 0)
        if index is None:
            self._miss(window)
            return
        total = self._total(window)
        behind = self._anchored_at(window, index)
        known = self.taken.seen
        new = [event for event in window.events[index + 1 :] if event.event_log_id not in known]
        self._repeats += len(window.ids) - index - 1 - len(new)
        row = window.start + index + 1
        if window.size >= self._due(window):
            self._advance(window, new, row, behind)
            if self._last_by_pages(window):
                self._end(window, "the last page by the server's count of pages")
            else:
                self._fence_in(total)
        elif total is None:
            self._hold(window, new, row)
        elif total == window.end:
            self._advance(window, new, row, behind)
            self._end(window, "the last page ends where the total does")
        else:
            self._short(window, new, row)

    def _total(self, window: Window) -> int | None:
        """The size of the list when the answer was made, if the server is to be believed."""
        totals = self.book.totals
        total = totals.of(window)
        if total is None or window.end <= total:
            return total
        echo = None if window.page is None else window.page.pagination.offset
        if echo is not None and 0 < echo < window.request.offset:
            start = self._start(window.request.limit, echo)
            if start + window.size <= total:  # the server says that it sent the last page instead
                self.found = evolve(self.found, past_end="clamped")
                window.start = start
                return total
        if totals.forced:
            self.book.fail(f"row {window.end} came, though the total is {total}")
        elif window.row_zero or self.guess.confirmed:
            totals.doubt()
        return None

    def _due(self, window: Window) -> int:
        """How many rows a window has that lies within the list."""
        limit = window.request.limit
        return limit if self.cap is None else min(limit, self.cap)

    def _anchored_at(self, window: Window, index: int) -> int:
        """Note where the anchor was found. Returns the row behind the last event taken."""
        taken = self.taken
        place_taken = taken.seen.get(window.ids[index]) if index >= 0 else None
        later = 0 if place_taken is None else taken.count - 1 - place_taken
        shift = self.row - 1 - later - window.start - index
        if shift or later:
            self._moved = self._moved or self.guess.confirmed
            self.book.passes += later > 0
        self._drift = max(0, shift)
        self._overlap = max(self._overlap // 2, min(2 * abs(shift), self._room // 2))
        if index + 1 < len(window.ids) or not later:
            return window.end
        return self._search.behind(window, window.end + later)

    def _miss(self, window: Window) -> None:
        """Nothing in the window ties it to the events taken: look elsewhere."""
        self.pending.clear()
        search = self._search
        self.book.passes += search.misses == 0
        if window.row_zero:
            self.book.fail("the events that the checkpoint remembers are gone, and so is the order")
            return
        if self.taken.lies_right_of(window):
            search.misses += 1
            self._target = search.behind(window, window.end + self._room // 2) - self._room // 2
        elif self.guess.missed():
            search.misses += 1
        else:
            self._target = search.before(window, self.row, self._least_overlap, self._room)
            total = self.book.totals.of(window)
            if total is not None:
                self._target = max(0, min(self._target, total - self._least_overlap))
        if search.lost:
            self.book.fail("the rows move faster than pages can be read")

    def _advance(self, window: Window, new: list[TargetEvent], row: int, behind: int) -> None:
        """Take a window's new events."""
        self.row = behind
        self.taken.add(new, [event.event_log_id for event in new])
        self.book.give(window, new, row)
        self._calm += 1
        if self._calm > 3:
            self._squeeze = None
        if new:
            self._search.progress()
            self._stalls = self._looks = 0
            self._sighted = None
        else:
            self._stalls += 1
        if self._stalls > _STALLS:
            self.book.fail("pages come without end and show nothing new")
        if self._fence.last is not None and self._fence.last in self.taken.seen:
            self._end(window, "the event that was the last when the list was seen to grow has come")

    # --- pages that lack rows, and the end ---

    def _short(self, window: Window, new: list[TargetEvent], row: int) -> None:
        """Fewer rows than asked for, though the total says that there are more behind."""
        self.pending.clear()
        if self._looks < _LOOKS:
            self._look_again(window)
        elif new:
            looks = self._looks
            self._owing = True
            self._advance(window, new, row, window.end)
            self._looks = looks
        else:
            self._hold(window, new, row)

    def _look_again(self, window: Window) -> None:
        """Cut the same stretch differently: a page that lacks rows may be an accident of its cut."""
        self._looks += 1
        self._calm = 0
        limit, size = window.request.limit, window.size
        if window.request.offset and self.guess.kind == "page":
            self._avoid.add(window.request.offset)
        if size == self._squeeze and size < limit:
            self.cap = size  # cut to the same size twice: the server caps pages and does not say so
        self._squeeze = size if _LEAST_ROOM // 2 <= size < limit else max(4, limit // 2)

    def _hold(self, window: Window, new: list[TargetEvent], row: int) -> None:
        """A page that is not full may be the last. See what lies behind before believing it."""
        wanted = self.book.wanted
        if self._last_by_pages(window) or (wanted is not None and len(new) >= wanted):
            self._advance(window, new, row, window.end)
            self._end(window, "the last page by the server's count of pages")
            return
        again = self._sighted
        self._held = _Held(window, new, row, _PROBES + (again is not None))
        while len(self.pending) >= self._held.probes:
            self.pending.pop()
        # Were pages capped without a word, the next row would follow right behind this page.
        if again is not None:
            self.pending.appendleft(evolve(again, fence=False))
        room = max(min(window.size, self._room), 2 * self._least_overlap)
        self.pending.appendleft(
            self._window(window.end - self._least_overlap, reach=window.end, room=room)
        )

    def _probe(self, held: _Held, window: Window) -> None:
        """A look behind the page that may be the last."""
        known = self.taken.seen.keys() | set(held.window.ids)
        unseen = [event for event in window.events if event.event_log_id not in known]
        if not unseen:
            held.probes -= 1
            if window.size == 0 and not window.refused:
                self.found = evolve(self.found, past_end="empty")
            if not held.probes:
                self._verdict(held)
            return
        self._held = None
        self.pending.clear()
        self._sighted = window.request
        totals = self.book.totals
        if self._looks < _LOOKS:
            self._look_again(held.window)
        elif totals.of(window) is not None and totals.constant and not self._moved:
            self._owing = True
            self._advance(held.window, held.new, held.row, held.window.end)
            self._advance(window, unseen, window.end - len(unseen), window.end)
        else:
            self.book.fail(f"behind row {self.row} a page lacks events, and more come after it")

    def _verdict(self, held: _Held) -> None:
        """Nothing comes behind the page that may be the last."""
        self._held = None
        self.pending.clear()
        total = self.book.totals.of(held.window)
        if total is not None:
            self.book.fail(f"the total is {total}, and nothing comes behind row {held.window.end}")
            return
        self._advance(held.window, held.new, held.row, held.window.end)
        self._end(held.window, "a page that is not full, and nothing behind it")

    def _last_by_pages(self, window: Window) -> bool:
        """Whether the server, known to count pages, says that this page is the last."""
        total = window.total
        if self.book.totals.kind != "pages" or total is None or not window.size:
            return False
        return window.end > (total - 1) * self._due(window)

    def _end(self, window: Window, reason: str) -> None:
        """The end of the list was seen: all is well, if what came also adds up."""
        book, totals = self.book, self.book.totals
        if book.done:
            return
        total = totals.of(window)
        still = total is not None and totals.constant and not self._moved
        count = self.taken.count + self._repeats
        if self._owing and not still:
            book.fail("some pages lacked events, and the total changed, so it cannot vouch for them")
        elif still and not self.taken.blind and count != total and self._fence.last is None:
            book.fail(f"the total is {total}, and {count} events came")
        else:
            if totals.kind == "wrong" and not totals.forced and self._last_of_pages(window):
                totals.kind = "pages"
            book.end(reason, "anchored")

    def _last_of_pages(self, window: Window) -> bool:
        """Whether a total that does not count rows counts pages, judging by the last one."""
        return window.total == -(-window.end // self._due(window))

    # --- a list that grows ---

    def _fence_in(self, total: int | None) -> None:
        """If the end does not come nearer, agree on one."""
        if self.book.done or self._fence.patient(self.row, total):
            return
        self.pending.clear()
        if self._fence.exhausted:
            self.book.fail("the list grows faster than it can be read")
        else:
            self._fence.begin(self.row, total)

    def _look_ahead(self, window: Window) -> None:
        self._fence.look(window, self.book.totals.of(window))
        if self._fence.endless:
            self.book.fail("the server never ends: it shows other events however far one looks")
