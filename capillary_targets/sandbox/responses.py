"""Answers of the API as bytes: envelopes, rows, and error responses.

Amounts are `Decimal` and come out as JSON numbers with all their digits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from string import Template
from typing import Any, Final

import msgspec
from aiohttp import web
from attrs import define

from . import samples
from .model import TODAY, Event, Group, Pagination, Period, Rule
from .settings import SandboxSettings
from .world import EventHistory, World, achieved, parse_date

encode: Final[Callable[[Any], bytes]] = msgspec.json.Encoder(decimal_format="number").encode

MESSAGES = {
    300004: "Invalid input",
    310011: "Invalid userId",
    310017: "Target group not found or deactivated",
    310018: "Target rule not found",
    310019: "Target period not found",
    310126: "User is not enrolled to this target",
    310130: "Invalid enrollment type as input",
    310149: "No record found in user target for given UserId and TargetId",
    320001: "Invalid client key and secret",
    8011: "Invalid source account",
    8013: "Customer identifier invalid",
    8015: "Customer not found for the given identifiers",
    8045: "Account id is missing",
    8065: "Customer not found in the given source",
    11029: "Limit cannot be greater than 100",
    11003: "The offset value is greater than the total number of pages",
}
"""Contract §5.3. The wording of the 8xxx and of 11003 is ours; 11003 and 11029 are a sibling's."""

_FIXED_STATUS = {310126: 500}
"""Codes whose HTTP status is printed (contract §14)."""


@define
class ErrorResponse(Exception):
    """An answer other than the one asked for. `status` None: the sandbox's `error_status`."""

    code: int
    body: bytes
    status: int | None = None


def as_json(body: bytes, status: int = 200) -> web.Response:
    """A body as an answer."""
    return web.Response(body=body, status=status, content_type="application/json")


def error(code: int) -> ErrorResponse:
    """A v3 error, the two that the API pages print in the printed bytes; an 8xxx is a v2 one.

    The items of those carry a `status`, and there is no `data` (contract §5.1).
    """
    if code // 1000 == 8:
        errors = [{"status": False, "code": code, "message": MESSAGES[code]}]
        return ErrorResponse(code, encode({"errors": errors, "warnings": []}))
    body = samples.ERRORS.get(code) or error_body(code, MESSAGES[code])
    return ErrorResponse(code, body, _FIXED_STATUS.get(code))


def unauthorized(code: int, message: str, status: int) -> ErrorResponse:
    """A rejected login, in the v1.1 envelope, where even that is `success: "true"` (§1.3)."""
    inner = {"success": "true", "code": str(code), "message": message}
    return ErrorResponse(code, encode({"response": {"status": inner}}), status)


def error_body(code: int, message: str) -> bytes:
    """The v3 envelope of an error (contract §5.1)."""
    errors = [{"code": code, "message": message}]
    return encode({"data": None, "errors": errors, "warnings": None})


def data(value: Any) -> bytes:
    """The v3 envelope without pages (envelope 1 of contract §5.1)."""
    return encode({"data": value, "errors": None, "warnings": None})


def events_page(
    rows: Sequence[Event], pagination: Pagination | None, settings: SandboxSettings
) -> bytes:
    """The events answer (envelope 2 of contract §5.1), its dates in ISO form too with `iso`."""
    if settings.iso:
        rows = [
            msgspec.structs.replace(
                row,
                event_date_iso=_iso(row.event_date),
                event_processed_date_iso=_iso(row.event_processed_date),
            )
            for row in rows
        ]
    head = {} if pagination is None else {"pagination": pagination}
    body = encode({**head, "data": rows, "errors": [], "warnings": []})
    return body if settings.missing_id_key else body.replace(b'"eventLogId":null,', b"")


def targets(rules: Iterable[Rule]) -> bytes:
    """The active targets answer."""
    return data([_target(rule) for rule in rules])


