"""Parts as Parquet (extra `parquet`): one declared schema, the same for every part.

Amounts are decimal128(38, 6): 32 digits before the point and 6 behind it. An amount that this
cannot hold exactly is a misfit, never rounded. Times: `event_date` and the like are the clock time
that the model has, without its zone (which the API often does not say); the `*_iso` columns are
the instant in UTC where the zone is known, else null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Context, Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
from attrs import define, field

from capillary_targets.models import Target, TargetEvent

from .parts import WholeFile
from .rows import encode, one_line, plain
from .schemas import EVENTS, PRECISION, SCALE, TARGETS

__all__ = ["Parquet"]

_ROWS_IN_A_GROUP: Final = 20_000

_STEP: Final = Decimal(1).scaleb(-SCALE)
_WIDE: Final = Context(prec=2 * PRECISION)


def _fits(amount: Decimal) -> bool:
    """Whether decimal128(38, 6) holds an amount exactly."""
    if not amount:
        return amount.is_finite()
    _, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int) or amount.adjusted() >= PRECISION - SCALE:
        return False
    too_many = -exponent - SCALE
    return too_many <= 0 or not any(digits[-too_many:])


def _plain(value: Any) -> Any:
    """A nested model as what pyarrow takes: dicts, lists, clock times, instants beside them."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, Decimal):
        return value.quantize(_STEP, context=_WIDE)  # exact: it was found to fit
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


def _amounts(value: Any) -> list[Decimal]:
    """Every amount in a model."""
    if isinstance(value, Decimal):
        return [value]
    if attrs.has(type(value)):
        return [a for f in attrs.fields(type(value)) for a in _amounts(getattr(value, f.name))]
    if isinstance(value, tuple):
        return [amount for item in value for amount in _amounts(item)]
    if isinstance(value, Mapping):
        return [amount for item in value.values() for amount in _amounts(item)]
    return []


def _clock(moment: datetime | None) -> datetime | None:
    """The time as it stands, without its zone."""
    return moment if moment is None or moment.tzinfo is None else moment.replace(tzinfo=None)


def _instant(moment: datetime | None) -> datetime | None:
    """The moment in UTC, where its zone is known."""
    return None if moment is None or moment.tzinfo is None else moment.astimezone(UTC)


def _event(user_id: int, event: TargetEvent) -> tuple[Any, ...]:
    """An event's values in the order of the schema; there are many, so they come straight."""
    value = event.target_value
    return (
        user_id,
        event.event_log_id,
        event.event_name,
        event.customer_id,
        event.event_display_name,
        event.unique_id,
        _clock(event.event_date),
        _clock(event.event_processed_date),
        event.period_id,
        event.target_group_id,
        event.target_rule_id,
        None if value is None else value.quantize(_STEP, context=_WIDE),
        _instant(event.event_date_iso or event.event_date),
        _instant(event.event_processed_date_iso or event.event_processed_date),
    )


def _values(user_id: int, value: Target | TargetEvent) -> tuple[Any, ...]:
    return _event(user_id, value) if isinstance(value, TargetEvent) else _target(user_id, value)


def _target(user_id: int, target: Target) -> tuple[Any, ...]:
    """A target's values in the order of the schema."""
    fields = plain(target)
    fields["extra"] = encode(target.extra).decode() if target.extra else None
    return (user_id, *_with_instants(fields).values())


class _Outlet:
    """What pyarrow writes into: a file, or nothing once nobody wants it.

    A writer that cannot finish tries again whenever it is destroyed, so it is let finish.
    """

    closed = False

    def __init__(self, file: WholeFile) -> None:
        self._file: WholeFile | None = file
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
class _Rows:
    """One part. Places are counted in rows."""

    _file: WholeFile
    _schema: pa.Schema
    _raw: bool
    rows: int = 0
    _outlet: _Outlet = field(init=False)
    _writer: pq.ParquetWriter = field(init=False)
    _waiting: list[tuple[Any, ...]] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        if self._raw:
            self._schema = self._schema.append(pa.field("raw", pa.string()))
        self._outlet = _Outlet(self._file)
        self._writer = pq.ParquetWriter(self._outlet, self._schema, compression="zstd")

    def add(
        self,
        user_id: int,
        values: Sequence[Target] | Sequence[TargetEvent],
        sent: Sequence[bytes | None] = (),
    ) -> tuple[int, int]:
        start = self.rows
        for value, raw in zip_longest(list[Target | TargetEvent](values), sent):
            row = _values(user_id, value)
            if self._raw:
                row = (*row, raw and one_line(raw).decode())
            self._waiting.append(row)
        self.rows += len(values)
        if len(self._waiting) >= _ROWS_IN_A_GROUP:
            self._write()
        return start, len(values)

    def _write(self) -> None:
        if self._waiting:
            columns = zip(*self._waiting, strict=True)
            arrays = [
                pa.array(values, column.type)
                for values, column in zip(columns, self._schema, strict=True)
            ]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
            self._waiting.clear()

    def sync(self) -> None:
        if self._writer.is_open:
            self._write()
            self._writer.close()
        self._file.sync()

    def commit(self) -> None:
        self.sync()
        self._file.commit()

    def discard(self) -> None:
        self._outlet.drop()
        with suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._file.discard()


@define
class Parquet:
    """The format: Parquet files with the schemas of this module."""

    _raw: bool
    suffix: str = "parquet"

    def misfit(self, values: Sequence[Target] | Sequence[TargetEvent]) -> str | None:
        """An amount that decimal128(38, 6) does not hold."""
        for value in values:
            amounts = [value.target_value] if isinstance(value, TargetEvent) else _amounts(value)
            for amount in filter(None, amounts):
                if not _fits(amount):
                    what = "event" if isinstance(value, TargetEvent) else "target"
                    number = value.event_log_id if isinstance(value, TargetEvent) else value.id
                    return (
                        f"the amount {amount} of {what} {number} does not fit "
                        f"decimal({PRECISION}, {SCALE}); sweep into JSON Lines to keep it"
                    )
        return None

    def events(self, path: Path) -> _Rows:
        """A new part of events."""
        return _Rows(WholeFile(path), EVENTS, self._raw)

    def targets(self, path: Path) -> _Rows:
        """A new part of targets."""
        return _Rows(WholeFile(path), TARGETS, self._raw)

    def event_ids(self, path: Path, start: int, length: int) -> list[tuple[int | None, int]]:
        """(target rule id, event id) of those rows."""
        found: list[tuple[int | None, int]] = []
        with pq.ParquetFile(path) as file:
            first = 0
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                low, high = max(start, first), min(start + length, first + rows)
                if low < high:
                    group = file.read_row_group(number, ["target_rule_id", "event_log_id"])
                    part = group.slice(low - first, high - low)
                    found += zip(*(column.to_pylist() for column in part.columns), strict=True)
                first += rows
        return found
