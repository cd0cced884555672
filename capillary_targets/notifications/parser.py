"""Parser: the body of a webhook to a `Notification`. Pure; source: contract §15 and its samples."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from itertools import chain
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
    UnknownNotification,
)

__all__ = ["BadNotification", "parse"]

T = TypeVar("T")

_READERS: Final[Mapping[Any, Callable[[Any], Any]]] = {
    "int | None": parse_int,
    "str | None": parse_str,
    "Decimal | None": parse_decimal,
    "datetime | None": parse_datetime,
}
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

    def fields(self, cls: Any, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The fields of a model that are there, added to those that are known already."""
        found = dict(known or {})
        for one in attrs.fields(cls):
            for key in one.metadata.get("keys", ()):
                if (
                    one.name not in found
                    and (value := self.take(key, _READERS[one.type])) is not None
                ):
                    found[one.name] = value
        return found


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
    identifiers = _Keys({} if activity is None else activity.identifiers)
    logged: list[Any] = [
        inner.take("eventLogId", parse_int),
        data.take("eventLogId", parse_int),
        identifiers.take("eventlogid", parse_int),
        inner.take("loyaltyEventId", parse_int),
    ]
    cls = CLASSES.get(name, UnknownNotification)
    found = data.fields(cls, inner.fields(cls))
    for field in ("transaction_id", "return_id"):
        found[field] = found.get(field) or identifiers.take(field.replace("_", ""), parse_int)
    if issubclass(cls, StreakNotification):
        streaks = (data.take_list(key, _reader(NotifiedStreak)) for key in _STREAK_DATA)
        found["streaks"] = tuple(chain.from_iterable(streaks))
    made = cls(
        event_id=event_id or _digest(body),
        name=name,
        user_id=customer.take("customerId", parse_int),
        event_log_id=next((number for number in logged if number is not None), None),
        targets=targets,
        milestones=data.take_list("milestoneDetails", _reader(NotifiedMilestone)),
        activity=activity,
        **found,
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
    shared = {
        "group_id": group.take("targetGroupId", parse_int),
        "group_name": group.take("targetGroupName", parse_str),
    }
    if group.rest:
        data.rest["unifiedTargetGroupDetails"] = group.rest

    def listed(value: object) -> NotifiedTarget:
        given = _Keys(value)
        return NotifiedTarget(**shared | given.fields(NotifiedTarget), extra=given.rest)

    details = data.take("targetDetails", listed)
    if details is not None:
        yield details
    yield from data.take_list("targetData", listed)
    if details is None and "targetId" in data.rest:
        values_of_event = {"achieved_value": None, "defined_value": None}
        yield NotifiedTarget(**shared | data.fields(NotifiedTarget, values_of_event))


def _reader(cls: Callable[..., T]) -> Callable[[object], T]:
    def read(value: object) -> T:
        given = _Keys(value)
        return cls(**given.fields(cls), extra=given.rest)

    return read


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
