"""Parts as JSON Lines: amounts with the digits that the server sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
from attrs import define, field

from capillary_targets.models import Target

from .batch import EventBatch
from .packed import Packed
from .parts import WholeFile
from .rows import Memo, event_lines, target_line, target_tail, with_sent

__all__ = ["JsonLines"]


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


class _EventLines(_Lines):
    def add(self, rows: Packed) -> tuple[int, int]:
        start = self._bytes
        for lines in rows.pages:
            self._write(lines)
        self.rows += rows.events
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

    def misfit_of_events(self, events: EventBatch) -> str | None:
        """Nothing: text holds everything."""
        del events
        return None

    def misfit_of_targets(self, targets: Sequence[Target]) -> str | None:
        """Nothing: text holds everything."""
        del targets
        return None

    def pack(self, user_id: int, events: EventBatch, sent: Mapping[int, bytes]) -> bytes:
        """Lines."""
        lines = event_lines(user_id, events.events)
        if not self._raw:
            return lines
        return with_sent(lines, [sent.get(event.event_log_id) for event in events.events])

    def events(self, path: Path) -> _EventLines:
        """A new part of events."""
        return _EventLines(WholeFile(path))

    def targets(self, path: Path) -> _TargetLines:
        """A new part of targets."""
        return _TargetLines(WholeFile(path), self._tail)

    def event_ids(self, path: Path, start: int, length: int) -> list[tuple[int | None, int]]:
        """(target rule id, event id) of the rows in those bytes."""
        with path.open("rb") as file:
            file.seek(start)
            rows = _IDS.decode_lines(file.read(length))
        return [(row.target_rule_id, row.event_log_id) for row in rows]
