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


@define(eq=False)
class Progress:
    """The walk, and how much of what it proved was given out to the caller."""

    walk: Walk
    given: int = field(init=False, default=0)
    """How many events of the latest batch are given out."""
    _batch: Batch | None = field(init=False, default=None)
    _tail: tuple[TargetEvent, ...] = field(init=False, default=())
    """The last events given out of earlier batches."""

    def begin(self, batch: Batch) -> None:
        """A batch is about to be given out, the one before it has been."""
        self._tail = self._latest()
        self._batch, self.given = batch, 0

    def _latest(self) -> tuple[TargetEvent, ...]:
        if self._batch is None:
            return ()
        latest = self._batch.page.events[max(0, self.given - _TAIL) : self.given]
        return latest if len(latest) == _TAIL else (*self._tail, *latest)[-_TAIL:]

    @property
    def checkpoint(self) -> Checkpoint:
        """The place behind what was given out last."""
        start = self.walk.start
        if self._batch is None:
            return start
        latest = self._latest()
        return Checkpoint(
            self._batch.row + self.given,
            (*start.last, *ids_of(latest))[-_TAIL:],
            latest[-1].event_date if latest else start.date,
            self.walk.found,
        )
