"""Concurrency limit, rate limit and circuit breaker: controllers without a clock or a socket.

Two signals, two controllers. Latency and the share of overloads steer *concurrency*
(`ConcurrencyController`, in the spirit of Netflix's concurrency-limits and of TCP Vegas); refusals
(429) steer the *rate* (`RateController`). Mixed, both oscillate. `CircuitBreaker` keeps the pauses
that the server asks for and probes an outage. A budget that the caller knows is a sliding window
(`Window`). The times handed in are monotonic seconds.

One rule holds for both controllers: slowing down that does not lower the share of failures is no
remedy, so it is undone. Faults that come at random must not stop a client.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from attrs import define, field, frozen

from .errors import UsageError
from .retry import NUMBER, WHOLE_NUMBER, checked, reader

__all__ = [
    "AdaptiveConcurrency",
    "CircuitBreaker",
    "ConcurrencyController",
    "RateController",
    "RateLimit",
    "Window",
]


@frozen(field_transformer=checked)
class AdaptiveConcurrency:
    """Find by itself how many requests at a time serve best; bounds and a start, in requests."""

    initial: int = field(default=8, metadata=WHOLE_NUMBER)
    minimum: int = field(default=1, metadata=WHOLE_NUMBER)
    maximum: int = field(default=512, metadata=WHOLE_NUMBER)

    def __attrs_post_init__(self) -> None:
        if not self.minimum <= self.initial <= self.maximum:
            raise UsageError("concurrency: minimum <= initial <= maximum must hold")


_shared: Final = reader(str, "sqlite:///PATH or redis://HOST:PORT/0")


@frozen(field_transformer=checked)
class RateLimit:
    """A budget: at most `requests` in any `per` seconds, as the server counts them.

    Token requests and every attempt count too. `shared` makes it one budget for many processes:
    `sqlite:///path` on one machine, `redis://host:port/0` beyond.
    """

    requests: int = field(metadata=WHOLE_NUMBER)
    per: float = field(default=60.0, kw_only=True, metadata=NUMBER)
    shared: str | None = field(default=None, kw_only=True, metadata={"read": _shared})


_TOLERANCE: Final = 1.2
"""Latency may be this many times the unloaded one before the limit shrinks: noise is not load."""
_SLACK: Final = 0.005
"""... and so many seconds longer: on a near server that is our own event loop, not its load."""
_BUSY: Final = 0.9
"""The share of a window's time for which this thread may compute before latency is its own."""
_HORIZON: Final = 5.0
"""Seconds after which a measured unloaded latency is no longer believed."""
_CALM_ROUNDS: Final = 20
"""... but not before so many round trips, on a slow server."""
_OVERLOADED: Final = 0.2
"""The share of overloads at which the limit shrinks."""
_NOISE_HOLD: Final = 30.0
"""Seconds for which a share that a smaller limit did not lower is taken for noise."""


@define(eq=False, repr=False)
class _Share:
    """The share of failures among the last `memory` outcomes or so: an exponential average.

    It is kept up at failures only, from the number of requests that were served.
    """

    memory: int
    value: float = 0.0
    _served: int = 0

    def add(self, served: int) -> float:
        """A failure, after so many requests were served; the share now."""
        self.value *= (1 - 1 / self.memory) ** (served - self._served)
        self.value += (1 - self.value) / self.memory
        self._served = served
        return self.value


@define(eq=False, repr=False)
class _Trial:
    """A smaller limit, tried to see whether it lowers the share of overloads."""

    limit: float
    """The limit before."""
    share: float
    """The share of overloads before."""
    responses: int = 0
    overloads: int = 0


