"""When to try again, and after how long: sums without a clock."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final

import msgspec
from attrs import Attribute, Converter, define, field, frozen
from msgspec import Meta

from .errors import UsageError

__all__ = [
    "NUMBER",
    "WHOLE_NUMBER",
    "RetryPolicy",
    "RetryQuota",
    "checked",
    "count",
    "parse_retry_after",
    "reader",
    "waiting_disabled",
    "whole_number",
]

waiting_disabled: ContextVar[bool] = ContextVar("capillary_targets_waiting_disabled", default=False)
"""Whether limits, pauses and back-off are skipped: in tests, see `testing.no_waiting`."""

_RETRY_COST: Final = 5
_TIMEOUT_COST: Final = 10
_SUCCESS_REFUND: Final = 1


def reader(kind: Any, must: str) -> Callable[[str, object], Any]:
    """What reads a setting, by its name, as a type of msgspec's: also from text, as "8".

    It raises `UsageError`, which says what the setting must be.
    """

    def read(name: str, given: object) -> Any:
        try:
            plain = given.strip() if isinstance(given, str) else given
            return msgspec.convert(plain, kind, strict=False)
        except msgspec.ValidationError:
            raise UsageError(f"{name} must be {must}, not {given!r}") from None

    return read


whole_number: Final = reader(Annotated[int, Meta(ge=1)], "a whole number of at least 1")
count: Final = reader(Annotated[int, Meta(ge=0)], "a whole number of at least 0")
WHOLE_NUMBER: Final = {"read": whole_number}
COUNT: Final = {"read": count}
NUMBER: Final = {
    "read": reader(Annotated[float, Meta(gt=0, le=sys.float_info.max)], "a positive number")
}
NUMBER_OR_INFINITE: Final = {"read": reader(Annotated[float, Meta(gt=0)], "a positive number")}
"""Metadata of fields, for `checked`: how a setting is read."""


def checked(_: type, fields: list[Attribute[Any]]) -> list[Attribute[Any]]:
    """An attrs field transformer: converts fields as their metadata say; None may be a default."""

    def convert(given: object, field: Attribute[Any]) -> Any:
        if given is None and field.default is None:
            return field.metadata.get("none")
        return field.metadata["read"](field.name, given)

    converter: Any = Converter(convert, takes_field=True)
    return [one.evolve(converter=converter) if "read" in one.metadata else one for one in fields]


@frozen(field_transformer=checked)
class RetryPolicy:
    """How often a request is tried, and the waits between, in seconds.

    Exponential backoff with full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog,
    2015): a wait is drawn evenly from nothing to `wait_initial` x 2^n, at most `wait_max`. A
    server's `Retry-After` is a floor under it and never trimmed; above `retry_after_max` seconds
    the call fails instead of waiting, in a sweep too.

    `attempt_timeout` cuts one attempt off, so that a stalled connection leaves time for another;
    None is half of the call's deadline. `quota` is the size of the client's retry quota.
    """

    attempts: int = field(default=5, metadata=WHOLE_NUMBER)
    wait_initial: float = field(default=0.25, metadata=NUMBER)
    wait_max: float = field(default=20.0, metadata=NUMBER_OR_INFINITE)
    attempt_timeout: float | None = field(default=None, metadata=NUMBER)
    quota: int = field(default=500, metadata=COUNT)
    retry_after_max: float = field(default=900.0, metadata=NUMBER_OR_INFINITE)

    def backoff(self, attempt: int, jitter: float, retry_after: float | None = None) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1).

        `jitter` is a random number in [0, 1).
        """
        # The exponent is bounded so that a policy of thousands of attempts cannot overflow.
        ceiling = min(self.wait_max, self.wait_initial * 2.0 ** min(attempt - 1, 60))
        return max(jitter * ceiling, retry_after or 0.0)


@define(eq=False, repr=False)
class RetryQuota:
    """A token bucket that all calls of a client share, so that an outage is not multiplied.

    After botocore's standard mode: a retry costs 5 tokens, after a time-out 10; a first attempt
    that succeeds gives 1 back, a successful retry what it had cost. While nothing succeeds the
    bucket drains and calls are sent once each.
    """

    capacity: int
    tokens: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.tokens = self.capacity

    def acquire(self, *, timed_out: bool) -> int | None:
        """The tokens that a retry took, or None if there are too few for one."""
        cost = _TIMEOUT_COST if timed_out else _RETRY_COST
        if cost > self.tokens:
            return None
        self.tokens -= cost
        return cost

    def release(self, taken: int) -> None:
        """A call succeeded whose last retry had taken `taken` tokens (0: it needed none)."""
        self.tokens = min(self.capacity, self.tokens + (taken or _SUCCESS_REFUND))


def parse_retry_after(value: str | None, date: str | None = None) -> float | None:
    """`Retry-After` (RFC 9110, 10.2.3) as seconds from now; None where ordinary back-off is due.

    Seconds, with a fraction or not, and of several the most; an HTTP date; and what servers send
    besides: a Unix time, in seconds or milliseconds, and an ISO 8601 time. None for what is absent,
    unreadable, zero, negative, or a moment gone by.

    Args:
        value: the header, or None.
        date: the answer's own `Date` header. Moments are counted from it, so that a clock of ours
            that is wrong does no harm.

    """
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        seconds = max(map(float, value.strip(" \t,").split(",")))
        if seconds < _UNIX_TIME:
            return seconds or None
        moment = seconds / 1000 if seconds >= 1000 * _UNIX_TIME else seconds
        if moment > 1000 * _UNIX_TIME:
            return _LONGEST  # no moment that a clock knows
    else:
        parsed = _timestamp(value)
        if parsed is None:
            return None
        moment = parsed
    now = None if date is None else _timestamp(date)
    wait = moment - (time.time() if now is None else now)
    return min(wait, _LONGEST) if wait > 0 else None


_SECONDS: Final = re.compile(r"(\s*(\d+(\.\d*)?|\.\d+)\s*(,|$))+", re.ASCII)
_UNIX_TIME: Final = 1e9
"""From here on a number of seconds is a moment, since 2001: 31 years are no pause."""
_LONGEST: Final = 10 * 365 * 86400.0


def _timestamp(text: str) -> float | None:
    """The Unix time of an HTTP date or an ISO 8601 time; None if it is none."""
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            when = read(text.strip())
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, TypeError):
            continue
    return None
