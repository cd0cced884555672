"""Rows of the files: a user's events encoded page by page, and the protocol of file formats."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import msgspec
from attrs import define, field, frozen

from capillary_targets import structuring
from capillary_targets.models import Target, TargetEvent

from .stats import EXACT, PartStats
from .store import AtomicFile

__all__ = [
    "EVENT_FIELDS",
    "FORMATS",
    "KEY_FIELDS",
    "TARGET_FIELDS",
    "EncodedRows",
    "Format",
    "PartFile",
    "RowEncoder",
    "StoredRows",
    "encode",
    "event_key",
    "extra_text",
    "key_values",
    "one_line",
    "plain",
    "raw_rows",
    "row_key",
]

FORMATS: Final = ("jsonl", "parquet")
EVENT_FIELDS: Final = tuple(f.name for f in attrs.fields(TargetEvent))
TARGET_FIELDS: Final = tuple(f.name for f in attrs.fields(Target) if f.name != "raw")

KEY_FIELDS: Final = (
    "event_log_id",
    "unique_id",
    "event_name",
    "customer_id",
    "target_value",
    "event_date",
)
key_values: Final = attrgetter(*KEY_FIELDS)
_target_values: Final = attrgetter(*TARGET_FIELDS)
_STATS_COLUMNS: Final = [
    EVENT_FIELDS.index(name)
    for name in ("target_rule_id", "event_date", "event_name", "target_value")
]
_MERGE_ROWS: Final = 2_000
_event_values: Final[Any] = msgspec.structs.astuple  # of which type checkers know no class
_EXTRA: Final = EVENT_FIELDS.index("extra")
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


def encode(value: Any) -> bytes:
    """`value` (a model, or plain values) as JSON without a line end.

    A Decimal becomes a JSON number with its own digits (`1.000` stays `1.000`); a datetime is ISO
    8601, with its offset where it has one.
    """
    return _ENCODER.encode(value)


def plain(target: Target) -> dict[str, Any]:
    """A target's fields by name, in the order in which the class declares them."""
    return dict(zip(TARGET_FIELDS, _target_values(target), strict=True))


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


def event_key(event: TargetEvent) -> int:
    """A digest that tells rows of one target apart, the same before and after writing."""
    return row_key(key_values(event))


def row_key(values: Sequence[Any]) -> int:
    """A digest of 64 bits of the `KEY_FIELDS` of a row, as a model or a part has them.

    Several rows may share one event id, so the amount and more belong to it. The date does only
    where there is no id: whether it has a zone depends on the client's settings.
    """
    event_log_id, *rest, value, date = values
    amount = 0 if value == 0 else value and value.normalize(EXACT)  # -0, 0.00 and 0 are one
    clock = date.replace(tzinfo=None) if date and event_log_id is None else None
    told = repr((event_log_id, *rest, f"{amount}", f"{clock}"))
    return int.from_bytes(blake2b(told.encode("utf-8", "replace"), digest_size=8).digest())


@frozen
class StoredRows:
    """Events of one user read back from a part, in its order.

    `keys` are their `row_key`s; `rows` is a page in the format's encoding, for
    `EncodedRows.add_vanished`.
    """

    rules: Sequence[int | None]
    event_log_ids: Sequence[int | None]
    keys: Sequence[int]
    rows: Any


class RowEncoder(Protocol):
    """Encodes rows for a file format. Raises `ValueError` for what the format cannot hold."""

    def encode_events(
        self, user_id: int, columns: Sequence[Sequence[Any]], raw: Sequence[bytes | None]
    ) -> Any:
        """Encode a page of events, given as columns in the order of `EVENT_FIELDS`."""

    def merge_events(self, pages: Sequence[Any]) -> Any:
        """Merge pages of events into one, in as little memory as the format takes."""

    def encode_targets(
        self, user_id: int, targets: Sequence[Target], left: Sequence[int], seen_at: datetime
    ) -> list[Any]:
        """Encode the targets of a user, and the ids of targets that the user has left."""

    def encode_vanished(
        self, rows: Any, indices: Sequence[int], *, deleted: bool, seen_at: datetime
    ) -> Any:
        """Encode some rows of a page of events as deleted at the source, or as back there."""


