"""Events to columns of Arrow, in the types of `schemas`. Amounts must have been found to fit.

There are many, so each column goes the quickest way that is exact. Times: `event_date` and
`event_processed_date` are the clock time that the model has, without its zone (which the API often
does not say); the `*_iso` columns are the instant in UTC where the zone is known, else null.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from capillary_targets.models import TargetEvent

from .fit import scaled
from .rows import encode
from .schemas import EVENTS

__all__ = ["Piece", "columns_of", "pieces_of"]

Piece: TypeAlias = "array[int] | bytes | int | pa.Array"
"""Some rows of a column, in little room, and nothing in it for the garbage collector to look at:
longs; JSON without brackets; a number of nulls; or else Arrow's own."""

_VALUES: Final = {name: attrgetter(name) for name in EVENTS.names[1:]}
_LONGS: Final = {field.name for field in EVENTS if pa.types.is_int64(field.type)}
_CLOCK: Final = EVENTS.field("event_date").type
_INSTANT: Final = EVENTS.field("event_date_iso").type
_AMOUNTS: Final = msgspec.json.Decoder(list[Decimal | None])


def pieces_of(user_id: int, events: Sequence[TargetEvent]) -> list[Piece]:
    """A piece of each column, in the schema's order, for the user who was asked for."""
    columns = {name: [*map(value, events)] for name, value in _VALUES.items()}
    made: dict[str, Piece] = {"user_id": array("q", [user_id]) * len(events)}
    for name, values in columns.items():
        made[name] = _longs(values) if name in _LONGS else encode(values)[1:-1]
    for name in ("event_date", "event_processed_date"):
        twin = f"{name}_iso"
        made[name], made[twin] = _times(made[name], columns[name], columns[twin])
    return [*made.values()]


def columns_of(pieces: Sequence[Sequence[Piece]]) -> list[pa.Array]:
    """The columns that are made of such pieces, of which there is at least one of each."""
    columns = zip(*pieces, strict=True)
    return [_column(field.type, column) for field, column in zip(EVENTS, columns, strict=True)]


def _longs(values: Sequence[int | None]) -> Piece:
    try:
        return array("q", values)  # type: ignore[arg-type]
    except TypeError:  # there are nulls
        return pa.array(values, pa.int64())


def _times(
    text: Any, moments: Sequence[datetime | None], twins: Sequence[datetime | None]
) -> tuple[Piece, Piece]:
    """Clock times, and the instants as far as they are known: from the twin, or a zone."""
    clock: Piece = text
    # What stands in null, or in a zone: none of it in a bare clock time.
    if b"n" in text or b"Z" in text or b"+" in text or text.count(b"-") > 2 * len(moments):
        clock = _moments([_clock(moment) for moment in moments], _CLOCK)
    elif twins.count(None) == len(twins):
        return clock, len(twins)
    pairs = zip(moments, twins, strict=True)
    return clock, _moments([_instant(twin or moment) for moment, twin in pairs], _INSTANT)


def _moments(moments: Sequence[datetime | None], kind: pa.DataType) -> Piece:
    """All with a zone, or all without one."""
    return pa.array(moments, kind) if None in moments else encode(moments)[1:-1]


def _clock(moment: datetime | None) -> datetime | None:
    """The time as it stands, without its zone."""
    return moment if moment is None or moment.tzinfo is None else moment.replace(tzinfo=None)


def _instant(moment: datetime | None) -> datetime | None:
    """The moment in UTC, where its zone is known."""
    return None if moment is None or moment.tzinfo is None else moment.astimezone(UTC)


def _column(kind: pa.DataType, pieces: Sequence[Piece]) -> pa.Array:
    runs = groupby(pieces, lambda piece: next(sort for sort in _SORTS if isinstance(piece, sort)))
    made = [_SORTS[sort](kind, list(run)) for sort, run in runs]
    return made[0] if len(made) == 1 else pa.concat_arrays(made)


def _of_longs(kind: pa.DataType, pieces: Sequence[Any]) -> pa.Array:
    packed = b"".join(pieces)
    return pa.Array.from_buffers(kind, len(packed) // 8, [None, pa.py_buffer(packed)])


def _of_json(kind: pa.DataType, pieces: Sequence[Any]) -> pa.Array:
    text = b",".join(pieces)
    if pa.types.is_string(kind):
        return pa.array(msgspec.json.decode(b"[%b]" % text), kind)
    # pyarrow reads text in half of the time that it takes to look at each of Python's objects.
    if pa.types.is_timestamp(kind):
        return pc.split_pattern(pa.array([text[1:-1].decode()]), '","').values.cast(kind)
    try:
        # It rather refuses an amount than round it,
        return pc.split_pattern(pa.array([text.decode()]), ",").values.cast(kind)
    except pa.ArrowInvalid:  # and some that do fit (0E+50), and nulls
        amounts = _AMOUNTS.decode(b"[%b]" % text)
        return pa.array([None if amount is None else scaled(amount) for amount in amounts], kind)


def _of_nulls(kind: pa.DataType, pieces: Sequence[Any]) -> pa.Array:
    return pa.nulls(sum(pieces), kind)


def _of_arrays(kind: pa.DataType, pieces: Sequence[Any]) -> pa.Array:
    del kind
    return pa.concat_arrays(pieces)


_SORTS: Final[dict[Any, Any]] = {
    array: _of_longs,
    bytes: _of_json,
    int: _of_nulls,
    pa.Array: _of_arrays,
}
