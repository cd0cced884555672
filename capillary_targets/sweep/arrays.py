"""Models to columns of Arrow, in the types of `schemas`. Amounts must have been found to fit.

Times: `event_date` and the like are the clock time that the model has, without its zone (which the
API often does not say); the `*_iso` columns are the instant in UTC where the zone is known, else
null.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Any, Final

import attrs
import pyarrow as pa
import pyarrow.compute as pc

from capillary_targets.models import Target

from .batch import EVENT_FIELDS
from .rows import encode, plain
from .schemas import EVENTS, PRECISION, SCALE

__all__ = ["event_arrays", "target_arrays", "target_values"]

_STEP: Final = Decimal(1).scaleb(-SCALE)
_WIDE: Final = Context(prec=2 * PRECISION)


# --- events: there are many, so each column goes the quickest way that is exact ---


def event_arrays(users: Sequence[int], columns: Mapping[str, Sequence[Any]]) -> list[pa.Array]:
    """The columns of events: the users that were asked for, then the models' fields."""
    made = {"user_id": _longs(users)}
    for name in EVENT_FIELDS:
        kind, values = EVENTS.field(name).type, columns[name]
        if pa.types.is_int64(kind):
            made[name] = _longs(values)
        elif pa.types.is_decimal(kind):
            made[name] = _decimals(values, kind)
        elif not pa.types.is_timestamp(kind):
            made[name] = pa.array(values, kind)
    for name in ("event_date", "event_processed_date"):
        twin = f"{name}_iso"
        made[name], made[twin] = _times(columns[name], columns[twin])
    return [made[name] for name in EVENTS.names]


def _longs(values: Sequence[int | None]) -> pa.Array:
    try:
        packed = struct.pack(f"={len(values)}q", *values)
    except struct.error:  # there are nulls
        return pa.array(values, pa.int64())
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(packed)])


def _decimals(values: Sequence[Decimal | None], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)  # pyarrow rather refuses an amount than round it,
    except pa.ArrowInvalid:  # and some that do fit: 0E+50
        return pa.array([None if value is None else _scaled(value) for value in values], kind)


def _times(
    moments: Sequence[datetime | None], twins: Sequence[datetime | None]
) -> tuple[pa.Array, pa.Array]:
    """Clock times, and the instants as far as they are known: from the twin, or a zone."""
    clock, instant = EVENTS.field("event_date").type, EVENTS.field("event_date_iso").type
    try:
        clocks = _read_times(moments, clock)
    except pa.ArrowInvalid:  # there are nulls, or zones
        clocks = pa.array([_clock(moment) for moment in moments], clock)
    else:
        if twins.count(None) == len(twins):
            return clocks, pa.nulls(len(twins), instant)
    pairs = zip(moments, twins, strict=True)
    known = [_instant(twin or moment) for moment, twin in pairs]
    try:
        return clocks, _read_times(known, instant)
    except pa.ArrowInvalid:
        return clocks, pa.array(known, instant)


def _read_times(moments: Sequence[datetime | None], kind: pa.DataType) -> pa.Array:
    """By way of ISO 8601: a third of what it takes pyarrow to look at each datetime.

    Raises `pa.ArrowInvalid` for a null, for a zone where `kind` has none, and the other way round.
    """
    text = encode(moments)[2:-2].decode()
    return pc.split_pattern(pa.array([text]), '","').values.cast(kind)


def _clock(moment: datetime | None) -> datetime | None:
    """The time as it stands, without its zone."""
    return moment if moment is None or moment.tzinfo is None else moment.replace(tzinfo=None)


def _instant(moment: datetime | None) -> datetime | None:
    """The moment in UTC, where its zone is known."""
    return None if moment is None or moment.tzinfo is None else moment.astimezone(UTC)


# --- targets: few that differ, with nested models ---


def target_values(target: Target) -> tuple[Any, ...]:
    """A target's values in the order of the schema, without the user."""
    fields = plain(target)
    fields["extra"] = encode(target.extra).decode() if target.extra else None
    return tuple(_with_instants(fields).values())


def target_arrays(
    users: Sequence[int], rows: Sequence[tuple[Any, ...]], schema: pa.Schema
) -> list[pa.Array]:
    """The columns of targets. A row that comes again and again, the same object, costs once."""
    distinct = {id(row): row for row in rows}
    place = {key: number for number, key in enumerate(distinct)}
    places = pa.array([place[id(row)] for row in rows])
    columns = zip(*distinct.values(), strict=True)
    return [
        _longs(users),
        *(
            pa.array(values, column.type).take(places)
            for values, column in zip(columns, list(schema)[1:], strict=True)
        ),
    ]


def _scaled(amount: Decimal) -> Decimal:
    """With as many places as the schema has: exact, for it was found to fit."""
    return amount.quantize(_STEP, context=_WIDE)


def _plain(value: Any) -> Any:
    """A nested model as what pyarrow takes: dicts, lists, clock times, instants beside them."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, Decimal):
        return _scaled(value)
    if attrs.has(type(value)):
        made = {f.name: getattr(value, f.name) for f in attrs.fields(type(value))}
        return _with_instants(made)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return [(key, _plain(item)) for key, item in value.items()]
    return value


def _with_instants(fields: Mapping[str, Any]) -> dict[str, Any]:
    made = {}
    for name, value in fields.items():
        if name.endswith("_iso"):
            moment = value or fields[name.removesuffix("_iso")]
            known = moment is not None and moment.tzinfo is not None
            made[name] = moment.astimezone(UTC) if known else None
        else:
            made[name] = _plain(value)
    return made
