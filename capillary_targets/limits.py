"""How many requests at a time, and how many in a while: controllers without a clock or a socket.

Two signals, two controllers. Latency and time-outs steer *concurrency* (`ConcurrencyController`,
in the spirit of Netflix's concurrency-limits and of TCP Vegas); refusals (429) steer the *rate*
(`RateController`). Mixing them makes both oscillate. A budget that the caller knows is a sliding
window (`Window`). The times handed in are monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from attrs import define, field, frozen, validators

__all__ = [
    "AdaptiveConcurrency",
    "ConcurrencyController",
    "RateController",
    "RateLimit",
    "Window",
]


@frozen
class AdaptiveConcurrency:
    """Find by itself how many requests at a time serve best; bounds and a start, in requests."""

    initial: int = field(default=8, validator=validators.ge(1))
    minimum: int = field(default=1, validator=validators.ge(1))
    maximum: int = field(default=512, validator=validators.ge(1))

    def __attrs_post_init__(self) -> None:
        if not self.minimum <= self.initial <= self.maximum:
            raise ValueError("concurrency: minimum <= initial <= maximum must hold")


@frozen
class RateLimit:
    """A budget: at most `requests` in any `per` seconds, as the server counts them.

    Token requests and every attempt count too. `shared` makes it one budget for many processes:
    `sqlite:///path` on one machine, `redis://host:port/0` beyond.
    """

    requests: int = field(validator=validators.ge(1))
    per: float = field(default=60.0, kw_only=True, validator=validators.gt(0))
    shared: str | None = field(default=None, kw_only=True)


_TOLERANCE: Final = 1.2
"""Latency may be this many times the unloaded one before the limit shrinks: noise is not load."""
_SLACK: Final = 0.005
"""... and so many seconds longer: on a near server that is our own event loop, not its load."""
_HORIZON: Final = 5.0
"""Seconds after which a measured unloaded latency is no longer believed."""
_CALM_ROUNDS: Final = 20
"""... but not before so many round trips, on a slow server."""
_BACKOFF: Final = 0.85


@define(eq=False, repr=False)
class ConcurrencyController:
    """The limit in force, from the latency of the requests that ended.

    The samples of about one round trip make a window. Its median latency is held against the
    unloaded latency, the least window median of the last seconds: while the two agree the limit
    grows (doubling at first), where requests queue it shrinks in proportion. To keep the unloaded
    latency honest the limit is halved for two windows now and then. Overload (a time-out, a broken
    connection, a 5xx) shrinks the limit and is remembered as a ceiling for a while.
    """

    settings: AdaptiveConcurrency
    _limit: float = field(init=False)
    _doubling: bool = field(init=False, default=True)
    _samples: list[float] = field(init=False, factory=list)
    _overloads: int = field(init=False, default=0)
    _peak_in_flight: int = field(init=False, default=0)
    _base: float = field(init=False, default=math.inf)
    _base_at: float = field(init=False, default=-math.inf)
    _probing: int = field(init=False, default=0)
    _limit_before_probe: float = field(init=False, default=0.0)
    _ceiling: float = field(init=False, default=math.inf)
    _ceiling_until: float = field(init=False, default=-math.inf)
    _ignore_until: float = field(init=False, default=-math.inf)

    def __attrs_post_init__(self) -> None:
        self._limit = float(self.settings.initial)

    @property
    def limit(self) -> int:
        """Requests allowed in flight now."""
        return int(self._limit)

    def on_response(
        self, now: float, seconds: float, in_flight: int, *, overload: bool = False
    ) -> None:
        """A request ended after `seconds`; `in_flight` were under way when it was sent."""
        self._peak_in_flight = max(self._peak_in_flight, in_flight)
        if overload:
            self._overloads += 1
            if now - seconds >= self._ignore_until:  # sent after the last shrinking: news
                self._shrink(now, seconds, in_flight)
            return
        self._samples.append(seconds)
        if len(self._samples) >= max(4, self.limit):
            self._window(now, _median(self._samples))
            self._samples.clear()
            self._peak_in_flight = self._overloads = 0

    def _shrink(self, now: float, seconds: float, in_flight: int) -> None:
        self._ceiling = max(self.settings.minimum, min(self._limit, in_flight) * 0.95)
        self._ceiling_until = now + max(4 * _HORIZON, _CALM_ROUNDS * seconds)
        self._doubling = False
        self._ignore_until = now
        self._set(now, min(self._limit, in_flight) * _BACKOFF)

    def _window(self, now: float, latency: float) -> None:
        horizon = max(_HORIZON, _CALM_ROUNDS * latency)
        if self._probing:
            self._probe(now, latency)
            return
        if latency <= self._base * 1.02:
            self._base, self._base_at = min(latency, self._base), now
        elif now - self._base_at > horizon:
            # Nothing as quick has been seen for a while: measure the unloaded latency afresh.
            self._limit_before_probe = self._limit
            self._probing = 2
            self._set(now, self._limit / 2)
            return
        if self._overloads or self._peak_in_flight < self._limit / 2:
            return  # shrunk already, or the limit was not what held the requests back
        gradient = (_TOLERANCE * self._base + _SLACK) / latency
        if gradient >= 1.0 and self._doubling:
            self._set(now, self._limit * 2)
            return
        self._doubling = False
        headroom = max(1.0, math.sqrt(self._limit) / 2)
        self._set(now, self._limit * min(1.0, max(0.5, gradient)) + headroom)

    def _probe(self, now: float, latency: float) -> None:
        """The first window at half the limit drains the queue, the second one measures."""
        self._probing -= 1
        if self._probing:
            return
        # Much slower than before, though unloaded: another server, so to speak. Start over.
        self._doubling = latency > 1.5 * self._base
        self._base, self._base_at = latency, now
        self._set(now, self._limit if self._doubling else self._limit_before_probe)

    def _set(self, now: float, limit: float) -> None:
        if now < self._ceiling_until:
            limit = min(limit, self._ceiling)
        self._limit = min(max(limit, self.settings.minimum), self.settings.maximum)


def _median(samples: list[float]) -> float:
    ordered = sorted(samples)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[~middle]) / 2  # of an odd number, twice the same


_SAFETY: Final = 0.97
_GROWTH: Final = 0.01
"""The learned rate grows by this share in the first length of the pause that taught it, by twice
as much in the second, and so on: slowly near the known limit, quickly once it must have moved."""
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0


@define(eq=False, repr=False)
class RateController:
    """The rate that the server's refusals (429) teach; no limit before the first one.

    What was accepted since the last pause, over the time that it took and the pause asked for
    now, is what the server allows: exact for the windows that servers count in. From there the
    rate grows slowly until the next refusal. Without a `Retry-After` the pauses double.
    """

    rate: float = field(default=math.inf)
    """Requests a second."""
    paused_until: float = field(default=-math.inf)
    _accepted: int = field(init=False, default=0)
    _since: float | None = field(init=False, default=None)
    _last_increase: float = field(init=False, default=0.0)
    _pause: float = field(init=False, default=_FIRST_PAUSE)
    _next: float = field(init=False, default=-math.inf)

    @property
    def active(self) -> bool:
        """Whether there was ever a refusal."""
        return self.paused_until > -math.inf

    def pause_left(self, now: float) -> float:
        """Seconds for which nothing may be sent."""
        return max(0.0, self.paused_until - now)

    def delay(self, now: float) -> float:
        """Seconds until pause and pace let a request through."""
        if now < self.paused_until:
            return self.paused_until - now
        return max(0.0, self._next - now)

    def sent(self, now: float) -> None:
        """A request was let through."""
        if self.rate < math.inf:
            # A late caller may catch up a tenth of a second, no more: a pace, not a burst.
            self._next = max(self._next, now - 0.1) + 1.0 / self.rate

    def accepted(self, now: float) -> None:
        """A request was not refused."""
        if self._since is None:
            self._since = now
        self._accepted += 1
        if self.rate != math.inf:
            passed = max(0.0, now - self._last_increase) / self._pause
            self.rate *= 1.0 + _GROWTH * passed * (now - self.paused_until) / self._pause
            self._last_increase = max(self._last_increase, now)

    def refused(self, now: float, sent: float, retry_after: float | None) -> None:
        """A request sent at `sent` was refused, with the server's word for how long, if any."""
        until = now + (self._pause if retry_after is None else retry_after)
        if sent < self.paused_until:
            # Of the same burst as an earlier one: it teaches nothing but a longer pause.
            if retry_after is not None:
                self.paused_until = max(self.paused_until, until)
            return
        self.paused_until = until
        pause = max(until - now, 1e-3)
        if retry_after is None:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        else:
            self._pause = max(pause, _FIRST_PAUSE)
        if self._accepted and self._since is not None:
            self.rate = _SAFETY * self._accepted / (now - self._since + pause)
        self._accepted, self._since, self._last_increase = 0, self.paused_until, self.paused_until


@define(eq=False, repr=False)
class Window:
    """A sliding window over requests as the server sees them.

    A request reaches the server somewhere between being sent and being answered. So its place is
    taken when it is sent, and free again `per` seconds after its *answer*: then no window of the
    server's holds more than `requests`, however unevenly the network delays them.
    """

    requests: int
    per: float
    _in_flight: int = field(init=False, default=0)
    _free_at: deque[float] = field(init=False, factory=deque)

    def delay(self, now: float) -> float:
        """Seconds until a place may be free: 0 if one is, inf if none is known to become so."""
        free_at = self._free_at
        while free_at and free_at[0] <= now:
            free_at.popleft()
        if self._in_flight + len(free_at) < self.requests:
            return 0.0
        return free_at[0] - now if free_at else math.inf

    def acquire(self) -> None:
        """Take a place, which `delay` has found free."""
        self._in_flight += 1

    def release(self, now: float) -> None:
        """A request that took a place was answered, or failed."""
        self._in_flight -= 1
        self._free_at.append(now + self.per)
