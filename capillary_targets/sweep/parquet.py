"""Parquet parts (extra `parquet`): one declared schema, the same for every part.

What the columns hold is in `capillary_targets.arrow`. An amount that its column cannot hold exactly
makes its user a failure, never a rounded sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from attrs import define, field

from capillary_targets.arrow import TEXT, amounts_of, batch_of, schema_of
from capillary_targets.models import TargetEvent, extra_text

from .atomic import AtomicFile
from .rows import (
    BATCH_ROWS,
    EVENT_FIELDS,
    KEY_FIELDS,
    KINDS,
    EncodedRows,
    Part,
    StoredRow,
    event_values,
    one_line,
    row_key,
)

__all__ = ["SCHEMAS", "SCHEMA_VERSION", "Parquet"]

SCHEMA_VERSION: Final = 2
"""Raised with every change of a schema: parts of two versions do not read as one table."""
_GROUP_ROWS: Final = 20_000

SCHEMAS: Final = {kind: schema_of(columns) for kind, columns in KINDS.items()}
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
        return _Page(user_id, events, amounts_of(events), raw if self.raw else ())

    def encode_rows(self, kind: str, rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
        """A batch."""
        schema = self._schema(kind)
        columns = {name: [row.get(name) for row in rows] for name in schema.names}
        if self.raw:
            columns["raw"] = [*map(_text, columns["raw"])]
        return batch_of(columns, schema)

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
            values = zip(*map(event_values, events), strict=True)
            columns: dict[str, Any] = dict(zip(EVENT_FIELDS, values, strict=True))
            columns["user_id"] = [page.user_id for page in pages for _ in page.events]
            columns["target_value"] = pa.concat_arrays([page.amounts for page in pages])
            columns["extra"] = [extra_text(event.extra) for event in events]
            columns["raw"] = [_text(row) for page in pages for row in page.raw]
            yield batch_of(columns, self._schema("events"))

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


def _text(row: bytes | str | None) -> str | None:
    return one_line(row).decode() if isinstance(row, bytes) else row
