"""The rows taken so far, and how a page of a list that moves is aligned with them.

Every walk rests on one claim: *the rows taken are a prefix, in the server's order, of all rows that
exist throughout the walk*. A page is one atomic look at a contiguous part of the list. If it shows
a row already taken, its anchor, then every lasting row not yet taken stands behind that row: none
stands before the page, and those behind the anchor can be taken in order. The claim holds again.
When the answers were made plays no part in this, so several pages may be in flight at once.

A row is all its fields. `eventLogId` finds it quickly, and does not suffice: several rows may bear
one id, or none. Of rows alike in every field that follow each other, a run, the first is an anchor
if the page shows what stands before it; how many there are tells which of them are new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from operator import attrgetter, itemgetter
from typing import Final, NamedTuple

from attrs import define, field

from capillary_targets.models import TargetEvent

from .types import Checkpoint, row_digest

_id_of: Final = attrgetter("event_log_id")


class Alignment(NamedTuple):
    """The latest row taken that a page shows: row `at` of the page is number `taken`.

    Both count from 0; -1 stands for the head of the list, before its first row.
    """

    at: int
    taken: int


@define(eq=False, repr=False)
class _Index:
    """Where rows taken are found. It is brought up to date by `update`."""

    rows: list[TargetEvent | int]
    by_id: dict[int | None, int] = field(init=False, factory=dict)
    """The first row of each id."""
    by_row: dict[TargetEvent, int] = field(init=False, factory=dict)
    """Rows without an id, or with the id of another row."""
    copied: set[TargetEvent] = field(init=False, factory=set)
    """Rows that were taken more than once."""
    scattered: set[TargetEvent] = field(init=False, factory=set)
    """Those of them that do not follow each other."""
    longest: int = field(init=False, default=1)
    """The most rows alike that follow each other."""
    known: tuple[Sequence[TargetEvent], dict[int, int]] = field(init=False, default=((), {}))
    """The latest page looked at, and which of its rows were taken."""
    _done: int = field(init=False, default=0)

    def find(self, row: TargetEvent) -> int | None:
        """The number under which a row was taken, the first of rows that are alike."""
        taken = None if row.event_log_id is None else self.by_id.get(row.event_log_id)
        if taken is not None and self.rows[taken] == row:
            return taken
        return self.by_row.get(row)

    def update(self) -> None:
        """Add the rows that were taken since."""
        begin, self._done = self._done, len(self.rows)
        if begin == self._done:
            return
        new, self.known = self.rows[begin:], ((), {})
        if not self.by_row and (begin or int not in map(type, new)):
            ids = dict(zip(map(_id_of, new), range(begin, self._done), strict=True))
            if len(ids) == len(new) and None not in ids and self.by_id.keys().isdisjoint(ids):
                self.by_id |= ids  # every row has an id of its own
                return
        for index in range(begin, self._done):
            row = self.rows[index]
            if isinstance(row, int):
                continue
            if self.find(row) is not None:
                self.copied.add(row)
                run = 1
                while index >= run and self.rows[index - run] == row:
                    run += 1
                self.longest = max(self.longest, min(run, 64))
                if run == 1:
                    self.scattered.add(row)
            elif row.event_log_id is None or row.event_log_id in self.by_id:
                self.by_row[row] = index
            else:
                self.by_id[row.event_log_id] = index


class SeenEvents:
    """The rows taken, in order. `skipped` rows before them are known by number only."""

    def __init__(self, skipped: int = 0) -> None:
        self.skipped: int = skipped
        self.rows: list[TargetEvent | int] = []
        """Rows; or digests, as a checkpoint remembers them, until a page shows the rows."""
        self._index: _Index | None = None
        """Built once a page is not what was expected."""

    @classmethod
    def at(cls, checkpoint: Checkpoint) -> SeenEvents:
        """The rows that a checkpoint remembers."""
        last = checkpoint.last[-checkpoint.row :] if checkpoint.row else ()
        seen = cls(checkpoint.row - len(last))
        seen.rows += last
        return seen

    @property
    def count(self) -> int:
        """How many rows were taken, those skipped included."""
        return self.skipped + len(self.rows)

    @property
    def overlap(self) -> int:
        """Rows by which a page must reach back to show where a run of rows alike begins.

        As far as known: pages that are what was expected are not searched for such rows.
        """
        index = self._index
        return 1 if index is None or not index.copied else index.longest + 1

    def add(self, rows: Sequence[TargetEvent], after: int) -> None:
        """Take rows, in the server's order, that stand behind the one taken as number `after`."""
        if rows and after != len(self.rows) - 1:  # those taken behind it are gone, or come later
            self.restore([*self.rows[: after + 1], *rows, *self.rows[after + 1 :]])
        else:
            self.rows += rows

    def restore(self, rows: list[TargetEvent | int]) -> None:
        """Set the rows taken."""
        self.rows, self._index = rows, None
        self._indexed()

    def known(self, events: Sequence[TargetEvent]) -> dict[int, int]:
        """The rows of a page that were taken before: place on the page, and number."""
        index = self._indexed()
        if index.known[0] is not events:
            found = {
                at: taken
                for at, event in enumerate(events)
                if (index.by_row or event.event_log_id in index.by_id)
                and (taken := index.find(event)) is not None
            }
            index.known = events, found
        return index.known[1]

    def align(self, events: tuple[TargetEvent, ...]) -> Alignment | None:
        """Align a page with the rows taken. None if it shows none that can be an anchor."""
        rows = self.rows
        if not rows or not events:
            return None
        if isinstance(rows[-1], int):  # put rows of the page in the place of their digests
            digests = {row_digest(event): event for event in events}
            self.restore([digests.get(row, row) if isinstance(row, int) else row for row in rows])
        anchor = self._anchor(events)
        return None if anchor is None else self.extend(events, anchor)

    def extend(self, events: tuple[TargetEvent, ...], anchor: Alignment) -> Alignment:
        """Go on from an anchor to the latest row taken that the page shows behind it."""
        index, taken = anchor
        if taken == len(self.rows) - 1:
            return anchor
        for place in self.known(events):
            if place > anchor.at:
                with suppress(ValueError):
                    index, taken = place, self.rows.index(events[place], taken + 1)
        return Alignment(index, taken)

    def out_of_order(self, events: tuple[TargetEvent, ...]) -> bool:
        """Whether rows that were taken once stand in another order on a page."""
        copied = self._indexed().copied
        found = self.known(events)
        taken = [one for at, one in found.items() if not (copied and events[at] in copied)]
        return taken != sorted(taken)

    def in_place(self, events: tuple[TargetEvent, ...], overlap: int) -> Alignment | None:
        """Align by position alone, if the page begins with exactly the last `overlap` rows."""
        known = self.rows[len(self.rows) - overlap :] if 0 <= overlap <= len(self.rows) else None
        if len(events) >= overlap and list(events[:overlap]) == known:
            return Alignment(overlap - 1, len(self.rows) - 1)
        return None

    def _indexed(self) -> _Index:
        if self._index is None:
            self._index = _Index(self.rows)
        self._index.update()
        return self._index

    def _anchor(self, events: tuple[TargetEvent, ...]) -> Alignment | None:
        """The latest row taken just once, or run of rows, that the page shows from its begin."""
        index = self._indexed()
        copied, scattered, known = index.copied, index.scattered, self.known(events)
        copies = Counter(events) if len(set(map(_id_of, events))) != len(events) else None
        best: Alignment | None = None
        if known and copies is None and not copied:
            return Alignment(*max(known.items(), key=itemgetter(1)))
        for at, taken in known.items():
            event = events[at]
            if (best is not None and taken <= best.taken) or (at == 0 and copied):
                continue  # the first row is perhaps the last of a run
            once = not copied or event not in copied
            if once and (copies is None or copies[event] == 1):
                best = Alignment(at, taken)
            elif copies is not None and at and event not in scattered:
                run = events[at : at + copies[event]]
                first = events.index(event) == at
                if first and run.count(event) == len(run):  # stand before the first of a run
                    best = Alignment(at - 1, taken - 1)
        return best
