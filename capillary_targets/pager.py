"""EventPager: drives the pure walk of `pagination` over the endpoint; `async for`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import attrs
from attrs import define, field

from .endpoints import checked_id, target_events
from .errors import NoRecordFound, UsageError
from .models import EventsPage, TargetEvent
from .pagination import PagingReport, Walk
from .session import Session

__all__ = ["EventPager"]


@define(eq=False)
class EventPager:
    """The events of one user towards one target, in chronological order.

    A pager is a value: each loop over it starts afresh and asks the server again. `report` tells
    of the latest loop. A user without any record in the target (310149) simply has no events.
    """

    session: Session = field(repr=False)
    user_id: int
    target_rule_id: int
    period_id: int | None = None
    page_size: int = 100
    max_items: int | None = None
    report: PagingReport = field(init=False, factory=PagingReport)

    def __attrs_post_init__(self) -> None:
        for name in ("user_id", "target_rule_id"):
            checked_id(name, getattr(self, name))
        if self.page_size < 1:
            raise UsageError(f"page_size must be at least 1, not {self.page_size}")
        if self.max_items is not None and self.max_items < 0:
            raise UsageError(f"max_items cannot be negative: {self.max_items}")

    async def __aiter__(self) -> AsyncGenerator[TargetEvent, None]:
        async for page in self.pages():
            for event in page.events:
                yield event

    async def pages(self) -> AsyncGenerator[EventsPage, None]:
        """The same events page by page, empty pages left out."""
        walk = Walk(self.page_size, self.max_items)
        self.report = walk.report
        while (request := walk.next_request()) is not None:
            try:
                page = await target_events(
                    self.session,
                    self.user_id,
                    self.target_rule_id,
                    period_id=self.period_id,
                    limit=request.limit,
                    offset=request.offset,
                )
            except NoRecordFound:
                walk.feed_no_record()
                self.report = walk.report
                return
            events = walk.feed(page)
            self.report = walk.report
            if events:
                yield attrs.evolve(page, events=events)

    async def collect(self) -> list[TargetEvent]:
        """All events as a list."""
        return [event async for event in self]
