"""How far the caller of a walk has come, which is what checkpoints tell."""

from __future__ import annotations

from typing import Final

from attrs import define, field

from capillary_targets.models import TargetEvent

from .values import Batch, Checkpoint
from .walk import Walk
from .window import ids_of

__all__ = ["Progress"]

_TAIL: Final = 8
"""Events whose ids a checkpoint remembers: it is found again unless all of them are deleted."""


@define(eq=False, repr=False)
class Progress:
    """The walk, and how much of what it proved was given out to the caller."""

    walk: Walk
    given: int = field(init=False, default=0)
    """How many events of the latest batch are given out."""
    _batch: Batch | None = field(init=False, default=None)
    _row: int | None = field(init=False, default=None)
    """The row behind the batches before."""
    _tail: tuple[TargetEvent, ...] = field(init=False, default=())
    """Their last events."""

    def begin(self, batch: Batch) -> None:
        """A batch is about to be given out, the one before it has been."""
        self.let_go()
        self._batch = batch

    def let_go(self) -> None:
        """Of the latest batch, nothing more will be given out: keep its last events only."""
        if self._batch is not None:
            self._row, self._tail = self._place(self._batch)
            self._batch, self.given = None, 0

    def _place(self, batch: Batch) -> tuple[int, tuple[TargetEvent, ...]]:
        latest = batch.page.events[max(0, self.given - _TAIL) : self.given]
        if len(latest) < _TAIL:
            latest = (*self._tail, *latest)[-_TAIL:]
        return batch.row + self.given, latest

    @property
    def checkpoint(self) -> Checkpoint:
        """The place behind what was given out last."""
        start = self.walk.start
        row, latest = self._row, self._tail
        if self._batch is not None:
            row, latest = self._place(self._batch)
        if row is None:
            return start
        return Checkpoint(
            row,
            (*start.last, *ids_of(latest))[-_TAIL:],
            latest[-1].event_date if latest else start.date,
            self.walk.found,
        )
