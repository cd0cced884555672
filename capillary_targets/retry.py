"""When to try again, and after how long: sums without a clock."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from attrs import field, frozen, validators

__all__ = ["RetryPolicy", "parse_retry_after"]


@frozen
class RetryPolicy:
    """How often a request is tried, and the waits between, in seconds.

    Exponential backoff with full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog,
    2015): a wait is drawn evenly from nothing to `wait_initial` x 2^n, at most `wait_max`. A
    server's `Retry-After` is a floor under it and never trimmed.
    """

    attempts: int = field(default=5, validator=validators.ge(1))
    wait_initial: float = field(default=0.25, validator=validators.gt(0))
    wait_max: float = field(default=20.0, validator=validators.gt(0))

    def wait(self, attempt: int, chance: float, retry_after: float | None = None) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1).

        `chance` is a random number in [0, 1).
        """
        # The exponent is bounded so that a policy of thousands of attempts cannot overflow.
        ceiling = min(self.wait_max, self.wait_initial * 2.0 ** min(attempt - 1, 60))
        return max(chance * ceiling, retry_after or 0.0)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """`Retry-After` (RFC 9110, 10.2.3), seconds or an HTTP date, as seconds from `now`.

    None where it is absent or unreadable; never negative.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
