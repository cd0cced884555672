"""Rows of the files: one user's, encoded block by block; the formats, of which JSON Lines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from attrs import define, field

from capillary_targets import structuring
from capillary_targets.models import JSON, Target, TargetEvent, columns_of, extra_text
from capillary_targets.progress import TargetProgress

from .announced import EventIds
from .atomic import AtomicFile
from .stats import EXACT, Columns, EventStats

__all__ = [
    "BATCH_ROWS",
    "EVENT_FIELDS",
    "KINDS",
    "PROGRESS_FIELDS",
    "EncodedRows",
    "Format",
    "Part",
    "StoredRow",
    "encode",
    "event_key",
    "one_line",
    "plain",
    "raw_rows",
]


PROGRESS_FIELDS: Final = (
    *("target_rule_id", "target_name", "target_group_id", "period_id", "period", "period_start"),
    *("period_end", "recorded", "target_value", "achieved_value", "remaining", "is_achieved"),
    *("achieved_on", "achieved_event_log_id", "last_updated_on"),
)
"""Columns of `progress` that are fields of `TargetProgress`."""
_PROGRESS: Final = {
    **{name: of for name, of in columns_of(TargetProgress).items() if name in PROGRESS_FIELDS},
    "milestones_reached": int,
    "next_milestone": str,
    "next_milestone_value": Decimal,
}
_SEEN: Final = {"user_id": int, "run": int, "seen_at": datetime}
KINDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "events": {"user_id": int, **columns_of(TargetEvent)},
    "targets": {**_SEEN, "enrolled": bool, **columns_of(Target)},
    "vanished": {**_SEEN, "deleted": bool, **columns_of(TargetEvent)},
    "announcements": {
        **_SEEN,
        "finding": str,
        "settled": bool,
        "target_rule_id": int,
        "event_log_id": int,
        "unique_id": str,
        "event_id": str,
        "name": str,
    },
    "progress": {**_SEEN, "first_seen": datetime, **_PROGRESS},
}
"""The kinds of parts: their columns and the types of those. With `raw` there is one more."""

EVENT_FIELDS: Final = tuple(columns_of(TargetEvent))
_TARGET_FIELDS: Final = tuple(columns_of(Target))
BATCH_ROWS: Final = 2_000
"""Rows that are merged into one block: a block of a few costs as much as one of hundreds."""
_key_values: Final = attrgetter(
    *("event_log_id", "unique_id", "event_name", "customer_id", "target_value", "event_date")
)
_values: Final[Any] = msgspec.structs.astuple  # of which type checkers know no class


def encode(value: Any) -> bytes:
    """`value` (a model, or plain values) as JSON without a line end.

    A Decimal becomes a JSON number with its own digits (`1.000` stays `1.000`); a datetime is ISO
    8601, with its offset where it has one.
    """
    return JSON.encode(value)


def plain(target: Target) -> dict[str, Any]:
    """A target's columns, in the order in which the class declares them."""
    row = {name: getattr(target, name) for name in _TARGET_FIELDS}
    return row | {"extra": extra_text(target.extra)}


def one_line(raw: bytes) -> bytes:
    """A JSON text without line ends: it has them only where blanks may stand."""
    return raw.replace(b"\r", b" ").replace(b"\n", b" ")


class _Identity(msgspec.Struct, rename="camel"):
    event_log_id: Any = None
    unique_id: Any = None


_IDENTITY: Final = msgspec.json.Decoder(_Identity)


def raw_rows(body: bytes, events: Sequence[TargetEvent]) -> list[bytes | None]:
    """The rows of events as the server sent them, from the answer they were read from.

    The events may be some of its rows, in their order. Ids repeat and may be missing, so rows are
    matched in sequence. None: no such row.
    """
    rows = iter(structuring.raw_rows(body))
    return [_next_row(rows, event) for event in events]


def _next_row(rows: Iterator[bytes], event: TargetEvent) -> bytes | None:
    wanted = (str(event.event_log_id), str(event.unique_id))
    for row in rows:
        sent = _IDENTITY.decode(row)
        if (str(sent.event_log_id), str(sent.unique_id)) == wanted:
            return row
    return None


def event_key(event: Any) -> int:
    """A digest of 64 bits that tells rows of one target apart, the same before and after writing.

    Several rows may share one event id, so the amount and more belong to it. The
    date does only where there is no id: whether it has a zone depends on the client's settings.
    """
    event_log_id, *rest, value, date = _key_values(event)
    amount = 0 if value == 0 else value and value.normalize(EXACT)  # -0, 0.00 and 0 are one
    clock = date.replace(tzinfo=None) if date and event_log_id is None else None
    told = repr((event_log_id, *rest, f"{amount}", f"{clock}"))
    return int.from_bytes(blake2b(told.encode("utf-8", "replace"), digest_size=8).digest())


class StoredRow(NamedTuple):
    """An event read back from a part: its `event_key`, its target, its columns by name."""

    key: int
    rule: int | None
    columns: Mapping[str, Any]