@define(eq=False, repr=False)
class ConcurrencyController:
    """The concurrency limit in force, from latency and overloads of the requests that ended.

    The samples of about one round trip make a window. Its median latency is held against the
    unloaded latency, the least window median of the last seconds: while the two agree the limit
    grows (by half at first), where requests queue it shrinks in proportion. To keep the unloaded
    latency honest the limit is halved for two windows now and then.

    When the share of overloads (a time-out, a broken connection, a 5xx) passes a fifth, a smaller
    limit is tried. If that halves the share, the old limit is remembered as a ceiling for a while;
    if not even an eighth of the limit does, the overloads are none of our making and the limit is
    as before.
    """

    settings: AdaptiveConcurrency
    cpu: Callable[[], float] = lambda: 0.0
    """Seconds of processor time that this thread has used."""
    opened: float = -math.inf
    """Seconds of the clock at which the first window began."""
    limit: int = field(init=False)
    """Requests allowed in flight now."""
    _limit: float = field(init=False)
    _ramping: bool = field(init=False, default=True)
    _samples: list[tuple[float, int]] = field(init=False, factory=list)
    """Seconds that a request took, and how many were in flight when it was sent."""
    _base: float = field(init=False, default=math.inf)
    _base_at: float = field(init=False, default=-math.inf)
    _probing: int = field(init=False, default=0)
    _limit_before_probe: float = field(init=False, default=0.0)
    _served: int = field(init=False, default=0)
    _overloads: _Share = field(init=False, factory=lambda: _Share(32))
    _trial: _Trial | None = field(init=False, default=None)
    _noise_until: float = field(init=False, default=-math.inf)
    _ceiling: float = field(init=False, default=math.inf)
    _ceiling_until: float = field(init=False, default=-math.inf)
    _ignore_until: float = field(init=False, default=-math.inf)
    _changed_at: float = field(init=False, default=-math.inf)
    """When the limit changed last."""
    _window_began: tuple[float, float] = field(init=False)
    """When this window began, and the processor time that had been used by then."""

    def __attrs_post_init__(self) -> None:
        self.limit = self.settings.initial
        self._limit = float(self.limit)
        self._window_began = self.opened, self.cpu()

    def on_response(
        self, now: float, sent: float, in_flight: int, *, overload: bool = False
    ) -> None:
        """A request ended.

        Args:
            now: when its answer had come.
            sent: when it was sent.
            in_flight: requests in flight then, itself included.
            overload: whether it met an overload, or no server.

        """
        if not overload:
            self._served += 1
            if sent >= self._changed_at:  # else another limit held it back
                self._samples.append((now - sent, in_flight))
            if len(self._samples) >= self.limit and len(self._samples) >= 4:
                latencies, in_flights = zip(*self._samples, strict=True)
                self._window(now, _median(latencies), max(in_flights))
                self._samples.clear()
        if sent < self._ignore_until:
            return  # it was sent under another limit
        if self._trial is not None:
            self._try(now, now - sent, self._trial, overload=overload)
        elif overload:
            share = self._overloads.add(self._served)
            if now < self._noise_until:
                return
            if self._ramping and share > _OVERLOADED / 2:
                self._overloads.value = 0.0
                self._shrink(now, 0.5)  # one step too far
            elif share > _OVERLOADED:
                self._trial = _Trial(self._limit, share)
                self._shrink(now, max(0.5, 1.0 - share))

    def restart(self) -> None:
        """After an outage: start as in the beginning, in case the server is not itself yet."""
        self._set(-math.inf, min(self._limit, self.settings.initial))
        self._ramping = True
        self._probing = 0
        self._trial = None
        self._overloads.value = 0.0

    def _try(self, now: float, seconds: float, trial: _Trial, *, overload: bool) -> None:
        """See whether the smaller limit is a remedy."""
        trial.responses += 1
        trial.overloads += overload
        if trial.responses < max(32, 2 * self.limit):
            return
        share = trial.overloads / trial.responses
        if share <= max(trial.share / 2, _OVERLOADED / 2):
            self._trial = None
            self._ceiling = max(self.settings.minimum, trial.limit * 0.95)
            self._ceiling_until = now + max(4 * _HORIZON, _CALM_ROUNDS * seconds)
            self._overloads.value = share
            self._ramping = True
        elif self._limit > max(self.settings.minimum, trial.limit / 8):
            trial.responses = trial.overloads = 0
            self._shrink(now, 0.5)
        else:
            self._trial = None
            self._noise_until = now + _NOISE_HOLD
            self._overloads.value = share
            self._set(now, trial.limit)

    def _shrink(self, now: float, factor: float) -> None:
        self._ramping = False
        self._probing = 0
        self._ignore_until = now
        self._set(now, self._limit * factor)

    def _window(self, now: float, latency: float, peak_in_flight: int) -> None:
        horizon = max(_HORIZON, _CALM_ROUNDS * latency)
        (began, before), used = self._window_began, self.cpu()
        self._window_began = now, used
        if self._probing:
            # The first window at half the limit drains the queue, the second one measures.
            self._probing -= 1
            if not self._probing:
                # Much slower than before, though unloaded: another server. Start over.
                self._ramping = latency > 1.5 * self._base
                self._base, self._base_at = latency, now
                self._set(now, self._limit if self._ramping else self._limit_before_probe)
            return
        if used - before > _BUSY * (now - began):
            return
        if latency <= self._base * 1.02:
            self._base, self._base_at = min(latency, self._base), now
        elif now - self._base_at > horizon:
            # Nothing as quick has been seen for a while: measure the unloaded latency afresh.
            self._limit_before_probe = self._limit
            self._probing = 2
            self._set(now, self._limit / 2)
            return
        if self._trial is not None or peak_in_flight < self._limit / 2:
            return  # the limit was not what held the requests back
        gradient = (_TOLERANCE * self._base + _SLACK) / latency
        if gradient >= 1.0 and self._ramping:
            self._set(now, self._limit * 1.5)
            return
        self._ramping = False
        headroom = max(1.0, math.sqrt(self._limit) / 2)
        self._set(now, self._limit * min(1.0, max(0.5, gradient)) + headroom)

    def _set(self, now: float, limit: float) -> None:
        if now < self._ceiling_until:
            limit = min(limit, self._ceiling)
        self._limit = min(max(limit, self.settings.minimum), self.settings.maximum)
        if int(self._limit) != self.limit:
            self.limit, self._changed_at = int(self._limit), now
            self._samples.clear()


