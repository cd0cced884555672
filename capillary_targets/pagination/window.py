"""One answer, seen as a window on the server's list."""

from __future__ import annotations

from attrs import define, field

from capillary_targets.errors import CapillaryError
from capillary_targets.models import EventsPage, TargetEvent

from .values import PageRequest

__all__ = ["Window"]


@define
class Window:
    """The events of one answer and where in the list they should stand.

    `size` is the number of rows that came; `events` and `ids` leave out those that the same answer
    had before. A refusal (an error that means "behind the end") is a window without rows.
    """

    request: PageRequest
    page: EventsPage | None
    events: tuple[TargetEvent, ...]
    ids: list[int]
    size: int
    total: int | None

    start: int = field(init=False)
    row_zero: bool = field(init=False)
    """Whether it must begin with the very first row, however the server reads `offset`."""

    def __attrs_post_init__(self) -> None:
        self.start = self.request.start
        self.row_zero = self.request.offset == 0 and self.page is not None

    @classmethod
    def of(cls, request: PageRequest, answer: EventsPage | CapillaryError) -> Window:
        """The window that an answer opens."""
        if isinstance(answer, CapillaryError):
            return cls(request, None, (), [], 0, None)
        events = answer.events
        ids = [event.event_log_id for event in events]
        size = len(ids)
        if len(set(ids)) != size:
            by_id = {event.event_log_id: event for event in reversed(events)}
            ids = list(dict.fromkeys(ids))
            events = tuple(by_id[event] for event in ids)
        total = answer.pagination.total
        return cls(
            request, answer, events, ids, size, None if total is None or total < 0 else total
        )

    @property
    def refused(self) -> bool:
        """Whether the server refused to answer behind the end."""
        return self.page is None

    @property
    def end(self) -> int:
        """The row behind its last one."""
        return self.start + self.size
