"""Parts as JSON Lines: amounts with the digits that the server sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from attrs import define, field

from capillary_targets.models import Target, TargetEvent

from .parts import WholeFile
from .rows import lines

__all__ = ["JsonLines"]

_ROWS_AT_ONCE = 1000


@define
class _Lines:
    """One part. Places are counted in bytes."""

    _file: WholeFile
    _raw: bool
    rows: int = 0
    _bytes: int = field(init=False, default=0)

    def add(
        self,
        user_id: int,
        values: Sequence[Target] | Sequence[TargetEvent],
        sent: Sequence[bytes | None] = (),
    ) -> tuple[int, int]:
        start = self._bytes
        if self._raw and not sent:
            sent = [None] * len(values)
        for first in range(0, len(values), _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            data = lines(user_id, values[some], sent[some] if self._raw else ())
            self._file.write(data)
            self._bytes += len(data)
        self.rows += len(values)
        return start, self._bytes - start

    def sync(self) -> None:
        self._file.sync()

    def commit(self) -> None:
        self._file.commit()

    def discard(self) -> None:
        self._file.discard()


class _Ids(msgspec.Struct):
    event_log_id: int
    target_rule_id: int | None = None


_IDS = msgspec.json.Decoder(_Ids)


@define
class JsonLines:
    """The format: one JSON object a line, one line a row."""

    _raw: bool
    suffix: str = "jsonl"

    def misfit(self, values: Sequence[Target] | Sequence[TargetEvent]) -> str | None:
        """Nothing: text holds everything."""
        del values
        return None

    def events(self, path: Path) -> _Lines:
        """A new part of events."""
        return _Lines(WholeFile(path), self._raw)

    def targets(self, path: Path) -> _Lines:
        """A new part of targets."""
        return _Lines(WholeFile(path), self._raw)

    def event_ids(self, path: Path, start: int, length: int) -> list[tuple[int | None, int]]:
        """(target rule id, event id) of the rows in those bytes."""
        with path.open("rb") as file:
            file.seek(start)
            rows = _IDS.decode_lines(file.read(length))
        return [(row.target_rule_id, row.event_log_id) for row in rows]
