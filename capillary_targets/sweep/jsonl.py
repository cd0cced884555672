"""JSON Lines parts: one object a line, amounts with the digits that the server sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import msgspec
from attrs import define, field

from capillary_targets.models import Target

from .parts import WholeFile
from .rows import EVENT_FIELDS, TARGET_FIELDS, EncodedRows, one_line, plain

__all__ = ["JsonLines"]

_FIELDS: Final = [("user_id", int), *((name, Any) for name in EVENT_FIELDS)]
_Event: Final[Any] = msgspec.defstruct("_Event", _FIELDS, gc=False)
_RawEvent: Final[Any] = msgspec.defstruct("_RawEvent", [*_FIELDS, ("raw", Any)], gc=False)
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")
_NO_TARGET: Final[Mapping[str, Any]] = dict.fromkeys(TARGET_FIELDS)


class _Identity(msgspec.Struct):
    event_log_id: int | None
    target_rule_id: int | None = None


_IDENTITY: Final = msgspec.json.Decoder(_Identity)


@define
class _Part:
    """One part. Places are counted in bytes."""

    _file: WholeFile
    _events: bool
    rows: int = field(init=False, default=0)
    _size: int = field(init=False, default=0)

    def add(self, encoded: EncodedRows) -> tuple[int, int]:
        start = self._size
        for lines in encoded.events if self._events else [encoded.targets]:
            self._file.write(lines)
            self._size += len(lines)
        self.rows += encoded.event_count if self._events else encoded.target_count
        return start, self._size - start

    def sync(self) -> None:
        self._file.sync()

    def commit(self) -> None:
        self._file.commit()

    def discard(self) -> None:
        self._file.discard()


@define
class JsonLines:
    """The format `jsonl`."""

    _raw: bool
    _run: int
    suffix: str = "jsonl"

    def encode_events(
        self, user_id: int, columns: Sequence[Sequence[Any]], raw: Sequence[bytes | None]
    ) -> bytes:
        """Lines."""
        users = repeat(user_id)
        if not self._raw:
            return _ENCODER.encode_lines([*map(_Event, users, *columns)])
        return _ENCODER.encode_lines([*map(_RawEvent, users, *columns, map(_raw, raw))])

    def encode_targets(
        self, user_id: int, targets: Sequence[Target], left: Sequence[int], seen_at: datetime
    ) -> bytes:
        """Lines."""
        head = {"user_id": user_id, "run": self._run, "seen_at": seen_at}
        rows: list[dict[str, Any]] = []
        for target in targets:
            row = {**head, "enrolled": True, **plain(target)}
            rows.append(row | {"raw": _raw(target.raw)} if self._raw else row)
        for rule in left:
            row = {**head, "enrolled": False, **_NO_TARGET, "id": rule}
            rows.append(row | {"raw": None} if self._raw else row)
        return _ENCODER.encode_lines(rows)

    def events(self, path: Path) -> _Part:
        """A new part of events."""
        return _Part(WholeFile(path), events=True)

    def targets(self, path: Path) -> _Part:
        """A new part of targets."""
        return _Part(WholeFile(path), events=False)

    def event_ids(self, path: Path, start: int, length: int) -> list[tuple[int | None, int | None]]:
        """(target rule id, event id) of the rows in those bytes."""
        with path.open("rb") as file:
            file.seek(start)
            rows = _IDENTITY.decode_lines(file.read(length))
        return [(row.target_rule_id, row.event_log_id) for row in rows]


def _raw(row: bytes | None) -> msgspec.Raw | None:
    return None if row is None else msgspec.Raw(one_line(row))
