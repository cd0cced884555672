"""A page's events, taken apart once for all who count and write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Context, Decimal, localcontext
from itertools import groupby
from typing import Any, Final

import attrs

from capillary_targets.models import TargetEvent

__all__ = ["EXACT", "EventBatch", "Sums"]

EXACT: Final = Context(prec=400, traps=[])
"""Sums of amounts: they have tens of digits, so no sum rounds."""


@attrs.define
class Sums:
    """How many events, and the exact sum of their values."""

    events: int = 0
    value: Decimal = Decimal(0)

    def add(self, other: Sums) -> None:
        """Count what another has counted."""
        self.events += other.events
        self.value = EXACT.add(self.value, other.value)


class EventBatch:
    """Some events, and what is to be known of all of them together."""

    def __init__(self, events: Sequence[TargetEvent]) -> None:
        self.events = events
        self.amounts: list[Decimal | None] = [event.target_value for event in events]
        self.sums: Mapping[int, Sums] = self._sums()
        """By target id (0: the server did not say)."""

    def _sums(self) -> dict[int, Sums]:
        found: dict[int, Sums] = {}
        end = 0
        for rule, run in groupby([event.target_rule_id for event in self.events]):
            start, end = end, end + len(list(run))
            sums = Sums(end - start, _sum(self.amounts[start:end]))
            found.setdefault(rule or 0, Sums()).add(sums)
        return found

    def days(self) -> Iterator[tuple[int, str | None]]:
        """Each event's day, as counted by the calendar (0: without a date), and its name."""
        return zip(
            _days([event.event_date for event in self.events]),
            [event.event_name for event in self.events],
            strict=True,
        )


def _sum(values: Sequence[Any]) -> Decimal:
    """The exact sum of what is there."""
    with localcontext(EXACT):
        try:
            return sum(values, Decimal(0))
        except TypeError:  # some is not there
            return sum([value for value in values if value is not None], Decimal(0))


def _days(moments: Sequence[datetime | None]) -> list[int]:
    try:
        return [*map(datetime.toordinal, moments)]  # type: ignore[arg-type]
    except TypeError:
        return [moment.toordinal() if moment else 0 for moment in moments]
