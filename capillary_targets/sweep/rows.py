"""Rows of the files: one user's, encoded block by block; the formats, of which JSON Lines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import msgspec
from attrs import define, field

from capillary_targets import structuring
from capillary_targets.models import JSON, Target, TargetEvent, columns_of, extra_text
from capillary_targets.progress import TargetProgress

from .announced import EventIds
from .atomic import AtomicFile
from .stats import EXACT, Columns, exact_sum

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
"""Events that make a block of their own: one of a few costs Arrow as much as one of hundreds."""
_key_values: Final = attrgetter(
    *("event_log_id", "unique_id", "event_name", "customer_id", "target_value", "event_date")
)
_values: Final[Any] = msgspec.structs.astuple  # of which type checkers know no class


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
    return [
        next((row for row in rows if _ids(_IDENTITY.decode(row)) == _ids(event)), None)
        for event in events
    ]


def _ids(row: Any) -> tuple[str, str]:
    return str(row.event_log_id), str(row.unique_id)


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


@define(eq=False)
class EncodedRows:
    """One user's rows, encoded block by block, with what the report counts of them.

    The values of a long history are not kept: encoded, it takes a fraction of the memory. `blocks`
    and `counts` (of rows) are by kind of part, `names` those of targets.
    """

    user_id: int
    _format: Format
    blocks: defaultdict[str, list[Any]] = field(init=False, factory=lambda: defaultdict(list))
    counts: Counter[str] = field(init=False, factory=Counter)
    sums: list[tuple[int, int, list[int], Decimal]] = field(init=False, factory=list)
    """Of each block of events, what `EventStats.add` takes."""
    names: dict[int, str] = field(init=False, factory=dict)
    ids: list[EventIds] | None = field(init=False, default=None)
    """Of the events, where they are to be compared with announcements."""

    def add_events(
        self, rule: int, events: Sequence[TargetEvent], raw: Sequence[bytes | None] = ()
    ) -> None:
        """Encode events of a target; `raw` are their rows as sent, if wanted.

        Raises `ValueError` for what the format cannot hold.
        """
        if not events:
            return
        if self.ids is not None:
            self.ids += [
                EventIds(rule, one.event_log_id, one.unique_id, one.target_value is not None)
                for one in events
            ]
        # Column by column: in half the time, for statistics and rows alike.
        values: Any = zip(*map(_values, events), strict=True)
        columns: Columns = dict(zip(EVENT_FIELDS, values, strict=True))
        number, extra = len(events), columns["extra"]
        days = [*map(datetime.toordinal, filter(None, columns["event_date"]))]
        self.sums.append((rule, number, days, exact_sum(columns["target_value"])))
        columns["extra"] = [*map(extra_text, extra)] if any(extra) else [None] * number
        self._add("events", {"user_id": [self.user_id] * number, **columns, "raw": raw})

    def add(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Encode rows of another kind, seen now. Columns that a row leaves out are null."""
        if rows:
            about = {"user_id": self.user_id, "run": self._format.run, "seen_at": datetime.now(UTC)}
            whole = [{**row, **about} for row in rows]
            names = (*KINDS[kind], "raw", "overflow")
            self._add(kind, {name: [row.get(name) for row in whole] for name in names})

    def _add(self, kind: str, columns: Columns) -> None:
        self.blocks[kind].append(self._format.encode(kind, columns))
        self.counts[kind] += len(columns["user_id"])


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


LINES: Final[Mapping[str, Any]] = {
    kind: msgspec.defstruct(
        kind,
        [
            *((n, str | None if n == "extra" else of, None) for n, of in columns.items()),
            ("raw", msgspec.Raw, msgspec.UNSET),
            ("overflow", str, msgspec.UNSET),
        ],
        gc=False,
    )
    for kind, columns in KINDS.items()
}
_EVENTS: Final = msgspec.json.Decoder(LINES["events"])


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
        return JSON.encode_lines([*map(LINES[kind], *map(columns.__getitem__, names))])

    def part(self, file: AtomicFile, kind: str) -> Part:
        """A new part of that kind."""
        return Part(file, kind)

    def read_events(self, path: Path, start: int, length: int) -> list[Any]:
        """The rows that stand there, as `Part.add` said: structs with the columns of events."""
        with path.open("rb") as file:
            file.seek(start)
            return _EVENTS.decode_lines(file.read(length))


def _raw(row: bytes | msgspec.Raw | None) -> msgspec.Raw | None:
    return msgspec.Raw(one_line(row)) if isinstance(row, bytes) else row
