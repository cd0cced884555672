"""What the report shows, counted while rows are written: a few sums for each part."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal
from typing import Final, Self

import msgspec
from attrs import define, field

from capillary_targets.models import Target, TargetEvent

from .rows import encode

__all__ = ["EXACT", "Tally", "TargetTally"]

EXACT: Final = Context(prec=400, traps=[])
"""Sums of amounts: they have tens of digits, so no sum rounds."""

_NAMES: Final = 40
_OTHER: Final = "(other names)"


@define
class TargetTally:
    """One target over all users: its name, how many events, the exact sum of their values."""

    name: str | None = None
    events: int = 0
    value: Decimal = Decimal(0)


@define
class Tally:
    """Events by day (YYYY-MM-DD, or "" without a date) and event name, and sums by target id.

    The API leaves event names open: beyond the first forty they are counted together.
    """

    days: dict[str, dict[str, int]] = field(factory=dict)
    targets: dict[int, TargetTally] = field(factory=dict)
    _names: set[str] = field(factory=set)

    def add(self, targets: Iterable[Target], events: Iterable[TargetEvent]) -> None:
        """Count rows."""
        for target in targets:
            self._target(target.id).name = target.name
        for event in events:
            date = event.event_date
            self._count(date.date().isoformat() if date else "", event.event_name or "", 1)
            sums = self._target(event.target_rule_id or 0)
            sums.events += 1
            if event.target_value is not None:
                sums.value = EXACT.add(sums.value, event.target_value)

    def merge(self, other: Self) -> None:
        """Count what another tally has counted."""
        for day, names in other.days.items():
            for name, number in names.items():
                self._count(day, name, number)
        for rule, more in other.targets.items():
            sums = self._target(rule)
            sums.name = more.name or sums.name
            sums.events += more.events
            sums.value = EXACT.add(sums.value, more.value)

    def to_json(self) -> str:
        """As text, for the ledger."""
        return encode({"days": self.days, "targets": self.targets}).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Back from `to_json`."""
        found = msgspec.json.decode(text, type=_Stored)
        return cls(found.days, found.targets)

    def _count(self, day: str, name: str, number: int) -> None:
        if name not in self._names:
            if len(self._names) >= _NAMES:
                name = _OTHER
            self._names.add(name)
        names = self.days.setdefault(day, {})
        names[name] = names.get(name, 0) + number

    def _target(self, rule: int) -> TargetTally:
        return self.targets.setdefault(rule, TargetTally())


class _Stored(msgspec.Struct):
    days: dict[str, dict[str, int]]
    targets: dict[int, TargetTally]