@lru_cache(maxsize=4096)
def _target(rule: Rule) -> msgspec.Raw:
    """One row of the active targets answer (contract §6)."""
    literal = {"arity": "literal", "value": rule.expression, "type": "boolean:primitive"}
    period = rule.group.periods[0].id
    default = {"id": rule.id * 10, "periodId": period, "defaultValue": rule.target_value}
    defaults = {str(period): default} if rule.shows_default else {}
    return msgspec.Raw(
        encode(
            {
                "id": rule.id,
                "attribution": _attribution(datetime.fromtimestamp(rule.created_ms / 1000, UTC)),
                "name": rule.name,
                "emfRuleSetId": 2_000_000 + rule.id,
                "emfUnrolledRulesetId": 1_000_000 + rule.id,
                "targetType": rule.target_type,
                "targetEntity": rule.target_entity,
                "targetGroupId": rule.group.id,
                "active": True,
                "expression": rule.expression,
                "expressionJson": f"\n{json.dumps(literal, indent=2)}",
                "filters": [{"entityType": kind, "entityIds": ids} for kind, ids in rule.filters],
                "enrolmentMethod": rule.enrolment_method,
                "targetPeriodDefaultValuesMap": defaults,
            }
        )
    )


def target_periods(group: Group) -> bytes:
    """The periods of a target group (contract §11.3)."""
    return data(
        [
            {
                "id": period.id,
                "attribution": _attribution(parse_date(period.start)),
                "startDate": period.start,
                "endDate": period.end,
                "refCode": period.ref_code,
                "periodStatus": period.status,
                "targetGroupId": group.id,
                "active": True,
            }
            for period in group.periods
        ]
    )


def target_groups(
    world: World, settings: SandboxSettings, user: int, rules: list[Rule], *, every_cycle: bool
) -> bytes:
    """A user's target groups with what is achieved in each (contract §11.2).

    Args:
        world: where the numbers come from.
        settings: which of the newer keys there are, and what cycles start from.
        user: whose.
        rules: the targets asked for.
        every_cycle: not only the running one.
    """
    groups: dict[int, dict[str, Any]] = {}
    for rule in (world.own(user, one) for one in rules):
        history = world.history(user, rule.id)
        group = groups.setdefault(rule.group.id, _group(rule.group, user))
        group["targets"] += [
            _user_target(rule, period, user, history, settings)
            for period in rule.group.periods
            if every_cycle or period.status == "RUNNING"
        ]
    return data(
        {"userId": user, "customer": _customer(user), "targetGroups": list(groups.values())}
    )


def _group(group: Group, user: int) -> dict[str, Any]:
    streaks = {"streaks": [_streak(group, user)]} if group.tracking_type == "STREAKS" else {}
    return {
        "id": group.id,
        "attribution": _attribution(parse_date("2024-12-15")),
        "name": group.name,
        "orgId": 100,
        "preferredTillId": 751_552_970_000,
        "targets": [],
        **streaks,
        "targetEvaluationType": group.evaluation_type,
        "trackingType": group.tracking_type,
    }


def _user_target(
    rule: Rule, period: Period, user: int, history: EventHistory, settings: SandboxSettings
) -> dict[str, Any]:
    start, stop = history.span(period)
    rows = history[start:stop]
    # A record is of one cycle; without any there are no events either (contract §14).
    recorded = bool(rows) or (start > 0 and settings.carry_over != 0)
    value, reached = achieved(settings, rule, rows) if recorded else (Decimal("0.000"), None)
    record_id = (user * 10_000 + rule.id % 10_000) * 100 + period.id % 100
    target = {
        "targetId": record_id if recorded else None,
        "periodId": period.id,
        "periodRefCode": period.ref_code,
        "periodStartDate": period.start,
        "periodEndDate": period.end,
        "targetValue": rule.target_value,
        "targetAchievedValue": value,
        "targetName": rule.name,
        "targetType": rule.target_type,
        "targetEntity": rule.target_entity,
        "targetRuleId": rule.id,
        "enrolledOn": "2025-02-01T00:00:00.000+0000",  # earlier sales count too (§18)
        "eventName": "appCheckIn" if rule.behavioural else "TransactionAdd",
        "periodStartDateWithTimeStamp": f"{period.start}T00:00:00.000Z",
        "periodEndDateWithTimeStamp": f"{period.end}T23:59:59.000Z",
        "targetAchievedDateTime": None if reached is None else _iso(reached.event_date),
        "currentPeriod": period.status == "RUNNING",
        "milestones": milestones(rule, value) or None,
    }
    if settings.last_updated_on:
        last = parse_date(history[stop - 1].event_date) if recorded and stop else None
        changed = history.changed_at or last
        target |= {
            "lastUpdatedOn": None if changed is None else _stamp(changed),
            "unEnrolled": False,
        }
        if settings.achieved_log_id:
            target["targetAchievedEventLogId"] = None if reached is None else reached.event_log_id
    return target


