"""Statistics for the report: `EventStats` of rows, `RequestTimeline` of requests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from itertools import compress, repeat, zip_longest
from operator import eq
from typing import Any, Final, Self, TypeAlias

from attrs import define, field

from capillary_targets.errors import NoRecordFound
from capillary_targets.hooks import Details, RequestDetails

__all__ = ["EXACT", "Columns", "EventStats", "RequestTimeline", "SavedTimeline"]

EXACT: Final = Context(prec=2000, traps=[Inexact, InvalidOperation])
"""Sums of amounts, with room for every one of up to `_MAX_EXPONENT` digits on either side."""
_MAX_EXPONENT: Final = 500
_MAX_NAMES: Final = 40
_OTHER_NAMES: Final = "(other names)"
_MAX_BUCKETS: Final = 60
_MIN_WIDTH: Final = 0.125

Columns: TypeAlias = dict[str, Sequence[Any]]
Bucket: TypeAlias = tuple[int, int, float, float]
SavedTimeline: TypeAlias = tuple[float, list[Bucket]]
_EMPTY: Final[Bucket] = (0, 0, 0.0, 0.0)


@define
class EventStats:
    """Counts and exact sums over the events of a user, a run or a directory.

    `days` counts events by name, then by day (ordinal; 0: without a date). `events` and `values`
    are by target id, `names` are the targets' names.
    """

    days: dict[str, Counter[int]] = field(factory=dict)
    events: Counter[int] = field(factory=Counter)
    values: dict[int, Decimal] = field(factory=dict)
    names: dict[int, str] = field(factory=dict)

    @property
    def value_sum(self) -> Decimal:
        """The exact sum of all amounts."""
        with localcontext(EXACT):
            return sum(self.values.values(), Decimal(0))

    def add(self, rule: int, columns: Columns) -> None:
        """Count events of a target, given by the columns of `TargetEvent`.

        Raises:
            ValueError: an amount is too large or too fine to be summed exactly.
        """
        dates, names = columns["event_date"], columns["event_name"]
        self.events[rule] += len(dates)
        self._add_value(rule, _sum(columns["target_value"]))
        if all(dates):  # nearly always, and in a third of the time
            days = [*map(datetime.toordinal, dates)]
        else:
            days = [moment.toordinal() if moment else 0 for moment in dates]
        if not all(names):
            names = [name or "" for name in names]
        for name in {*names}:
            alone = names.count(name) == len(names)
            self._count(name, days if alone else compress(days, map(eq, names, repeat(name))))

    def _count(self, name: str, days: Iterable[int]) -> None:
        self.days.setdefault(name, Counter()).update(days)

    def merge(self, other: Self) -> None:
        """Add what `other` has counted."""
        for name, days in other.days.items():
            self._count(name, days)
        self.events.update(other.events)
        for rule, value in other.values.items():
            self._add_value(rule, value)
        self.names.update(other.names)

    def _add_value(self, rule: int, value: Decimal) -> None:
        self.values[rule] = EXACT.add(self.values.get(rule, Decimal(0)), value)

    def bound(self) -> None:
        """Count the event names beyond the first forty together: the API leaves names open."""
        for name in [name for name in self.days if name != _OTHER_NAMES][_MAX_NAMES:]:
            self._count(_OTHER_NAMES, self.days.pop(name))


def _sum(amounts: Sequence[Decimal | None]) -> Decimal:
    with localcontext(EXACT):
        try:
            total = sum(filter(None, amounts), Decimal(0))
        except Inexact:
            total = Decimal("NaN")
    exponent = total.as_tuple().exponent
    if (
        isinstance(exponent, int)
        and exponent >= -_MAX_EXPONENT
        and total.adjusted() <= _MAX_EXPONENT
    ):
        return total
    raise ValueError(
        f"an amount has more than {_MAX_EXPONENT} digits before or behind the point and cannot be "
        "summed exactly"
    )


@define
class RequestTimeline:
    """Requests over the sweep's time, as a hook: `TargetsClient(..., hooks=[timeline])`.

    At most 60 buckets, each `width` seconds long; beyond that the width doubles. A bucket is the
    requests that ended in it, how many of them failed, the seconds spent in them and those of the
    longest one. Time starts when it is made; `clock` counts seconds.
    """

    clock: Callable[[], float] = time.monotonic
    width: float = field(init=False, default=_MIN_WIDTH)
    buckets: list[Bucket] = field(init=False, factory=list)
    _start: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._start = self.clock()

    def __call__(self, details: Details) -> None:
        """Count a request that has ended."""
        if isinstance(details, RequestDetails):
            failed = not isinstance(details.error, NoRecordFound | None)
            took = details.seconds
            self._add(self.clock() - self._start, (1, int(failed), took, took))

    def _add(self, at: float, bucket: Bucket) -> None:
        while at >= self.width * _MAX_BUCKETS:
            self.width *= 2
            pairs = zip_longest(self.buckets[::2], self.buckets[1::2], fillvalue=_EMPTY)
            self.buckets = [_together(*pair) for pair in pairs]
        place = int(max(0.0, at) / self.width)
        self.buckets += [_EMPTY] * (place + 1 - len(self.buckets))
        self.buckets[place] = _together(self.buckets[place], bucket)

    def resume(self, saved: SavedTimeline, seconds: float) -> None:
        """Continue an earlier session's timeline (`saved()`), which ended after `seconds`."""
        mine = self.saved()
        self.width, self.buckets = _MIN_WIDTH, []
        self._start -= seconds
        for offset, (width, buckets) in ((0.0, saved), (seconds, mine)):
            for place, bucket in enumerate(buckets):
                self._add(offset + place * width, bucket)

    def saved(self) -> SavedTimeline:
        """The width and the buckets, as the ledger keeps them."""
        return self.width, self.buckets


def _together(one: Bucket, other: Bucket) -> Bucket:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], max(one[3], other[3])
