"""What the sandbox's world is made of, as plain values.

Amounts are `Decimal` with the digits that go over the wire: `1.000` and `1` are the same number,
but a client that keeps the spelling must be shown both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
from msgspec import UNSET, UnsetType

TODAY = datetime(2025, 12, 10, tzinfo=UTC)
"""The world's own day: seeded events lie before it, events added later follow."""

Pagination = dict[str, int | float | str]


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One row of a user's event history (contract §7), named and ordered as on the wire.

    Dates are `YYYY-MM-DD HH:MM:SS.s` without a zone.
    """

    event_log_id: int | None
    event_name: str
    customer_id: int
    event_display_name: str | None
    unique_id: str
    event_date: str
    event_date_iso: str | UnsetType = msgspec.field(default=UNSET, name="eventDateISO")
    event_processed_date: str
    event_processed_date_iso: str | UnsetType = msgspec.field(
        default=UNSET, name="eventProcessedDateISO"
    )
    period_id: int
    target_group_id: int
    target_rule_id: int
    target_value: Decimal | None


class Period(msgspec.Struct, frozen=True):
    """One cycle of a target group; both days, `YYYY-MM-DD`, belong to it."""

    id: int
    start: str
    end: str
    ref_code: str

    @property
    def first_moment(self) -> str:
        """The first moment in it, comparable with `Event.event_date`."""
        return f"{self.start} 00:00:00.0"

    @property
    def last_moment(self) -> str:
        """The last second in it, comparable with `Event.event_date`."""
        return f"{self.end} 23:59:59.9"

    @property
    def status(self) -> str:
        """`periodStatus` on the world's own day, TODAY."""
        today = TODAY.date().isoformat()
        if self.end < today:
            return "ENDED"
        return "RUNNING" if self.start <= today else "NOT_STARTED"


class Group(msgspec.Struct, frozen=True, cache_hash=True):
    """A target group: it owns the periods and one rule, or several if unified (contract §11.4)."""

    id: int
    name: str
    tracking_type: str
    periods: tuple[Period, ...]
    evaluation_type: str = "FIXED_CALENDAR_WINDOW"

    def period(self, period_id: int) -> Period | None:
        """The group's period of that id."""
        return next((one for one in self.periods if one.id == period_id), None)

    def period_at(self, moment: str) -> Period:
        """The period that an event date falls in; outside of all, the nearest one."""
        return next((one for one in self.periods if moment <= one.last_moment), self.periods[-1])


class Rule(msgspec.Struct, frozen=True, cache_hash=True, kw_only=True):
    """A target: `id` is what the events call names `targetRuleId` (contract §6)."""

    id: int
    name: str
    target_type: str
    target_entity: str
    group: Group
    enrolment_method: str
    user_created: bool
    created_ms: int
    """When it was made, epoch milliseconds: `trackingDate` is compared with it."""
    expression: str = "true"
    filters: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(entityType, entityIds) pairs."""
    target_value: Decimal = Decimal("100.000")
    """To be reached in each period."""
    shows_default: bool = False
    """Whether `targetPeriodDefaultValuesMap` holds that value (for the first period)."""

    @property
    def behavioural(self) -> bool:
        """Whether its events are behavioural ones, each worth `1.000`."""
        return self.target_entity == "EVENT"
