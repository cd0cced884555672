"""JSON to models. No I/O.

A page of events in the documented shape is read by msgspec straight into `TargetEvent`. All else,
and whatever does not fit, is read as plain values and structured by cattrs, which accepts more
(numbers as text, epoch milliseconds, empty dates) and names the field that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from copy import deepcopy
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from functools import cached_property, lru_cache, partial
from itertools import product
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    TypeGuard,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import attrs
import msgspec

from .errors import BadResponse
from .models import Pagination, ReadOnlyDict, Target, TargetEvent, wire_name

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = ["STRUCTURE_ERRORS", "JsonAnswer", "Structurer", "raw_rows", "structurer"]

T = TypeVar("T")

STRUCTURE_ERRORS: Final = (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError)
"""What reading JSON raises where it does not fit."""

_DIGITS: Final = re.compile(r"-?[0-9]{1,19}")
_ZERO_DATE: Final = re.compile(r"0{4}-0{2}-0{2}([ T][0:.]*(Z|[+-]00:?00)?)?")
_LONG: Final = 2**63
_EXCERPT: Final = 80
_CACHED_TARGETS: Final = 512
_LARGEST_CACHED: Final = 2**16
"""Bytes of one target's row: longer ones are read each time, so that the cache stays small."""

_notes: ContextVar[list[str]] = ContextVar("capillary_targets_notes")


# --- one plain value ---


def _misfit(expected: str, value: object) -> ValueError:
    """The error for a value of another JSON type than the expected one."""
    names = {dict: "an object", list: "an array", str: "a string", NoneType: "null"}
    got = "a boolean" if isinstance(value, bool) else names.get(type(value), "a number")
    return ValueError(f"expected {expected}, got {got}")


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def parse_int(value: object) -> int:
    """A 64-bit integer: a number, one with zeros behind the point, or its digits as text."""
    number = value
    is_whole = isinstance(value, Decimal) and -_LONG <= value < _LONG and value % 1 == 0
    if is_whole or (isinstance(value, str) and _DIGITS.fullmatch(value)):
        number = int(value)  # type: ignore[call-overload]
    if not _is_int(number):
        raise _misfit("an integer", value)
    if not -_LONG <= number < _LONG:
        raise ValueError("expected an integer of 64 bits, got a longer one")
    return number


def parse_decimal(value: object) -> Decimal:
    """A finite number, exact: JSON numbers are Decimal or int here, siblings send text."""
    if isinstance(value, Decimal):
        return value
    if _is_int(value) or isinstance(value, str):
        with suppress(InvalidOperation):
            number = Decimal(value)
            if number.is_finite():
                return number
    raise _misfit("a number", value)


def parse_str(value: object) -> str:
    """A text, or an integer that siblings send in its place."""
    if isinstance(value, str):
        return value
    if _is_int(value):
        return str(value)
    raise _misfit("a string", value)


def parse_bool(value: object) -> bool:
    """True or false; no number or text stands for them."""
    if isinstance(value, bool):
        return value
    raise _misfit("true or false", value)


def _from_text(value: object, type_: type[T], expected: str) -> T:
    if not isinstance(value, str):
        raise _misfit(expected, value)
    with suppress(msgspec.ValidationError):
        return msgspec.convert(value, type_)
    raise ValueError(f"expected {expected}, got some other text")


def parse_datetime(value: object) -> datetime:
    """Any of the API's forms: `2025-01-22 14:00:00.0`, `…T…Z`, `…+0530`, epoch milliseconds."""
    if _is_int(value):
        with suppress(OverflowError, OSError, ValueError):
            return datetime.fromtimestamp(value / 1000, UTC)
        raise ValueError("expected a time, got a number out of range")
    return _from_text(value, datetime, "a time")


def parse_date(value: object) -> date:
    """A calendar day, `2024-08-30`. A time of day behind it, as siblings send, is left off."""
    return _from_text(
        re.sub("[ T].*", "", value) if isinstance(value, str) else value, date, "a date"
    )


def _is_blank(value: object, type_: Any) -> bool:
    """Whether a text stands for "no value": empty, or a date of zeros."""
    if not isinstance(value, str) or type_ is str:
        return False
    text = value.strip()
    is_time = type_ in {date, datetime}
    return text.lower() in {"", "null"} or (is_time and _ZERO_DATE.fullmatch(text) is not None)


# --- plain values to models, by cattrs ---


def _object(value: object) -> dict[str, Any]:
    """An object without its nulls: absent and null both mean "not given"."""
    if not isinstance(value, dict):
        raise _misfit("an object", value)
    return {key: item for key, item in value.items() if item is not None}


