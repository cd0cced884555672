"""Requests and how long they took, over the sweep's time: a bounded series for the report."""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import define, field

from capillary_targets.errors import NoRecordFound
from capillary_targets.hooks import Details, RequestDetails

__all__ = ["Bucket", "Meter", "Series"]

_MOST = 240


@define
class Bucket:
    """One stretch of time: requests that ended in it, seconds spent in them, the longest one."""

    requests: int = 0
    errors: int = 0
    busy: float = 0.0
    slowest: float = 0.0

    def merge(self, other: Bucket) -> None:
        """Count what another stretch has counted."""
        self.requests += other.requests
        self.errors += other.errors
        self.busy += other.busy
        self.slowest = max(self.slowest, other.slowest)


@define
class Series:
    """Stretches of `width` seconds, one after the other, at most 240: then the width doubles."""

    width: float = 0.125
    buckets: list[Bucket] = field(factory=list)

    def at(self, seconds: float) -> Bucket:
        """The stretch that a moment falls in."""
        while seconds >= self.width * _MOST:
            self.halve()
        place = int(max(0.0, seconds) / self.width)
        while len(self.buckets) <= place:
            self.buckets.append(Bucket())
        return self.buckets[place]

    def halve(self) -> None:
        """Two stretches become one."""
        self.width *= 2
        for place in range(len(self.buckets) // 2):
            self.buckets[2 * place].merge(self.buckets[2 * place + 1])
        self.buckets = self.buckets[::2]


@define
class Meter:
    """A hook for the client: `TargetsClient(..., hooks=[meter])`. Time starts when it is made.

    `clock` counts seconds; `series` may be one to go on with, `offset` seconds into it.
    """

    clock: Callable[[], float] = time.monotonic
    series: Series = field(factory=Series)
    offset: float = 0.0
    _start: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._start = self.clock()

    def __call__(self, details: Details) -> None:
        """Count a request that is over."""
        if isinstance(details, RequestDetails):
            bucket = self.series.at(self.offset + self.clock() - self._start)
            bucket.requests += 1
            bucket.errors += not isinstance(details.error, NoRecordFound | None)
            bucket.busy += details.seconds
            bucket.slowest = max(bucket.slowest, details.seconds)

    def resume(self, series: Series, offset: float) -> None:
        """Go on with an earlier session's series, `offset` seconds into it."""
        earlier, self.series, self.offset = self.series, series, offset
        for place, bucket in enumerate(earlier.buckets):
            self.series.at(offset + place * earlier.width).merge(bucket)
