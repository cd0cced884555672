"""A user's events as columns: taken apart once for all who count and write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, localcontext
from functools import cached_property
from itertools import groupby
from typing import Any, Final

import attrs
from msgspec.structs import astuple

from capillary_targets.models import TargetEvent

__all__ = ["EVENT_FIELDS", "EXACT", "EventBatch", "Sums"]

EVENT_FIELDS: Final = tuple(f.name for f in attrs.fields(TargetEvent))

EXACT: Final = Context(prec=400, traps=[])
"""Sums of amounts: they have tens of digits, so no sum rounds."""


@attrs.define
class Sums:
    """How many events, and the exact sum of their values."""

    events: int = 0
    value: Decimal = Decimal(0)


class EventBatch:
    """Events as columns: each field's values, by its name.

    To go through a column takes a tenth of what it takes to ask each event.
    """

    def __init__(self, events: Sequence[TargetEvent]) -> None:
        columns: tuple[list[Any], ...] = tuple([] for _ in EVENT_FIELDS)
        # The garbage collector looks at tuples; if there are few at a time, it is not even called.
        for first in range(0, len(events), _ROWS_AT_ONCE):
            rows = map(_VALUES, events[first : first + _ROWS_AT_ONCE])
            for column, values in zip(columns, zip(*rows, strict=True), strict=True):
                column.extend(values)
        self.columns: Mapping[str, list[Any]] = dict(zip(EVENT_FIELDS, columns, strict=True))

    def __len__(self) -> int:
        return len(self.columns["event_log_id"])

    @cached_property
    def sums(self) -> Mapping[int, Sums]:
        """By target id (0: the server did not say)."""
        found: dict[int, Sums] = {}
        values, end = self.columns["target_value"], 0
        for rule, run in groupby(self.columns["target_rule_id"]):
            start, end = end, end + len(list(run))
            of_rule = found.setdefault(rule or 0, Sums())
            of_rule.events += end - start
            of_rule.value = EXACT.add(of_rule.value, _sum(values[start:end]))
        return found


_ROWS_AT_ONCE: Final = 100
_VALUES: Final[Any] = astuple
"""An attrs class in msgspec's layout is a Struct, which no type checker knows."""


def _sum(values: Sequence[Any]) -> Decimal:
    """The exact sum of what is there."""
    with localcontext(EXACT):
        try:
            return sum(values, Decimal(0))
        except TypeError:  # some is not there
            return sum([value for value in values if value is not None], Decimal(0))
