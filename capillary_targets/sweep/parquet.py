"""Parts as Parquet (extra `parquet`): one declared schema, the same for every part.

Amounts are decimal128(38, 6): 32 digits before the point and 6 behind it. An amount that this
cannot hold exactly is a misfit, never rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from attrs import define, field, frozen

from capillary_targets.models import Target

from .batch import EventBatch
from .event_columns import Piece, columns_of, pieces_of
from .fit import misfit_of_events, misfit_of_target
from .packed import Packed
from .parts import WholeFile
from .rows import Memo, one_line
from .schemas import EVENTS, TARGETS
from .target_columns import target_arrays, target_values

__all__ = ["Parquet"]

_ROWS_IN_A_GROUP: Final = 20_000
_ROWS_AT_ONCE: Final = 2_000
"""Rows that wait to become columns of Arrow."""


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
class _Part:
    """One part. Places are counted in rows."""

    _file: WholeFile
    _schema: pa.Schema
    rows: int = field(init=False, default=0)
    _outlet: _Outlet = field(init=False)
    _writer: pq.ParquetWriter = field(init=False)
    _waiting: int = field(init=False, default=0)
    """Rows that wait to become columns."""
    _ready: list[pa.RecordBatch] = field(init=False, factory=list)
    _in_group: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._outlet = _Outlet(self._file)
        self._writer = pq.ParquetWriter(self._outlet, self._schema, compression="zstd")

    def _arrays(self) -> list[pa.Array]:
        """The columns of the rows that wait, which are then forgotten."""
        raise NotImplementedError

    def _count(self, rows: int) -> None:
        self._waiting += rows
        self.rows += rows
        self._in_group += rows
        if self._in_group >= _ROWS_IN_A_GROUP:
            self._write()
        elif self._waiting >= _ROWS_AT_ONCE:
            self._convert()

    def _convert(self) -> None:
        if self._waiting:
            self._ready.append(pa.RecordBatch.from_arrays(self._arrays(), schema=self._schema))
            self._waiting = 0

    def _write(self) -> None:
        self._convert()
        if self._ready:
            self._writer.write_table(pa.Table.from_batches(self._ready))
            self._ready.clear()
            self._in_group = 0

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


@frozen
class _Page:
    """Some rows of one user: pieces of columns, with `raw` also the column of what was sent."""

    rows: int
    pieces: list[Piece]
    sent: pa.Array | None


@define
class _Events(_Part):
    _pages: list[_Page] = field(init=False, factory=list)

    def add(self, rows: Packed) -> tuple[int, int]:
        start = self.rows
        for page in rows.pages:
            self._pages.append(page)
            self._count(page.rows)
        return start, rows.events

    def _arrays(self) -> list[pa.Array]:
        arrays = columns_of([page.pieces for page in self._pages])
        sent = [page.sent for page in self._pages if page.sent is not None]
        if sent:
            arrays.append(pa.concat_arrays(sent))
        self._pages.clear()
        return arrays


@define
class _Targets(_Part):
    _values: Memo[tuple[Any, ...]]
    _users: list[int] = field(init=False, factory=list)
    _targets: list[tuple[Any, ...]] = field(init=False, factory=list)

    def add(self, user_id: int, targets: Sequence[Target]) -> None:
        self._users += [user_id] * len(targets)
        self._targets += map(self._values, targets)
        self._count(len(targets))

    def _arrays(self) -> list[pa.Array]:
        arrays = target_arrays(self._users, self._targets, self._schema)
        self._users.clear()
        self._targets.clear()
        return arrays


@define
class Parquet:
    """The format: Parquet files with the schemas of `schemas`."""

    _raw: bool
    suffix: str = "parquet"
    _misfit: Memo[str | None] = field(init=False, factory=lambda: Memo(misfit_of_target))
    _values: Memo[tuple[Any, ...]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._values = Memo(self._target)

    def misfit_of_events(self, events: EventBatch) -> str | None:
        """An amount that decimal128(38, 6) does not hold."""
        return misfit_of_events(events)

    def misfit_of_targets(self, targets: Sequence[Target]) -> str | None:
        """An amount that decimal128(38, 6) does not hold."""
        return next((misfit for target in targets if (misfit := self._misfit(target))), None)

    def pack(self, user_id: int, events: EventBatch, sent: Mapping[int, bytes]) -> _Page:
        """Pieces of columns."""
        rows = events.events
        raw = None
        if self._raw:
            lines = [sent.get(event.event_log_id) for event in rows]
            told = [None if line is None else one_line(line).decode() for line in lines]
            raw = pa.array(told, pa.string())
        return _Page(len(rows), pieces_of(user_id, rows), raw)

    def events(self, path: Path) -> _Events:
        """A new part of events."""
        return _Events(WholeFile(path), self._schema(EVENTS))

    def targets(self, path: Path) -> _Targets:
        """A new part of targets."""
        return _Targets(WholeFile(path), self._schema(TARGETS), self._values)

    def _schema(self, schema: pa.Schema) -> pa.Schema:
        return schema.append(pa.field("raw", pa.string())) if self._raw else schema

    def _target(self, target: Target) -> tuple[Any, ...]:
        values = target_values(target)
        if not self._raw:
            return values
        return (*values, None if target.raw is None else one_line(target.raw).decode())

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
