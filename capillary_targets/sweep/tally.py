"""What the report shows, counted while rows are written: a few sums for each part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import Final, Self

import msgspec
from attrs import define, field

from capillary_targets.models import Target

from .batch import Sums
from .packed import Packed
from .rows import encode

__all__ = ["Tally", "TargetTally"]

_NAMES: Final = 40
_OTHER: Final = "(other names)"
_MOST_FRESH: Final = 4096


@define
class TargetTally(Sums):
    """One target over all users: its name too."""

    name: str | None = None


@define
class Tally:
    """Events by day and event name, and sums by target id."""

    _days: dict[str, dict[str, int]] = field(factory=dict)
    targets: dict[int, TargetTally] = field(factory=dict)
    _names: set[str] = field(factory=set)
    _fresh: Counter[tuple[int, str | None]] = field(init=False, factory=Counter)
    """Counted, but not by the names under which it is told: pairs repeat, so that can wait."""

    @property
    def days(self) -> dict[str, dict[str, int]]:
        """Events by day (YYYY-MM-DD, or "" without a date) and event name.

        The API leaves event names open: beyond the first forty they are counted together.
        """
        self._settle()
        return self._days

    def add(self, targets: Iterable[Target], events: Packed) -> None:
        """Count rows."""
        for target in targets:
            self._target(target.id).name = target.name
        self._fresh.update(events.days)
        if len(self._fresh) >= _MOST_FRESH:
            self._settle()
        for rule, more in events.sums.items():
            self._target(rule).add(more)

    def merge(self, other: Self) -> None:
        """Count what another tally has counted."""
        for day, names in other.days.items():
            for name, number in names.items():
                self._count(day, name, number)
        for rule, more in other.targets.items():
            sums = self._target(rule)
            sums.name = more.name or sums.name
            sums.add(more)

    def to_json(self) -> str:
        """As text, for the ledger."""
        return encode({"days": self.days, "targets": self.targets}).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Back from `to_json`."""
        found = msgspec.json.decode(text, type=_Stored)
        return cls(found.days, found.targets)

    def _settle(self) -> None:
        for (day, name), number in self._fresh.items():
            self._count(date.fromordinal(day).isoformat() if day else "", name or "", number)
        self._fresh.clear()

    def _count(self, day: str, name: str, number: int) -> None:
        if name not in self._names:
            if len(self._names) >= _NAMES:
                name = _OTHER
            self._names.add(name)
        names = self._days.setdefault(day, {})
        names[name] = names.get(name, 0) + number

    def _target(self, rule: int) -> TargetTally:
        return self.targets.setdefault(rule, TargetTally())


class _Stored(msgspec.Struct):
    days: dict[str, dict[str, int]]
    targets: dict[int, TargetTally]
