"""Parquet parts (extra `parquet`): one declared schema, the same for every part.

What the columns hold is in `capillary_targets.arrow`. An amount that its column cannot hold exactly
makes its user a failure, never a rounded sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from attrs import define, field

from capillary_targets.arrow import TEXT, amounts_of, batch_of, schema_of

from .atomic import AtomicFile
from .rows import BATCH_ROWS, KINDS, LINES, EncodedRows, Format, Part, one_line
from .stats import Columns

SCHEMA_VERSION: Final = 2
"""Raised with every change of a schema: parts of two versions do not read as one table."""
_GROUP_ROWS: Final = 20_000
_REPEATED: Final = (
    *("user_id", "event_name", "event_display_name", "customer_id"),
    *("period_id", "target_group_id", "target_rule_id"),
)
"""Columns of events that a dictionary pays for: of the others it made files a half larger."""

SCHEMAS: Final = {kind: schema_of(columns) for kind, columns in KINDS.items()}
"""By kind of part. `overflow` is JSON: values that their columns cannot hold, by column."""


@define
class Parquet(Format):
    """The format `parquet`."""

    suffix: str = "parquet"

    def encode(self, kind: str, columns: Columns) -> Columns | pa.RecordBatch:
        """Many rows are a batch. Of few, only what could fail is Arrow's: every amount fits."""
        if kind == "events":
            columns["target_value"] = amounts_of(columns["target_value"], columns["event_log_id"])
        columns["raw"] = [*map(_text, columns["raw"])] if self.raw else ()
        few = len(columns["user_id"]) < BATCH_ROWS
        return columns if few else batch_of(columns, self.schema(kind))

    def part(self, file: AtomicFile, kind: str) -> Part:
        """A new part of that kind."""
        return _Part(file, kind, self.schema(kind))

    def schema(self, kind: str) -> pa.Schema:
        """The schema of that kind's parts."""
        about = {
            "capillary_targets.schema": f"{SCHEMA_VERSION}",
            "capillary_targets.run": f"{self.run}",
        }
        schema = SCHEMAS[kind]
        schema = schema.append(pa.field("raw", TEXT)) if self.raw else schema
        return schema.with_metadata(about)

    def read_events(self, path: Path, start: int, length: int) -> list[Any]:
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
        return [LINES["events"](**row) for row in found]


@define
class _Part(Part):
    """One part. Places are counted in rows."""

    _schema: pa.Schema
    _writer: pq.ParquetWriter = field(init=False)
    _pending: list[Any] = field(init=False, factory=list)
    _written: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        repeats = _REPEATED if self._kind == "events" else True
        self._writer = pq.ParquetWriter(
            self.file, self._schema, compression="zstd", use_dictionary=repeats
        )

    def add(self, encoded: EncodedRows) -> tuple[int, int]:
        start, rows = self.rows, encoded.counts[self._kind]
        self._pending += encoded.blocks[self._kind]
        self.rows += rows
        if self.rows - self._written >= _GROUP_ROWS:
            self._write()
        return start, rows

    def _write(self) -> None:
        """A row group of what is pending."""
        if self._pending:
            table = pa.Table.from_batches(self._batches())
            self._writer.write_table(table.combine_chunks())
            self._pending, self._written = [], self.rows

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for kind, run in groupby(self._pending, type):
            if kind is not dict:
                yield from run
                continue
            blocks = [*run]
            columns = {
                name: pa.concat_arrays([block[name] for block in blocks])
                if isinstance(column, pa.Array)
                else [*chain.from_iterable(block[name] for block in blocks)]
                for name, column in blocks[0].items()
            }
            yield batch_of(columns, self._schema)

    def sync(self) -> None:
        if self._writer.is_open:
            self._write()
            self._writer.close()
        self.file.sync()

    def rollback(self) -> None:
        self.file.rollback()
        with suppress(OSError, ValueError, pa.ArrowException):
            self._writer.close()  # or it would try to, when it is destroyed


def _text(row: bytes | str | None) -> str | None:
    return one_line(row).decode() if isinstance(row, bytes) else row
