"""What the report shows, counted while rows are written: a few sums for each part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Final, Self

import msgspec
from attrs import define, field

from capillary_targets.models import Target

from .batch import EXACT, EventBatch
from .rows import encode

__all__ = ["Tally", "TargetTally"]

_NAMES: Final = 40
_OTHER: Final = "(other names)"
_MOST_FRESH: Final = 4096


@define
class TargetTally:
    """One target over all users: its name, how many events, the exact sum of their values."""

    name: str | None = None
    events: int = 0
    value: Decimal = Decimal(0)


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

    def add(self, targets: Iterable[Target], events: EventBatch) -> None:
        """Count rows."""
        for target in targets:
            self._target(target.id).name = target.name
        days = _days(events.columns["event_date"])
        self._fresh.update(zip(days, events.columns["event_name"], strict=True))
        if len(self._fresh) >= _MOST_FRESH:
            self._settle()
        for rule, more in events.sums.items():
            sums = self._target(rule)
            sums.events += more.events
            sums.value = EXACT.add(sums.value, more.value)

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


def _days(moments: Sequence[datetime | None]) -> list[int]:
    """Their days, as counted by the calendar. 0: without a date."""
    try:
        return [*map(datetime.toordinal, moments)]  # type: ignore[arg-type]
    except TypeError:
        return [moment.toordinal() if moment else 0 for moment in moments]


class _Stored(msgspec.Struct):
    days: dict[str, dict[str, int]]
    targets: dict[int, TargetTally]
