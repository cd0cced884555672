"""The walk over one target's events as a pure state machine: pages in, requests out, no I/O.

The documented dialect (API page "Get target events" and its samples): `offset` counts pages from
0, `total` counts rows, `limit` is the page size in force.
"""

from __future__ import annotations

from attrs import define, field, frozen

from .models import EventsPage, TargetEvent

__all__ = ["PageRequest", "PagingReport", "Walk"]


@frozen
class PageRequest:
    """What to ask the server for next."""

    limit: int
    offset: int


@frozen
class PagingReport:
    """What a walk did. `complete` says that every event the server spoke of has arrived."""

    events: int = 0
    requests: int = 0
    total: int | None = None
    complete: bool = False
    no_record: bool = False
    reason: str = "not started"


@define
class Walk:
    """One walk: ask `next_request()`, fetch it, `feed()` the page, until there is no request."""

    page_size: int
    max_items: int | None = None
    report: PagingReport = field(init=False, factory=PagingReport)
    _number: int = field(init=False, default=0)
    _done: bool = field(init=False, default=False)

    def next_request(self) -> PageRequest | None:
        """The page to ask for, or None when the walk is over."""
        if self._done or self.max_items == 0:
            return None
        return PageRequest(self.page_size, self._number)

    def feed(self, page: EventsPage) -> tuple[TargetEvent, ...]:
        """Take a page in; return the events that are new, in order."""
        events = page.events
        total = page.total
        seen = self.report.events + len(events)
        size = page.pagination.limit or self.page_size
        reason = "more to come"
        if not events:
            reason = "an empty page"
        elif total and seen >= total:
            reason = "all the server spoke of"
        elif len(events) < size:
            reason = "a short page"
        done = reason != "more to come"
        complete = done and seen >= (total or 0)
        if self.max_items is not None and seen >= self.max_items:
            if seen > self.max_items:
                events = events[: len(events) - (seen - self.max_items)]
                complete = False
            seen, reason, done = self.max_items, "max_items", True
        self._number += 1
        self._done = done
        self.report = PagingReport(
            events=seen,
            requests=self.report.requests + 1,
            total=total,
            complete=complete,
            reason=reason,
        )
        return events

    def feed_no_record(self) -> None:
        """The server has no record of this user in this target (310149): no events."""
        self._done = True
        self.report = PagingReport(
            events=self.report.events,
            requests=self.report.requests + 1,
            total=0,
            complete=True,
            no_record=True,
            reason="no record",
        )
