"""What the look-ups answer about a member: profile, target groups, progress, periods, streaks.

Source: API pages "Get Associated Target Groups of a User" and "Get target periods". The rules of
`models` hold here too. The profile is personal data: it can be read, field by field, but no repr
shows it, so that no log line does by accident.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from attrs import field, frozen

from .models import ApiWarning, Attribution, Model, short_repr


@frozen(repr=False)
class CommChannel(Model):
    """A way to reach a customer: `type` mobile, email, ...; `value` is the number or address."""

    type: str | None = None
    account_id: str | None = None
    value: str | None = field(default=None, repr=False)
    primary: bool | None = None
    verified: bool | None = None
    subscribed: bool | None = None
    attributes: Any = field(default=None, repr=False, hash=False)


@frozen(repr=False)
class Profile(Model):
    """Who the customer is in one source. A first name has been seen that was a mobile number."""

    first_name: str | None = field(default=None, repr=False)
    last_name: str | None = field(default=None, repr=False)
    comm_channels: tuple[CommChannel, ...] = field(default=(), repr=False)
    source: str | None = None
    account_id: str | None = None
    user_id: int | None = None
    org_source_id: int | None = None
    extra: Mapping[str, Any] = field(factory=dict, repr=False, hash=False)


@frozen(repr=False)
class LoyaltyInfo(Model):
    """`lifetime_purchases` is an amount without a currency, as everywhere in this API."""

    attribution: Attribution | None = None
    loyalty_type: str | None = None
    lifetime_purchases: Decimal | None = field(default=None, repr=False)


@frozen(repr=False)
class Customer(Model):
    """The person behind a user id. Personal data: all but the id is kept out of the repr."""

    id: int | None = None
    profiles: tuple[Profile, ...] = field(default=(), repr=False)
    loyalty_info: LoyaltyInfo | None = field(default=None, repr=False)
    custom_fields: Any = field(default=None, repr=False, hash=False)
    extra: Mapping[str, Any] = field(factory=dict, repr=False, hash=False)


@frozen(repr=False)
class Milestone(Model):
    """A step on the way to a target's value."""

    id: int | None = None
    trigger_name: str | None = None
    trigger_value: Decimal | None = None
    is_achieved: bool | None = None
    extra: Mapping[str, Any] = field(factory=dict, hash=False)


@frozen(repr=False)
class UserTarget(Model):
    """How far a user is with one target in one period.

    `target_rule_id` is what events ask for; `target_id` is the record of this user, target
    and period, and None until the user does something in that period. `period_start_date` and
    `period_end_date` both belong to the period. Whether the `Z` of the two `…_with_time_stamp`
    means true UTC, or the cluster's own day, the API does not say. `target_achieved_date_time` is
    true UTC.
    """

    target_rule_id: int
    target_id: int | None = None
    target_name: str | None = None
    target_type: str | None = field(default=None, repr=False)
    target_entity: str | None = field(default=None, repr=False)
    event_name: str | None = None
    period_id: int | None = None
    period_ref_code: str | None = None
    period_start_date: date | None = None
    period_end_date: date | None = None
    current_period: bool | None = None
    target_value: Decimal | None = None
    target_achieved_value: Decimal | None = None
    target_achieved_date_time: datetime | None = None
    target_achieved_event_log_id: int | None = None
    milestones: tuple[Milestone, ...] = ()
    enrolled_on: datetime | None = field(default=None, repr=False)
    un_enrolled: bool | None = None
    last_updated_on: datetime | None = field(default=None, repr=False)
    period_start_date_with_time_stamp: datetime | None = field(default=None, repr=False)
    period_end_date_with_time_stamp: datetime | None = field(default=None, repr=False)
    org_id: int | None = None
    program_id: int | None = None
    alternate_currency_identifier: str | None = None
    alternate_currency_name: str | None = None
    enrolled_on_iso: datetime | None = field(default=None, repr=False)
    period_start_date_with_time_stamp_iso: datetime | None = field(default=None, repr=False)
    period_end_date_with_time_stamp_iso: datetime | None = field(default=None, repr=False)
    target_achieved_date_time_iso: datetime | None = None
    extra: Mapping[str, Any] = field(factory=dict, hash=False)


@frozen(repr=False)
class Streak(Model):
    """A streak of a user: `status` NOT_STARTED, ACHIEVED, ...; counts are in periods."""

    streak_id: int | None = None
    streak_name: str | None = None
    user_streak_id: int | None = None
    status: str | None = None
    current_count: int | None = None
    total_target_count_of_sequence: int | None = None
    streak_achieved_date_time: datetime | None = None
    streak_achieved_user_target_id: str | None = None
    extra: Mapping[str, Any] = field(factory=dict, hash=False)


@frozen(repr=False)
class TargetGroup(Model):
    """A target group (milestone) that a user is in, with the user's progress.

    `tracking_type` is DEFAULT, UNIFIED (several rules), STREAKS, CAPPING, ...;
    `target_evaluation_type` FIXED_CALENDAR_WINDOW, CYCLIC_WINDOW, PERIOD_AGNOSTIC_WINDOW.
    """

    id: int
    name: str | None = None
    targets: tuple[UserTarget, ...] = ()
    streaks: tuple[Streak, ...] = ()
    target_evaluation_type: str | None = None
    tracking_type: str | None = None
    attribution: Attribution | None = None
    org_id: int | None = None
    preferred_till_id: int | None = None
    extra: Mapping[str, Any] = field(factory=dict, hash=False)


@frozen(repr=False)
class UserTargetGroups(Model):
    """All groups of one user. `customer`, the profile, is personal data and not in the repr."""

    user_id: int
    target_groups: tuple[TargetGroup, ...] = ()
    customer: Customer | None = field(default=None, repr=False)
    warnings: tuple[ApiWarning, ...] = ()
    request_id: str | None = None

    def targets(self) -> Iterator[UserTarget]:
        """The targets of all groups, one after the other."""
        for group in self.target_groups:
            yield from group.targets


@frozen(repr=False)
class TargetPeriod(Model):
    """One period (cycle) of a target group; both days belong to it.

    `period_status` is NOT_STARTED, RUNNING or ENDED; UPCOMING and LIVE occur too.
    """

    id: int
    ref_code: str | None = None
    start_date: date | None = None
    end_date: date | None = None
    period_status: str | None = None
    target_group_id: int | None = None
    active: bool | None = None
    description: str | None = None
    attribution: Attribution | None = None
    extra: Mapping[str, Any] = field(factory=dict, hash=False)


class PeriodList(list[TargetPeriod]):
    """The periods of a target group."""

    __repr__ = short_repr
