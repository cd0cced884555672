"""The careful walk: each page overlaps the events already taken, so that moving rows cannot hide.

It needs no total, no particular meaning of `offset`, and no list that keeps still: see `taken` for
why nothing is lost. What it can lack is an anchor, progress or an end; each is looked for within
bounds, and if it is not found the walk says so.
"""

from __future__ import annotations

from attrs import define, evolve, field

from capillary_targets.models import TargetEvent

from .ending import LOOKS, Ending
from .window import Window

__all__ = ["AnchoredPass"]


@define(eq=False, repr=False)
class AnchoredPass(Ending):
    """Windows that overlap, one after the other or several at once, until the end is seen."""

    _target: int | None = field(init=False, default=None)
    """Where to look for the last event taken, if not at `row`."""
    _turned: bool = field(init=False, default=False)
    """Whether the latest miss was tried again under the other reading of offsets."""
    _former: int | None = field(init=False, default=None)
    """The row to go on from if the other reading turns out wrong; 0 if it did."""

    # --- which windows ---

    def plan(self) -> None:
        """Fill the plan up: one window where the next step hangs on its answer, else several."""
        pending, cut = self.pending, self.cut
        if self._held is not None:
            self._plan_probes(self._held)
            return
        if not pending:
            if self._fence.searching:
                pending.append(cut.window(self._fence.aim, fence=True))
            elif self._target is None:
                pending.append(cut.across(self.row, back=self._drift))
            else:
                pending.append(cut.window(self._target))
        while len(pending) < self.prefetch and self._may_go_on_at(pending[-1].end):
            pending.append(cut.across(pending[-1].end))

    def _may_go_on_at(self, end: int) -> bool:
        """Whether a window at row `end` can be asked for before the ones before it are read."""
        if self._moved or self._looks or not self.guess.confirmed:
            return False
        if self._search.misses or self._fence.searching:
            return False
        wanted, totals = self.book.wanted, self.book.totals
        if wanted is not None and end - self.row >= wanted:
            return False
        return not (totals.trusted and totals.latest is not None and end > totals.latest)

    # --- what an answer means ---

    def feed(self, window: Window) -> None:
        """Take in the answer to the next window of the plan."""
        window.distinct()
        self.cut.largest = max(self.cut.largest, window.size)
        if window.request.fence:
            self._look_ahead(window)
        elif self._held is not None:
            self._probe(self._held, window)
        else:
            self._step(window)

    def _step(self, window: Window) -> None:
        """A window that should show the last event taken, and what follows it."""
        self._target = None
        found = self.taken.found_at(window)
        head = found is not None and found <= 0 and not self.taken.blind
        if found is not None:
            found += self.row - self.taken.count  # by where the list is now
        if not self._placed(window, found, head=head):
            return
        index = self.taken.anchor(window, least=1 if self.row - 1 > window.start else 0)
        if index is None:
            self._miss(window)
            return
        total = self._total(window)
        if self.book.done:
            return
        behind = self._anchored_at(window, index)
        known = self.taken.seen
        new = [event for event in window.events[index + 1 :] if event.event_log_id not in known]
        repeats = len(window.ids) - index - 1 - len(new)
        self._repeats += repeats
        self.book.duplicates += repeats + window.size - len(window.ids)
        row = window.start + index + 1
        self._weigh(window, new, row, behind, total)

    def _weigh(
        self, window: Window, new: list[TargetEvent], row: int, behind: int, total: int | None
    ) -> None:
        """What a window's new events, the first of them in `row`, mean for the walk."""
        full = self._full(window)
        if self._owing and (new or full):
            self._owe(window, new, row)
        elif full:
            self._advance(window, new, row, behind)
            if self._last_by_pages(window):
                self._end(window, "the last page by the server's count of pages")
            else:
                self._fence_in(total)
        elif total == window.end:
            self._advance(window, new, row, behind)
            if self.cut.holds_the_last(window):
                self._end(window, "the last page ends where the total does")
            else:
                self.cut.be_sure()
        elif total is not None:
            self._short(window, new, row)
        elif behind > window.end and self._looks < LOOKS:
            self._look_again(window)  # the last event taken should be behind it
            self._advance(window, new, row, behind)
        else:
            self._hold(window, new, row)

    def _total(self, window: Window) -> int | None:
        """The size of the list when the answer was made, if the server is to be believed."""
        totals = self.book.totals
        total = totals.of(window)
        if total is None or window.end <= total or self._owing:
            return total
        echo = None if window.page is None else window.page.pagination.offset
        if echo is not None and 0 < echo < window.request.offset:
            start = self.cut.start(window.request.limit, echo)
            if start + window.size <= total:  # the server says that it sent the last page instead
                self.found = evolve(self.found, past_end="clamped")
                window.start = start
                return total
        if totals.forced:
            self.book.fail(f"row {window.end} came, though the total is {total}")
        elif window.row_zero or self.guess.confirmed:
            totals.doubt()
        return None

    def _anchored_at(self, window: Window, index: int) -> int:
        """Note where the anchor was found. Returns the row behind the last event taken."""
        taken, cut = self.taken, self.cut
        place_taken = taken.seen.get(window.ids[index]) if index >= 0 else -1
        if place_taken is None:  # found by the order of dates alone
            self._drift, self._moved = 0, True
            if index + 1 < len(window.ids) or self.guess.confirmed or self._former is not None:
                return window.end
            # It stands too far left for its row: perhaps because offsets are read otherwise.
            self.guess.turn()
            self._former = window.end
            return self.row
        later = taken.count - 1 - place_taken if index >= 0 else 0
        shift = self.row - 1 - later - window.start - index
        if (later or shift) and not self._slack:
            if self.guess.confirmed or window.row_zero:
                self._moved = True
            else:
                self._unsure = True
        self._slack = self._slack if later else 0
        self._turned = False
        if later:
            self.book.passes += 1
        self.book.duplicates += max(0, -shift) if self.guess.confirmed and not later else 0
        surprise = abs(shift - self._drift)
        self._drift = max(0, shift)
        cut.overlap = max(cut.overlap // 2, min(2 * surprise, cut.room // 2))
        if index + 1 < len(window.ids) or not later:
            return window.end
        return self._search.behind(window, window.end + later)

    def _learn_from(self, window: Window) -> None:
        """What a window of nothing but new events says about offsets."""
        limit, offset = window.request.limit, window.request.offset
        total = self.book.totals.of(window)
        if not window.size or self.taken.found_at(window) is not None:
            return
        if total is not None and limit * offset >= total:
            self.guess.see(limit, offset, offset)  # counted in pages, it would be behind the end
        elif 2 * offset < self.row:
            self.guess.see(limit, offset, limit * offset)  # in rows, it would be among the taken

    def _miss(self, window: Window) -> None:
        """Nothing in the window ties it to the events taken: look elsewhere."""
        self.pending.clear()
        if self._former:
            self.guess.turn()
            self.row, self._former = self._former, 0
            return
        search, cut, looking = self._search, self.cut, self._looks < LOOKS
        self._learn_from(window)
        self.book.passes += search.misses == 0
        if window.row_zero:
            self.book.fail("the events that the checkpoint remembers are gone, and so is the order")
            return
        if self.taken.lies_right_of(window):
            search.misses += 1
            self._target = search.behind(window, window.end + cut.room // 2) - cut.room // 2
        elif not (self.guess.confirmed or self._turned):
            search.misses += 1
            self.guess.turn()
            self._turned = True
            self._target = window.request.start
        elif not window.size and not window.refused and window.start < self.row and looking:
            search.misses += 1
            self._look_again(window)  # nothing came where events were taken before
        else:
            self.guess.turn()
            self._turned = False
            self._target = search.before(window, self.row, cut.least_overlap, cut.room)
            total = self.book.totals.of(window)
            if total is not None:
                self._target = max(0, min(self._target, total - cut.least_overlap))
        if search.lost:
            self.book.fail("the rows move faster than pages can be read")

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
        if not window.size:
            self.guess.turn()
        last = self.cut.holds_the_last(window)
        self._fence.look(window, self.book.totals.of(window), last=last)
        if self._fence.problem is not None:
            self.book.fail(self._fence.problem)
