"""Exceptions: everything that a caller of this package can see, under one base class.

CapillaryError
├─ UsageError · ClientClosed        wrong argument or setting; the client is not open
├─ ApiError                         the service refused: one class for each documented code
│  ├─ InvalidUser · InvalidEnrollmentType · TargetRuleNotFound · TargetPeriodNotFound ·
│  │  NoRecordFound · TargetGroupNotFound · CustomerNotFound · ...
│  └─ ServerBusy · AuthorizationUnavailable
├─ UnknownPeriod                    no period of that name
├─ AuthError                        401, 403, 498, 320001, 4000
├─ EndpointGone                     404 and 410 without the API's envelope
├─ RateLimited                      429, or the budget is used up
├─ ServiceUnavailable · RequestTimeout · ConnectionFailed
├─ BudgetUnavailable                the shared budget's store failed
├─ BadResponse                      not the documented shape
└─ PaginationError                  the pages do not add up

Codes: API pages "Get active targets", "Get target events", "Get Customer ID", "Authorisation", and
the global status table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:  # the two types that errors carry from a floor above
    from .pagination.types import Checkpoint, PagingReport


ErrorScope: TypeAlias = Literal["request", "server", "credentials", "client"]

_LONGEST_WAIT: Final = 10 * 365 * 86400  # ten years: a datetime holds no more than year 9999
_CREDENTIALS: Final = re.compile(
    r"(?P<before>\b(?:Basic|Bearer)\s+)(?=\S*[\d=])[\w+/=.~-]{8,}|(?P<user>://)[^\s/@]+(?=@)",
    re.IGNORECASE,
)


def _escape(text: str) -> str:
    """Control characters escaped, so that a server cannot forge or garble a line of the log."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def _redacted(text: str, secrets: Iterable[str]) -> str:
    """`text` without secrets.

    A long secret is replaced wherever it occurs; a short one only as a whole word, and a very
    short one only as a value (`password=ab`): blanks in every word would give it away.
    """
    for secret in secrets:
        before, after = "", ""
        if len(secret) < 8:
            before, after = r"(?<!\w)" if len(secret) > 3 else r"(?<=[=:\"'])\s*", r"(?!\w)"
        text = re.sub(f"{before}{re.escape(secret)}{after}", "[secret]", text)
    return _CREDENTIALS.sub(lambda found: f"{found['before'] or found['user']}[secret]", text)


class CapillaryError(Exception):
    """Base of all. No attribute holds a secret.

    `retryable` and `scope` say what to do: `"request"` errors concern this request alone,
    `"server"` errors everything asked of the service now, `"credentials"` everything until the
    credentials are right, `"client"` this process or its configuration. `retry_after` is the number
    of seconds to wait that the server asked for, or None, and `code` the error code in its answer.
    The transport fills in `method`, `url`, `status`, `request_id` and `attempts`, the pager the
    `checkpoint` to go on from.
    """

    retryable: bool = False
    scope: ErrorScope = "request"
    code: int | None = None
    status: int | None = None
    request_id: str | None = None
    method: str | None = None
    url: str | None = None
    attempts: int = 0
    checkpoint: Checkpoint | None = None
    retry_after: float | None = None

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(message)
        self.message: str = message
        for name in context:
            if not hasattr(self, name):
                raise TypeError(f"{type(self).__name__} has no {name}")
        vars(self).update(context)

    def __str__(self) -> str:
        return f"{self.message}{self._where()}"

    def redact(self, secrets: Iterable[str]) -> None:
        """Take secrets and control characters out of everything the server said."""
        self.message = _escape(_redacted(self.message, secrets))
        self.args: tuple[Any, ...] = (self.message,)
        if self.request_id is not None:
            self.request_id = _escape(self.request_id)

    def _where(self) -> str:
        facts = []
        if self.url is not None:
            facts.append(f"{self.method or 'GET'} {self.url}")
        if self.status is not None:
            facts.append(f"HTTP {self.status}")
        if self.request_id is not None:
            facts.append(f"request id {self.request_id}")
        if self.attempts > 1:
            facts.append(f"{self.attempts} attempts")
        return f" ({', '.join(facts)})" if facts else ""


class Transient(CapillaryError):
    """Base of errors of the server that another attempt may not meet."""

    retryable = True
    scope: ErrorScope = "server"


class UsageError(CapillaryError, ValueError):
    """The caller's argument or setting cannot be used: nothing went over the network."""


class ClientClosed(CapillaryError, RuntimeError):
    """The client or session is not open: not yet entered, or already closed."""

    scope: ErrorScope = "client"


_BY_CODE: Final[dict[int, type[ApiError]]] = {}
"""The class of each documented code; each class names its own."""


class ApiError(CapillaryError):
    """The service refused and said why: `code` (int) and `message` as it sent them."""

    def __init_subclass__(cls, *, codes: tuple[int, ...] = ()) -> None:
        super().__init_subclass__()
        _BY_CODE.update(dict.fromkeys(codes, cls))

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]{self._where()}"

    @property
    def is_answer(self) -> bool:
        """Whether the code alone says that the request is refused, whatever the HTTP status."""
        code = self.code
        return type(self) is not ApiError or code == 300004 or (code or 0) // 1000 == 310


class InvalidUser(ApiError, codes=(310011,)):
    """310011: no member has this user id."""


