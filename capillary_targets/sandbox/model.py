"""What the sandbox's world is made of: rows and rules, as plain values.

Amounts stay *text* all the way to the socket: `1.000` and `1` are the same number, but a client
that keeps the spelling must be shown both.
"""

from __future__ import annotations

from attrs import field, frozen


@frozen(slots=True)
class Event:
    """One row of a user's event history (contract §7). Dates are `YYYY-MM-DD HH:MM:SS.s`."""

    event_log_id: int
    event_name: str
    customer_id: int
    event_display_name: str | None
    unique_id: str
    event_date: str
    event_processed_date: str
    period_id: int
    target_group_id: int
    target_rule_id: int
    target_value: str | None
    """The number as it is spelled on the wire, or None for `null`."""


@frozen(slots=True)
class Period:
    """One cycle of a target group: both days belong to it (`YYYY-MM-DD`)."""

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


@frozen(slots=True, unsafe_hash=True, cache_hash=True)
class Group:
    """A target group: it owns the periods and one rule, or several if unified (contract §11.4)."""

    id: int
    name: str
    tracking_type: str
    periods: tuple[Period, ...]

    def period(self, period_id: int) -> Period | None:
        """The group's period of that id."""
        return next((one for one in self.periods if one.id == period_id), None)

    def period_at(self, moment: str) -> Period:
        """The period that an event date falls in; outside of all, the nearest end."""
        for one in self.periods:
            if moment <= one.last_moment:
                return one
        return self.periods[-1]


@frozen(slots=True, unsafe_hash=True, cache_hash=True)
class Rule:
    """A target: `id` is what the events call names `targetRuleId` (contract §6)."""

    id: int
    name: str
    target_type: str
    target_entity: str
    group: Group = field(repr=lambda group: str(group.id))
    enrolment_method: str
    user_created: bool
    created_ms: int
    """When it was made, epoch milliseconds: `trackingDate` is compared with it."""
    expression: str = "true"
    filters: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(entityType, entityIds) pairs."""
    default_value: str | None = None
    """Spelled as on the wire; shown for the group's first period."""

    @property
    def behavioural(self) -> bool:
        """Whether its events are behavioural ones, each worth `1.000`."""
        return self.target_entity == "EVENT"
