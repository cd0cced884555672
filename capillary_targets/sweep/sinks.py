"""What a sweep asks of a file format. `jsonl` and `parquet` are the two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from capillary_targets.errors import UsageError
from capillary_targets.models import Target

from .jsonl import JsonLines
from .packed import Packed, Packer

__all__ = ["FORMATS", "EventSink", "Format", "Sink", "TargetSink", "format_named"]

FORMATS = ("jsonl", "parquet")


class Sink(Protocol):
    """One part being written."""

    rows: int

    def sync(self) -> None:
        """Everything onto the disk, still aside. May be called from a thread."""

    def commit(self) -> None:
        """The part whole and under its name."""

    def discard(self) -> None:
        """As if it had never been begun."""


class EventSink(Sink, Protocol):
    """A part of events."""

    def add(self, rows: Packed) -> tuple[int, int]:
        """Append a user's rows.

        Returns where they stand: start and length, for `Format.event_ids`.
        """


class TargetSink(Sink, Protocol):
    """A part of targets."""

    def add(self, user_id: int, targets: Sequence[Target]) -> None:
        """Append a user's rows."""


class Format(Packer, Protocol):
    """A file format: how parts are written, and the event ids in them read back."""

    suffix: str

    def misfit_of_targets(self, targets: Sequence[Target]) -> str | None:
        """What of a user's targets cannot be written exactly, if anything."""

    def events(self, path: Path) -> EventSink:
        """A new part of events."""

    def targets(self, path: Path) -> TargetSink:
        """A new part of targets."""

    def event_ids(self, path: Path, start: int, length: int) -> list[tuple[int | None, int]]:
        """(target rule id, event id) of the rows that stand there."""


def format_named(name: str, *, raw: bool) -> Format:
    """The format of that name. Raises `UsageError` for an unknown one, or a missing extra."""
    if name == "jsonl":
        return JsonLines(raw=raw)
    if name != "parquet":
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, not {name!r}")
    try:
        from .parquet import Parquet  # noqa: PLC0415 - pyarrow comes with an extra
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow: install it with `pip install 'capillary-targets[parquet]'`"
        ) from None
    return Parquet(raw=raw)