def _class_hook(cls: type[Any], converter: Converter) -> Callable[[Any, Any], Any]:
    """Structures an attrs class under the API's names; unknown keys go to `extra`.

    What stands for "no value" of an optional field is left out, and noted.
    """
    from cattrs.gen import make_dict_structure_fn, override  # noqa: PLC0415 - see `Structurer`

    hints = {wire_name(name): hint for name, hint in get_type_hints(cls).items()}
    renamed: dict[str, Any] = {
        field.name: override(rename=wire, omit=wire.startswith("_"))
        for field in attrs.fields(cls)
        if (wire := wire_name(field.name))
    }
    make = make_dict_structure_fn(cls, converter, **renamed)
    optional = {
        wire: get_args(hint)[0] for wire, hint in hints.items() if NoneType in get_args(hint)
    }
    times = [wire for wire, type_ in optional.items() if type_ is datetime]

    def structure(value: object, _: object) -> Any:
        given = _object(value)
        for name in times:
            # The ISO twin has a zone: prefer it (API page on additional timezone fields).
            if f"{name}ISO" in given:
                given[name] = given[f"{name}ISO"]
        for name in [name for name in given if _is_blank(given[name], optional.get(name, str))]:
            note = f"{given.pop(name)!r} was read as no value"
            if note not in _notes.get():
                _notes.get().append(note)
        made = make(given, cls)
        extra = {key: item for key, item in given.items() if key not in hints}
        return attrs.evolve(made, extra=extra) if extra and "_extra" in hints else made

    return structure


def _ignoring_type(reader: Callable[[object], Any], value: object, _: object) -> Any:
    return reader(value)


def _made_of(origin: Any) -> Callable[[Any], bool]:
    return lambda type_: get_origin(type_) is origin


