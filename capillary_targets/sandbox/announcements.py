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
from .world import TargetChange, World, achieved, parse_date

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
    if isinstance(change, TargetChange):
        rule, user = world.own(change.user, change.rule), change.user
        running = (one for one in rule.group.periods if one.status == "RUNNING")
        period = next(running, rule.group.periods[-1])
        yield from _Change(settings, world, user, rule, period, period.first_moment).of_target(
            enrolled=change.enrolled
        )
        return
    known = world.rule(change.target_rule_id)
    event_period = None if known is None else known.group.period(change.period_id)
    if known is not None and event_period is not None and change.target_value is not None:
        rule, user = world.own(change.customer_id, known), change.customer_id
        date = change.event_processed_date
        yield from _Change(settings, world, user, rule, event_period, date).of_event(change)


@frozen
class _Change:
    """What announcements of one change share; `date` is when it happened."""

    settings: SandboxSettings
    world: World
    user: int
    rule: Rule
    period: Period
    date: str

    def of_target(self, *, enrolled: bool | None) -> Iterator[Announcement]:
        """Of an enrolment made or ended, or (None) of another value to reach."""
        rule, period = self.rule, self.period
        if enrolled is None:
            yield evolve(self, date=TODAY.isoformat(" ")).told("targetValueUpdated")
            return
        if enrolled:
            data = {
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
            yield self.made("targetCustomerEnrolment", data)
        if rule.group.tracking_type == "STREAKS":
            prefix = "" if enrolled else "Un"
            yield self.of_streak(f"streakCustomer{prefix}Enrolment", f"streak{prefix}EnrolmentData")

    def of_event(self, row: Event) -> Iterator[Announcement]:
        """Of a written row: the turn of a period, the value, the target, its group, its streak."""
        rule, period = self.rule, self.period
        others = [one for one in self.world.written(self.user, rule.id) if one is not row]
        last = rule.group.period(others[-1].period_id) if others else None
        if last is not None and last.start < period.start:
            yield from self.turn_from(last)
        activity = _activity(self.settings, rule, row)
        value, defined = self.achieved(period), rule.target_value
        in_period = [one for one in others if one.period_id == period.id]
        before = achieved(self.settings, rule, in_period)[0]
        data = self.target | {
            "eventName": activity["triggeringActivity"]["name"],
            # Unsigned, of a return too.
            "currentEventTargetValue": _amount(abs(row.target_value or Decimal(0))),
            "achievedTargetValue": _amount(value),
            "definedTargetValue": _amount(defined),
            "milestoneDetails": _milestones(rule, value),
            **activity,
        }
        yield self.made("targetAchievedValueUpdated", data, row.event_log_id)
        if before < defined <= value:
            yield self.made("targetValueAchieved", data, row.event_log_id)
        if rule.group.tracking_type == "UNIFIED":
            yield from self.of_group(value - before, activity, row.event_log_id)
        if rule.group.tracking_type == "STREAKS" and (before < defined) != (value < defined):
            length = 1 + self.streak(rule.group.periods.index(period))
            if value >= defined and length == 1:
                yield self.of_streak(
                    "streakStart", "streakStartData", userStreakValueAtTheStart="0"
                )
            if length in _LEVELS:
                name = "streakLevelAchieved" if value >= defined else "streakLevelUnAchieved"
                level = f"Level {_LEVELS.index(length) + 1}"
                yield self.of_streak(name, "streakData", streakLevelName=level)

    def turn_from(self, last: Period) -> Iterator[Announcement]:
        """Of the end of the last period that had a row, and the begin of this one."""
        ended = evolve(self, period=last)
        yield ended.told("targetPeriodCompleted")
        if self.rule.group.tracking_type == "STREAKS":
            index = self.rule.group.periods.index(last)
            length = self.streak(index + 1)
            adjacent = self.rule.group.periods[index + 1] == self.period
            if not (length and adjacent) and (length or self.streak(index)):
                yield ended.of_streak("streakEnd", "streakEndData")
        yield self.told("targetPeriodStarted")

    def of_group(
        self, added: Decimal, activity: dict[str, Any], log_id: int | None
    ) -> Iterator[Announcement]:
        """Where the sum of a group's targets passes its threshold, the least of their values."""
        held = (self.world.own(self.user, one) for one in self.world.targets(self.user))
        rules = [one for one in held if one.group == self.rule.group]
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
        group = {
            "targetGroupId": self.rule.group.id,
            "targetGroupName": self.rule.group.name,
            "unifiedTargetsAchievementCondition": condition,
        }
        data = {"targetData": targets, **activity, "unifiedTargetGroupDetails": group}
        name = "unifiedTargetsAchieved" if reached else "unifiedTargetsUnAchieved"
        yield self.made(name, data, log_id)

    def told(self, name: str) -> Announcement:
        """One event without a row of its own, and the figures of the period."""
        figures = {
            "achievedTargetValue": _amount(self.achieved(self.period)),
            "definedTargetValue": _amount(self.rule.target_value),
        }
        return self.made(name, self.target | figures | self.triggered_by(name))

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
        return self.made(name, self.target | {key: [streak]} | self.triggered_by(name))

    def made(self, name: str, data: dict[str, Any], log_id: int | None = None) -> Announcement:
        """One event about the member; enriched, it holds personal data."""
        enriched = self.settings.notify_envelope == "enriched"
        member = {"customerId": self.user, **(identifiers(self.user) if enriched else {})}
        moment = int(parse_date(self.date).timestamp()) * 1000
        return Announcement(name, {"customerIdentifiers": member, **data}, moment, log_id)

    @property
    def target(self) -> dict[str, Any]:
        """The target as most events name it."""
        rule, period = self.rule, self.period
        details = {
            "id": rule.id,
            "name": rule.name,
            "targetGroupId": rule.group.id,
            "targetGroupName": rule.group.name,
            "targetPeriodId": period.id,
            "targetPeriodName": period.ref_code.strip(),
        }
        return {"targetDetails": details}

    def triggered_by(self, name: str) -> dict[str, Any]:
        """The activity behind an event without a row."""
        return _triggered(f"{name}Event", {"TargetRuleId": str(self.rule.id)})

    def achieved(self, period: Period, rule: Rule | None = None) -> Decimal:
        """What the member has in a period, rows included that the API does not show yet."""
        rule = rule or self.rule
        return achieved(self.settings, rule, self.world.written(self.user, rule.id, period.id))[0]

    def streak(self, stop: int) -> int:
        """Periods in a row before that index in which the target was reached."""
        periods, defined = self.rule.group.periods[:stop], self.rule.target_value
        return len([*takewhile(lambda one: self.achieved(one) >= defined, periods[::-1])])


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
    at = sum(key.encode()) % len(key)
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


def _amount(value: Decimal) -> str:
    """An amount as notifications spell it: text with three decimals."""
    return f"{value:.3f}"
