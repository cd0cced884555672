"""Bytes to models, and error codes to exceptions. No I/O.

The API's statuses cannot be trusted (an error may come as HTTP 200, 400 or 500, and a gateway may
answer HTML), so every reader decides by the body first and by the status second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec
from attrs import evolve
from yarl import URL

from .auth import Token
from .errors import (
    ApiError,
    AuthError,
    BadResponse,
    CapillaryError,
    ConnectionFailed,
    EndpointGone,
    RateLimited,
    ServerBusy,
    ServiceUnavailable,
    api_error,
)
from .frames import TargetList
from .models import ApiWarning, EventsPage, Pagination, Target, TargetEvent
from .retry import parse_retry_after
from .structuring import STRUCTURE_ERRORS, Structurer, raw_rows

__all__ = [
    "Answer",
    "NullData",
    "data_of",
    "read_events",
    "read_targets",
    "read_token",
    "success",
    "warnings_of",
]

_JSON: Final = msgspec.json.Decoder(float_hook=Decimal)
_EXCERPT: Final = 200
_BUSY: Final = frozenset({408, 425, 500, 502, 503, 504, *range(520, 531)})
_TEXT_ERROR: Final = re.compile(r"errorMessage=(?P<message>.*?)\s+errorCode=(?P<code>\d{1,9})")
_CHARSET: Final = re.compile(r"charset\s*=\s*\"?([\w.:+-]+)", re.IGNORECASE)
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    r"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


class Answer(msgspec.Struct, eq=False):
    """A whole response: status, body after decompression, and headers."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    notes: list[str] = []
    """What had to be replaced to read it."""

    def __repr__(self) -> str:
        """Without the body, which may hold a token."""
        return object.__repr__(self)

    @property
    def request_id(self) -> str | None:
        """The server's id of the request; it spells the header with one hyphen more or less."""
        return self.headers.get("X-Cap-Requestid") or self.headers.get("X-CAP-REQUEST-ID")

    @property
    def retry_after(self) -> float | None:
        """Seconds for which the server asks to be left alone."""
        value = self.headers.get("Retry-After")
        return parse_retry_after(value, self.headers.get("Date"))


