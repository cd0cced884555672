"""What a walk gives out, each event once; how it ended; and how far its consumer has come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
from attrs import define, field

from capillary_targets.models import EventsPage, TargetEvent

from .dialect import Dialect
from .types import Batch, Checkpoint, row_digest

__all__ = ["TAIL", "Cursor", "WalkOutput"]

TAIL: Final = 8
"""Rows that a checkpoint remembers: it is found again unless all of them are deleted."""


@define(eq=False, repr=False)
class WalkOutput:
    """Every event leaves through `emit`. `failed`: nothing proves that none is missing."""

    max_items: int | None
    events: int = 0
    batches: list[Batch] = field(init=False, factory=list)
    done: bool = field(init=False, default=False)
    complete: bool = field(init=False, default=False)
    failed: bool = field(init=False, default=False)
    reason: str = field(init=False, default="not started")

    @property
    def wanted(self) -> int | None:
        """How many more events are wanted; None: all there are."""
        return None if self.max_items is None else self.max_items - self.events

    def emit(self, page: EventsPage, events: Sequence[TargetEvent], row: int) -> None:
        """Give out events of a page, the first of which stands in `row`."""
        if self.wanted is not None and len(events) > self.wanted:
            events = events[: self.wanted]
            self._stop()
        if events:
            self.events += len(events)
            if len(events) != len(page.events):
                page = attrs.evolve(page, events=tuple(events))
            self.batches.append(Batch(page, row))

    def stop_if_satisfied(self) -> None:
        """End the walk if no more events are wanted."""
        if not self.done and self.wanted == 0:
            self._stop()

    def _stop(self) -> None:
        self.done, self.reason = True, f"max_items ({self.max_items}) are given out"

    def end(self, reason: str) -> None:
        """The walk is over, and nothing is missing."""
        if not self.done:
            self.done = self.complete = True
            self.reason = reason

    def fail(self, problem: str) -> None:
        """The walk is over and cannot prove that nothing is missing."""
        if not self.done:
            self.done = self.failed = True
            self.reason = problem


@define(eq=False, repr=False)
class Cursor:
    """How many of the proven events the consumer has received: the source of checkpoints."""

    start: Checkpoint
    received: int = field(init=False, default=0)
    """Of the current batch."""
    _batch: Batch | None = field(init=False, default=None)
    _row: int | None = field(init=False, default=None)
    _tail: tuple[TargetEvent, ...] = field(init=False, default=())

    def advance(self, batch: Batch | None) -> None:
        """Go on to the next batch; of the one before, only its last rows are kept."""
        if self._batch is not None:
            self._row, self._tail = self._position(self._batch)
        self._batch, self.received = batch, 0

    @property
    def page(self) -> EventsPage:
        """The page of the current batch."""
        assert self._batch is not None  # noqa: S101 - `advance` came before
        return self._batch.page

    def finish(self) -> None:
        """The whole of the current batch is received."""
        self.received = len(self.page.events)
        self.advance(None)

    def _position(self, batch: Batch) -> tuple[int, tuple[TargetEvent, ...]]:
        latest = batch.page.events[max(0, self.received - TAIL) : self.received]
        if len(latest) < TAIL:
            latest = (*self._tail, *latest)[-TAIL:]
        return batch.row + self.received, latest

    def checkpoint(self, dialect: Dialect) -> Checkpoint:
        """The position behind what was received last."""
        row, tail = (self._row, self._tail) if self._batch is None else self._position(self._batch)
        if row is None:
            return self.start
        last = (*self.start.last, *map(row_digest, tail))[-TAIL:]
        return Checkpoint(row, last, tail[-1].event_date if tail else self.start.date, dialect)
