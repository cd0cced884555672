"""Parser: the body of a webhook to a `Notification`. Pure; source: contract §15 and its samples."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final, TypeVar

import attrs
import msgspec

from capillary_targets.errors import CapillaryError
from capillary_targets.structuring import parse_datetime, parse_decimal, parse_int, parse_str

from .models import (
    CLASSES,
    Activity,
    Notification,
    NotifiedMilestone,
    NotifiedStreak,
    NotifiedTarget,
    StreakNotification,
    TargetCustomerEnrolment,
    UnknownNotification,
)

__all__ = ["BadNotification", "parse"]

T = TypeVar("T")

_DECODER: Final = msgspec.json.Decoder(float_hook=Decimal)
_FAULTS: Final = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError)
_STREAK_DATA: Final = (
    "streakData",
    "streakEnrolmentData",
    "streakUnEnrolmentData",
    "streakStartData",
    "streakEndData",
)


class BadNotification(CapillaryError, ValueError):
    """The body is no notification: no JSON object, or one that does not name its event.

    The message never quotes the body, which may hold personal data.
    """


def parse(body: bytes | bytearray | memoryview | str) -> Notification:
    """A `Notification` of the class that its event names, from a body in either envelope.

    Amounts are exact (`Decimal`), times aware (UTC). What cannot be read is None and stays in
    `extra`. Raises `BadNotification`, and nothing else, whatever the bytes.
    """
    try:
        return _notification(_Keys(_DECODER.decode(body)), body)
    except BadNotification:
        raise
    except _FAULTS:
        failure = BadNotification("not a notification: the body is no JSON object")
    raise failure


class _Keys:
    """An object's values by key without blanks: the vendor prints `"currentE ventTargetValue"`.

    A value is taken at most once; those never taken, or that cannot be read, are `rest`.
    """

    def __init__(self, value: object) -> None:
        if not isinstance(value, Mapping):
            raise ValueError("expected an object")
        self.rest: dict[str, Any] = {}
        for key, item in value.items():
            name = "".join(key.split())
            if self.rest.get(name) is None:
                self.rest[name] = item

    def take(self, name: str, read: Callable[[Any], T]) -> T | None:
        """What stands under `name`, read; None where it is absent, blank or does not fit."""
        value = self.rest.get(name)
        if value is None or value == "":
            return None
        try:
            found = read(value)
        except _FAULTS:
            return None
        del self.rest[name]
        return found

    def take_list(self, name: str, read: Callable[[Any], T]) -> tuple[T, ...]:
        """The items under `name` that can be read; the array stays where one cannot."""
        items = self.rest.get(name)
        if not isinstance(items, list):
            return ()
        found = []
        for item in items:
            with suppress(*_FAULTS):
                found.append(read(item))
        if len(found) == len(items):
            del self.rest[name]
        return tuple(found)

    def first(self, names: tuple[str, ...], read: Callable[[Any], T]) -> T | None:
        """What stands under the first of `names` that can be read."""
        return next((found for n in names if (found := self.take(n, read)) is not None), None)


def _notification(outer: _Keys, body: bytes | bytearray | memoryview | str) -> Notification:
    event_id = outer.take("eventId", parse_str)
    # The enriched envelope wraps all else in `attributes`.
    inner = outer.take("attributes", _Keys) or outer
    name = inner.take("eventName", parse_str) or _without_org(outer.take("eventType", parse_str))
    if not name:
        raise BadNotification("not a notification: it names no event")
    data = inner.take("data", _Keys) or _Keys({})
    customer = data.take("customerIdentifiers", _Keys) or _Keys({})
    targets = tuple(_targets(data))
    activity = data.take("triggeringActivity", _activity)
    identifiers = {} if activity is None else activity.identifiers
    logged: list[Any] = [
        inner.take("eventLogId", parse_int),
        data.take("eventLogId", parse_int),
        _integer(identifiers.get("eventlogid")),
        inner.take("loyaltyEventId", parse_int),
    ]
    cls = CLASSES.get(name, UnknownNotification)
    more: dict[str, Any] = {}
    if issubclass(cls, StreakNotification):
        more["streaks"] = tuple(_streaks(data))
    elif cls is TargetCustomerEnrolment:
        more["source"] = data.take("source", parse_str)
        more["default_value"] = data.take("defaultTargetValue", parse_decimal)
    made = cls(
        event_id=event_id or _digest(body),
        name=name,
        user_id=customer.take("customerId", parse_int),
        event_log_id=next((number for number in logged if number is not None), None),
        transaction_id=data.take("transactionId", parse_int)
        or _integer(identifiers.get("transactionid")),
        return_id=data.take("returnId", parse_int) or _integer(identifiers.get("returnid")),
        targets=targets,
        current_value=data.take("currentEventTargetValue", parse_decimal),
        achieved_value=data.take("achievedTargetValue", parse_decimal),
        defined_value=data.take("definedTargetValue", parse_decimal),
        milestones=data.take_list("milestoneDetails", _milestone),
        activity=activity,
        org_id=inner.take("orgId", parse_int),
        created_at=inner.take("createdAt", parse_datetime),
        ref_id=inner.take("refId", parse_str),
        api_request_id=inner.take("apiRequestId", parse_str),
        **more,
    )
    levels = {"data": data.rest, "customerIdentifiers": customer.rest}
    extra = {**outer.rest, **inner.rest, **{key: rest for key, rest in levels.items() if rest}}
    return attrs.evolve(made, extra=extra)


def _without_org(event_type: str | None) -> str | None:
    """The name in an `eventType`, which may stand behind the organisation's id."""
    return None if event_type is None else re.sub(r"^[0-9]+_", "", event_type)


