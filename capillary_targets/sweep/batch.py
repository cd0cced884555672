"""A page's events, taken apart once for all who count and write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Context, Decimal, localcontext
from functools import cached_property
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

    @cached_property
    def amounts(self) -> Sequence[Decimal | None]:
        """Their values."""
        return [event.target_value for event in self.events]

    @cached_property
    def sums(self) -> Mapping[int, Sums]:
        """By target id (0: the server did not say)."""
        found: dict[int, Sums] = {}
        amounts, end = self.amounts, 0
        for rule, run in groupby([event.target_rule_id for event in self.events]):
            start, end = end, end + len(list(run))
            found.setdefault(rule or 0, Sums()).add(Sums(end - start, _sum(amounts[start:end])))
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
