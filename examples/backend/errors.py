"""What the visitor of a backend is told when the API behind it says no."""

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
    UsageError: 422,  # the visitor's argument cannot even be sent
    InvalidUser: 404,
    RateLimited: 503,  # our budget is used up, not the visitor's: "come back later", not 429
    ServiceUnavailable: 503,
    RequestTimeout: 504,
}


def status_of(error: Exception) -> tuple[int, dict[str, str]]:
    """The HTTP status and headers. The rest, rejected credentials included, is our fault: 502."""
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 502)
    seconds = getattr(error, "retry_after", None)
    return status, {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}


def described(error: Exception) -> dict[str, object]:
    """What may be shown to anybody. The log gets the rest: `str(error)` has address and status."""
    message = error.message if isinstance(error, CapillaryError) else "internal error"
    return {
        "error": type(error).__name__,
        "message": message,
        "retryable": getattr(error, "retryable", False),
        "request_id": getattr(error, "request_id", None),
    }
