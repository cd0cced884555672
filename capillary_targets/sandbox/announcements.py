"""Announcements: which of the fourteen events a change makes, and what each says (contract §15).

Pure: read off the world after the change. A member who leaves a target is announced by nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import takewhile
from typing import Any

from attrs import evolve, frozen

from .model import TODAY, Event, Period, Rule
from .responses import identifiers, milestones
from .settings import SandboxSettings
from .world import TargetChange, World, achieved, parse_date, splitmix64

_LEVELS = (2, 3)
"""Periods in a row, with the target reached, that make a level of a streak."""


@frozen
class Announcement:
    """One event of the vendor's: its name, `data`, time (epoch ms) and, of a row, its log id."""

    name: str
    data: dict[str, Any]
    moment: int
    log_id: int | None = None


def of_change(
    settings: SandboxSettings, world: World, change: Event | TargetChange
) -> Iterator[Announcement]:
    """What a written event, or a change of a user's targets, makes."""
    if isinstance(change, Event):
        yield from _of_event(settings, world, change)
        return
    rule, period = world.own(change.user, change.rule), _running(change.rule)
    enrolled, user = change.enrolled, change.user
    if enrolled is None:
        moment = int(TODAY.timestamp()) * 1000
        yield _Change(settings, world, user, rule, period, moment).told("targetValueUpdated")
        return
    moment = _milliseconds(period.first_moment)
    made = _Change(settings, world, user, rule, period, moment)
    if enrolled:
        data = {
            "customerIdentifiers": made.customer,
            "defaultTargetValue": _amount(rule.target_value),
            "targetId": rule.id,
            "targetName": rule.name,
            "targetGroupId": rule.group.id,
            "targetGroupName": rule.group.name,
            "source": rule.enrolment_method,
            "targetPeriodId": period.id,
            "targetPeriodName": period.ref_code.strip(),
            "targetPeriodStartDate": f"{period.start} 00:00:00",
            "milestoneDetails": [],
        }
        yield Announcement("targetCustomerEnrolment", data, moment)
    if rule.group.tracking_type == "STREAKS":
        prefix = "" if enrolled else "Un"
        yield made.of_streak(f"streakCustomer{prefix}Enrolment", f"streak{prefix}EnrolmentData")


def _of_event(settings: SandboxSettings, world: World, row: Event) -> Iterator[Announcement]:
    """Of a written row: the turn of a period, the value, the target, its group, its streak."""
    rule = world.rule(row.target_rule_id)
    period = None if rule is None else rule.group.period(row.period_id)
    if rule is None or period is None or row.target_value is None:  # it adds nothing
        return
    rule = world.own(row.customer_id, rule)
    moment = _milliseconds(row.event_processed_date)
    change = _Change(settings, world, row.customer_id, rule, period, moment)
    others = [one for one in world.written(row.customer_id, rule.id) if one is not row]
    last = rule.group.period(others[-1].period_id) if others else None
    if last is not None and last.start < period.start:
        yield from evolve(change, period=last).turned_to(period)
    activity = _activity(settings, rule, row)
    value, defined = change.achieved(period), rule.target_value
    before = achieved(settings, rule, [one for one in others if one.period_id == period.id])
    data = change.about | {
        "eventName": activity["triggeringActivity"]["name"],
        "currentEventTargetValue": _amount(abs(row.target_value)),  # unsigned, of a return too
        "achievedTargetValue": _amount(value),
        "definedTargetValue": _amount(defined),
        "milestoneDetails": _milestones(rule, value),
        **activity,
    }
    yield Announcement("targetAchievedValueUpdated", data, moment, row.event_log_id)
    if before < defined <= value:
        yield Announcement("targetValueAchieved", data, moment, row.event_log_id)
    if rule.group.tracking_type == "UNIFIED":
        yield from change.of_group(value - before, activity, row.event_log_id)
    if rule.group.tracking_type == "STREAKS" and (before < defined) != (value < defined):
        length = 1 + change.streak(change.before(period))
        if value >= defined and length == 1:
            yield change.of_streak("streakStart", "streakStartData", userStreakValueAtTheStart="0")
        if length in _LEVELS:
            name = "streakLevelAchieved" if value >= defined else "streakLevelUnAchieved"
            level = f"Level {_LEVELS.index(length) + 1}"
            yield change.of_streak(name, "streakData", streakLevelName=level)


