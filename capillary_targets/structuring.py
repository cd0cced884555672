"""Plain JSON values to models: one cattrs converter for each cluster time zone.

Two converters share the hooks: a quick one, and one with detailed validation that runs only after
the quick one has failed, to name the field (`data[3].targetValue`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import attrs
import msgspec
from cattrs import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    Converter,
    IterableValidationError,
)
from cattrs.cols import list_structure_factory
from cattrs.gen import make_dict_structure_fn, override

from .errors import BadResponse

__all__ = ["Structurer", "amount", "structurer", "wire_name"]

T = TypeVar("T")
Hook = Callable[[Any, Any], Any]

_DIGITS: Final = re.compile(r"-?[0-9]{1,19}")
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")
_LONG: Final = 2**63
_EXCERPT: Final = 80


def wire_name(name: str) -> str:
    """`event_date_iso` as the API spells it: `eventDateISO`."""
    head, *rest = name.split("_")
    return head + "".join("ISO" if part == "iso" else part.capitalize() for part in rest)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    names = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    return names.get(type(value), "a number")


def _integer(value: object, _: object) -> int:
    """A 64-bit integer, or its digits as text (sibling endpoints send both)."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"expected an integer, got {_kind(value)}")
    if not -_LONG <= value < _LONG:
        raise ValueError("expected an integer of 64 bits, got a longer one")
    return value


def amount(value: object) -> Decimal:
    """A number, exact: JSON numbers arrive as Decimal or int, some siblings send text.

    Raises `ValueError` for anything else.
    """
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return Decimal(value)
    raise ValueError(f"expected a number, got {_kind(value)}")


def _string(value: object, _: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"expected a string, got {_kind(value)}")


