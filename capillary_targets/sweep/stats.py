"""Statistics for the report: `EventStats` of rows, `RequestTimeline` of requests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from itertools import zip_longest
from typing import Any, Final, Self, TypeAlias

from attrs import define, field

from capillary_targets.errors import NoRecordFound
from capillary_targets.hooks import Details, RequestDetails

EXACT: Final = Context(prec=2000, traps=[Inexact, InvalidOperation])
"""Sums of amounts, with room for every one of up to `_DIGITS` digits on either side."""
_DIGITS: Final = 500
_HALF: Final = Context(prec=2 * _DIGITS, traps=[Inexact, InvalidOperation])
_FINEST: Final = Decimal(f"1E-{_DIGITS}")
_MAX_BUCKETS: Final = 60
_MIN_WIDTH: Final = 0.125

Columns: TypeAlias = dict[str, Sequence[Any]]
Bucket: TypeAlias = tuple[int, int, float, float]
SavedTimeline: TypeAlias = tuple[float, list[Bucket]]
_EMPTY: Final[Bucket] = (0, 0, 0.0, 0.0)


@define
class EventStats:
    """Counts and exact sums over the events of a run or a directory.

    `days` counts those with a date by its ordinal; `events` and `values` are by target id, and
    `names` the targets' names.
    """

    days: Counter[int] = field(factory=Counter)
    events: Counter[int] = field(factory=Counter)
    values: dict[int, Decimal] = field(factory=dict)
    names: dict[int, str] = field(factory=dict)

    def add(self, rule: int, events: int, days: Iterable[int], value: Decimal) -> None:
        """Count a target's events: how many, their days, the sum of their values."""
        self.days.update(days)
        self.events[rule] += events
        self.values[rule] = EXACT.add(self.values.get(rule, Decimal(0)), value)

    def merge(self, other: Self) -> None:
        """Add what `other` has counted."""
        self.days.update(other.days)
        for rule, value in other.values.items():
            self.add(rule, other.events[rule], (), value)
        self.names.update(other.names)


def exact_sum(amounts: Iterable[Decimal | None]) -> Decimal:
    """The sum of amounts. Raises `ValueError` where one is too large or too fine for it."""
    try:
        with localcontext(EXACT):
            total = sum(filter(None, amounts), Decimal(0))
        total.quantize(_FINEST, context=_HALF)
    except ArithmeticError:
        raise ValueError(
            f"an amount has more than {_DIGITS} digits before or behind the point and cannot be "
            "summed exactly"
        ) from None
    return total


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
        if not isinstance(details, RequestDetails):
            return
        at, took = max(0.0, self.clock() - self._start), details.seconds
        while at >= self.width * _MAX_BUCKETS:
            self.width *= 2
            pairs = zip_longest(self.buckets[::2], self.buckets[1::2], fillvalue=_EMPTY)
            self.buckets = [_together(*pair) for pair in pairs]
        place = int(at / self.width)
        self.buckets += [_EMPTY] * (place + 1 - len(self.buckets))
        failed = int(not isinstance(details.error, NoRecordFound | None))
        self.buckets[place] = _together(self.buckets[place], (1, failed, took, took))

    def resume(self, saved: SavedTimeline, seconds: float) -> None:
        """Begin now, behind earlier sessions (`saved()`) of so many seconds."""
        self._start = self.clock() - seconds
        self.width, self.buckets = (saved[0], [*saved[1]]) if saved[1] else (_MIN_WIDTH, [])

    def saved(self) -> SavedTimeline:
        """The width and the buckets, as the ledger keeps them."""
        return self.width, self.buckets


def _together(one: Bucket, other: Bucket) -> Bucket:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], max(one[3], other[3])
