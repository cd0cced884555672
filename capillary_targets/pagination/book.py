"""What both ways of walking write in: events given out, totals heard, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from attrs import define, field

from capillary_targets.models import EventsPage, TargetEvent

from .dialect import TotalKind
from .values import Batch, Proof
from .window import Window

__all__ = ["Book", "Totals"]


@define(eq=False, repr=False)
class Totals:
    """What the server says about the size of the list, and whether it can be believed."""

    forced: bool = False
    kind: TotalKind | None = None
    latest: int | None = None
    constant: bool = True
    """Whether every answer named the same figure."""
    _heard: bool = False
    _by_limit: dict[int, int] = field(factory=dict)
    """The latest figure for each page size asked for."""

    @property
    def trusted(self) -> bool:
        """Whether the figure counts rows, as far as is known."""
        return self.kind is None or self.kind == "rows"

    def hear(self, limit: int, total: int | None, size: int) -> None:
        """Note what the answer says that has `size` rows of the `limit` asked for."""
        if total is not None and total < 0:
            total = None
        if self._heard and total != self.latest:
            self.constant = False
        self._heard, self.latest = True, total
        if total is not None:
            self._by_limit[limit] = total
        if not self.forced and self.trusted:
            if total is None:
                self.kind = "absent"
            elif total == 0 and size:
                self.kind = "zero"
            else:
                self.kind = "rows"

    def of(self, window: Window) -> int | None:
        """The number of rows in the list when this answer was made, or None: not known."""
        return window.total if self.trusted else None

    def count_pages(self, rows: int, cap: int | None) -> bool:
        """Whether the figures were the numbers of pages of `rows`, and that is no coincidence."""
        figures = set(self._by_limit.values())
        return (len(figures) > 1 or max(figures, default=0) > 2) and all(
            total == -(-rows // (limit if cap is None else min(limit, cap)))
            for limit, total in self._by_limit.items()
        )

    def least_rows(self, cap: int | None) -> int:
        """The fewest rows that would make as many pages as was said; 0 if the figures disagree."""
        limits = {limit: limit if cap is None else min(limit, cap) for limit in self._by_limit}
        low = max(((n - 1) * limits[limit] + 1 for limit, n in self._by_limit.items()), default=0)
        high = min((n * limits[limit] for limit, n in self._by_limit.items()), default=0)
        return low if low <= high and len(set(self._by_limit.values())) > 1 else 0

    def doubt(self) -> None:
        """It does not count rows: more came than it allows."""
        self.kind = "wrong"


@define(eq=False, repr=False)
class Book:
    """The walk's own notes. Every event goes out through `give`, none twice."""

    max_items: int | None
    totals: Totals
    given: set[int] = field(factory=set)
    """Events given out on an earlier pass, which this pass must not give out again."""
    events: int = 0
    duplicates: int = 0
    passes: int = 1
    batches: list[Batch] = field(factory=list)
    done: bool = False
    complete: bool = False
    no_record: bool = False
    broken: bool = False
    reason: str = "not started"
    proof: Proof = "none"

    @property
    def wanted(self) -> int | None:
        """How many more events are wanted; None: all there are."""
        return None if self.max_items is None else self.max_items - self.events

    def give(self, page: EventsPage | None, events: Sequence[TargetEvent], row: int) -> None:
        """Give out events of a page, the first of which stands in `row`."""
        if self.given:
            events = [event for event in events if event.event_log_id not in self.given]
        wanted = self.wanted
        if wanted is not None and len(events) > wanted:
            events = events[:wanted]
            self.end(f"max_items ({self.max_items}) are given out")
        if not events:
            return
        self.events += len(events)
        assert page is not None  # noqa: S101 - a refusal has no events
        if len(events) != len(page.events):
            page = attrs.evolve(page, events=tuple(events))
        self.batches.append(Batch(page, row))

    def take_batches(self) -> list[Batch]:
        """What was given out since this was asked last."""
        batches, self.batches = self.batches, []
        return batches

    def enough(self) -> None:
        """End the walk if no more events are wanted."""
        if not self.done and self.wanted == 0:
            self.end(f"max_items ({self.max_items}) are given out")

    def end(self, reason: str, proof: Proof = "none") -> None:
        """The walk is over; with a proof, nothing is missing."""
        if not self.done:
            self.done, self.reason = True, reason
            self.complete, self.proof = proof != "none", proof

    def fail(self, problem: str) -> None:
        """The walk is over and cannot prove that nothing is missing."""
        if not self.done:
            self.end(problem)
            self.broken = True
