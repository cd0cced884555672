"""Parts as JSON Lines: amounts with the digits that the server sent."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, zip_longest
from pathlib import Path

import msgspec
from attrs import define, field

from capillary_targets.models import Target, TargetEvent

from .parts import WholeFile
from .rows import line

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
        values: Sequence[Target | TargetEvent],
        sent: Sequence[bytes | None] = (),
    ) -> tuple[int, int]:
        start = self._bytes
        rows = zip_longest(values, sent) if self._raw else ((value, None) for value in values)
        lines = (line(user_id, row, raw=self._raw, sent=raw) for row, raw in rows)
        while some := b"".join(islice(lines, _ROWS_AT_ONCE)):
            self._file.write(some)
            self._bytes += len(some)
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

    def misfit(self, values: Sequence[Target | TargetEvent]) -> str | None:
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
