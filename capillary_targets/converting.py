"""Plain JSON values to models by cattrs: the reference that every quicker way agrees with.

Imported when first needed: most processes read nothing but pages of the documented shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, tzinfo
from decimal import Decimal
from typing import Any, get_args, get_origin, get_type_hints

import attrs
from cattrs import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    Converter,
    IterableValidationError,
)
from cattrs.cols import list_structure_factory
from cattrs.gen import make_dict_structure_fn, override

from .scalars import (
    Hook,
    amount,
    boolean,
    day,
    integer,
    kind,
    moment,
    string,
    wire_name,
)

__all__ = ["REFUSALS", "Converter", "converter", "first_fault"]

REFUSALS = (BaseValidationError, ValueError, TypeError, KeyError, ArithmeticError)
"""What a converter raises for values that do not fit."""


def _object(value: object) -> dict[str, Any]:
    """An object without its nulls: absent and null both mean "not given"."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {kind(value)}")
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
            raise ValueError(f"expected an array, got {kind(value)}")
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


def converter(timezone: tzinfo | None, *, detailed: bool) -> Converter:
    """A converter for a cluster's zone; a detailed one is slower and tells where the fault is."""
    made = Converter(detailed_validation=detailed)
    made.register_structure_hook(int, integer)
    made.register_structure_hook(str, string)
    made.register_structure_hook(bool, boolean)
    made.register_structure_hook(Decimal, lambda value, _: amount(value))
    made.register_structure_hook(date, day)
    made.register_structure_hook(datetime, moment(timezone))
    factories: list[tuple[Callable[[Any], bool], Any]] = [
        (attrs.has, _class_hook),
        (lambda type_: get_origin(type_) is tuple, _tuple_hook),
        (lambda type_: get_origin(type_) is Mapping, _mapping_hook),
    ]
    for predicate, factory in factories:
        made.register_structure_hook_factory(predicate, factory)
    return made


def first_fault(error: Any, path: str) -> tuple[str, Exception]:
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
