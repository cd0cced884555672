"""Bytes to models, and error codes to exceptions. No I/O.

The API's statuses cannot be trusted (an error may come as HTTP 200, 400 or 500, and a gateway may
answer HTML), so every reader decides by the body first and by the status second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NoReturn

import attrs
import msgspec
from attrs import define, field

from .auth import Token
from .decoding import events_in, rows_as_sent, targets_in
from .errors import (
    ApiError,
    AuthError,
    BadResponse,
    CapillaryError,
    EndpointGone,
    RateLimited,
    ServerBusy,
    ServiceUnavailable,
    api_error,
)
from .models import ApiWarning, EventsPage, Pagination, Target, TargetEvent
from .structuring import Structurer

__all__ = [
    "Answer",
    "data_of",
    "read_events",
    "read_targets",
    "read_token",
    "request_id_of",
    "success",
    "warnings_of",
]

_JSON: Final = msgspec.json.Decoder(float_hook=Decimal)
_EXCERPT: Final = 200
_BUSY_STATUSES: Final = frozenset({408, 425, 500, 502, 503, 504, *range(520, 531)})
_TEXT_ERROR: Final = re.compile(r"errorMessage=(?P<message>.*?)\s+errorCode=(?P<code>\d{1,9})")


@define(eq=False)
class Answer:
    """What came back, whole: status, body after decompression, and the two headers that matter."""

    status: int
    body: bytes = field(repr=False)
    request_id: str | None = None
    retry_after: float | None = None


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The server's id of a request; it spells the header in two ways that differ by a hyphen."""
    return headers.get("X-Cap-Requestid") or headers.get("X-CAP-REQUEST-ID")


def read_targets(answer: Answer, structurer: Structurer) -> list[Target]:
    """The answer of "Get active targets". A null `data` without errors is "enrolled in nothing"."""
    if 200 <= answer.status < 300:
        targets = targets_in(answer.body, structurer)
        if targets is not None:
            return targets
    document = success(answer)
    data = data_of(document, answer)
    found = structurer.structure(data, tuple[Target, ...], "data")
    rows = rows_as_sent(answer.body)
    if len(rows) != len(found):
        return list(found)
    return [attrs.evolve(target, raw=row) for target, row in zip(found, rows, strict=True)]


def read_events(answer: Answer, structurer: Structurer) -> EventsPage:
    """The answer of "Get target events": one page. Raises `NoRecordFound` for 310149."""
    if 200 <= answer.status < 300:
        page = events_in(answer.body, structurer.timezone)
        if page is not None:
            return EventsPage(
                page.data or (),
                page.pagination or Pagination(),
                warnings_of(page.warnings) if page.warnings else (),
                answer.request_id,
                answer.body,
            )
    document = success(answer)
    data = data_of(document, answer)
    return EventsPage(
        structurer.structure(data, tuple[TargetEvent, ...], "data"),
        pagination=structurer.structure(document.get("pagination") or {}, Pagination, "pagination"),
        warnings=warnings_of(document.get("warnings")),
        request_id=answer.request_id,
        body=answer.body,
    )


def read_token(answer: Answer, structurer: Structurer) -> Token:
    """The answer of the token endpoint. Raises `AuthError` for 320001."""
    try:
        token = structurer.structure(data_of(success(answer), answer), Token, "data")
    except BadResponse as error:
        error.excerpt = ""  # it may hold the token
        raise
    if token.ttl_seconds <= 0:
        raise BadResponse("the token given has no time to live", where="data.ttlSeconds")
    return token


def data_of(document: Mapping[str, Any], answer: Answer) -> object:
    """What stands under `data`; an empty list for null. Raises `BadResponse` if nothing does."""
    if "data" not in document:
        raise BadResponse(
            "not the documented shape at data: it is missing",
            where="data",
            excerpt=_excerpt(answer.body),
            status=answer.status,
        )
    data = document["data"]
    return [] if data is None else data