def _digest(body: bytes | bytearray | memoryview | str) -> str:
    given = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    return f"blake2b:{hashlib.blake2b(given, digest_size=16).hexdigest()}"


def _targets(data: _Keys) -> Iterator[NotifiedTarget]:
    """The targets, in whichever of the three places they stand."""
    group = data.take("unifiedTargetGroupDetails", _Keys) or _Keys({})
    # A group stands beside its targets and is the same for all of them.
    group_id = group.take("targetGroupId", parse_int)
    group_name = group.take("targetGroupName", parse_str)
    if group.rest:
        data.rest["unifiedTargetGroupDetails"] = group.rest

    def target(value: object) -> NotifiedTarget:
        given = _Keys(value)
        return attrs.evolve(
            _target(given),
            group_id=given.take("targetGroupId", parse_int) or group_id,
            group_name=given.take("targetGroupName", parse_str) or group_name,
            achieved_value=given.take("achievedTargetValue", parse_decimal),
            defined_value=given.take("definedTargetValue", parse_decimal),
            extra=given.rest,
        )

    details = data.take("targetDetails", target)
    if details is not None:
        yield details
    yield from data.take_list("targetData", target)
    if details is None and "targetId" in data.rest:
        yield attrs.evolve(
            _target(data),
            group_id=data.take("targetGroupId", parse_int) or group_id,
            group_name=data.take("targetGroupName", parse_str) or group_name,
        )


def _target(given: _Keys) -> NotifiedTarget:
    return NotifiedTarget(
        rule_id=given.first(("targetId", "id"), parse_int),
        name=given.first(("targetName", "name"), parse_str),
        period_id=given.take("targetPeriodId", parse_int),
        period_name=given.take("targetPeriodName", parse_str),
    )


def _streaks(data: _Keys) -> Iterator[NotifiedStreak]:
    for name in _STREAK_DATA:
        yield from data.take_list(name, _streak)


def _streak(value: object) -> NotifiedStreak:
    given = _Keys(value)
    return NotifiedStreak(
        id=given.take("streakId", parse_int),
        name=given.take("streakName", parse_str),
        level_name=given.take("streakLevelName", parse_str),
        levels=given.take("numberOfLevel", parse_int),
        extra=given.rest,
    )


def _milestone(value: object) -> NotifiedMilestone:
    given = _Keys(value)
    return NotifiedMilestone(
        id=given.take("id", parse_int),
        name=given.take("name", parse_str),
        value_type=given.take("valueType", parse_str),
        defined_value=given.take("definedValue", parse_decimal),
        achieved_at=given.take("achievedDate", parse_datetime),
        extra=given.rest,
    )


def _activity(value: object) -> Activity:
    given = _Keys(value)
    pairs = given.take_list("identifiers", _identifier)
    name = given.take("name", parse_str)
    return Activity(name=name, identifiers=dict(pairs), extra=given.rest)


def _identifier(value: object) -> tuple[str, str]:
    given = _Keys(value)
    key, text = given.take("key", parse_str), given.take("value", parse_str)
    if key is None or text is None:
        raise ValueError("expected a key and a value")
    return "".join(key.split()).lower(), text  # the case of keys differs from event to event


def _integer(value: object) -> int | None:
    return _Keys({"value": value}).take("value", parse_int)
