"""Parquet parts (extra `parquet`): one declared schema, the same for every part.

Amounts of events are decimal(38, 6); one that this cannot hold exactly makes its user a failure,
never a rounded sum. Of times, `event_date` and its like are the clock time that the model has,
without a zone (the API often does not say it), and the `*_iso` columns are the instant in UTC where
the zone is known. Another value that its column cannot hold (an instant after the year 9999, an id
of more than 64 bits) is null there and kept in the column `overflow`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

import attrs
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from attrs import define, field

from capillary_targets.models import TargetEvent

from .rows import (
    BATCH_ROWS,
    EVENT_FIELDS,
    KEY_FIELDS,
    KINDS,
    EncodedRows,
    Part,
    StoredRow,
    encode,
    extra_text,
    one_line,
    row_key,
)
from .store import AtomicFile

__all__ = ["SCHEMAS", "SCHEMA_VERSION", "Parquet"]

SCHEMA_VERSION: Final = 2
"""Raised with every change of a schema: parts of two versions do not read as one table."""
_GROUP_ROWS: Final = 20_000
_STEP: Final = Decimal("0.000001")
_EXACT: Final = Context(prec=38, traps=[Inexact, InvalidOperation])
_UNFIT: Final = (pa.ArrowException, ArithmeticError, ValueError, TypeError)
"""What pyarrow raises for a value that a column cannot hold."""

_LONG, _TEXT, _FLAG = pa.int64(), pa.string(), pa.bool_()
_AMOUNT = pa.decimal128(38, 6)
_CLOCK, _INSTANT = pa.timestamp("us"), pa.timestamp("us", tz="UTC")
_PLAIN: Final = {_LONG, _TEXT, _FLAG}
_SCALARS: Final = {int: _LONG, str: _TEXT, bool: _FLAG, Decimal: _AMOUNT, datetime: _CLOCK}


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
        return _TEXT if value is Any else pa.map_(_arrow_type("", key), _arrow_type("", value))
    if attrs.has(hint):
        return pa.struct({name: _arrow_type(name, of) for name, of in get_type_hints(hint).items()})
    return _INSTANT if name.endswith("_iso") or name == "seen_at" else _SCALARS[hint]


SCHEMAS: Final = {
    kind: pa.schema({**{n: _arrow_type(n, hint) for n, hint in columns.items()}, "overflow": _TEXT})
    for kind, columns in KINDS.items()
}
"""By kind of part. `overflow` is JSON: values that their columns cannot hold, by column."""


class _Page(NamedTuple):
    """A page of events that is not columns of Arrow yet, but for the amounts."""

    user_id: int
    events: Sequence[TargetEvent]
    amounts: pa.Array
    raw: Sequence[bytes | None]


@define
class Parquet:
    """The format `parquet`."""

    raw: bool
    run: int
    suffix: str = "parquet"

    def encode_events(
        self, user_id: int, events: Sequence[TargetEvent], raw: Sequence[bytes | None]
    ) -> _Page:
        """A page, of which every amount fits."""
        return _Page(user_id, events, _amounts(events), raw if self.raw else ())

    def encode_rows(self, kind: str, rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
        """A batch."""
        schema = self._schema(kind)
        columns = {name: [row.get(name) for row in rows] for name in schema.names}
        if self.raw:
            columns["raw"] = [*map(_text, columns["raw"])]
        return _batch(columns, schema)

    def merge(self, blocks: Sequence[_Page | pa.RecordBatch]) -> list[pa.RecordBatch]:
        """Batches; neighbouring pages become one."""
        return [*self._merged(blocks)]

    def _merged(self, blocks: Sequence[_Page | pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for kind, run in groupby(blocks, type):
            if kind is not _Page:
                yield from run
                continue
            pages = [*run]
            events = [*chain.from_iterable(page.events for page in pages)]
            values = zip(*map(_event_values, events), strict=True)
            columns: dict[str, Any] = dict(zip(EVENT_FIELDS, values, strict=True))
            columns["user_id"] = [page.user_id for page in pages for _ in page.events]
            columns["target_value"] = pa.concat_arrays([page.amounts for page in pages])
            columns["extra"] = [extra_text(event.extra) for event in events]
            columns["raw"] = [_text(row) for page in pages for row in page.raw]
            yield _batch(columns, self._schema("events"))

    def part(self, path: Path, kind: str) -> Part:
        """A new part."""
        return _Part(AtomicFile(path), kind, self)

    def _schema(self, kind: str) -> pa.Schema:
        about = {
            "capillary_targets.schema": f"{SCHEMA_VERSION}",
            "capillary_targets.run": f"{self.run}",
        }
        schema = SCHEMAS[kind]
        schema = schema.append(pa.field("raw", _TEXT)) if self.raw else schema
        return schema.with_metadata(about)

    def writer(self, file: AtomicFile, kind: str) -> pq.ParquetWriter:
        """A writer of that kind's rows."""
        return pq.ParquetWriter(file, self._schema(kind), compression="zstd")

    def read_events(self, path: Path, start: int, length: int) -> list[StoredRow]:
        """Those rows."""
        found, first = [], 0
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                low, high = max(start, first), min(start + length, first + rows)
                if low < high:
                    group = file.read_row_group(number).slice(low - first, high - low)
                    found += group.to_pylist()
                first += rows
        return [
            StoredRow(row_key([row[name] for name in KEY_FIELDS]), row["target_rule_id"], row)
            for row in found
        ]


