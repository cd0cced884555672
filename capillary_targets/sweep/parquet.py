"""Parquet parts (extra `parquet`): one declared schema, the same for every part.

Amounts are decimal(38, 6); one that this cannot hold exactly makes its user a failure, never a
rounded sum. Of times, `event_date` and its like are the clock time that the model has, without a
zone (the API often does not say it), and the `*_iso` columns are the instant in UTC where the zone
is known. Another value that its column cannot hold (an instant after the year 9999, an id of more
than 64 bits) is null there and kept in the column `overflow`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from itertools import chain, groupby
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
from attrs import define, field

from capillary_targets.models import Target, TargetEvent

from .rows import (
    EVENT_FIELDS,
    KEY_FIELDS,
    TARGET_FIELDS,
    EncodedRows,
    StoredRows,
    encode,
    extra_text,
    one_line,
    plain,
    row_key,
)
from .stats import EXACT
from .store import AtomicFile

__all__ = ["EVENTS", "SCHEMA_VERSION", "TARGETS", "VANISHED", "Parquet", "decimal_overflow"]

SCHEMA_VERSION: Final = 2
"""Raised with every change of a schema: parts of two versions do not read as one table."""
_GROUP_ROWS: Final = 20_000
_BATCH_ROWS: Final = 2_000
"""Rows that become columns at once: a batch of a few costs as much as one of hundreds."""
_MAX_CACHED: Final = 512
_PRECISION: Final = 38
_SCALE: Final = 6
_STEP: Final = Decimal(1).scaleb(-_SCALE)
_BEYOND: Final = Decimal(1).scaleb(_PRECISION - _SCALE)
_EXACT: Final = Context(prec=_PRECISION, traps=[Inexact, InvalidOperation])
_UNFIT: Final = (pa.ArrowException, ArithmeticError, ValueError, TypeError)
"""What pyarrow raises for a value that a column cannot hold."""

_LONG, _TEXT, _FLAG = pa.int64(), pa.string(), pa.bool_()
_AMOUNT = pa.decimal128(_PRECISION, _SCALE)
_CLOCK, _INSTANT = pa.timestamp("us"), pa.timestamp("us", tz="UTC")
_SCALARS: Final = {int: _LONG, str: _TEXT, bool: _FLAG, Decimal: _AMOUNT, datetime: _CLOCK}


def _arrow_type(name: str, hint: Any) -> pa.DataType:
    """The type of a model's field, from its annotation."""
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
        return pa.struct(_columns_of(hint))
    return _INSTANT if name.endswith("_iso") else _SCALARS[hint]


def _columns_of(model: type) -> dict[str, pa.DataType]:
    hints = get_type_hints(model)
    names = [f.name for f in attrs.fields(model) if f.name != "raw"]
    return {name: _arrow_type(name, hints[name]) for name in names}


_OF_EVENTS: Final = _columns_of(TargetEvent)
_OF_TARGETS: Final = _columns_of(Target)
_OVERFLOW: Final = {"overflow": _TEXT}  # JSON: values that their columns cannot hold, by column
_SEEN: Final = {"user_id": _LONG, "run": _LONG, "seen_at": _INSTANT}
EVENTS: Final = pa.schema({"user_id": _LONG, **_OF_EVENTS, **_OVERFLOW})
TARGETS: Final = pa.schema({**_SEEN, "enrolled": _FLAG, **_OF_TARGETS, **_OVERFLOW})
VANISHED: Final = pa.schema({**_SEEN, "deleted": _FLAG, **_OF_EVENTS, **_OVERFLOW})
_TARGET_ROW: Final = pa.schema({**_OF_TARGETS, **_OVERFLOW})


def decimal_overflow(amount: Decimal) -> str | None:
    """Why decimal(38, 6) does not hold an amount exactly, or None if it does."""
    try:
        _scaled(amount)
    except ArithmeticError:
        return (
            f"the amount {amount} does not fit decimal({_PRECISION}, {_SCALE}); sweep into JSON "
            "Lines to keep it"
        )
    return None


def _scaled(amount: Decimal) -> Decimal:
    """The amount with as many places as the schema has. Raises `ArithmeticError`."""
    if not amount:
        amount = Decimal(0)
    return amount.quantize(_STEP, context=_EXACT)


