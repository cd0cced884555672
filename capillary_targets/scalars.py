"""The API's plain values, one at a time: numbers, texts, times, and how it spells names.

Each reader takes what JSON can hold there and raises `ValueError`, in words, for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

__all__ = [
    "Hook",
    "amount",
    "boolean",
    "day",
    "integer",
    "kind",
    "moment",
    "string",
    "wire_name",
]

Hook = Callable[[Any, Any], Any]

_DIGITS: Final = re.compile(r"-?[0-9]{1,19}")
_LONG: Final = 2**63


def wire_name(name: str) -> str:
    """`event_date_iso` as the API spells it: `eventDateISO`."""
    head, *rest = name.split("_")
    return head + "".join("ISO" if part == "iso" else part.capitalize() for part in rest)


def kind(value: object) -> str:
    """What a value is, in JSON's words."""
    if isinstance(value, bool):
        return "a boolean"
    names = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    return names.get(type(value), "a number")


def integer(value: object, _: object) -> int:
    """A 64-bit integer, or its digits as text (sibling endpoints send both)."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"expected an integer, got {kind(value)}")
    if not -_LONG <= value < _LONG:
        raise ValueError("expected an integer of 64 bits, got a longer one")
    return value


def amount(value: object) -> Decimal:
    """A number, exact: JSON numbers arrive as Decimal or int, some siblings send text.

    Text is read as `Decimal` reads it. Raises `ValueError` for anything else.
    """
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, str):
        with suppress(InvalidOperation):
            number = Decimal(value)
            if number.is_finite():
                return number
    raise ValueError(f"expected a number, got {kind(value)}")


def string(value: object, _: object) -> str:
    """A text, or a number that siblings send in its place."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"expected a string, got {kind(value)}")


def boolean(value: object, _: object) -> bool:
    """True or false, and nothing that merely looks like it."""
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {kind(value)}")


def moment(timezone: tzinfo | None) -> Hook:
    """Any of the API's forms: `2025-01-22 14:00:00.0`, `…T…Z`, `…+0530`, epoch milliseconds."""

    def moment(value: object, _: object) -> datetime:
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                return datetime.fromtimestamp(value / 1000, UTC)
            except (OverflowError, OSError, ValueError):
                raise ValueError("expected a time, got a number out of range") from None
        if not isinstance(value, str):
            raise ValueError(f"expected a time, got {kind(value)}")
        try:
            parsed = msgspec.convert(value, datetime)
        except msgspec.ValidationError:
            raise ValueError("expected a time, got some other text") from None
        if parsed.tzinfo is None and timezone is not None:
            return parsed.replace(tzinfo=timezone)
        return parsed

    return moment


def day(value: object, _: object) -> date:
    """A calendar day, `2024-08-30`. A time of day behind it, as siblings send, is left off."""
    if not isinstance(value, str):
        raise ValueError(f"expected a date, got {kind(value)}")
    day, _, _ = value.replace("T", " ").partition(" ")
    try:
        return msgspec.convert(day, date)
    except msgspec.ValidationError:
        raise ValueError("expected a date, got some other text") from None