@define
class _Part(Part):
    """One part. Places are counted in rows."""

    _format: Parquet
    _writer: pq.ParquetWriter = field(init=False)
    _pending: list[Any] = field(init=False, factory=list)
    _pending_rows: int = field(init=False, default=0)
    _unmerged: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._writer = self._format.writer(self.file, self._kind)

    def add(self, encoded: EncodedRows) -> tuple[int, int]:
        start, rows = self.rows, encoded.counts[self._kind]
        self._pending += encoded.blocks[self._kind]
        self._pending_rows += rows
        self._unmerged += rows
        self.rows += rows
        if self._pending_rows >= _GROUP_ROWS:
            self._write()
        elif self._unmerged >= BATCH_ROWS:
            self._pending, self._unmerged = self._format.merge(self._pending), 0
        return start, rows

    def _write(self) -> None:
        if self._pending:
            table = pa.Table.from_batches(self._format.merge(self._pending))
            self._writer.write_table(table.combine_chunks())
            self._pending, self._pending_rows, self._unmerged = [], 0, 0

    def sync(self) -> None:
        if self._writer.is_open:
            self._write()
            self._writer.close()
        self.file.sync()

    def rollback(self) -> None:
        self.file.rollback()
        with suppress(OSError, ValueError, pa.ArrowException):
            self._writer.close()  # or it would try to, when it is destroyed


_event_values: Final[Any] = msgspec.structs.astuple  # of which type checkers know no class
_value: Final = attrgetter("target_value")


def _amounts(events: Sequence[TargetEvent]) -> pa.Array:
    """The column of amounts. Raises `ValueError` for the first that does not fit."""
    amounts = [*map(_value, events)]
    with suppress(*_UNFIT):
        # pyarrow loses no digit, but that it takes 1E-99 for 0.
        if min(map(abs, filter(None, amounts)), default=_STEP) >= _STEP:
            return pa.array(amounts, _AMOUNT)
    scaled = []
    for event in events:
        try:
            scaled.append(_fit(event.target_value, _AMOUNT))
        except ArithmeticError:
            raise ValueError(
                f"event {event.event_log_id}: the amount {event.target_value} does not fit "
                "decimal(38, 6); sweep into JSON Lines to keep it"
            ) from None
    return pa.array(scaled, _AMOUNT)


def _text(row: bytes | str | None) -> str | None:
    return one_line(row).decode() if isinstance(row, bytes) else row


def _batch(columns: Mapping[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    """Columns as a batch. Values that do not fit are null, and in the column `overflow`."""
    made: dict[str, pa.Array] = {}
    overflow: dict[int, dict[str, Any]] = {}
    for kind in schema:
        name, column = kind.name, columns.get(kind.name)
        if column is None or isinstance(column, pa.Array):
            made[name] = column
            continue
        if name.endswith("_iso"):
            pairs = zip(column, columns[name.removesuffix("_iso")], strict=True)
            column = [twin or moment for twin, moment in pairs]
        made[name], unfit = _array(column, kind.type)
        for place in unfit:
            overflow.setdefault(place, {})[name] = column[place]
    rows = len(made["user_id"])
    noted = [*(columns.get("overflow") or [None] * rows)]
    for place, values in overflow.items():
        noted[place] = encode(values).decode()
    made["overflow"] = pa.array(noted, _TEXT)
    return pa.RecordBatch.from_arrays([*made.values()], schema=schema)


def _array(values: Sequence[Any], kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """The column, and the places of values that it cannot hold: they are null there."""
    if kind == _INSTANT and not any(map(_zone, values)):
        return pa.nulls(len(values), kind), []
    plain = kind in _PLAIN or (kind == _CLOCK and not any(map(_zone, values)))
    try:
        return pa.array(values if plain else [_fit(value, kind) for value in values], kind), []
    except _UNFIT:
        pass
    arrays, unfit = [], []
    for place, value in enumerate(values):
        try:
            arrays.append(pa.array([_fit(value, kind)], kind))
        except _UNFIT:
            arrays.append(pa.nulls(1, kind))
            unfit.append(place)
    return pa.concat_arrays(arrays), unfit


def _zone(moment: datetime | None) -> object:
    return moment and moment.tzinfo


def _amount(amount: Decimal) -> Decimal:
    return amount.quantize(_STEP, context=_EXACT) if amount else Decimal(0)


def _clock(moment: datetime) -> datetime:
    """The time as it stands, without its zone."""
    return moment.replace(tzinfo=None)


def _instant(moment: datetime) -> datetime | None:
    """The moment in UTC, where its zone is known."""
    return moment.astimezone(UTC) if moment.tzinfo else None


_CONVERT: Final[dict[Any, Callable[[Any], Any]]] = {
    _AMOUNT: _amount,
    _CLOCK: _clock,
    _INSTANT: _instant,
}


def _fit(value: Any, kind: pa.DataType) -> Any:
    """A value as pyarrow takes it for a type. Raises what is in `_UNFIT`."""
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