def milestones(rule: Rule, value: Decimal) -> list[dict[str, Any]]:
    """Half of the target, and all of it, of every fourth rule; with unlisted keys (§14)."""
    return [
        {
            "id": rule.id * 10 + number,
            "triggerName": f"{percent} %",
            "triggerValue": rule.target_value * percent / 100,
            "isAchieved": (reached := value * 100 >= rule.target_value * percent),
            "achievedDate": int(TODAY.timestamp() * 1000) if reached else None,
            "triggerType": "PERCENTAGE",
            "triggerValueType": "FIXED",
            "points": percent,
        }
        for number, percent in enumerate((50, 100) if rule.id % 4 == 1 else ())
    ]


def _streak(group: Group, user: int) -> dict[str, Any]:
    status, count = (("NOT_STARTED", 0), ("INPROGRESS", 1), ("ACHIEVED", 3), ("DROPPED", 2))[
        (user + group.id) % 4
    ]
    return {
        "userStreakId": user * 1_000 + group.id,
        "streakId": group.id * 10,
        "streakName": f"Streak {group.id}",
        "status": status,
        "currentCount": count,
        "totalTargetCountOfSequence": 3,
        "streakAchievedDateTime": _stamp(TODAY) if status == "ACHIEVED" else None,
        "levelValues": [1, 2, 3],
    }


_CUSTOMER = Template((files(__package__) / "customer.template").read_text("utf-8"))
_FIRST_NAMES = ("Asha", "Ben", "Chloé", "Dmitri", "Eun", "Farah")
IDENTIFIERS = {"mobile": "919{:09d}", "email": "user{}@example.com", "externalId": "EXT{}"}


def identifiers(user: int) -> dict[str, str]:
    """What a customer can be looked up by: identifierName to identifierValue."""
    return {name: form.format(user) for name, form in IDENTIFIERS.items()}


def identified_user(name: str, value: str) -> int | None:
    """The user id in an identifier; None if it is not one of ours."""
    digits = re.search(r"[0-9]{1,19}(?=\D*$)", value.removeprefix("919"))
    user = int(digits[0]) if digits else -1
    return user if identifiers(user).get(name) == value else None


def _customer(user: int) -> msgspec.Raw:
    """A made-up person (personal data, where a real service answers)."""
    name = _FIRST_NAMES[user % len(_FIRST_NAMES)]
    text = _CUSTOMER.substitute(identifiers(user), user=user, name=name, number=user % 1000)
    return msgspec.Raw(text.encode())


def _attribution(created: datetime) -> dict[str, Any]:
    """Who made a thing and when (contract §6): a made-up person."""
    person = {"id": 4, "code": "sandbox", "description": None, "name": "User", "type": "ADMIN_USER"}
    return {
        "createdOn": _stamp(created),
        "lastUpdatedOn": _stamp(created),
        "lastUpdatedBy": person,
        "createdBy": person,
    }


def _stamp(moment: datetime) -> str:
    """A moment as the newer calls spell it: with milliseconds and an offset without a colon."""
    return f"{moment.isoformat(timespec='milliseconds')[:23]}+0000"


def _iso(date: str) -> str:
    return f"{date[:10]}T{date[11:19]}Z"
