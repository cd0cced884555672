"""Rows of the files: a user's events encoded page by page, and the protocol of file formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import msgspec
from attrs import define, field

from capillary_targets import structuring
from capillary_targets.errors import UsageError
from capillary_targets.models import Target, TargetEvent

from .stats import PartStats

__all__ = [
    "EVENT_FIELDS",
    "FORMATS",
    "TARGET_FIELDS",
    "EncodedRows",
    "Format",
    "PartFile",
    "RowEncoder",
    "encode",
    "format_named",
    "one_line",
    "plain",
    "raw_rows",
]

FORMATS: Final = ("jsonl", "parquet")
EVENT_FIELDS: Final = tuple(f.name for f in attrs.fields(TargetEvent))
TARGET_FIELDS: Final = tuple(f.name for f in attrs.fields(Target) if f.name != "raw")

_target_values: Final = attrgetter(*TARGET_FIELDS)
_event_values: Final = attrgetter(*EVENT_FIELDS)
_STATS_COLUMNS: Final = [
    EVENT_FIELDS.index(name)
    for name in ("target_rule_id", "event_date", "event_name", "target_value")
]
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


class RowEncoder(Protocol):
    """Encodes rows for a file format. Raises `ValueError` for what the format cannot hold."""

    def encode_events(
        self,
        user_id: int,
        columns: Sequence[Sequence[Any]],
        raw: Sequence[bytes | None],
    ) -> Any:
        """Encode a page of events, given as columns in the order of `EVENT_FIELDS`."""

    def encode_targets(
        self, user_id: int, targets: Sequence[Target], left: Sequence[int], seen_at: datetime
    ) -> Any:
        """Encode the targets of a user, and the ids of targets that the user has left."""


@define(eq=False)
class EncodedRows:
    """One user's rows, encoded as each page arrives, with their statistics.

    The models are not kept: encoded, a long history takes half the memory.
    """

    user_id: int
    _encoder: RowEncoder
    events: list[Any] = field(init=False, factory=list)
    """`RowEncoder.encode_events` of each page."""
    targets: Any = field(init=False, default=None)
    """`RowEncoder.encode_targets`, if there are any."""
    event_count: int = field(init=False, default=0)
    target_count: int = field(init=False, default=0)
    stats: PartStats = field(init=False, factory=PartStats)
    error: str | None = field(init=False, default=None)
    """Why the rows cannot be written, if so: the failure of this user alone."""

    def add_events(self, events: Sequence[TargetEvent], raw: Sequence[bytes | None] = ()) -> None:
        """Encode a page of events; `raw` are their rows as the server sent them, if wanted."""
        if not events or self.error is not None:
            return
        columns = [*zip(*map(_event_values, events), strict=True)]
        try:
            self.stats.add_events(*(columns[place] for place in _STATS_COLUMNS))
            self.events.append(self._encoder.encode_events(self.user_id, columns, raw))
        except (ValueError, ArithmeticError, TypeError) as error:
            self.error = str(error)
        self.event_count += len(events)

    def add_targets(
        self, targets: Sequence[Target], left: Sequence[int] = (), *, seen_at: datetime
    ) -> None:
        """Encode the targets that are new or have changed, and ids of those the user has left."""
        if not (targets or left) or self.error is not None:
            return
        try:
            self.targets = self._encoder.encode_targets(self.user_id, targets, left, seen_at)
        except (ValueError, ArithmeticError, TypeError) as error:
            self.error = str(error)
        self.stats.add_targets(targets)
        self.target_count = len(targets) + len(left)


class PartFile(Protocol):
    """One part being written."""

    rows: int

    def add(self, encoded: EncodedRows) -> tuple[int, int]:
        """Append a user's rows. Returns their start and length, for `Format.read_events`."""

    def sync(self) -> None:
        """Everything onto the disk, still under a temporary name. May be called from a thread."""

    def commit(self) -> None:
        """Sync, and rename to its final name."""

    def discard(self) -> None:
        """Delete the temporary file."""


class Format(RowEncoder, Protocol):
    """A file format: parts of events and of targets, and the events in them read back."""

    suffix: str

    def events(self, path: Path) -> PartFile:
        """A new part of events."""

    def targets(self, path: Path) -> PartFile:
        """A new part of targets."""

    def event_ids(self, path: Path, start: int, length: int) -> list[tuple[int | None, int | None]]:
        """(target rule id, event id) of the rows that stand there."""


def format_named(name: str, *, raw: bool, run: int = 1) -> Format:
    """The format of that name, for the rows of run number `run`; `raw` adds rows as sent.

    Raises:
        UsageError: there is no such format, or its extra is not installed.
    """
    if name == "jsonl":
        from .jsonl import JsonLines  # noqa: PLC0415 - the formats build on this module

        return JsonLines(raw=raw, run=run)
    if name != "parquet":
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, not {name!r}")
    try:
        from .parquet import Parquet  # noqa: PLC0415 - pyarrow comes with an extra
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow: install it with `pip install 'capillary-targets[parquet]'`"
        ) from None
    return Parquet(raw=raw, run=run)