@define(eq=False)
class EncodedRows:
    """One user's rows, encoded page by page, with their statistics.

    The values of a long history are not kept: encoded, it takes a fraction of the memory. `pages`
    and `counts` (of rows) are by kind of part: `events`, `targets`, `vanished`.
    """

    user_id: int
    _encoder: RowEncoder
    pages: defaultdict[str, list[Any]] = field(init=False, factory=lambda: defaultdict(list))
    counts: Counter[str] = field(init=False, factory=Counter)
    stats: PartStats = field(init=False, factory=PartStats)
    error: str | None = field(init=False, default=None)
    """Why the rows cannot be written, if so: the failure of this user alone."""
    _merged: int = field(init=False, default=0)
    _unmerged: int = field(init=False, default=0)
    """Pages of events that were merged, and rows in those that were not yet."""

    @property
    def event_count(self) -> int:
        """Rows of events."""
        return self.counts["events"]

    @property
    def target_count(self) -> int:
        """Rows of targets."""
        return self.counts["targets"]

    @property
    def vanished_count(self) -> int:
        """Rows of vanished events."""
        return self.counts["vanished"]

    def add_events(self, events: Sequence[TargetEvent], raw: Sequence[bytes | None] = ()) -> None:
        """Encode a page of events; `raw` are their rows as the server sent them, if wanted."""
        if events:
            with self._adding("events", len(events)) as pages:
                columns = _columns(events)
                self.stats.add_events(*(columns[place] for place in _STATS_COLUMNS))
                pages.append(self._encoder.encode_events(self.user_id, columns, raw))
                self._unmerged += len(events)
                if self._unmerged >= _MERGE_ROWS:
                    pages[self._merged :] = [self._encoder.merge_events(pages[self._merged :])]
                    self._merged, self._unmerged = len(pages), 0

    def add_targets(
        self, targets: Sequence[Target], left: Sequence[int] = (), *, seen_at: datetime
    ) -> None:
        """Encode the targets that are new or have changed, and ids of those the user has left."""
        if targets or left:
            with self._adding("targets", len(targets) + len(left)) as pages:
                self.stats.add_targets(targets)
                rows = self._encoder.encode_targets(self.user_id, targets, left, seen_at)
                pages.extend(rows)

    def add_vanished(
        self, stored: StoredRows, indices: Sequence[int], *, deleted: bool, seen_at: datetime
    ) -> None:
        """Encode rows of an earlier part as deleted at the source, or (not `deleted`) as back."""
        if indices:
            with self._adding("vanished", len(indices)) as pages:
                pages.append(
                    self._encoder.encode_vanished(
                        stored.rows, indices, deleted=deleted, seen_at=seen_at
                    )
                )

    def add_vanished_ids(
        self,
        rule: int,
        event_log_ids: Sequence[int | None],
        *,
        deleted: bool,
        seen_at: datetime,
    ) -> None:
        """Likewise where the parts are gone and only ids are known: all else is null."""
        if event_log_ids:
            with self._adding("vanished", len(event_log_ids)) as pages:
                known = [TargetEvent(event_log_id=i, target_rule_id=rule) for i in event_log_ids]
                none = [None] * len(known)
                rows = self._encoder.encode_events(self.user_id, _columns(known), none)
                pages.append(
                    self._encoder.encode_vanished(
                        rows, range(len(known)), deleted=deleted, seen_at=seen_at
                    )
                )

    @contextmanager
    def _adding(self, kind: str, rows: int) -> Iterator[list[Any]]:
        """Note an error of encoding; nothing after it makes up for it."""
        self.counts[kind] += rows
        try:
            yield self.pages[kind]
        except (ValueError, ArithmeticError, TypeError) as error:
            self.error = self.error or str(error)


def _columns(events: Sequence[TargetEvent]) -> list[Sequence[Any]]:
    """The fields of events as columns; `extra` as JSON text, None if there is nothing in it."""
    columns: list[Sequence[Any]] = [*zip(*map(_event_values, events), strict=True)]
    if any(columns[_EXTRA]):
        columns[_EXTRA] = [*map(extra_text, columns[_EXTRA])]
    else:
        columns[_EXTRA] = [None] * len(events)
    return columns


def extra_text(extra: Mapping[str, Any] | None) -> str | None:
    """The keys that a model does not know, as JSON text: one type, whatever they hold."""
    return encode(extra).decode() if extra else None


class PartFile(Protocol):
    """One part being written."""

    rows: int
    file: AtomicFile

    def add(self, encoded: EncodedRows) -> tuple[int, int]:
        """Append a user's rows. Returns their start and length, for `Format.read_events`."""

    def sync(self) -> None:
        """Everything onto the disk, still under a temporary name. May be called from a thread."""

    def rollback(self) -> None:
        """Delete the temporary file."""


class Format(RowEncoder, Protocol):
    """A file format: parts of each kind, and the events in them read back."""

    suffix: str

    def events(self, path: Path) -> PartFile:
        """A new part of events."""

    def targets(self, path: Path) -> PartFile:
        """A new part of targets."""

    def vanished(self, path: Path) -> PartFile:
        """A new part of events that were deleted at the source, or are back there."""

    def read_events(self, path: Path, start: int, length: int) -> StoredRows:
        """The rows that stand there, as `PartFile.add` said."""
