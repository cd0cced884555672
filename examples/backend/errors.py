"""API errors as HTTP responses of the backend."""

import math

from capillary_targets import (
    CapillaryError,
    InvalidUser,
    RateLimited,
    RequestTimeout,
    ServiceUnavailable,
    UsageError,
)

_STATUS = {
    UsageError: 422,  # the visitor's argument is invalid
    InvalidUser: 404,
    RateLimited: 503,  # our rate budget is used up, not the visitor's: so not 429
    ServiceUnavailable: 503,
    RequestTimeout: 504,
}


def status_of(error: Exception) -> tuple[int, dict[str, str]]:
    """The HTTP status and headers. All other errors, rejected credentials too, are 502."""
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 502)
    seconds = getattr(error, "retry_after", None)
    return status, {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}


def described(error: Exception) -> dict[str, object]:
    """The error without internals, safe to show. Log `str(error)` for the URL and status."""
    message = error.message if isinstance(error, CapillaryError) else "internal error"
    return {
        "error": type(error).__name__,
        "message": message,
        "retryable": getattr(error, "retryable", False),
        "request_id": getattr(error, "request_id", None),
    }