class _Outlet:
    """What pyarrow writes into: a file, or nothing once it is discarded.

    A writer that cannot finish tries again whenever it is destroyed, so it is let finish.
    """

    closed = False

    def __init__(self, file: AtomicFile) -> None:
        self._file: AtomicFile | None = file
        self._size = 0

    def write(self, data: bytes) -> int:
        if self._file is not None:
            self._file.write(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """The file is flushed when it is whole."""

    def close(self) -> None:
        """The file is closed when it is whole."""

    def drop(self) -> None:
        self._file = None


@define
class _Part:
    """One part. Places are counted in rows."""

    file: AtomicFile
    _kind: str
    _schema: pa.Schema
    rows: int = field(init=False, default=0)
    _outlet: _Outlet = field(init=False)
    _writer: pq.ParquetWriter = field(init=False)
    _pending: list[Any] = field(init=False, factory=list)
    _pending_rows: int = field(init=False, default=0)
    _unpacked_rows: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._outlet = _Outlet(self.file)
        self._writer = pq.ParquetWriter(self._outlet, self._schema, compression="zstd")

    def add(self, encoded: EncodedRows) -> tuple[int, int]:
        start, rows = self.rows, encoded.counts[self._kind]
        self._pending += encoded.pages[self._kind]
        self._pending_rows += rows
        self._unpacked_rows += rows
        self.rows += rows
        if self._pending_rows >= _GROUP_ROWS:
            self._write()
        elif self._unpacked_rows >= _BATCH_ROWS:
            self._pack()
        return start, rows

    def _write(self) -> None:
        self._pack()
        if self._pending:
            table = pa.Table.from_batches(self._pending, self._schema)
            self._writer.write_table(table.combine_chunks())
            self._pending.clear()
            self._pending_rows = 0

    def _pack(self) -> None:
        """Make batches of the pages that are pending."""
        self._pending = [*_batches(self._pending, self._schema)]
        self._unpacked_rows = 0

    def sync(self) -> None:
        if self._writer.is_open:
            self._write()
            self._writer.close()
        self.file.sync()

    def rollback(self) -> None:
        self._outlet.drop()
        with suppress(OSError, pa.ArrowException):
            self._writer.close()
        self.file.rollback()


class _TargetRow(NamedTuple):
    user_id: int
    run: int
    seen_at: datetime
    enrolled: bool
    target: pa.RecordBatch
    raw: str | None


class _Page(NamedTuple):
    """A page of events that is not columns of Arrow yet, its columns in the order of the model."""

    user_id: int
    columns: Sequence[Sequence[Any]]
    raw: Sequence[str | None]


def _batches(items: Iterable[Any], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Batches of what is pending in a part: pages of events, rows of targets, or batches."""
    for kind, run in groupby(items, type):
        if kind is _Page:
            yield _event_batch([*run], schema)
        elif kind is _TargetRow:
            yield _target_rows([*run], schema)
        else:
            yield from run


def _target_rows(rows: Sequence[_TargetRow], schema: pa.Schema) -> pa.RecordBatch:
    users, runs, seen, enrolled, targets, raw = zip(*rows, strict=True)
    # Few targets differ, and one that comes again is the same object.
    distinct = {id(row): row for row in targets}
    place = {key: number for number, key in enumerate(distinct)}
    table = pa.Table.from_batches(distinct.values()).combine_chunks()
    columns = table.take(pa.array([place[id(row)] for row in targets])).combine_chunks()
    (batch,) = columns.to_batches()
    return _batch_of([users, runs, seen, enrolled, *batch.columns, raw], schema)


def _batch_of(columns: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    """Columns, values or arrays, as a batch; what is beyond the schema is left out."""
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, kind.type)
        for column, kind in zip(columns, schema, strict=False)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


@define
class Parquet:
    """The format `parquet`."""

    _raw: bool
    _run: int
    suffix: str = "parquet"
    _targets: dict[bytes, pa.RecordBatch] = field(init=False, factory=dict)

    def encode_events(
        self, user_id: int, columns: Sequence[Sequence[Any]], raw: Sequence[bytes | None]
    ) -> _Page:
        """A page, of which every amount fits."""
        _check_amounts(dict(zip(EVENT_FIELDS, columns, strict=True)))
        return _Page(user_id, columns, [_text(row) for row in raw] if self._raw else ())

    def merge_events(self, pages: Sequence[_Page]) -> pa.RecordBatch:
        """One batch of pages."""
        return _event_batch(pages, self._schema(EVENTS))

    def encode_targets(
        self, user_id: int, targets: Sequence[Target], left: Sequence[int], seen_at: datetime
    ) -> list[_TargetRow]:
        """Rows, of which each distinct target is encoded once."""
        rows = [
            _TargetRow(user_id, self._run, seen_at, True, self._target(target), _text(target.raw))
            for target in targets
        ]
        gone = [self._target(Target(rule), known=False) for rule in left]
        return rows + [_TargetRow(user_id, self._run, seen_at, False, row, None) for row in gone]

    def _target(self, target: Target, *, known: bool = True) -> pa.RecordBatch:
        fields = plain(target) if known else dict.fromkeys(TARGET_FIELDS) | {"id": target.id}
        key = encode(fields)
        if key not in self._targets:
            if len(self._targets) >= _MAX_CACHED:
                self._targets.clear()
            self._targets[key] = _target_batch(fields)
        return self._targets[key]

    def encode_vanished(
        self,
        rows: _Page | pa.Table,
        indices: Sequence[int],
        *,
        deleted: bool,
        seen_at: datetime,
    ) -> pa.RecordBatch:
        """The same rows, with when that was seen."""
        rows = self.merge_events([rows]) if isinstance(rows, _Page) else rows
        (found,) = pa.table(rows.take(pa.array(indices, _LONG))).combine_chunks().to_batches()
        users, *columns = found.columns
        about = [[value] * len(users) for value in (self._run, seen_at, deleted)]
        return _batch_of([users, *about, *columns], self._schema(VANISHED))

    def events(self, path: Path) -> _Part:
        """A new part of events."""
        return _Part(AtomicFile(path), "events", self._schema(EVENTS))

    def targets(self, path: Path) -> _Part:
        """A new part of targets."""
        return _Part(AtomicFile(path), "targets", self._schema(TARGETS))

    def vanished(self, path: Path) -> _Part:
        """A new part of vanished events."""
        return _Part(AtomicFile(path), "vanished", self._schema(VANISHED))

    def _schema(self, schema: pa.Schema) -> pa.Schema:
        about = {
            "capillary_targets.schema": f"{SCHEMA_VERSION}",
            "capillary_targets.run": f"{self._run}",
        }
        schema = schema.append(pa.field("raw", _TEXT)) if self._raw else schema
        return schema.with_metadata(about)

    def read_events(self, path: Path, start: int, length: int) -> StoredRows:
        """Those rows."""
        found = [self._schema(EVENTS).empty_table()]
        with pq.ParquetFile(path) as file:
            first = 0
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                low, high = max(start, first), min(start + length, first + rows)
                if low < high:
                    found.append(file.read_row_group(number).slice(low - first, high - low))
                first += rows
        table = pa.concat_tables(found, promote_options="default").combine_chunks()
        columns = [table.column(name).to_pylist() for name in KEY_FIELDS]
        return StoredRows(
            table.column("target_rule_id").to_pylist(),
            columns[0],
            [*map(row_key, zip(*columns, strict=True))],
            table,
        )


def _text(row: bytes | None) -> str | None:
    return None if row is None else one_line(row).decode()


def _check_amounts(values: Mapping[str, Sequence[Any]]) -> None:
    """Raise `ValueError` for the first amount of a page that does not fit."""
    amounts = values["target_value"]
    known = [amount for amount in amounts if amount is not None]
    if not known or (max(known) < _BEYOND and min(known) > -_BEYOND and _within_scale(known)):
        return
    for event_log_id, amount in zip(values["event_log_id"], amounts, strict=True):
        if amount is not None and (why := decimal_overflow(amount)):
            raise ValueError(f"event {event_log_id}: {why}")


def _event_batch(pages: Sequence[_Page], schema: pa.Schema) -> pa.RecordBatch:
    """Pages as columns of Arrow. Values that do not fit are null, and in the last column."""
    values = {
        name: [*chain.from_iterable(page.columns[place] for page in pages)]
        for place, name in enumerate(EVENT_FIELDS)
    }
    users = [user for user, columns, _ in pages for _ in range(len(columns[0]))]
    overflow: dict[int, dict[str, Any]] = {}
    made: dict[str, pa.Array] = {}
    for name, kind in _OF_EVENTS.items():
        column = values[name]
        if kind == _INSTANT:
            pairs = zip(column, values[name.removesuffix("_iso")], strict=True)
            column = [twin or moment for twin, moment in pairs]
        made[name], unfit = _array(column, kind)
        for place in unfit:
            overflow.setdefault(place, {})[name] = column[place]
    noted: list[str | None] = [None] * len(users)
    for place, fields in overflow.items():
        noted[place] = encode(fields).decode()
    raw = [*chain.from_iterable(page.raw for page in pages)]
    return _batch_of([users, *made.values(), noted, raw], schema)


def _array(values: Sequence[Any], kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """The column, and the places of values that it cannot hold: they are null there."""
    convert = _CONVERT.get(kind)
    try:
        if convert is None or (kind == _AMOUNT and _within_scale(values)):
            return pa.array(values, kind), []
        return pa.array([*map(convert, values)], kind), []
    except _UNFIT:
        pass
    arrays, unfit = [], []
    for place, value in enumerate(values):
        try:
            arrays.append(pa.array([value if convert is None else convert(value)], kind))
        except _UNFIT:
            arrays.append(pa.nulls(1, kind))
            unfit.append(place)
    return pa.concat_arrays(arrays), unfit


def _within_scale(amounts: Sequence[Decimal | None]) -> bool:
    """Whether none has more places than the schema: so the sum, being exact, has none either.

    pyarrow is to be trusted only then: it takes 1E-99 for 0.
    """
    with localcontext(EXACT):
        total = sum([amount for amount in amounts if amount is not None], Decimal(0))
    exponent = total.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_SCALE


def _clock(moment: datetime | None) -> datetime | None:
    """The time as it stands, without its zone."""
    return moment if moment is None or moment.tzinfo is None else moment.replace(tzinfo=None)


def _instant(moment: datetime | None) -> datetime | None:
    """The moment in UTC, where its zone is known."""
    return None if moment is None or moment.tzinfo is None else moment.astimezone(UTC)


def _amount(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else _scaled(amount)


_CONVERT: Final[dict[Any, Callable[[Any], Any]]] = {
    _CLOCK: _clock,
    _INSTANT: _instant,
    _AMOUNT: _amount,
}


def _target_batch(fields: Mapping[str, Any]) -> pa.RecordBatch:
    """One row of a target's columns.

    Raises:
        ValueError: an amount does not fit.
    """
    for amount in _amounts_in(fields):
        if why := decimal_overflow(amount):
            raise ValueError(f"target {fields['id']}: {why}")
    arrays = []
    overflow: dict[str, Any] = {}
    for name, kind in _OF_TARGETS.items():
        value = fields[name]
        if name == "extra":
            value = extra_text(value)
        try:
            arrays.append(pa.array([_plain(value)], kind))
        except _UNFIT:
            arrays.append(pa.nulls(1, kind))
            overflow[name] = value
    noted = encode(overflow).decode() if overflow else None
    return pa.RecordBatch.from_arrays([*arrays, pa.array([noted], _TEXT)], schema=_TARGET_ROW)


def _plain(value: Any) -> Any:
    """A field of a target as what pyarrow takes: dicts, lists, clock times, instants."""
    if isinstance(value, datetime):
        return _clock(value)
    if isinstance(value, Decimal):
        return _scaled(value)
    if attrs.has(type(value)):
        fields = {f.name: getattr(value, f.name) for f in attrs.fields(type(value))}
        return {
            name: _instant(item or fields[name.removesuffix("_iso")])
            if name.endswith("_iso")
            else _plain(item)
            for name, item in fields.items()
        }
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return [(key, _plain(item)) for key, item in value.items()]
    return value


def _amounts_in(value: Any) -> list[Decimal]:
    """Every amount in a model, but those in `extra`, which is text."""
    if isinstance(value, Decimal):
        return [value]
    if attrs.has(type(value)):
        return [a for f in attrs.fields(type(value)) for a in _amounts_in(getattr(value, f.name))]
    if isinstance(value, tuple):
        return [amount for item in value for amount in _amounts_in(item)]
    if isinstance(value, Mapping):
        return [a for key, item in value.items() if key != "extra" for a in _amounts_in(item)]
    return []