def _median(samples: Iterable[float]) -> float:
    ordered = sorted(samples)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[~middle]) / 2  # of an odd number, twice the same


_MEASUREMENTS: Final = 3
"""Rates to measure before the median of them is kept to; twice as many where one was none."""
_FEW: Final = 3
"""Fewer accepted requests, or less than a second, tell no rate."""
_LIMITED: Final = 0.3
"""The share of refusals behind a refused request from which on a limit may have refused them."""
_SAFETY: Final = 0.97
_HOLD: Final = 6
"""A pace is kept for so many times what a refusal costs: looking for more takes a seventh."""
_GROWTH: Final = 0.06
"""With the square of the time it doubles in 3.4 s, and is a few percent higher after the first."""
_STRIKES: Final = 4
"""Refusals before a pace has held, less those after, from which on it is none."""
_LATE: Final = 0.01
"""Seconds by which a timer may fire late, and which the next request makes up for."""


@define(eq=False, repr=False)
class _Pace:
    """A rate limit, in requests a second, found by bisection.

    It holds for a while, then grows, slowly at first, until it is refused. The next one lies
    between what the server has allowed and what it refused.
    """

    start: float
    unit: float
    """Seconds that a refusal costs."""
    held_until: float
    low: float = 0.0
    """A rate that was allowed."""
    refused: float = math.inf
    """The rate that was refused last."""
    strikes: int = 0
    spare: float = 1.0
    """Growth that the spare tokens of a bucket allow for a moment."""
    _doubt: float = 0.0
    _held: bool = False
    _lowered_at: float = -math.inf

    def rate(self, now: float) -> float:
        """Requests a second: as in the beginning, then growing."""
        units = max(0.0, now - self.held_until) / self.unit
        return self.start * math.exp(min(_GROWTH * units**2, 50.0))

    def slow_down(self, now: float) -> None:
        """A request was refused: this rate is too fast."""
        rate, self._held = self.rate(now), now > self.held_until
        if self._held:
            # Much growth: what was in use just before was allowed, unless by a bucket's spare.
            grown = rate / self.start
            self._doubt = grown if grown > self.spare and self.unit < 2.0 else 0.0
            self.low = self.rate(now - self.unit) if self._doubt else self.start
            self.strikes = max(0, self.strikes - 1)
            self._lowered_at = now
        elif self._doubt:
            self.low *= 0.8
            self.spare = 1.5 * self._doubt
        elif rate < 1.1 * self.low and now > self._lowered_at + self.unit:
            self.low *= 0.9
            self.strikes += 1
            self._lowered_at = now
        self.refused, self.start, self.held_until = rate, self.low or rate, math.inf

    def resume(self, now: float, pause: float, measured: float) -> None:
        """Requests are accepted again: bisect. `measured` is the rate of late, pauses included."""
        if self._held:
            self.low = max(self.low, min(measured, self.refused))
        # Nearer to what was allowed: each refusal costs a pause.
        self.start = _SAFETY * self.low**0.6 * self.refused**0.4
        self.unit = max(1.0, pause)
        self.held_until = now + _HOLD * self.unit


