"""What goes into a walk and comes out of it: requests, proven events, the report, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from attrs import define, frozen

from capillary_targets.errors import UsageError
from capillary_targets.models import EventsPage, TargetEvent

from .dialect import NOTHING, Dialect

__all__ = ["START", "Batch", "Checkpoint", "PageRequest", "PagingReport", "Proof"]

Proof = Literal["none", "totals", "anchored"]


@define(eq=False)
class PageRequest:
    """What to ask the server for: `limit` rows at `offset`.

    `start` is the row, counted from 0, that the answer should begin with if the server reads
    `offset` as it is believed to. `fence` marks a look at the far end of the list.
    """

    limit: int
    offset: int
    start: int
    fence: bool = False

    @property
    def end(self) -> int:
        """The row behind the last one asked for."""
        return self.start + self.limit


@frozen
class PagingReport:
    """What a walk did.

    `complete` says that every event that existed throughout the walk has arrived, and `proof` on
    what grounds: "anchored" (each page overlapped what was taken, or one page held everything), or
    "totals" (pages side by side that all named the same total and added up to it, which holds
    unless deletions and arrivals between two of them were exactly equal in number).

    `requests` were made; `duplicates` events came again on pages that should not have held them;
    `passes` counts how often the walk had to go back; `total` is the server's latest figure.
    `reason` says why the walk ended.
    """

    events: int = 0
    requests: int = 0
    total: int | None = None
    complete: bool = False
    no_record: bool = False
    reason: str = "not started"
    duplicates: int = 0
    passes: int = 1
    proof: Proof = "none"
    dialect: Dialect = NOTHING


@define(eq=False)
class Batch:
    """Proven new events of one page, in the server's order. `row` is the place of the first."""

    page: EventsPage
    row: int


@frozen
class Checkpoint:
    """A place in one user's events towards one target, to go on from: `client.events(start=...)`.

    It points between two events, wherever the pages are cut: `row` is the place of the next event
    as the server last counted, `last` holds the latest event ids before it (the newest last), and
    `date` the date of the newest, which finds the place even if all of those are deleted.
    """

    row: int = 0
    last: tuple[int, ...] = ()
    date: datetime | None = None
    dialect: Dialect = NOTHING

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "row": self.row,
            "last": list(self.last),
            "date": None if self.date is None else self.date.isoformat(),
            "dialect": self.dialect.to_dict(),
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Checkpoint:
        """The inverse of `to_dict`. Raises `UsageError` for anything else."""
        try:
            row, last, date = given["row"], given["last"], given["date"]
            made = cls(
                row,
                tuple(last),
                None if date is None else datetime.fromisoformat(date),
                Dialect.from_dict(given.get("dialect") or {}),
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"this is no checkpoint: {error}") from None
        if any(type(number) is not int for number in (row, *made.last)) or row < 0:
            raise UsageError("this is no checkpoint: its row and ids must be whole numbers")
        return made

    def __str__(self) -> str:
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The inverse of `str()`. Raises `UsageError`."""
        try:
            given = json.loads(text)
        except ValueError:
            raise UsageError("this is no checkpoint: not JSON") from None
        return cls.from_dict(given)


START: Final = Checkpoint()
"""Before the first event."""


def order_key(event: TargetEvent) -> tuple[datetime, int] | None:
    """The documented order: chronological, equal dates by id. None where there is no date."""
    return None if event.event_date is None else (event.event_date, event.event_log_id)