@frozen
class _Change:
    """What announcements of one change share. `moment` is in epoch milliseconds."""

    settings: SandboxSettings
    world: World
    user: int
    rule: Rule
    period: Period
    moment: int

    @property
    def customer(self) -> dict[str, Any]:
        """Enriched, it holds personal data."""
        enriched = self.settings.notify_envelope == "enriched"
        return {"customerId": self.user, **(identifiers(self.user) if enriched else {})}

    @property
    def about(self) -> dict[str, Any]:
        """The member and the target."""
        rule, period = self.rule, self.period
        details = {
            "id": rule.id,
            "name": rule.name,
            "targetGroupId": rule.group.id,
            "targetGroupName": rule.group.name,
            "targetPeriodId": period.id,
            "targetPeriodName": period.ref_code.strip(),
        }
        return {"customerIdentifiers": self.customer, "targetDetails": details}

    def achieved(self, period: Period, rule: Rule | None = None) -> Decimal:
        """What the member has in a period, rows included that the API does not show yet."""
        rule = rule or self.rule
        return achieved(self.settings, rule, self.world.written(self.user, rule.id, period.id))

    def before(self, period: Period) -> Period | None:
        """The period before one."""
        index = self.rule.group.periods.index(period)
        return self.rule.group.periods[index - 1] if index else None

    def streak(self, period: Period | None) -> int:
        """Periods in a row, the last of which is `period`, in which the target was reached."""
        periods, defined = self.rule.group.periods, self.rule.target_value
        until = 0 if period is None else periods.index(period) + 1
        return len([*takewhile(lambda one: self.achieved(one) >= defined, periods[:until][::-1])])

    def turned_to(self, period: Period) -> Iterator[Announcement]:
        """Of the end of the period, and the begin of a later one."""
        yield self.told("targetPeriodCompleted")
        if self.rule.group.tracking_type == "STREAKS":
            length = self.streak(self.period)
            goes_on = length and self.before(period) == self.period
            if not goes_on and (length or self.streak(self.before(self.period))):
                yield self.of_streak("streakEnd", "streakEndData")
        yield evolve(self, period=period).told("targetPeriodStarted")

    def told(self, name: str) -> Announcement:
        """One event without a row of its own, and the figures of the period."""
        data = self.about | {
            "achievedTargetValue": _amount(self.achieved(self.period)),
            "definedTargetValue": _amount(self.rule.target_value),
            **_triggered(f"{name}Event", {"TargetRuleId": str(self.rule.id)}),
        }
        return Announcement(name, data, self.moment)

    def of_streak(self, name: str, key: str, **more: str) -> Announcement:
        """One event of a streak, whose data are under `key`."""
        streak = {
            "streakId": self.rule.id * 10,
            "streakName": self.rule.name,
            "descriptionOfTheStreak": self.rule.name,
            "numberOfLevel": len(_LEVELS),
            "levelValues": [str(one) for one in _LEVELS],
            "startDate": f"{self.period.start} 00:00:00",
            **more,
        }
        activity = _triggered(f"{name}Event", {"TargetRuleId": str(self.rule.id)})
        return Announcement(name, self.about | {key: [streak]} | activity, self.moment)

    def of_group(
        self, added: Decimal, activity: dict[str, Any], log_id: int | None
    ) -> Iterator[Announcement]:
        """Where the sum of a group's targets passes its threshold, the least of their values."""
        rules = [self.world.own(self.user, one) for one in self.world.targets(self.user)]
        rules = [one for one in rules if one.group == self.rule.group]
        values = {one.id: self.achieved(self.period, one) for one in rules}
        threshold = min((one.target_value for one in rules), default=Decimal(0))
        reached = sum(values.values()) >= threshold
        if reached == (sum(values.values()) - added >= threshold):
            return
        targets = [
            {
                "achievedTargetValue": _amount(values[one.id]),
                "definedTargetValue": _amount(one.target_value),
                "targetId": one.id,
                "targetName": one.name,
                "targetPeriodId": self.period.id,
                "targetPeriodName": self.period.ref_code.strip(),
            }
            for one in rules
        ]
        condition = {
            "aggregation": "SUM",
            "combinationType": "ANY",
            "ruleExpression": f"({' | '.join(str(one.id) for one in rules)})",
            "thresholdValue": threshold,
        }
        data = {
            "customerIdentifiers": {**self.customer, "loyaltyType": "loyalty"},
            "targetData": targets,
            **activity,
            "unifiedTargetGroupDetails": {
                "targetGroupId": self.rule.group.id,
                "targetGroupName": self.rule.group.name,
                "unifiedTargetsAchievementCondition": condition,
            },
        }
        name = "unifiedTargetsAchieved" if reached else "unifiedTargetsUnAchieved"
        yield Announcement(name, data, self.moment, log_id)


def with_stray_blanks(value: Any, draw: Callable[[], bool]) -> Any:
    """A value with a blank inside or before the keys that are drawn, as the vendor prints them."""
    if isinstance(value, list):
        return [with_stray_blanks(one, draw) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        _with_blank(key) if draw() else key: with_stray_blanks(one, draw)
        for key, one in value.items()
    }


def _with_blank(key: str) -> str:
    at = splitmix64(len(key), sum(key.encode())) % len(key)
    return f"{key[:at]} {key[at:]}"


def _activity(settings: SandboxSettings, rule: Rule, row: Event) -> dict[str, Any]:
    """What has triggered the announcements of a row."""
    name, number = "GenericEvent", ""
    if not rule.behavioural:
        returned = row.event_name == "RETURN_BILL"
        name = "ReturnBill" if returned else "TransactionAdd"
        number = "returnId" if returned else "transactionId"
    keys = {number: row.unique_id} if number else {}
    if row.event_log_id is not None and settings.notify_log_id in {"both", "eventLogId"}:
        keys["eventLogId"] = str(row.event_log_id)
    numbered = number and row.unique_id.isdecimal()
    return _triggered(name, keys) | ({number: int(row.unique_id)} if numbered else {})


def _triggered(name: str, keys: dict[str, str]) -> dict[str, Any]:
    found = [{"key": key, "value": value} for key, value in keys.items()]
    about = {"name": name, "identifiers": found, "additionalAttributes": []}
    return {"triggeringActivity": about}


def _milestones(rule: Rule, value: Decimal) -> list[dict[str, Any]]:
    """Those that were reached, of a rule that has any."""
    return [
        {
            "id": one["id"],
            "name": one["triggerName"],
            "valueType": one["triggerType"],
            "definedValue": _amount(one["triggerValue"]),
            "achievedDate": one["achievedDate"],
        }
        for one in milestones(rule, value)
        if one["isAchieved"]
    ]


def _running(rule: Rule) -> Period:
    periods = rule.group.periods
    return next((one for one in periods if one.status == "RUNNING"), periods[-1])


def _amount(value: Decimal) -> str:
    """An amount as notifications spell it: text with three decimals."""
    return f"{value:.3f}"


def _milliseconds(date: str) -> int:
    return int(parse_date(date).timestamp()) * 1000
