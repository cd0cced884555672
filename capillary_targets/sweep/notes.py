"""What the ledger is told of a part, and what it tells of a user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from .incremental import Mark

__all__ = ["Noted", "Place", "UserNote"]


@frozen
class Place:
    """Where a user's events stand in a part: bytes of a JSON Lines file, rows of a Parquet file."""

    part: str
    start: int
    length: int


@frozen
class UserNote:
    """What is noted of a user of whom nothing is missing.

    `new_events` were written in this part, at `start` and `length` (None: there were none);
    `marks` are by target rule id.
    """

    user_id: int
    new_events: int
    start: int | None
    length: int
    marks: Mapping[int, Mark]


@frozen
class Noted:
    """A part in hand, to be noted in one transaction: its files and everything about its users."""

    number: int
    files: Mapping[str, tuple[str, int]]
    """By kind (`events`, `targets`): the file's name and its number of rows."""
    tally: str
    users: Sequence[UserNote]
    failures: Mapping[int, str]
    """Failed users' details, as JSON, by user id."""
    state: str
    """The run's running sums, as JSON."""