@define(eq=False, repr=False)
class RateController:
    """The pace that the server's refusals (429) teach; none before.

    Between two pauses requests run freely. What was accepted meanwhile, over the time until
    requests were accepted again, is what a server that counts would allow. If that is the same
    several times in a row, it is the limit, and requests keep its pace: refused hardly ever,
    instead of after each window. Time in which too few requests were made to use the limit up
    teaches nothing.

    A limit refuses what is in flight behind the first refused request as well. Refusals that come
    at random (a key shared with others) do not: they teach no pace, and after a pause requests run
    freely. A pace that is refused time and again before it has held is no remedy, or the limit is
    another now: it is dropped, and it takes longer to believe in one again.
    """

    _pace: _Pace | None = field(init=False, default=None)
    _next: float = field(init=False, default=-math.inf)
    _served: int = field(init=False, default=0)
    _refused_at: float | None = field(init=False, default=None)
    _first_sent: float = field(init=False, default=0.0)
    """When the first refused request was sent."""
    _behind: float = field(init=False, default=0.5)
    """The share of refusals among what was in flight behind it, an exponential average."""
    _burst: float = field(init=False, default=math.inf)
    _resumed_at: float = field(init=False, default=-math.inf)
    _served_then: int = field(init=False, default=0)
    # The measurement that is going on, and those before it.
    _since: float | None = field(init=False, default=None)
    _served_before: int = field(init=False, default=0)
    _saturated: bool = field(init=False, default=True)
    _rates: list[float] = field(init=False, factory=list)
    _needed: int = field(init=False, default=_MEASUREMENTS)

    def rate(self, now: float) -> float:
        """Requests a second."""
        return math.inf if self._pace is None else self._pace.rate(now)

    @property
    def burst(self) -> float:
        """Requests in flight after a pause: under a limit, as many as have shown to be welcome."""
        return max(self._burst, (self._served - self._served_then) // 4)

    def delay(self, now: float, in_flight: int) -> float:
        """Seconds until the pace lets a request through; inf: when another has ended."""
        if in_flight >= self._burst and in_flight >= self.burst:
            return math.inf
        return self._next - now if self._next > now else 0.0

    def sent(self, now: float) -> None:
        """A request was let through."""
        if self._since is None:
            self._since = now
        if self._pace is not None:
            # A timer that fired late is made up for; a pause is not: that would be a burst.
            due = self._next if now - self._next < _LATE else now
            self._next = due + 1.0 / self._pace.rate(now)

    def accepted(self, sent: float) -> None:
        """A request was not refused."""
        if self._refused_at is not None:
            if sent > self._refused_at:
                self._resume(sent, sent - self._refused_at)
            else:
                self._compare(sent, self._refused_at, refused=False)
        self._served += 1

    def refused(self, now: float, sent: float, *, paused: bool, saturated: bool) -> None:
        """A request was refused. All refusals of one burst are one.

        Args:
            now: seconds.
            sent: when it was sent.
            paused: whether everybody pauses for it.
            saturated: whether the limits held requests back when it was sent, not a lack of them.

        """
        if self._refused_at is not None:
            self._compare(sent, self._refused_at, refused=True)
        elif sent >= self._resumed_at and (paused or self._pace is not None):
            self._refused_at, self._first_sent = now, sent
            self._saturated = self._saturated and saturated
            if self._pace is None:
                return
            self._pace.slow_down(now)
            if self._pace.strikes >= _STRIKES:
                self._needed = min(2 * self._needed, 100)
                self._pace, self._next, self._burst = None, -math.inf, math.inf
                self._measure(now)
            elif not self._pace.strikes:
                self._needed = _MEASUREMENTS

    def _compare(self, sent: float, paused_at: float, *, refused: bool) -> None:
        """Note what became of a request that was in flight behind the first refused one."""
        if self._pace is None and self._first_sent <= sent <= paused_at:
            self._behind += (refused - self._behind) / 12

    def _resume(self, now: float, pause: float) -> None:
        """Requests are accepted again: learn from the time since the last such moment."""
        welcome = max(1, (self._served - self._served_then) // 4)
        self._burst = welcome if self._behind > 0.5 else math.inf  # never without evidence
        self._refused_at, self._resumed_at, self._served_then = None, now, self._served
        passed = now - (now if self._since is None else self._since)
        accepted = self._served - self._served_before
        measured = 0.0
        if passed >= 1.0 and accepted >= _FEW:  # else together with what follows
            measured = accepted / passed
            if not self._saturated or self._behind < _LIMITED:
                self._rates.clear()
            elif self._pace is None:
                self._rates.append(measured)
            self._measure(now)
        if self._pace is not None:
            self._pace.resume(now, pause, measured)
        elif len(self._rates) >= self._needed:
            base, pause = _SAFETY * _median(self._rates), max(1.0, pause)
            self._pace = _Pace(base, pause, now + pause, base)
            self._next = now + 1.0 / base
            self._rates.clear()

    def _measure(self, now: float) -> None:
        self._since, self._served_before, self._saturated = now, self._served, True


_FAILURES: Final = 8
"""Failures in a row that make an outage."""
_REFUSED: Final = 0.25
"""The share of refusals without a `Retry-After` from which on they are no chance."""
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 30.0
"""Seconds between two probes of an outage."""
_LONGEST_AFTER_REFUSALS: Final = 2.0
"""... and after refusals: what a rate limit allows is measured by when it allows it again."""
_PROBES: Final = 3


@define(eq=False, repr=False)
class CircuitBreaker:
    """Pauses, and the probes after them.

    A pause that the server asks for (`Retry-After`) holds everybody back. Where it does not say
    how long, failures in a row (an outage), or refusals that are many, open the breaker: then
    background calls wait for probes, sent one by one after pauses that double. After a pause that
    nothing was accepted before, or of an outage, it is half open: `_PROBES` requests in flight at
    most until one succeeds.

    Args:
        retry_after_max: seconds; who asks for a longer pause is asked again after this long.

    """

    retry_after_max: float = 900.0
    paused_until: float = field(init=False, default=-math.inf)
    """Until when the server asked to be left alone, but `retry_after_max` from then at most."""
    announced_until: float = field(init=False, default=-math.inf)
    """Until when the server asked to be left alone."""
    overloaded: bool = field(init=False, default=False)
    """Whether the pause is for an outage, not for refusals."""
    half_open: bool = field(init=False, default=False)
    _hold_until: float = field(init=False, default=-math.inf)
    _opened_at: float = field(init=False, default=-math.inf)
    _pause: float = field(init=False, default=_FIRST_PAUSE)
    _probes: int = field(init=False, default=0)
    _failures: int = field(init=False, default=0)
    _refusals: _Share = field(init=False, factory=lambda: _Share(64))
    _served: int = field(init=False, default=0)
    _succeeded: bool = field(init=False, default=True)
    """Whether anything was served since the last pause."""

    def delay(self, now: float, *, background: bool) -> float:
        """Seconds until a request may be sent; inf: when a probe has ended."""
        if now < self.paused_until:
            return self.paused_until - now
        if not self.half_open:
            return 0.0
        if background and now < self._hold_until:
            return self._hold_until - now
        return math.inf if self._probes >= _PROBES else 0.0

    def sent(self, now: float) -> bool:
        """A request was let through; whether it is a probe."""
        if self.half_open:
            self._probes += 1
            self._hold_until = now + self._pause
        return self.half_open

    def probe_ended(self) -> None:
        """A probe is over, whatever became of it."""
        self._probes = max(0, self._probes - 1)

    def succeeded(self, sent: float) -> bool:
        """A request was served; whether that ended an outage."""
        self._failures = 0
        self._served += 1
        if self._succeeded or sent < self._opened_at:
            return False
        ended = self.half_open and self.overloaded
        self.half_open = self.overloaded = False
        self.announced_until = -math.inf
        self._probes = 0
        self._pause = _FIRST_PAUSE
        self._succeeded = True
        return ended

    def refused(self, now: float, sent: float, retry_after: float | None) -> bool:
        """A request was refused (429); whether everybody pauses for it."""
        share = self._refusals.add(self._served)
        if retry_after is not None:
            self._ask(now, sent, retry_after, probe=not self._succeeded)
        elif sent >= self._opened_at and (self.half_open or share > _REFUSED):
            self._open(now)
        else:
            return False
        return True

    def failed(self, now: float, sent: float, retry_after: float | None) -> None:
        """A request met an overload or no server."""
        self._failures += 1
        if retry_after is not None:
            self.overloaded = True
            self._ask(now, sent, retry_after, probe=True)
        elif sent >= self._opened_at and (
            # What was never there is no outage to wait for.
            self.half_open or (self._served and self._failures >= _FAILURES)
        ):
            self.overloaded = True
            self._open(now)

    def _ask(self, now: float, sent: float, seconds: float, *, probe: bool) -> None:
        """The server asked for a pause. All refusals of one burst are one."""
        self.announced_until = max(self.announced_until, now + seconds)
        probe = probe or seconds > self.retry_after_max
        self.paused_until = max(self.paused_until, now + min(seconds, self.retry_after_max))
        self._succeeded = False
        if sent >= self._opened_at:
            self._opened_at = now
            self.half_open = self.half_open or probe

    def _open(self, now: float) -> None:
        self._opened_at = now
        self._succeeded = False
        self._hold_until = now + self._pause
        if self.half_open:
            longest = _LONGEST_PAUSE if self.overloaded else _LONGEST_AFTER_REFUSALS
            self._pause = min(2 * self._pause, longest)
        self.half_open = True
        self._refusals.value = 0.0


_RESERVE: Final = 30
"""One place of so many is left to people, where a sweep may have spent a long window at once."""
_APART: Final = 1.03
"""Beside people, background requests are so many times as far apart as the budget allows."""


def background_after(limit: RateLimit, at: float, now: float, *, background: bool) -> float:
    """When the background may go next, if that was `at` and a request goes `now`.

    While there are no people it may spend a window at once: `at` is -inf, and stays so. From the
    first of them on it spreads, so that a place is free again at any moment.
    """
    if background and at == -math.inf:
        return at
    return max(at, now - catch_up(limit)) + spacing(limit, background=background)


def spacing(limit: RateLimit, *, background: bool) -> float:
    """Seconds between requests that spread over the budget's window."""
    return limit.per / limit.requests * (_APART if background else 1.0)


def catch_up(limit: RateLimit) -> float:
    """Seconds by which the background may be late and make up for it."""
    return min(0.1, limit.per / 20)


def room(limit: RateLimit, *, background: bool) -> int:
    """How many places a lane may use. After a second all of them are free again anyway."""
    return limit.requests - (limit.requests // _RESERVE if background and limit.per > 1 else 0)


@define(eq=False, repr=False)
class Window:
    """A sliding window over requests as the server sees them.

    A request reaches the server somewhere between being sent and being answered. So its place is
    taken when it is sent, and free again `per` seconds after its *answer*: then no window of the
    server's holds more than `requests`, however unevenly the network delays them.
    """

    limit: RateLimit
    _in_flight: int = field(init=False, default=0)
    _free_at: deque[float] = field(init=False, factory=deque)
    _background_at: float = field(init=False, default=-math.inf)

    def delay(self, now: float, *, background: bool) -> float:
        """Seconds until a place may be free: 0 if one is, inf if none is known to become so."""
        free_at = self._free_at
        while free_at and free_at[0] <= now:
            free_at.popleft()
        wait = max(0.0, self._background_at - now) if background else 0.0
        over = self._in_flight + len(free_at) - room(self.limit, background=background)
        if over < 0:
            return wait
        return max(wait, free_at[over] - now) if over < len(free_at) else math.inf

    def acquire(self, now: float, *, background: bool) -> str:
        """Take a place, which `delay` has found free."""
        self._in_flight += 1
        self._background_at = background_after(
            self.limit, self._background_at, now, background=background
        )
        return ""

    def release(self, now: float, ticket: str) -> None:  # noqa: ARG002 - as `SharedBudget`
        """A request that took a place was answered, or failed."""
        self._in_flight -= 1
        self._free_at.append(now + self.limit.per)

    def used(self, now: float) -> int:
        """Places taken; may be called from another thread."""
        return self._in_flight + sum(at > now for at in self._free_at.copy())