@define(eq=False)
class EncodedRows:
    """One user's rows, encoded block by block, with their statistics.

    The values of a long history are not kept: encoded, it takes a fraction of the memory. `blocks`
    and `counts` (of rows) are by kind of part.
    """

    user_id: int
    _format: Format
    blocks: defaultdict[str, list[Any]] = field(init=False, factory=lambda: defaultdict(list))
    counts: Counter[str] = field(init=False, factory=Counter)
    stats: EventStats = field(init=False, factory=EventStats)
    error: str | None = field(init=False, default=None)
    """Why the rows cannot be written, if so: the failure of this user alone."""
    ids: list[EventIds] | None = field(init=False, default=None)
    """Of the events, where they are to be compared with announcements."""
    _unmerged: int = field(init=False, default=0)

    def add_events(
        self, rule: int, events: Sequence[TargetEvent], raw: Sequence[bytes | None] = ()
    ) -> None:
        """Encode a page of a target's events; `raw` are their rows as sent, if wanted."""
        if not events:
            return
        if self.ids is not None:
            self.ids += [EventIds.of(rule, event) for event in events]
        with self._adding("events", len(events)) as blocks:
            # Column by column: in half the time, for statistics and rows alike.
            values: Any = zip(*map(_values, events), strict=True)
            columns: Columns = dict(zip(EVENT_FIELDS, values, strict=True))
            if any(columns["extra"]):
                columns["extra"] = [*map(extra_text, columns["extra"])]
            else:
                columns["extra"] = [None] * len(events)
            self.stats.add(rule, columns)
            whole = {"user_id": [self.user_id] * len(events), **columns, "raw": raw}
            blocks.append(self._format.encode("events", whole))
            self._unmerged += len(events)
            if self._unmerged >= BATCH_ROWS:
                blocks[:], self._unmerged = self._format.merge("events", blocks), 0

    def add(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Encode rows of another kind, seen now. Columns that a row leaves out are null."""
        if rows:
            with self._adding(kind, len(rows)) as blocks:
                columns: Columns = {
                    name: [row.get(name) for row in rows]
                    for name in (*KINDS[kind], "raw", "overflow")
                }
                about = self.user_id, self._format.run, datetime.now(UTC)
                columns |= {
                    name: [value] * len(rows) for name, value in zip(_SEEN, about, strict=True)
                }
                blocks.append(self._format.encode(kind, columns))

    @contextmanager
    def _adding(self, kind: str, rows: int) -> Iterator[list[Any]]:
        """Note an error of encoding; nothing after it makes up for it."""
        self.counts[kind] += rows
        try:
            yield self.blocks[kind]
        except (ValueError, ArithmeticError, TypeError) as error:
            self.error = self.error or str(error)


@define
class Part:
    """One part of a kind being written. Places are counted in bytes here, in rows by Parquet."""

    file: AtomicFile
    _kind: str
    rows: int = field(init=False, default=0)

    def add(self, encoded: EncodedRows) -> tuple[int, int]:
        """Append a user's rows. Returns their start and length, for `Format.read_events`."""
        start = self.file.tell()
        for block in encoded.blocks[self._kind]:
            self.file.write(block)
        self.rows += encoded.counts[self._kind]
        return start, self.file.tell() - start

    def sync(self) -> None:
        """Everything onto the disk, still under a temporary name. May be called from a thread."""
        self.file.sync()

    def rollback(self) -> None:
        """Delete the temporary file."""
        self.file.rollback()


_LINES: Final[Mapping[str, Any]] = {
    kind: msgspec.defstruct(
        kind,
        [
            *((n, str | None if n == "extra" else of, None) for n, of in columns.items()),
            ("raw", msgspec.Raw, msgspec.UNSET),
        ],
        gc=False,
    )
    for kind, columns in KINDS.items()
}
_EVENT: Final = msgspec.json.Decoder(_LINES["events"])


@define
class Format:
    """The format `jsonl`, one object a line, amounts with the digits that the server sent.

    Others derive from it. `run` is the number of the run that writes; `raw` adds each row as the
    server sent it.
    """

    raw: bool
    run: int
    suffix: str = "jsonl"

    def encode(self, kind: str, columns: Columns) -> Any:
        """A block of rows, given by their columns. Raises `ValueError` for what cannot be held."""
        names = [*KINDS[kind], *(["raw"] * self.raw)]
        if self.raw:
            columns["raw"] = [*map(_raw, columns["raw"])]
        return JSON.encode_lines([*map(_LINES[kind], *map(columns.__getitem__, names))])

    def merge(self, kind: str, blocks: Sequence[Any]) -> list[Any]:
        """The same blocks in less memory."""
        del kind
        return [b"".join(blocks)]

    def part(self, file: AtomicFile, kind: str) -> Part:
        """A new part of that kind."""
        return Part(file, kind)

    def read_events(self, path: Path, start: int, length: int) -> list[StoredRow]:
        """The rows that stand there, as `Part.add` said."""
        with path.open("rb") as file:
            file.seek(start)
            rows = [*map(_EVENT.decode, file.read(length).splitlines())]
        return [
            StoredRow(event_key(row), row.target_rule_id, msgspec.structs.asdict(row))
            for row in rows
        ]


def _raw(row: bytes | msgspec.Raw | None) -> msgspec.Raw | None:
    return msgspec.Raw(one_line(row)) if isinstance(row, bytes) else row