class NullData(BadResponse):
    """`data: null` and no error beside it: now and then in place of rows that exist."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(
            "the server answered `data: null` without an error",
            where="data",
            status=answer.status,
            retryable=True,
        )

    def as_warning(self) -> ApiWarning:
        """The note for a caller who reads it as "nothing" after the last attempt."""
        return ApiWarning(None, f"{self.message}, {self.attempts} times; read as no rows")


def read_targets(answer: Answer, structurer: Structurer) -> TargetList:
    """The answer of "Get active targets". Raises `NullData` for a null without an error."""
    if 200 <= answer.status < 300:
        targets = structurer.targets(answer.body)
        if targets is not None:
            return TargetList(targets)
    document = success(answer)
    found = structurer.structure(
        data_of(document, answer), tuple[Target, ...], "data", answer.notes
    )
    rows = raw_rows(answer.body)
    if len(rows) == len(found):
        found = tuple(evolve(target, raw=row) for target, row in zip(found, rows, strict=True))
    return TargetList(found, warnings_of(document.get("warnings"), answer.notes))


def read_events(
    answer: Answer,
    structurer: Structurer,
    user_id: int | None = None,
    target_rule_id: int | None = None,
    period_id: int | None = None,
) -> EventsPage:
    """The answer of "Get target events": one page.

    Args:
        answer: the response.
        structurer: of the cluster's zone.
        user_id: the user asked for; rows of another customer are noted in `warnings`.
        target_rule_id: the target asked for.
        period_id: the period asked for; rows of another period are noted in `warnings`.

    Raises:
        NoRecordFound: 310149.
        NullData: null where rows should be.
        BadResponse: not the documented shape, or all rows are of another target.
        CapillaryError: any other error that the answer reports.

    """
    page = structurer.events(answer.body) if 200 <= answer.status < 300 else None
    if page is not None and page.data is not None:
        events, pagination = page.data, page.pagination or Pagination()
        warnings = warnings_of(page.warnings) if page.warnings else ()
    else:
        document, notes = success(answer), answer.notes
        place = document.get("pagination") or {}
        pagination = structurer.structure(place, Pagination, "pagination", notes)
        total, before = pagination.total, (pagination.offset or 0) * (pagination.limit or 1)
        # Null where the numbers beside it say that there are no rows is an empty page.
        is_past_end = "data" in document and total is not None and total <= before
        data = [] if document.get("data") is None and is_past_end else data_of(document, answer)
        events = structurer.structure(data, tuple[TargetEvent, ...], "data", notes)
        warnings = warnings_of(document.get("warnings"), notes)
    if events and user_id is not None:
        _check_target(events, target_rule_id)
        customers = [e.customer_id for e in events if e.customer_id != user_id]
        warnings += _others("customerId", user_id, customers)
        if period_id is not None:
            warnings += _others("periodId", period_id, [e.period_id for e in events])
    return EventsPage(events, pagination, warnings, answer.request_id, answer.body)


def _check_target(events: tuple[TargetEvent, ...], target_rule_id: int | None) -> None:
    """Raise `BadResponse` for the answer to another call."""
    if events[0].target_rule_id == target_rule_id:
        return
    rules = {event.target_rule_id for event in events}
    if rules.isdisjoint({target_rule_id, None}):
        raise BadResponse(
            f"an answer to another call: rows of target rule {events[0].target_rule_id}, "
            f"not {target_rule_id}",
            where="data[0].targetRuleId",
            retryable=True,
        )


def _others(name: str, asked: int, found: Iterable[int | None]) -> tuple[ApiWarning, ...]:
    """A note of rows with another id than the one asked for: there may be a reason for them."""
    others = {one for one in found if one is not None and one != asked}
    if not others:
        return ()
    named = ", ".join(map(str, sorted(others)[:3]))
    return (ApiWarning(None, f"rows with another {name} than {asked}: {named}"),)


def read_token(answer: Answer, structurer: Structurer) -> Token:
    """The answer of the token endpoint. Raises `AuthError` for 320001."""
    try:
        token = structurer.structure(data_of(success(answer), answer), Token, "data")
    except BadResponse as error:
        error.excerpt = ""  # it may hold the token
        raise
    text = token.access_token
    if not text.isascii() or not text.isprintable() or not text.strip():
        raise BadResponse("the token given cannot be sent", where="data.accessToken")
    if token.ttl_seconds <= 0:
        raise BadResponse("the token given has no time to live", where="data.ttlSeconds")
    return token


def data_of(document: Mapping[str, Any], answer: Answer) -> object:
    """What stands under `data`. Raises `NullData` for null, `BadResponse` if it is missing."""
    if "data" not in document:
        raise BadResponse(
            "not the documented shape at data: it is missing",
            where="data",
            excerpt=_excerpt(answer.body),
            status=answer.status,
        )
    if document["data"] is None:
        raise NullData(answer)
    return document["data"]


def warnings_of(value: object, notes: list[str] | tuple[()] = ()) -> tuple[ApiWarning, ...]:
    """Whatever stands under `warnings`, and notes of our own; never insisted on."""
    items = value if isinstance(value, list) else []
    return tuple(
        ApiWarning(_code(item.get("code")), _text(item.get("message")))
        if isinstance(item, dict)
        else ApiWarning(None, _text(item))
        for item in (*items, *notes)
    )


def success(answer: Answer) -> dict[str, Any]:
    """The envelope of an answer that reports no error. Raises the error otherwise."""
    document = _load(answer)
    if isinstance(document, dict):
        _raise_error_inside(document, answer)
    if not 200 <= answer.status < 300:
        raise _error_by_status(answer, document)
    if isinstance(document, dict):
        return document
    start = answer.body.lstrip()[:1]
    what = "something that is not the API's JSON" if start else "an empty body"
    if start == b"<":
        what = "an HTML page: check the base URL, and that no proxy answers in its place"
    raise BadResponse(
        f"the server answered {what}",
        excerpt=_excerpt(answer.body),
        status=answer.status,
        retryable=True,  # a cut or garbled body is most often a passing fault of a gateway
    )


def _load(answer: Answer) -> object:
    """The body as plain values, floats as Decimal; None where it is no JSON."""
    for body in (answer.body, _repaired(answer)):
        try:
            document = _JSON.decode(body)
        except STRUCTURE_ERRORS:
            continue
        if body is not answer.body:
            answer.body = body
            answer.notes.append("the answer was not plain UTF-8; what could not be read is U+FFFD")
        return document
    return None


def _repaired(answer: Answer) -> bytes:
    """The body as UTF-8: BOM and declared charset heeded, what is no character replaced."""
    body = answer.body
    declared = _CHARSET.search(answer.headers.get("Content-Type", ""))
    for charset in (declared and declared[1], json.detect_encoding(body), "utf-8"):
        try:
            text = body.decode(
                charset or "utf-8-sig", "replace" if charset == "utf-8" else "strict"
            )
        except (LookupError, ValueError):
            continue
        break
    text = text.removeprefix("\ufeff")
    return _ESCAPE.sub(lambda found: "\ufffd" if found["half"] else found[0], text).encode(
        "utf-8", "replace"
    )


def _raise_error_inside(document: dict[str, Any], answer: Answer) -> None:
    """Raise the first error that any of the API's envelopes reports, if one does."""
    errors = document.get("errors")
    for item in errors if isinstance(errors, list) else [errors]:
        stated = item if isinstance(item, dict) else {"message": item}
        code, message = _code(stated.get("code")), _text(stated.get("message"))
        # A success has been seen with {"code": 0, "message": ""}.
        if code or message or (code is None and item):
            raise _error(code or None, message, answer)
    response = document.get("response")
    # v1.1 keeps its status in the body; gateways do likewise, also under an HTTP status of success.
    reports = [response.get("status") if isinstance(response, dict) else None]
    reports.append(document.get("status"))
    if 200 <= answer.status < 300 and "data" not in document:
        reports += [document.get("error"), document]
    for report in reports:
        if isinstance(report, dict):
            codes = map(_code, map(report.get, ("code", "statusCode", "status")))
            code = next((one for one in codes if one is not None), 0)
            if code >= 300:
                raise _error(code, _text(report.get("message")), answer)


