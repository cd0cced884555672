"""A user's events on their way into a file: counted and made ready while each page is at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from attrs import define, field

from capillary_targets.models import TargetEvent

from .batch import EventBatch, Sums

__all__ = ["Packed", "Packer"]


class Packer(Protocol):
    """What is done with each page."""

    def misfit_of_events(self, events: EventBatch) -> str | None:
        """What of them cannot be written exactly, if anything."""

    def pack(self, user_id: int, events: EventBatch, sent: Mapping[int, bytes]) -> Any:
        """The rows of a user, as the format's own sink takes them."""


@define(eq=False)
class Packed:
    """One user's events as rows, and their numbers.

    The events themselves are let go of: a long history takes half as much memory as rows, and what
    was just read is nearest at hand.
    """

    user_id: int
    _packer: Packer
    pages: list[Any] = field(init=False, factory=list)
    """What `Packer.pack` made of each page."""
    events: int = field(init=False, default=0)
    sums: dict[int, Sums] = field(init=False, factory=dict)
    """By target id (0: the server did not say)."""
    days: Counter[tuple[int, str | None]] = field(init=False, factory=Counter)
    """Events by day, as counted by the calendar (0: without a date), and name."""
    misfit: str | None = field(init=False, default=None)
    """What of them cannot be written exactly."""

    def add(self, events: Sequence[TargetEvent], sent: Mapping[int, bytes]) -> None:
        """Take a page; `sent` are its rows by event id as the server sent them, if asked for."""
        if not events or self.misfit is not None:
            return
        batch = EventBatch(events)
        self.misfit = self._packer.misfit_of_events(batch)
        if self.misfit is not None:
            return
        self.events += len(events)
        self.pages.append(self._packer.pack(self.user_id, batch, sent))
        self.days.update(batch.days())
        for rule, sums in batch.sums.items():
            self.sums.setdefault(rule, Sums()).add(sums)