def _tuple_hook(type_: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    listed: Any = list.__class_getitem__(get_args(type_)[0])
    structure = converter.get_structure_hook(listed)

    def array(value: object, _: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _misfit("an array", value)
        return tuple(structure(value, listed))

    return array


def _mapping_hook(type_: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    key_type, item_type = get_args(type_)
    return lambda value, _: ReadOnlyDict(
        (converter.structure(key, key_type), converter.structure(item, item_type))
        for key, item in _object(value).items()
    )


def _first_error(error: Any, path: str, value: Any) -> tuple[Exception, str, object]:
    """The first bad field of a cattrs error: why, its path in the server's spelling, its value."""
    from cattrs import (  # noqa: PLC0415 - see `Structurer`
        AttributeValidationNote,
        ClassValidationError,
        IterableValidationError,
    )

    while isinstance(error, ClassValidationError | IterableValidationError):
        noted, others = error.group_exceptions()
        if not noted:
            return others[0], path, value
        error, note = noted[0]
        if isinstance(note, AttributeValidationNote):
            name = wire_name(note.name)
            path, value = f"{path}.{name}", value.get(name, value)
        else:
            path, value = f"{path}[{note.index}]", value[note.index]
    return error, path, value


class Structurer:
    """Makes models of JSON; `timezone` is the cluster's zone, or None.

    cattrs is imported when it is first needed: most processes read nothing but pages of events in
    the documented shape.
    """

    def __init__(self, timezone: tzinfo | None = None) -> None:
        self.timezone = timezone

    @cached_property
    def _converter(self) -> Converter:
        from cattrs import Converter  # noqa: PLC0415 - see the class

        def in_zone(value: object) -> datetime:
            time = parse_datetime(value)
            return time if time.tzinfo else time.replace(tzinfo=self.timezone)

        converter = Converter()
        readers: dict[Any, Callable[[object], Any]] = {
            int: parse_int,
            str: parse_str,
            bool: parse_bool,
            Decimal: parse_decimal,
            date: parse_date,
            datetime: in_zone,
        }
        for type_, reader in readers.items():
            converter.register_structure_hook(type_, partial(_ignoring_type, reader))
        add: Any = converter.register_structure_hook_factory
        add(attrs.has, _class_hook)
        add(_made_of(tuple), _tuple_hook)
        add(_made_of(Mapping), _mapping_hook)
        return converter

    def structure(
        self, value: object, type_: type[T], where: str, notes: list[str] | None = None
    ) -> T:
        """A plain value as a `type_`.

        Args:
            value: of JSON, floats as Decimal.
            type_: a model, or what its fields may be.
            where: its place in the answer, such as `data`.
            notes: takes what was read as no value.

        Raises:
            BadResponse: it does not fit; names the field.
        """
        _notes.set([] if notes is None else notes)
        try:
            return self._converter.structure(value, type_)
        except Exception as error:  # noqa: BLE001 - cattrs groups errors of every kind
            fault, path, bad = _first_error(error, where, value)
            reason = "it is missing" if isinstance(fault, KeyError) else str(fault)
        # Raised outside the handler: the error must not drag along what the server sent.
        message = f"not the documented shape at {path}: {reason}"
        raise BadResponse(message, where=path, excerpt=repr(bad)[:_EXCERPT])

    def events(self, body: bytes) -> JsonAnswer[tuple[TargetEvent, ...]] | None:
        """A successful page of events in the documented shape; None if `body` is anything else."""
        try:
            answer = _decode_events(body)
        except STRUCTURE_ERRORS:
            return None
        if not answer.is_plain:
            return None
        events = answer.data or ()
        for event in events:
            if event.target_value is not None and not event.target_value.is_finite():
                return None  # msgspec takes "NaN" for a number
            # The ISO twin has a zone: prefer it (API page on additional timezone fields).
            if event.event_date_iso:
                _set(event, "event_date", event.event_date_iso)
            if event.event_processed_date_iso:
                _set(event, "event_processed_date", event.event_processed_date_iso)
        if self.timezone is not None:
            for event, name in product(events, _TIMES):
                time = getattr(event, name)
                if time is not None and time.tzinfo is None:
                    _set(event, name, time.replace(tzinfo=self.timezone))
        return answer

    def targets(self, body: bytes) -> list[Target] | None:
        """A successful answer of active targets in the documented shape; else None.

        A row describes the target, not the user: the same bytes come with many users, and are
        read once.
        """
        try:
            answer = _ROWS.decode(body)
            if answer.is_plain and answer.data is not None:
                return [self._target(bytes(row)) for row in answer.data]
        except Exception:  # noqa: BLE001, S110 - the other way names the error
            pass
        return None

    def _target(self, row: bytes) -> Target:
        read = _read_target if len(row) <= _LARGEST_CACHED else _read_target.__wrapped__
        target = read(row, self)
        # All else in it is immutable, so users may share it.
        return attrs.evolve(target, extra=deepcopy(target.extra)) if target.extra else target


@lru_cache(maxsize=16)
def structurer(timezone: tzinfo | None = None) -> Structurer:
    """The structurer for a zone: building one costs milliseconds, so it is built once."""
    return Structurer(timezone)


# --- bytes to models, by msgspec ---


class JsonAnswer(msgspec.Struct, Generic[T]):
    """An envelope in the documented shape; whether it reports an error, `wire` decides."""

    data: T | None
    pagination: Pagination | None = None
    errors: Any = None
    warnings: Any = None
    response: Any = None
    status: Any = None

    @property
    def is_plain(self) -> bool:
        """Whether no field is given in which an error may be reported."""
        return not self.errors and self.response is None and self.status is None


# Not `strict=False`: it would read epoch milliseconds as seconds.
_EVENTS: Final = msgspec.json.Decoder(JsonAnswer[tuple[TargetEvent, ...]])
_OBJECTS: Final = msgspec.json.Decoder(JsonAnswer[list[dict[str, Any]]], float_hook=Decimal)
_ROWS: Final = msgspec.json.Decoder(JsonAnswer[list[msgspec.Raw]])
_PLAIN: Final = msgspec.json.Decoder(float_hook=Decimal)
_set: Final[Callable[[Any, str, Any], None]] = msgspec.structs.force_setattr
_EVENT_KEYS: Final = frozenset(wire_name(field.name) for field in attrs.fields(TargetEvent))


def _decode_events(body: bytes) -> JsonAnswer[tuple[TargetEvent, ...]]:
    """A page of events. Where the service has added keys, they are moved to `extra`."""
    try:
        return _EVENTS.decode(body)
    except msgspec.ValidationError as error:
        if "unknown field" not in str(error):
            raise
    answer: Any = _OBJECTS.decode(body)
    events = []
    for row in answer.data or ():
        unknown = [key for key in row if key not in _EVENT_KEYS]
        extra = {key: value for key in unknown if (value := row.pop(key)) is not None}
        events.append(msgspec.convert(row, TargetEvent))
        if extra:
            _set(events[-1], "extra", extra)
    answer.data = tuple(events)
    return cast("JsonAnswer[tuple[TargetEvent, ...]]", answer)


_TIMES: Final = [
    one for one, hint in get_type_hints(TargetEvent).items() if datetime in get_args(hint)
]


def raw_rows(body: bytes) -> list[bytes]:
    """The rows under `data`, byte for byte. Empty where there are none."""
    try:
        return [bytes(row) for row in _ROWS.decode(body).data or ()]
    except STRUCTURE_ERRORS:
        return []


@lru_cache(maxsize=_CACHED_TARGETS)
def _read_target(row: bytes, structurer: Structurer) -> Target:
    notes: list[str] = []
    target = structurer.structure(_PLAIN.decode(row), Target, "data", notes)
    if notes:
        raise ValueError("not the documented shape")  # read row by row, with its notes
    return attrs.evolve(target, raw=row)
