"""Parts as JSON Lines: amounts with the digits that the server sent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
from attrs import define, field

from capillary_targets.models import Target

from .batch import EventBatch
from .parts import WholeFile
from .rows import Memo, event_lines, target_line, target_tail

__all__ = ["JsonLines"]

_ROWS_AT_ONCE = 1000


@define
class _Lines:
    """One part. Places are counted in bytes."""

    _file: WholeFile
    rows: int = field(init=False, default=0)
    _bytes: int = field(init=False, default=0)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._bytes += len(data)

    def sync(self) -> None:
        self._file.sync()

    def commit(self) -> None:
        self._file.commit()

    def discard(self) -> None:
        self._file.discard()


@define
class _EventLines(_Lines):
    _raw: bool

    def add(
        self, user_id: int, events: EventBatch, sent: Sequence[bytes | None] = ()
    ) -> tuple[int, int]:
        start = self._bytes
        if self._raw and not sent:
            sent = [None] * len(events)
        for first in range(0, len(events), _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            columns = [values[some] for values in events.columns.values()]
            self._write(event_lines(user_id, columns, sent[some] if self._raw else ()))
        self.rows += len(events)
        return start, self._bytes - start


@define
class _TargetLines(_Lines):
    _tail: Memo[bytes]

    def add(self, user_id: int, targets: Sequence[Target]) -> None:
        self._write(b"".join([target_line(user_id, self._tail(target)) for target in targets]))
        self.rows += len(targets)


class _Ids(msgspec.Struct):
    event_log_id: int
    target_rule_id: int | None = None


_IDS = msgspec.json.Decoder(_Ids)


@define
class JsonLines:
    """The format: one JSON object a line, one line a row."""

    _raw: bool
    suffix: str = "jsonl"
    _tail: Memo[bytes] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tail = Memo(partial(target_tail, raw=self._raw))

    def misfit(self, targets: Sequence[Target], events: EventBatch) -> str | None:
        """Nothing: text holds everything."""
        del targets, events
        return None

    def events(self, path: Path) -> _EventLines:
        """A new part of events."""
        return _EventLines(WholeFile(path), self._raw)

    def targets(self, path: Path) -> _TargetLines:
        """A new part of targets."""
        return _TargetLines(WholeFile(path), self._tail)

    def event_ids(self, path: Path, start: int, length: int) -> list[tuple[int | None, int]]:
        """(target rule id, event id) of the rows in those bytes."""
        with path.open("rb") as file:
            file.seek(start)
            rows = _IDS.decode_lines(file.read(length))
        return [(row.target_rule_id, row.event_log_id) for row in rows]
