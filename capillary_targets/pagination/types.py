"""What goes into a walk and comes out of it: page requests, proven pages, reports, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from operator import attrgetter
from typing import Annotated, Any, Final

import attrs
import msgspec
from attrs import frozen

from capillary_targets.errors import UsageError
from capillary_targets.models import (
    JSON,
    EventsPage,
    Model,
    Pagination,
    TargetEvent,
    short_repr,
    wired,
)

from .dialect import UNKNOWN, Dialect

_DIGEST_BYTES: Final = 6  # an exact number in every JSON reader
_TAIL: Final = 8
"""Rows that a checkpoint remembers: it is found again unless all of them are deleted."""


class PageRequest(msgspec.Struct, eq=False, gc=False):
    """`limit` rows at `offset`, expected to begin with row `start` (from 0)."""

    limit: int
    offset: int
    start: int


class Window:
    """One response as an atomic look at a contiguous part of the list.

    An error that means "past the end" is a window without rows and without a page. `start` is the
    row of its first event, as `offset` is read; `total` is as the server names it, None where it is
    absent, negative, or 0 beside rows.
    """

    def __init__(self, request: PageRequest, page: EventsPage | None) -> None:
        self.request: PageRequest = request
        self.page: EventsPage | None = page
        self.start: int = request.start
        self.events: tuple[TargetEvent, ...] = () if page is None else page.events
        self.size: int = len(self.events)
        self.numbers: Pagination = Pagination() if page is None else page.pagination
        total = self.numbers.total
        named = total is not None and total >= min(self.size, 1)
        self.total: int | None = total if named else None

    @property
    def end(self) -> int:
        """The row behind its last one."""
        return self.start + self.size


@wired
class PagingReport(Model):
    """What a walk did, and whether it is complete.

    Args:
        events: given out.
        requests: made.
        total: the server's latest figure.
        complete: every event that existed throughout the walk has arrived.
        no_record: the server has no record of the user in the target (310149).
        reason: why the walk ended.
        duplicates: rows that came again where none was asked for.
        restarts: times that the walk lost its place and looked for it.
        moved: the list was seen to change; for a resumed walk, also before its checkpoint.
        dialect: what was detected of the server.
    """

    events: int = 0
    requests: int = 0
    total: int | None = None
    complete: bool = False
    no_record: bool = False
    reason: str = "not started"
    duplicates: int = 0
    restarts: int = 0
    moved: bool = False
    dialect: Dialect = UNKNOWN


class Batch(msgspec.Struct, eq=False):
    """The proven new events of one page, in order. `row` is the position of the first."""

    page: EventsPage
    row: int


_digested: Final = attrgetter(
    *(name.name for name in attrs.fields(TargetEvent) if not name.name.endswith("_iso"))
)
"""All fields but the two that repeat a date in another form."""


def row_digest(event: TargetEvent) -> int:
    """Digest of a whole row, the same in every process and for every `timezone=` setting."""
    values = [
        value.replace(tzinfo=None) if isinstance(value, datetime) else value
        for value in _digested(event)
    ]
    return int.from_bytes(blake2b(JSON.encode(values), digest_size=_DIGEST_BYTES).digest())


@frozen
class Checkpoint:
    """A position between two events, to resume from: `client.events(start=...)`.

    Args:
        row: the position of the next event as the server last counted.
        last: digests (`row_digest`) of the latest events before it, the newest last.
        date: of the newest, which finds the position even if all of those are deleted.
        dialect: what was detected of the server.
    """

    row: Annotated[int, msgspec.Meta(ge=0)] = 0
    last: tuple[int, ...] = ()
    date: datetime | None = None
    dialect: Dialect = UNKNOWN
    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        date = None if self.date is None else self.date.isoformat()
        dialect = self.dialect.to_dict()
        return {"row": self.row, "last": list(self.last), "date": date, "dialect": dialect}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Checkpoint:
        """The inverse of `to_dict`. Raises `UsageError`."""
        try:
            return msgspec.convert({"row": None, **given}, cls)  # a row must be given
        except (TypeError, ValueError) as error:
            raise UsageError(f"this is no checkpoint: {error}") from None

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


class Cursor:
    """How far the consumer of a walk has come: the source of checkpoints."""

    __slots__ = ("_row", "_tail", "start")

    def __init__(self, start: Checkpoint) -> None:
        self.start: Checkpoint = start
        self._row = start.row
        self._tail: Sequence[TargetEvent] = ()

    def advance(self, row: int, received: Sequence[TargetEvent]) -> None:
        """The consumer has received these events, the first of which stands in `row`."""
        tail = received[-_TAIL:]
        self._tail = tail if len(tail) == _TAIL else (*self._tail, *tail)[-_TAIL:]
        self._row = row + len(received)

    def checkpoint(self, dialect: Dialect) -> Checkpoint:
        """The position behind what was received last."""
        if not self._tail:
            return self.start
        last = (*self.start.last, *map(row_digest, self._tail))[-_TAIL:]
        return Checkpoint(self._row, last, self._tail[-1].event_date, dialect)