def _error(code: int | None, message: str | None, answer: Answer) -> CapillaryError:
    """The exception for an error in the body; an undocumented code is judged by the status."""
    text = message or "the service refused without saying why"
    status = answer.status
    error = api_error(code, text, status=status)
    if type(error) is ApiError and not error.is_answer:
        kind, _ = _BY_STATUS.get(status, (ApiError, ""))
        if kind in {RateLimited, AuthError}:
            error = kind(text, status=status)
        elif code in _BUSY:
            error = ServiceUnavailable(text, status=status)
        else:
            error.retryable = status in _BUSY
            error.scope = "server" if error.retryable else "request"
    if error.retryable:
        error.retry_after = answer.retry_after
    return error


_CHECK_BASE: Final = "check the base URL"
_GONE: Final = f"nothing is served here: {_CHECK_BASE} (without /v3), or the endpoint is gone"
_MOVED: Final = f"the server redirects, which is not followed: {_CHECK_BASE}"
_WANTS_TLS: Final = re.compile(rb"(?i)plain HTTP|HTTP request to an HTTPS server")
"""What nginx, Apache and Go answer to http on a port for https."""
_BY_STATUS: Final[Mapping[int, tuple[type[CapillaryError], str]]] = {
    **dict.fromkeys(_BUSY, (ServiceUnavailable, "the service failed")),
    **dict.fromkeys((401, 498), (AuthError, "credentials or token rejected")),
    403: (AuthError, "access denied, by the service or a gateway before it"),
    **dict.fromkeys((404, 410), (EndpointGone, _GONE)),
    407: (ConnectionFailed, "the proxy wants other credentials: check HTTPS_PROXY"),
    429: (RateLimited, "too many requests"),
    461: (ServerBusy, "the service is busy"),
    **dict.fromkeys(range(300, 400), (BadResponse, _MOVED)),
}


def _error_by_status(answer: Answer, document: object) -> CapillaryError:
    """The exception for an HTTP status, where the body said nothing in a known form."""
    status = answer.status
    found = _TEXT_ERROR.search(answer.body[:4096].decode("utf-8", "replace"))
    if found:
        return _error(int(found["code"]), found["message"], answer)
    kind, text = _BY_STATUS.get(status, (ApiError, f"the service refused with HTTP {status}"))
    if status == 400 and _WANTS_TLS.search(answer.body[:4096]):
        kind, text = BadResponse, f"the server wants https, not http: {_CHECK_BASE}"
    elif 300 <= status < 400 and (place := _origin(answer.headers.get("Location", ""))):
        text = f"the server redirects to {place}, which is not followed: {_CHECK_BASE}"
    if isinstance(document, dict) and (message := _text(document.get("message"))):
        text = message if issubclass(kind, ApiError) else f"{text}: {message}"
    error = kind(text, status=status)
    if isinstance(error, ServerBusy):
        error.code = status
    elif isinstance(error, ConnectionFailed):
        error.retryable = False
    if error.retryable:
        error.retry_after = answer.retry_after
    return error


def _origin(location: str) -> str:
    """Scheme and host of an address, without what else may be in it; "" where it has none."""
    try:
        return str(URL(location).origin())
    except ValueError:
        return ""


def _code(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
        return int(value)
    return None


def _text(value: object) -> str | None:
    return value[:_EXCERPT] if isinstance(value, str) and value else None


def _excerpt(body: bytes) -> str:
    return body[:_EXCERPT].decode("utf-8", "replace")