class InvalidEnrollmentType(ApiError, codes=(310130,)):
    """310130: not one of TRANSACTION, IMPORT, AUDIENCE_FILTER."""


class TargetRuleNotFound(ApiError, codes=(310018,)):
    """310018: no target rule has this id."""


class TargetPeriodNotFound(ApiError, codes=(310019,)):
    """310019: no target period has this id."""


class NoRecordFound(ApiError, codes=(310149,)):
    """310149: no record of this user in this target, so no events. An iterator yields nothing."""


class TargetGroupNotFound(ApiError, codes=(310017,)):
    """310017: no target group has this id, or it was deactivated."""


class CustomerNotFound(ApiError, codes=(8015,)):
    """8015: no customer has this identifier."""


class CustomerNotInSource(CustomerNotFound, codes=(8065,)):
    """8065: no customer of that source has this identifier."""


class AccountIdMissing(ApiError, codes=(8045,)):
    """8045: this source has several accounts, so it needs the account's id."""


class InvalidIdentifier(ApiError, codes=(8013,)):
    """8013: not a valid identifier, by its name or by its value."""


class InvalidSourceAccount(ApiError, codes=(8011,)):
    """8011: this source has no account of that id."""


class UnknownPeriod(CapillaryError):
    """No period goes by the name asked for, or none is current. `known` lists the refCodes."""

    known: tuple[str, ...] = ()


class ServerBusy(Transient, ApiError, codes=(461, 521)):
    """461 or 521: "search engine is busy", "multiple actions are running for the same customer"."""


class AuthorizationUnavailable(Transient, ApiError, codes=(4001,)):
    """4001: the authorisation status is unavailable for now."""


class AuthError(CapillaryError):
    """Not let in: 401, 403, 498, 320001 (bad key or secret), 4000 (access denied).

    `retryable` only where a token was rejected although tokens of the same client have worked.
    """

    scope: ErrorScope = "credentials"

    @property
    def token_rejected(self) -> bool:
        """Whether a new token may help: 401 or 498, as HTTP status or inside a body."""
        return self._reason in {401, 498}

    @property
    def _reason(self) -> int | None:
        return self.status if self.code is None else self.code

    def _where(self) -> str:
        return f"{_TO_CHECK.get(self._reason, '')}{super()._where()}"


class EndpointGone(CapillaryError):
    """404 or 410 without the API's envelope: a wrong host, or the endpoint is no longer served."""

    scope: ErrorScope = "server"


class RateLimited(Transient):
    """The budget is used up and waiting would pass the deadline, or every attempt was refused.

    `retry_after` is the number of seconds to wait as the server, or our own budget, gave it, or
    None if neither gave one; `retry_at` the same as an aware UTC time.
    """

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(message, **context)
        self._raised_at = datetime.now(UTC)

    @property
    def retry_at(self) -> datetime | None:
        """When to try again, aware, in UTC."""
        if self.retry_after is None:
            return None
        return self._raised_at + timedelta(seconds=min(self.retry_after, _LONGEST_WAIT))

    def _where(self) -> str:
        when = f"; try again at {self.retry_at:%Y-%m-%d %H:%M:%SZ}" if self.retry_at else ""
        return f"{when}{super()._where()}"


class ServiceUnavailable(Transient):
    """The server, or a gateway before it, failed: 408, 425, 5xx."""


class RequestTimeout(Transient, TimeoutError):
    """The deadline passed before a whole answer had come."""


class ConnectionFailed(Transient, ConnectionError):
    """No connection, or it broke before a whole answer had come."""


class BudgetUnavailable(CapillaryError):
    """The store of a shared rate budget (SQLite, Redis, the caller's own) failed.

    `retryable` is true where another try may find it well: a lost connection, a locked file.
    """

    scope: ErrorScope = "client"


class BadResponse(CapillaryError):
    """Not the documented shape.

    `where` is the place in the body (`data[3].targetValue`) or None where no JSON came at all;
    `excerpt` the first characters of what stood there. `retryable` where another answer may fit.
    """

    where: str | None = None
    excerpt: str = ""

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(message, **context)
        if self.retryable:
            self.scope: ErrorScope = "server"

    def redact(self, secrets: Iterable[str]) -> None:
        """Take secrets and control characters out of everything the server said."""
        secrets = tuple(secrets)
        super().redact(secrets)
        self.excerpt = _escape(_redacted(self.excerpt, secrets))


class PaginationError(CapillaryError):
    """The pages do not add up: events are missing, or nothing proves that none is.

    `report` is the `PagingReport` of the walk so far; its `reason` names what is wrong.
    """

    report: PagingReport | None = None


_NO_ACCESS: Final = ": the access group of these credentials has to allow this call"
_TO_CHECK: Final[Mapping[int | None, str]] = {
    **dict.fromkeys((401, 498), ": check user name, password (or MD5) and cluster"),
    320001: ": check client key, client secret and cluster",
    403: _NO_ACCESS,
    4000: _NO_ACCESS,
}


def api_error(code: int | None, message: str, *, status: int | None = None) -> CapillaryError:
    """The exception for an error code found inside a body, whatever HTTP status carried it."""
    if code in _TO_CHECK and code is not None:
        return AuthError(message, code=code, status=status)
    if code == 429:
        return RateLimited(message, status=status)
    kind = ApiError if code is None else _BY_CODE.get(code, ApiError)
    return kind(message, code=code, status=status)
