"""Models as Arrow columns (extra `parquet`): the one schema of data frames and of Parquet parts.

Amounts are decimal(38, 6), exact or an error, never rounded. Of times, `event_date` and its like
are the clock time that the model has, without a zone (the API often does not say it), and the
`*_iso` columns are the instant in UTC where the zone is known. Another value that its column cannot
hold (an instant after the year 9999, an id of more than 64 bits) is null there and kept in the
column `overflow`. Keys that the client does not know are JSON text, in `extra`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import attrs
import pyarrow as pa

from .models import JSON, Target, TargetEvent, columns_of, extra_text

_STEP: Final = Decimal("0.000001")
_EXACT: Final = Context(prec=38, traps=[Inexact, InvalidOperation])
"""What pyarrow raises for a value that a column cannot hold."""

_LONG, TEXT, _FLAG, _DAY = pa.int64(), pa.string(), pa.bool_(), pa.date32()
_AMOUNT = pa.decimal128(38, 6)
_CLOCK, _INSTANT = pa.timestamp("us"), pa.timestamp("us", tz="UTC")
_PLAIN: Final = {_LONG, TEXT, _FLAG, _DAY}
_SCALARS: Final = {
    bool: _FLAG,
    date: _DAY,
    datetime: _CLOCK,
    Decimal: _AMOUNT,
    int: _LONG,
    str: TEXT,
}
_INSTANTS: Final = {"seen_at", "first_seen"}


def schema_of(columns: Mapping[str, Any]) -> pa.Schema:
    """The schema of columns with these annotations, and `overflow`: JSON, values by column."""
    types = {name: _arrow_type(name, hint) for name, hint in columns.items()}
    return pa.schema({**types, "overflow": TEXT})


def _arrow_type(name: str, hint: Any) -> pa.DataType:
    """The type of a column, from the annotation of the model's field."""
    arguments = [kind for kind in get_args(hint) if kind is not NoneType]
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _arrow_type(name, *arguments)
    if origin is tuple:
        return pa.list_(_arrow_type(name, arguments[0]))
    if origin is Mapping:  # text: the keys that the client does not know
        key, value = arguments
        return TEXT if value is Any else pa.map_(_arrow_type("", key), _arrow_type("", value))
    if attrs.has(hint):
        return pa.struct({name: _arrow_type(name, of) for name, of in get_type_hints(hint).items()})
    return _INSTANT if name.endswith("_iso") or name in _INSTANTS else _SCALARS[hint]


def events_table(user_id: int, events: Sequence[TargetEvent]) -> pa.Table:
    """A table with the columns of a sweep's `events/`. Raises `ValueError` as `amounts_of`."""
    columns = {"user_id": [user_id] * len(events), **_columns(TargetEvent, events)}
    columns["target_value"] = amounts_of(columns["target_value"], columns["event_log_id"])
    schema = schema_of({"user_id": int, **columns_of(TargetEvent)})
    return pa.Table.from_batches([batch_of(columns, schema)])


def targets_table(targets: Sequence[Target]) -> pa.Table:
    """A table with the target's own columns of a sweep's `targets/`."""
    batch = batch_of(_columns(Target, targets), schema_of(columns_of(Target)))
    return pa.Table.from_batches([batch])


def _columns(model: type, rows: Sequence[Any]) -> dict[str, Any]:
    columns = {name: [getattr(row, name) for row in rows] for name in columns_of(model)}
    return columns | {"extra": [extra_text(row.extra) for row in rows]}


