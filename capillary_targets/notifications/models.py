"""Notifications: one frozen class for each event that the vendor pushes (contract §15)."""
# ruff: noqa: RUF009 - `_from` makes a field, not a default

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from attrs import field, frozen

from capillary_targets.models import Model


def _from(*keys: str) -> Any:
    """A field that the parser reads from the first of the vendor's keys that can be read."""
    return field(default=None, metadata={"keys": keys})


@frozen(repr=False)
class NotifiedTarget(Model):
    """A target that a notification is about. `rule_id` is what `client.events` asks for."""

    rule_id: int | None = _from("targetId", "id")
    name: str | None = _from("targetName", "name")
    group_id: int | None = _from("targetGroupId")
    group_name: str | None = _from("targetGroupName")
    period_id: int | None = _from("targetPeriodId")
    period_name: str | None = _from("targetPeriodName")
    achieved_value: Decimal | None = _from("achievedTargetValue")
    defined_value: Decimal | None = _from("definedTargetValue")
    extra: Mapping[str, Any] = field(factory=dict, repr=False, hash=False)


@frozen(repr=False)
class NotifiedMilestone(Model):
    """A milestone reached or waiting. `achieved_at` is aware (UTC)."""

    id: int | None = _from("id")
    name: str | None = _from("name")
    value_type: str | None = _from("valueType")
    defined_value: Decimal | None = _from("definedValue")
    achieved_at: datetime | None = _from("achievedDate")
    extra: Mapping[str, Any] = field(factory=dict, repr=False, hash=False)


@frozen(repr=False)
class NotifiedStreak(Model):
    """A streak and its number of levels; their values and dates are in `extra`."""

    id: int | None = _from("streakId")
    name: str | None = _from("streakName")
    level_name: str | None = _from("streakLevelName")
    levels: int | None = _from("numberOfLevel")
    extra: Mapping[str, Any] = field(factory=dict, repr=False, hash=False)


@frozen(repr=False)
class Activity(Model):
    """What triggered a notification: its name, and identifiers by lower-case key."""

    name: str | None = None
    identifiers: Mapping[str, str] = field(factory=dict, repr=False, hash=False)
    extra: Mapping[str, Any] = field(factory=dict, repr=False, hash=False)


@frozen(kw_only=True, repr=False)
class Notification(Model):
    """One pushed event.

    A value that cannot be read is None and stays in `extra`, as does every key that has no field
    here, so that no event is lost for a field that only decorates it. `extra`, which may hold the
    member's profile, is in no repr.
    """

    event_id: str
    """Deduplication key. Where the vendor sent none, a digest of the body."""
    name: str
    """The vendor's name of the event, such as `targetAchievedValueUpdated`."""
    user_id: int | None = None
    event_log_id: int | None = None
    """The `event_log_id` of the `TargetEvent` that it announces, wherever it stood."""
    transaction_id: int | None = _from("transactionId")
    return_id: int | None = _from("returnId")
    targets: tuple[NotifiedTarget, ...] = ()
    current_value: Decimal | None = _from("currentEventTargetValue")
    """What this event adds. A return's is unsigned: the target decreases by it."""
    achieved_value: Decimal | None = _from("achievedTargetValue")
    defined_value: Decimal | None = _from("definedTargetValue")
    milestones: tuple[NotifiedMilestone, ...] = ()
    activity: Activity | None = None
    org_id: int | None = _from("orgId")
    created_at: datetime | None = _from("createdAt")
    """Aware (UTC)."""
    ref_id: str | None = _from("refId")
    api_request_id: str | None = _from("apiRequestId")
    extra: Mapping[str, Any] = field(factory=dict, repr=False, hash=False)

    @property
    def rule_ids(self) -> tuple[int, ...]:
        """The rule ids of its targets, each once."""
        return tuple(dict.fromkeys(t.rule_id for t in self.targets if t.rule_id is not None))


class UnknownNotification(Notification):
    """An event whose name is not documented; everything is in `extra`."""


class TargetAchievedValueUpdated(Notification):
    """A purchase, return or event has moved what a member has achieved."""


class TargetValueUpdated(Notification):
    """The value that a member is to reach has changed."""


class TargetValueAchieved(Notification):
    """A member has reached the target."""


class TargetPeriodStarted(Notification):
    """A cycle of a target has begun."""


class TargetPeriodCompleted(Notification):
    """A cycle of a target is over."""


class UnifiedTargetsAchieved(Notification):
    """A member has met the condition of a group of targets."""


class UnifiedTargetsUnAchieved(Notification):
    """A member no longer meets the condition of a group of targets."""


@frozen(kw_only=True, repr=False)
class TargetCustomerEnrolment(Notification):
    """A member has been enrolled in a target."""

    source: str | None = _from("source")
    default_value: Decimal | None = _from("defaultTargetValue")


@frozen(kw_only=True, repr=False)
class StreakNotification(Notification):
    """Base of the events about streaks."""

    streaks: tuple[NotifiedStreak, ...] = ()


class StreakLevelAchieved(StreakNotification):
    """A member has reached a level of a streak."""


class StreakLevelUnAchieved(StreakNotification):
    """A member has lost a level of a streak."""


class StreakCustomerEnrolment(StreakNotification):
    """A member has been enrolled in a streak."""


class StreakCustomerUnEnrolment(StreakNotification):
    """A member has left a streak."""


class StreakStart(StreakNotification):
    """A streak has begun for a member."""


class StreakEnd(StreakNotification):
    """A streak is over for a member."""


CLASSES: Final[Mapping[str, type[Notification]]] = {
    f"{name[0].lower()}{name[1:]}": cls
    for name, cls in [*globals().items()]
    if isinstance(cls, type) and issubclass(cls, Notification)
    if cls not in {Notification, UnknownNotification, StreakNotification}
}
"""Class of each documented event, by the vendor's name of it."""
