"""Parquet parts (extra `parquet`): one declared schema, the same for every part.

What the columns hold is in `capillary_targets.arrow`. An amount that its column cannot hold exactly
makes its user a failure, never a rounded sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from attrs import define, field

from capillary_targets.arrow import TEXT, amounts_of, batch_of, schema_of

from .atomic import AtomicFile
from .rows import (
    BATCH_ROWS,
    KINDS,
    EncodedRows,
    Format,
    Part,
    StoredRow,
    event_key,
    one_line,
)
from .stats import Columns

__all__ = ["SCHEMAS", "SCHEMA_VERSION", "Parquet"]

SCHEMA_VERSION: Final = 2
"""Raised with every change of a schema: parts of two versions do not read as one table."""
_GROUP_ROWS: Final = 20_000

SCHEMAS: Final = {kind: schema_of(columns) for kind, columns in KINDS.items()}
"""By kind of part. `overflow` is JSON: values that their columns cannot hold, by column."""


@define
class Parquet(Format):
    """The format `parquet`."""

    suffix: str = "parquet"

    def encode(self, kind: str, columns: Columns) -> Columns:
        """A page, columns of Arrow only where that could fail: every amount fits."""
        if kind == "events":
            columns["target_value"] = amounts_of(columns["target_value"], columns["event_log_id"])
        columns["raw"] = [*map(_text, columns["raw"])] if self.raw else ()
        return columns

    def merge(self, kind: str, blocks: Sequence[Columns | pa.RecordBatch]) -> list[pa.RecordBatch]:
        """Batches; neighbouring pages become one."""
        return [*self._merged(kind, blocks)]

    def _merged(
        self, kind: str, blocks: Sequence[Columns | pa.RecordBatch]
    ) -> Iterator[pa.RecordBatch]:
        for of, run in groupby(blocks, type):
            if of is not dict:
                yield from run
                continue
            pages = [*run]
            columns = {
                name: pa.concat_arrays([page[name] for page in pages])
                if isinstance(column, pa.Array)
                else [*chain.from_iterable(page[name] for page in pages)]
                for name, column in pages[0].items()
            }
            yield batch_of(columns, self._schema(kind))

    def part(self, file: AtomicFile, kind: str) -> Part:
        """A new part of that kind."""
        return _Part(file, kind, self)

    def _schema(self, kind: str) -> pa.Schema:
        about = {
            "capillary_targets.schema": f"{SCHEMA_VERSION}",
            "capillary_targets.run": f"{self.run}",
        }
        schema = SCHEMAS[kind]
        schema = schema.append(pa.field("raw", TEXT)) if self.raw else schema
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
            StoredRow(event_key(SimpleNamespace(**row)), row["target_rule_id"], row)
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
            self._pending, self._unmerged = self._format.merge(self._kind, self._pending), 0
        return start, rows

    def _write(self) -> None:
        if self._pending:
            table = pa.Table.from_batches(self._format.merge(self._kind, self._pending))
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


def _text(row: bytes | str | None) -> str | None:
    return one_line(row).decode() if isinstance(row, bytes) else row