def warnings_of(value: object) -> tuple[ApiWarning, ...]:
    """Whatever stands under `warnings`: they are shown, never raised, so never insisted on."""
    items = value if isinstance(value, list) else []
    return tuple(
        ApiWarning(_code(item.get("code")), _text(item.get("message")))
        if isinstance(item, dict)
        else ApiWarning(None, _text(item))
        for item in items
    )


def success(answer: Answer) -> dict[str, Any]:
    """The envelope of an answer that reports no error. Raises the error otherwise."""
    document = _load(answer)
    if isinstance(document, dict):
        _raise_error_inside(document, answer)
    if not 200 <= answer.status < 300:
        _raise_by_status(answer, document)
    if isinstance(document, dict):
        return document
    what = "an empty body" if not answer.body.strip() else "something that is not the API's JSON"
    raise BadResponse(
        f"the server answered {what}",
        excerpt=_excerpt(answer.body),
        status=answer.status,
        retryable=True,  # a cut or garbled body is most often a passing fault of a gateway
    )


def _load(answer: Answer) -> object:
    """The body as plain values, floats as Decimal; None where it is no JSON."""
    try:
        return _JSON.decode(answer.body)
    except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError):
        return None


def _raise_error_inside(document: dict[str, Any], answer: Answer) -> None:
    """Raise the first error that any of the API's envelopes reports, if one does."""
    errors = document.get("errors")
    for item in errors if isinstance(errors, list) else [errors]:
        if isinstance(item, dict):
            code, message = _code(item.get("code")), _text(item.get("message"))
            if code:  # a success has been seen with {"code": 0, "message": ""}
                raise _error(code, message, answer)
            if message or (code is None and item):
                raise _error(None, message, answer)
        elif item:
            raise _error(None, _text(item), answer)
    for holder in (document.get("response"), document):
        status = holder.get("status") if isinstance(holder, dict) else None
        if isinstance(status, dict):  # v1.1 keeps its status in the body; a gateway does likewise
            code = _code(status.get("code"))
            if code is not None and code >= 300:
                raise _error(code, _text(status.get("message")), answer)


def _error(code: int | None, message: str | None, answer: Answer) -> CapillaryError:
    text = message or "the service refused without saying why"
    error = api_error(code, text, status=answer.status)
    if type(error) is ApiError:
        # Not a documented code: the status is the better guide to "try again" or "never".
        if answer.status in {401, 403, 498}:
            return AuthError(text, status=answer.status)
        error.retryable = answer.status in _BUSY_STATUSES
    if isinstance(error, RateLimited) or (type(error) is ApiError and answer.status == 429):
        return RateLimited(text, status=answer.status, retry_after=answer.retry_after)
    return error


def _raise_by_status(answer: Answer, document: object) -> NoReturn:
    """Raise what an HTTP status says, where the body said nothing in a known form."""
    status = answer.status
    told = _text(document.get("message")) if isinstance(document, dict) else None
    found = _TEXT_ERROR.search(answer.body[:4096].decode("utf-8", "replace"))
    if found:
        raise api_error(int(found["code"]), found["message"], status=status)
    said = f": {told}" if told else ""
    if status in {401, 498}:
        raise AuthError(f"credentials or token rejected{said}", status=status)
    if status == 403:
        raise AuthError(
            f"access denied, by the service or a gateway before it{said}", status=status
        )
    if status in {404, 410}:
        raise EndpointGone(
            f"nothing is served at this address: wrong host, or the endpoint is gone{said}",
            status=status,
        )
    if status == 429:
        raise RateLimited(f"too many requests{said}", status=status, retry_after=answer.retry_after)
    if status == 461:
        raise ServerBusy(told or "the service is busy", code=461, status=status)
    if status in _BUSY_STATUSES:
        raise ServiceUnavailable(
            f"the service failed{said}", status=status, retry_after=answer.retry_after
        )
    if 300 <= status < 400:
        raise BadResponse(
            "the server redirects, which is not followed: check the base URL", status=status
        )
    raise ApiError(told or f"the service refused with HTTP {status}", status=status)


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
