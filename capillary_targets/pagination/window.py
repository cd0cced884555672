"""One answer, seen as a window on the server's list."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define

from capillary_targets.errors import CapillaryError
from capillary_targets.models import EventsPage, TargetEvent

from .values import PageRequest

__all__ = ["Window", "ids_of"]


def ids_of(events: Iterable[TargetEvent]) -> list[int]:
    """The events' ids."""
    return [event.event_log_id for event in events]


@define(eq=False, repr=False)
class Window:
    """The events of one answer and where in the list they should stand.

    `size` is the number of rows that came. A refusal (an error that means "behind the end") is a
    window without rows.
    """

    request: PageRequest
    page: EventsPage | None
    events: tuple[TargetEvent, ...]
    ids: list[int]
    size: int
    total: int | None
    start: int
    row_zero: bool
    """Whether it must begin with the very first row, however the server reads `offset`."""

    @classmethod
    def of(cls, request: PageRequest, answer: EventsPage | CapillaryError) -> Window:
        """The window that an answer opens."""
        if isinstance(answer, CapillaryError):
            return cls(request, None, (), [], 0, None, request.start, row_zero=False)
        events = answer.events
        ids = ids_of(events)
        total = answer.pagination.total
        if total is not None and total < 0:
            total = None
        zero = request.offset == 0
        return cls(request, answer, events, ids, len(ids), total, request.start, row_zero=zero)

    def distinct(self) -> bool:
        """Leave out events that this same answer had before. Whether there was none such."""
        if len(set(self.ids)) == self.size:
            return True
        by_id = {event.event_log_id: event for event in reversed(self.events)}
        self.ids = list(dict.fromkeys(self.ids))
        self.events = tuple(by_id[event] for event in self.ids)
        return False

    @property
    def refused(self) -> bool:
        """Whether the server refused to answer behind the end."""
        return self.page is None

    @property
    def end(self) -> int:
        """The row behind its last one."""
        return self.start + self.size