def amounts_of(amounts: Sequence[Decimal | None], ids: Sequence[int | None]) -> pa.Array:
    """The column of amounts; `ids` are those of their events.

    Raises:
        ValueError: An amount needs more than 38 digits, or more than 6 behind the point.
    """
    with suppress(pa.ArrowException, ArithmeticError):
        # pyarrow loses no digit, but that it takes 1E-99 for 0.
        if min(map(Decimal.adjusted, filter(None, amounts)), default=0) >= _STEP.adjusted():
            return pa.array(amounts, _AMOUNT)
    made, unfit = _array(amounts, _AMOUNT)
    for place in unfit:
        raise ValueError(
            f"event {ids[place]}: the amount {amounts[place]} does not fit decimal(38, 6); "
            "JSON keeps it"
        )
    return made


def batch_of(columns: Mapping[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    """Columns as a batch. Values that do not fit are null, and in the column `overflow`."""
    made: dict[str, pa.Array] = {}
    rows = len(columns[schema.names[0]])
    overflow = [*columns.get("overflow", [None] * rows)]
    columns = {**columns, "overflow": overflow}
    unfit: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    moments = (columns[kind.name] for kind in schema if kind.type in {_CLOCK, _INSTANT})
    zoned = any(one.tzinfo for column in moments for one in column if one)
    for kind in schema:
        name, column = kind.name, columns[kind.name]
        if isinstance(column, pa.Array):
            made[name] = column
        elif kind.type == _INSTANT and not zoned:
            made[name] = pa.nulls(rows, _INSTANT)
        elif name == "event_processed_date" and column == columns["event_date"]:
            made[name] = made["event_date"]  # so it is for transactions
        else:
            if name.endswith("_iso"):
                pairs = zip(column, columns[name.removesuffix("_iso")], strict=True)
                column = [twin or moment for twin, moment in pairs]
            plain = kind.type in _PLAIN or (kind.type == _CLOCK and not zoned)
            made[name], places = _array(column, kind.type, plain=plain)
            for place in places:
                unfit[place][name] = column[place]
                overflow[place] = _noted(unfit[place])
    return pa.RecordBatch.from_arrays([*made.values()], schema=schema)


def _array(
    values: Sequence[Any], kind: pa.DataType, *, plain: bool = False
) -> tuple[pa.Array, list[int]]:
    """The column, and the places of values that it cannot hold: they are null there."""
    try:
        return pa.array(values if plain else [_fit(value, kind) for value in values], kind), []
    except Exception:  # noqa: BLE001, S110 - value by value, then
        pass
    arrays, unfit = [], []
    for place, value in enumerate(values):
        try:
            arrays.append(pa.array([_fit(value, kind)], kind))
        except Exception:  # noqa: BLE001 - whatever it is, it must not cost the other rows
            arrays.append(pa.nulls(1, kind))
            unfit.append(place)
    return pa.concat_arrays(arrays), unfit


def _noted(values: Mapping[str, Any]) -> str:
    try:
        return JSON.encode(values).decode()
    except (TypeError, ValueError):
        return json.dumps({name: ascii(value) for name, value in values.items()})


_CONVERT: Final[dict[Any, Callable[[Any], Any]]] = {
    _AMOUNT: lambda amount: amount.quantize(_STEP, context=_EXACT) if amount else Decimal(0),
    _CLOCK: lambda moment: moment.replace(tzinfo=None),  # as it stands
    _INSTANT: lambda moment: moment.astimezone(UTC) if moment.tzinfo else None,
}


def _fit(value: Any, kind: pa.DataType) -> Any:
    """A value as pyarrow takes it for a type. Raises whatever a value of another kind does."""
    if value is None or kind in _PLAIN:
        return value
    if kind in _CONVERT:
        return _CONVERT[kind](value)
    if pa.types.is_struct(kind):
        return {f.name: _fit(_member(value, f.name), f.type) for f in kind}
    if pa.types.is_map(kind):
        return [(key, _fit(item, kind.item_type)) for key, item in value.items()]
    return [_fit(item, kind.value_type) for item in value]


def _member(model: Any, name: str) -> Any:
    """A field; an instant may stand in the field of the clock time."""
    value = getattr(model, name)
    return getattr(model, name.removesuffix("_iso")) if value is None else value
