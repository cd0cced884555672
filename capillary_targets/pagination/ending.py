"""Pages that lack rows, and the end of the list: when the careful walk believes that it is over.

An honest server leaves rows out of a page only where the list ends. Others do it by accident, by a
cap they do not speak of, or because they filter after cutting; so a page that is not full is first
looked at again in another cut, and whatever lies behind it is looked at too.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from attrs import define, evolve, field

from capillary_targets.models import TargetEvent

from .book import Book
from .cutting import Cutter
from .dialect import NOTHING, Dialect, OffsetGuess
from .fence import Fence
from .search import Search
from .taken import Taken
from .values import PageRequest
from .window import Window, ids_of

__all__ = ["LOOKS", "Ending"]

_STALLS: Final = 24
LOOKS: Final = 2
_PROBES: Final = 3
_GROWTHS: Final = 3
"""How often the end may have moved on before it is taken where it is."""


@define(eq=False, repr=False)
class _Held:
    """A page that may be the last: its unseen events wait for a look at what lies behind it."""

    window: Window
    new: list[TargetEvent]
    row: int
    probes: int
    behind: int
    """The row behind the latest probe."""
    looked: bool
    """Whether the page right behind was seen, and to be cut short by nothing but the end."""
    planned: int = field(init=False, default=0)


@define(eq=False, repr=False)
class Ending:
    """What the careful walk knows, and its judgement of short pages and of the end."""

    book: Book
    taken: Taken
    guess: OffsetGuess
    cut: Cutter
    pending: deque[PageRequest]
    prefetch: int
    row: int
    """The row behind the last event taken, as the server last counted."""

    found: Dialect = field(init=False, default=NOTHING)
    _search: Search = field(init=False, factory=Search)
    _fence: Fence = field(init=False)
    _drift: int = field(init=False, default=0)
    """Rows that vanished before the last event taken between the latest two answers."""
    _moved: bool = field(init=False, default=False)
    """Whether the list was seen to have shifted."""
    _unsure: bool = field(init=False, default=False)
    """Whether it may have, or offsets were not yet understood."""
    _repeats: int = field(init=False, default=0)
    """Events that the list holds twice."""
    _stalls: int = field(init=False, default=0)
    _looks: int = field(init=False, default=0)
    _growths: int = field(init=False, default=0)
    _grown_to: int = field(init=False, default=0)
    """The furthest row that was the last when something more was looked for behind it."""
    _owing: bool = field(init=False, default=False)
    """Whether events came from pages that lacked some, so that only the total can tell."""
    _slack: int = field(init=False, default=0)
    """Rows that may lie between the last event taken and `row` because a page lacked them."""
    _held: _Held | None = field(init=False, default=None)
    _sighted: PageRequest | None = field(init=False, default=None)
    """A page that showed events behind a page that seemed to be the last."""

    @_fence.default
    def _no_fence(self) -> Fence:
        return Fence(self.cut.room)

    def _plan_probes(self, held: _Held) -> None:
        """Fill the plan up with looks behind a page that may be the last."""
        while held.looked and len(self.pending) < min(self.prefetch, held.probes):
            # Whether offsets count pages or rows may not be known yet: look behind in both.
            other = held.planned % 2 == 1
            held.planned += 1
            self.pending.append(self.cut.beyond(held.behind, other=other))
            if other or self.guess.confirmed:
                held.behind = max(held.behind, self.pending[-1].end)

    def _placed(self, window: Window, found: int | None, *, head: bool = False) -> bool:
        """Learn from where known events were found; False if offsets turn out to mean nothing."""
        if found is not None:
            self.guess.see(window.request.limit, window.request.offset, found, head=head)
        window.start = self.cut.start(window.request.limit, window.request.offset)
        if self.guess.ignored:
            self.book.fail("the server sends the head of the list whatever the offset")
        return not self.book.done

    def _advance(self, window: Window, new: list[TargetEvent], row: int, behind: int) -> None:
        """Take a window's new events."""
        self.row = behind
        self.taken.add(ids_of(new), new)
        self.book.give(window.page, new, row)
        self.cut.relax()
        if new:
            self._search.progress()
            self._stalls = self._looks = 0
            self._sighted = None
        else:
            self._stall()
        if self._fence.last is not None and self._fence.last in self.taken.seen:
            self._end(window, "the event that was the last when the list was seen to grow has come")

    def _stall(self) -> None:
        self._stalls += 1
        rows = max(self.book.totals.latest or 0, self.taken.count)
        if self._stalls > _STALLS + 4 * rows // self.cut.room:
            self.book.fail("pages come without end and show nothing new")

    def _short(self, window: Window, new: list[TargetEvent], row: int) -> None:
        """Fewer rows than asked for, though the total says that there are more behind."""
        self.pending.clear()
        if self._looks < LOOKS:
            self._look_again(window)
        elif new:
            self._owe(window, new, row)
            self._looks = LOOKS
        else:
            self._hold(window, new, row)

    def _look_again(self, window: Window) -> None:
        """Cut the stretch of a window differently: what it lacks may be an accident of its cut."""
        self._looks += 1
        self.cut.cut_differently(window)

    def _hold(self, window: Window, new: list[TargetEvent], row: int) -> None:
        """A page that is not full may be the last. See what lies behind before believing it."""
        wanted = self.book.wanted
        if self._last_by_pages(window):
            self._advance(window, new, row, window.end)
            self._end(window, "the last page by the server's count of pages")
            return
        if wanted is not None and len(new) >= wanted:
            self._advance(window, new, row, window.end)
            return
        self.pending.clear()
        self.cut.avoid(window)
        self.pending.append(self.cut.surely_across(window.end, back=self._drift))
        probes = _PROBES
        if self._sighted is not None:
            self.pending.append(evolve(self._sighted, fence=False))
            probes += 1
        behind = max(window.end, self.pending[0].end)
        self._held = _Held(window, new, row, probes, behind, looked=not window.size)

    def _probe(self, held: _Held, window: Window) -> None:
        """A look behind the page that may be the last."""
        held_ids, seen = set(held.window.ids), self.taken.seen
        unseen = [
            event
            for event, number in zip(window.events, window.ids, strict=True)
            if number not in held_ids and number not in seen
        ]
        if unseen and not held.looked and held.window.ids[-1] in window.ids:
            self._grown(held, window, unseen)
        elif unseen:
            self._more_behind(held, window, unseen)
        elif held.looked or self._looked(held, window):
            held.probes -= 1
            if not window.size and not window.refused:
                self.found = evolve(self.found, past_end="empty")
            if not held.probes:
                self._verdict(held)
        else:
            self._held = None  # the page is not where it was: look for it again
            self.pending.clear()
            self.cut.relax()
            self._stall()

    def _owe(self, window: Window, new: list[TargetEvent], row: int) -> None:
        """Take events from a page that may lack some: whether it did, only the total can tell."""
        self._owing = True
        self._advance(window, new, row, window.end)
        if new:
            self._slack = max(0, self.cut.due(window) - window.size)
        count, total = self.taken.count + self._repeats, window.total
        if not self._still(window) or total is None or (new and self._full(window)):
            return
        if count >= total:
            self._end(window, "as many events came as the total names")

    def _full(self, window: Window) -> bool:
        """Whether a window has all the rows it was asked for."""
        return window.size >= self.cut.due(window)

    @property
    def quiet(self) -> bool:
        """Whether nothing suggests that the list moved, so that what was learned is about it."""
        return not self._moved

    def _still(self, window: Window) -> bool:
        """Whether nothing suggests that the list moved, and the total can be believed."""
        totals = self.book.totals
        sure = totals.constant and not self._moved and not self._unsure
        return sure and totals.of(window) is not None

    def _looked(self, held: _Held, window: Window) -> bool:
        """Whether a window shows the held page's last event, and that nothing follows it."""
        last, by_page, first = held.window.ids[-1], self.guess.by_page, held.window.start
        rows = {event: first + index for index, event in enumerate(held.window.ids)}
        found = [rows[event] - index for index, event in enumerate(window.ids) if event in rows]
        self._placed(window, found[0] if found else self.taken.found_at(window))
        held.looked = last in window.ids and self.cut.holds_the_last(window)
        return held.looked and by_page == self.guess.by_page

    def _grown(self, held: _Held, window: Window, unseen: list[TargetEvent]) -> None:
        """Events follow right behind the held page. Perhaps they arrived since."""
        last = window.ids.index(held.window.ids[-1])
        adjacent = len(window.ids) - last - 1 == len(unseen)
        if not adjacent or not self.cut.holds_the_last(window) or window.end <= self._grown_to:
            self._more_behind(held, window, unseen)
            return
        self._grown_to = window.end
        self._growths += 1
        self._held = None
        self.pending.clear()
        if self._growths > _GROWTHS:  # it would show something new for ever
            self._advance(held.window, held.new, held.row, held.window.end)
            self._advance(window, unseen, window.end - len(unseen), window.end)
            self._end(window, "the event that was the last when the list was seen to grow has come")

    def _more_behind(self, held: _Held, window: Window, unseen: list[TargetEvent]) -> None:
        """The held page was not the last, or is not any more."""
        self._held, self._sighted = None, window.request
        self.pending.clear()
        if self._looks < LOOKS:
            self._look_again(held.window)
        elif self._still(window):
            self._owe(held.window, held.new, held.row)
            self._owe(window, unseen, window.end - len(unseen))
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
        least = self.book.totals.least_rows(self.cut.cap)
        if least > held.window.end and self.quiet:
            self.book.fail(f"as pages, the totals speak of {least} events or more")
        self._end(held.window, "a page that is not full, and nothing behind it")

    def _last_by_pages(self, window: Window) -> bool:
        """Whether the server, known to count pages, says that this page is the last."""
        total, offset = window.total, window.request.offset
        if self.book.totals.kind != "pages" or total is None or not window.size:
            return False
        if offset == 0 or (self.guess.by_page and self.guess.confirmed):
            return offset + 1 >= total
        return self.cut.holds_the_last(window) and window.end > (total - 1) * self.cut.due(window)

    def _end(self, window: Window, reason: str) -> None:
        """The end of the list was seen: all is well, if what came also adds up."""
        book, totals = self.book, self.book.totals
        if book.done:
            return
        total, still = totals.of(window), self._still(window)
        count = self.taken.count + self._repeats
        if self._owing and not still:
            book.fail(
                "some pages lacked events, and the total changed, so it cannot vouch for them"
            )
        elif still and not self.taken.blind and count != total and self._fence.last is None:
            book.fail(f"the total is {total}, and {count} events came")
        else:
            if totals.kind == "wrong" and totals.count_pages(window.end, self.cut.cap):
                totals.kind = "pages"
            book.end(reason, "anchored")
