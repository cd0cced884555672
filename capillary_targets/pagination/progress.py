"""How far the caller of a walk has come, which is what checkpoints tell."""

from __future__ import annotations

from attrs import define, field

from .values import Batch, Checkpoint
from .walk import Walk

__all__ = ["Progress"]


@define(eq=False)
class Progress:
    """The walk, and how much of what it proved was given out to the caller."""

    walk: Walk
    _before: Checkpoint
    _batch: Batch | None = field(init=False, default=None)
    _given: int = field(init=False, default=0)

    @property
    def checkpoint(self) -> Checkpoint:
        """The place behind what was given out last."""
        if self._batch is None:
            return self._before
        return self._before.behind(self._batch, self._given, self.walk.found)

    def next(self, batch: Batch) -> None:
        """Another batch is to be given out."""
        if self._batch is not None:
            # Without the dialect, which takes its time and is only wanted with the last place.
            before = self._before
            self._before = before.behind(self._batch, self._given, before.dialect)
        self._batch, self._given = batch, 0

    def give(self, count: int) -> None:
        """So many more events of the batch are given out."""
        self._given += count
