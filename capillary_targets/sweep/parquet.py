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

__all__ = ["EVENTS", "PRECISION", "SCALE", "TARGETS", "Parquet"]

PRECISION: Final = 38
SCALE: Final = 6
_ROWS_IN_A_GROUP: Final = 20_000

_LONG, _TEXT, _FLAG = pa.int64(), pa.string(), pa.bool_()
_AMOUNT = pa.decimal128(PRECISION, SCALE)
_CLOCK, _INSTANT = pa.timestamp("us"), pa.timestamp("us", tz="UTC")

_ACTOR = pa.struct({"id": _LONG, "code": _TEXT, "description": _TEXT, "name": _TEXT, "type": _TEXT})
_DEFAULT = pa.struct(
    {"id": _LONG, "period_id": _LONG, "default_value": _AMOUNT, "target_name": _TEXT}
)

EVENTS: Final = pa.schema(
    {
        "user_id": _LONG,
        "event_log_id": _LONG,
        "event_name": _TEXT,
        "customer_id": _LONG,
        "event_display_name": _TEXT,
        "unique_id": _TEXT,
        "event_date": _CLOCK,
        "event_processed_date": _CLOCK,
        "period_id": _LONG,
        "target_group_id": _LONG,
        "target_rule_id": _LONG,
        "target_value": _AMOUNT,
        "event_date_iso": _INSTANT,
        "event_processed_date_iso": _INSTANT,
    }
)

TARGETS: Final = pa.schema(
    {
        "user_id": _LONG,
        "id": _LONG,
        "name": _TEXT,
        "target_type": _TEXT,
        "target_entity": _TEXT,
        "target_group_id": _LONG,
        "active": _FLAG,
        "expression": _TEXT,
        "expression_json": _TEXT,
        "filters": pa.list_(pa.struct({"entity_type": _TEXT, "entity_ids": pa.list_(_LONG)})),
        "enrolment_method": _TEXT,
        "attribution": pa.struct(
            {
                "created_on": _CLOCK,
                "last_updated_on": _CLOCK,
                "created_by": _ACTOR,
                "last_updated_by": _ACTOR,
                "created_on_iso": _INSTANT,
                "last_updated_on_iso": _INSTANT,
            }
        ),
        "description": _TEXT,
        "event_name": _TEXT,
        "emf_rule_set_id": _LONG,
        "emf_unrolled_ruleset_id": _LONG,
        "target_period_default_values_map": pa.map_(_LONG, _DEFAULT),
        "default_values": pa.list_(_DEFAULT),
        "extended_field_info": pa.struct(
            {
                "name": _TEXT,
                "aggregate_function": _TEXT,
                "aggregate_window": _TEXT,
                "program_id": _LONG,
                "alternate_currency_identifier": _TEXT,
            }
        ),
        "target_milestone_triggers": pa.list_(
            pa.struct(
                {
                    "id": _LONG,
                    "trigger_name": _TEXT,
                    "is_active": _FLAG,
                    "trigger_type": _TEXT,
                    "trigger_value_type": _TEXT,
                    "trigger_value": _AMOUNT,
                    "target_rule_id": _LONG,
                }
            )
        ),
        "target_audience_filter": pa.list_(
            pa.struct(
                {
                    "audience_group_id": _LONG,
                    "version_id": _LONG,
                    "audience_filter_meta_id": _LONG,
                    "last_updated_on": _CLOCK,
                }
            )
        ),
        "extra": _TEXT,  # JSON: the keys that the client does not know
    }
)


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


def _row(user_id: int, value: Target | TargetEvent) -> dict[str, Any]:
    fields = plain(value)
    if isinstance(value, Target):
        fields["extra"] = encode(value.extra).decode() if value.extra else None
    return {"user_id": user_id, **_with_instants(fields)}


@define
class _Rows:
    """One part. Places are counted in rows."""

    _file: WholeFile
    _schema: pa.Schema
    _raw: bool
    rows: int = 0
    _writer: pq.ParquetWriter = field(init=False)
    _waiting: list[dict[str, Any]] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        if self._raw:
            self._schema = self._schema.append(pa.field("raw", _TEXT))
        self._writer = pq.ParquetWriter(self._file.file, self._schema, compression="zstd")

    def add(
        self,
        user_id: int,
        values: Sequence[Target | TargetEvent],
        sent: Sequence[bytes | None] = (),
    ) -> tuple[int, int]:
        start = self.rows
        for value, raw in zip_longest(values, sent):
            row = _row(user_id, value)
            if self._raw:
                row["raw"] = raw and one_line(raw).decode()
            self._waiting.append(row)
        self.rows += len(values)
        if len(self._waiting) >= _ROWS_IN_A_GROUP:
            self._write()
        return start, len(values)

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, self._schema))
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
        with suppress(OSError, pa.ArrowException):  # closing writes once more, perhaps in vain
            self._writer.close()
        self._file.discard()


@define
class Parquet:
    """The format: Parquet files with the schemas of this module."""

    _raw: bool
    suffix: str = "parquet"

    def misfit(self, values: Sequence[Target | TargetEvent]) -> str | None:
        """An amount that decimal128(38, 6) does not hold."""
        for value in values:
            for amount in _amounts(value):
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
