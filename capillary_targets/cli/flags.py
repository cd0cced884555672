"""Flags whose text is more than a number or a name."""

from __future__ import annotations

import re

from capillary_targets.errors import UsageError
from capillary_targets.limits import AdaptiveConcurrency, RateLimit

__all__ = ["concurrency_of", "rate_of"]


def concurrency_of(text: str) -> int | AdaptiveConcurrency:
    """`auto`, or a number of requests. Raises `UsageError`."""
    if text == "auto":
        return AdaptiveConcurrency()
    if not text.isdecimal():
        raise UsageError(f"--concurrency must be a number or auto, not {text!r}")
    return int(text)


def rate_of(text: str, flag: str = "--rate") -> RateLimit:
    """`1000/60`: requests and seconds. Raises `UsageError`, naming the flag."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})/([0-9]{1,8}(?:\.[0-9]{1,6})?)", text)
    if not found or not float(found[2]):
        raise UsageError(f"{flag} must be REQUESTS/SECONDS, such as 1000/60, not {text!r}")
    return RateLimit(int(found[1]), per=float(found[2]))
