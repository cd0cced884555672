"""API errors as HTTP responses of the backend: problem details (RFC 9457)."""

import math
from dataclasses import dataclass
from typing import Final

from capillary_targets import (
    AccountIdMissing,
    ApiError,
    AuthError,
    AuthorizationUnavailable,
    BadResponse,
    BudgetUnavailable,
    CapillaryError,
    ClientClosed,
    ConnectionFailed,
    CustomerNotFound,
    CustomerNotInSource,
    EndpointGone,
    InvalidEnrollmentType,
    InvalidIdentifier,
    InvalidSourceAccount,
    InvalidUser,
    NoRecordFound,
    PaginationError,
    RateLimited,
    RequestTimeout,
    ServerBusy,
    ServiceUnavailable,
    TargetGroupNotFound,
    TargetPeriodNotFound,
    TargetRuleNotFound,
    UnknownPeriod,
    UsageError,
)

_NO_MEMBER: Final = "There is no such member."
_NO_PERIOD: Final = "There is no such period."
_BUSY: Final = "The loyalty service is busy. Please try again later."
_DOWN: Final = "The loyalty service cannot be reached. Please try again later."
_OURS: Final = "Something is wrong on our side. We have to look into it."

PROBLEMS: Final[dict[type[CapillaryError], tuple[int, str]]] = {
    # What the visitor asked for cannot be asked, or is not there.
    UsageError: (422, "What was asked for is not valid."),
    InvalidEnrollmentType: (422, "There is no such type of enrolment."),
    InvalidIdentifier: (422, "This identifier is not valid."),
    InvalidSourceAccount: (422, "This source has no such account."),
    AccountIdMissing: (422, "This source has several accounts: say which one."),
    InvalidUser: (404, _NO_MEMBER),
    CustomerNotFound: (404, _NO_MEMBER),
    CustomerNotInSource: (404, _NO_MEMBER),
    TargetRuleNotFound: (404, "There is no such target."),
    TargetGroupNotFound: (404, "There is no such group of targets."),
    TargetPeriodNotFound: (404, _NO_PERIOD),
    UnknownPeriod: (404, _NO_PERIOD),
    NoRecordFound: (404, "This member has done nothing for this target yet."),
    # It passes. Not 429: the rate budget that is used up is the backend's, not the visitor's.
    RateLimited: (503, _BUSY),
    ServerBusy: (503, _BUSY),
    AuthorizationUnavailable: (503, _BUSY),
    ServiceUnavailable: (503, _DOWN),
    BudgetUnavailable: (503, _OURS),
    ClientClosed: (503, "We are restarting. Please try again."),
    ConnectionFailed: (502, _DOWN),
    RequestTimeout: (504, "The loyalty service takes too long. Please try again later."),
    # The backend's: rejected credentials, an answer that cannot be used.
    AuthError: (502, _OURS),
    EndpointGone: (502, _OURS),
    BadResponse: (502, _OURS),
    PaginationError: (502, _OURS),
    ApiError: (502, _OURS),
    CapillaryError: (502, _OURS),
}


@dataclass(frozen=True)
class Problem:
    """The body: `title` is for people, the rest for programs and for support. No secrets."""

    title: str
    status: int
    detail: str
    error: str
    retryable: bool
    request_id: str | None


def problem(error: CapillaryError) -> tuple[Problem, int, dict[str, str]]:
    """Body, status and headers of the response. Log `str(error)`, which has the URL, too."""
    status, title = next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)
    headers = {"Content-Type": "application/problem+json"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    name, retryable = type(error).__name__, error.retryable
    body = Problem(title, status, error.message, name, retryable, error.request_id)
    return body, status, headers
