"""JSON Lines parts: one object a line, amounts with the digits that the server sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import msgspec
from attrs import define, field

from capillary_targets.models import Target

from .rows import (
    EVENT_FIELDS,
    TARGET_FIELDS,
    EncodedRows,
    StoredRows,
    extra_text,
    key_values,
    one_line,
    plain,
    row_key,
)
from .store import AtomicFile

__all__ = ["JsonLines"]

_FIELDS: Final = [("user_id", int), *((name, Any) for name in EVENT_FIELDS)]
_Event: Final[Any] = msgspec.defstruct("_Event", _FIELDS, gc=False)
_RawEvent: Final[Any] = msgspec.defstruct("_RawEvent", [*_FIELDS, ("raw", Any)], gc=False)
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")
_NO_TARGET: Final[Mapping[str, Any]] = dict.fromkeys(TARGET_FIELDS)


class _Stored(msgspec.Struct):
    event_log_id: int | None = None
    unique_id: str | None = None
    event_name: str | None = None
    customer_id: int | None = None
    target_value: Decimal | None = None
    event_date: datetime | None = None
    target_rule_id: int | None = None


_STORED: Final = msgspec.json.Decoder(_Stored)
_LINE: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


@define
class _Part:
    """One part of a kind. Places are counted in bytes."""

    file: AtomicFile
    _kind: str
    rows: int = field(init=False, default=0)
    _size: int = field(init=False, default=0)

    def add(self, encoded: EncodedRows) -> tuple[int, int]:
        start = self._size
        for lines in encoded.pages[self._kind]:
            self.file.write(lines)
            self._size += len(lines)
        self.rows += encoded.counts[self._kind]
        return start, self._size - start

    def sync(self) -> None:
        self.file.sync()

    def rollback(self) -> None:
        self.file.rollback()


@define
class JsonLines:
    """The format `jsonl`; a page is lines."""

    _raw: bool
    _run: int
    suffix: str = "jsonl"

    def encode_events(
        self, user_id: int, columns: Sequence[Sequence[Any]], raw: Sequence[bytes | None]
    ) -> bytes:
        """A line for each event."""
        users = repeat(user_id)
        if not self._raw:
            return _ENCODER.encode_lines([*map(_Event, users, *columns)])
        return _ENCODER.encode_lines([*map(_RawEvent, users, *columns, map(_raw, raw))])

    def merge_events(self, pages: Sequence[bytes]) -> bytes:
        """The lines of all pages."""
        return b"".join(pages)

    def encode_targets(
        self, user_id: int, targets: Sequence[Target], left: Sequence[int], seen_at: datetime
    ) -> list[bytes]:
        """A line for each target."""
        head = {"user_id": user_id, "run": self._run, "seen_at": seen_at}
        rows: list[dict[str, Any]] = []
        for target in targets:
            fields = plain(target) | {"extra": extra_text(target.extra)}
            row = {**head, "enrolled": True, **fields}
            rows.append(row | {"raw": _raw(target.raw)} if self._raw else row)
        for rule in left:
            row = {**head, "enrolled": False, **_NO_TARGET, "id": rule}
            rows.append(row | {"raw": None} if self._raw else row)
        return [_ENCODER.encode_lines(rows)]

    def encode_vanished(
        self, rows: bytes, indices: Sequence[int], *, deleted: bool, seen_at: datetime
    ) -> bytes:
        """The same lines, with when that was seen."""
        lines = rows.splitlines()
        about = {"run": self._run, "seen_at": seen_at, "deleted": deleted}
        found = (_LINE.decode(lines[place]) for place in indices)
        return _ENCODER.encode_lines(
            [{"user_id": line.pop("user_id"), **about, **line} for line in found]
        )

    def events(self, path: Path) -> _Part:
        """A new part of events."""
        return _Part(AtomicFile(path), "events")

    def targets(self, path: Path) -> _Part:
        """A new part of targets."""
        return _Part(AtomicFile(path), "targets")

    def vanished(self, path: Path) -> _Part:
        """A new part of vanished events."""
        return _Part(AtomicFile(path), "vanished")

    def read_events(self, path: Path, start: int, length: int) -> StoredRows:
        """The rows in those bytes."""
        with path.open("rb") as file:
            file.seek(start)
            lines = file.read(length)
        rows = _STORED.decode_lines(lines)
        return StoredRows(
            [row.target_rule_id for row in rows],
            [row.event_log_id for row in rows],
            [row_key(key_values(row)) for row in rows],
            lines,
        )


def _raw(row: bytes | None) -> msgspec.Raw | None:
    return None if row is None else msgspec.Raw(one_line(row))