def _boolean(value: object, _: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {_kind(value)}")


def _moment(timezone: tzinfo | None) -> Hook:
    """Any of the API's forms: `2025-01-22 14:00:00.0`, `…T…Z`, `…+0530`, epoch milliseconds."""

    def moment(value: object, _: object) -> datetime:
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                return datetime.fromtimestamp(value / 1000, UTC)
            except (OverflowError, OSError, ValueError):
                raise ValueError("expected a time, got a number out of range") from None
        if not isinstance(value, str):
            raise ValueError(f"expected a time, got {_kind(value)}")
        try:
            parsed = msgspec.convert(value, datetime)
        except msgspec.ValidationError:
            raise ValueError("expected a time, got some other text") from None
        if parsed.tzinfo is None and timezone is not None:
            return parsed.replace(tzinfo=timezone)
        return parsed

    return moment


def _day(value: object, _: object) -> date:
    """A calendar day, `2024-08-30`. A time of day behind it, as siblings send, is left off."""
    if not isinstance(value, str):
        raise ValueError(f"expected a date, got {_kind(value)}")
    day, _, _ = value.replace("T", " ").partition(" ")
    try:
        return msgspec.convert(day, date)
    except msgspec.ValidationError:
        raise ValueError("expected a date, got some other text") from None


def _object(value: object) -> dict[str, Any]:
    """An object without its nulls: absent and null both mean "not given"."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {_kind(value)}")
    return {key: item for key, item in value.items() if item is not None}


def _twins(cls: type[Any]) -> list[tuple[str, str]]:
    """The wire names of a class's times, each after the name of its twin in ISO form."""
    times = [name for name, hint in get_type_hints(cls).items() if hint == datetime | None]
    return [(f"{wire_name(name)}ISO", wire_name(name)) for name in times]


def _class_hook(cls: type[Any], converter: Converter) -> Hook:
    fields_of = {field.name for field in attrs.fields(cls)}
    names = {name: wire_name(name) for name in fields_of - {"raw"}}  # `wire` fills that one
    renamed: dict[str, Any] = {name: override(rename=wire) for name, wire in names.items()}
    if "raw" in fields_of:
        renamed["raw"] = override(omit=True)
    make = make_dict_structure_fn(cls, converter, **renamed)
    twins = _twins(cls)

    def fields(value: object) -> dict[str, Any]:
        given = _object(value)
        for twin, legacy in twins:
            if twin in given:
                # It has a zone: prefer it (API page on additional timezone fields).
                given[legacy] = given[twin]
        return given

    if "extra" not in names:
        return lambda value, _: make(fields(value), cls)

    known = frozenset(names.values()) - {"extra"}

    def with_extra(value: object, _: object) -> Any:
        given = fields(value)
        extra = {key: item for key, item in given.items() if key not in known}
        made = make({key: given[key] for key in given.keys() & known}, cls)
        return attrs.evolve(made, extra=extra)

    return with_extra


def _tuple_hook(type_: Any, converter: Converter) -> Hook:
    listed: Any = list.__class_getitem__(get_args(type_)[0])
    inner = list_structure_factory(listed, converter)

    def array(value: object, _: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"expected an array, got {_kind(value)}")
        return tuple(inner(value, listed))

    return array


def _mapping_hook(type_: Any, converter: Converter) -> Hook:
    key_type, item_type = get_args(type_)
    if item_type is Any:
        return lambda value, _: _object(value)
    item = converter.get_structure_hook(item_type)

    def mapping(value: object, _: object) -> dict[Any, Any]:
        return {
            converter.structure(key, key_type): item(entry, item_type)
            for key, entry in _object(value).items()
        }

    return mapping


def _converter(timezone: tzinfo | None, *, detailed: bool) -> Converter:
    converter = Converter(detailed_validation=detailed)
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(str, _string)
    converter.register_structure_hook(bool, _boolean)
    converter.register_structure_hook(Decimal, lambda value, _: amount(value))
    converter.register_structure_hook(date, _day)
    converter.register_structure_hook(datetime, _moment(timezone))
    factories: list[tuple[Callable[[Any], bool], Any]] = [
        (attrs.has, _class_hook),
        (lambda type_: get_origin(type_) is tuple, _tuple_hook),
        (lambda type_: get_origin(type_) is Mapping, _mapping_hook),
    ]
    for predicate, factory in factories:
        converter.register_structure_hook_factory(predicate, factory)
    return converter


def _first_fault(error: Any, path: str) -> tuple[str, Exception]:
    """The first bad field of a cattrs error, as a path in the server's spelling."""
    while isinstance(error, ClassValidationError | IterableValidationError):
        noted, others = error.group_exceptions()
        if not noted:
            return path, others[0]
        error, note = noted[0]
        if isinstance(note, AttributeValidationNote):
            path += f".{wire_name(note.name)}"
        else:
            path += f"[{note.index}]"
    return path, error


class Structurer:
    """Makes models of plain JSON values; knows the cluster's zone (or None)."""

    def __init__(self, timezone: tzinfo | None = None) -> None:
        self.timezone = timezone
        self._quick = _converter(timezone, detailed=False)
        self._detailed = _converter(timezone, detailed=True)

    def quick(self, value: object, type_: type[T]) -> T:
        """`value` as a `type_`. Raises anything at all where it does not fit."""
        return self._quick.structure(value, type_)

    def structure(self, value: object, type_: type[T], where: str) -> T:
        """`value` as a `type_`. Raises `BadResponse`, naming the field below `where`."""
        with suppress(Exception):  # whatever it was, the detailed converter says it better
            return self.quick(value, type_)
        try:
            return self._detailed.structure(value, type_)
        except (BaseValidationError, ValueError, TypeError, KeyError, ArithmeticError) as error:
            path, fault = _first_fault(error, where)
            reason = "it is missing" if isinstance(fault, KeyError) else str(fault)
        # Raised outside the handler: the error must not drag along what the server sent.
        raise BadResponse(
            f"not the documented shape at {path}: {reason}",
            where=path,
            excerpt=repr(_at(value, path.removeprefix(where)))[:_EXCERPT],
        )


def _at(value: Any, path: str) -> object:
    """What stands at `path`, as far as it can be followed."""
    for name, index in re.findall(r"\.([^.\[\]]+)|\[([^\]]*)\]", path):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and index.isdigit() and int(index) < len(value):
            value = value[int(index)]
        else:
            break
    return value


@lru_cache(maxsize=16)
def structurer(timezone: tzinfo | None = None) -> Structurer:
    """The structurer for a zone: building one costs milliseconds, so it is built once."""
    return Structurer(timezone)
