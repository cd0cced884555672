"""One exchange over the network: a request sent once, its answer read whole.

The only room that touches aiohttp's requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError
from attrs import field, frozen
from yarl import URL

from .auth import SecretHeaders
from .errors import BadResponse, CapillaryError, ConnectionFailed, RequestTimeout
from .retry import parse_retry_after
from .session import Session
from .wire import Answer, request_id_of

__all__ = ["Request", "exchange"]

_HEADERS: Final = {"Accept": "application/json", "Content-Type": "application/json"}
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)  # the session's deadline is the one kept
_BROKEN: Final = (aiohttp.ClientError, HttpProcessingError, OSError, EOFError)


@frozen
class Request:
    """What is sent, and the address that is shown for it."""

    method: str
    url: str = field(repr=False)
    shown: str
    body: Mapping[str, str] | None = field(default=None, repr=False)


async def exchange(session: Session, request: Request, headers: Mapping[str, str]) -> Answer:
    """Send once; the whole answer, its body bounded.

    Raises `RequestTimeout` when the attempt's time is up, `ConnectionFailed` when there is no
    connection or it breaks, `BadResponse` when the body is too large, `ClientClosed` when the
    session was closed meanwhile.
    """
    session.counts.requested()
    limit = asyncio.timeout(session.attempt_timeout)
    failure: CapillaryError
    cause: Exception | None = None
    try:
        async with (
            limit,
            session.http.request(
                request.method,
                URL(request.url, encoded=True),
                data=None if request.body is None else msgspec.json.encode(dict(request.body)),
                headers=SecretHeaders({**_HEADERS, **headers}),
                allow_redirects=False,
                raise_for_status=False,
                timeout=_NO_TIMEOUT,
            ) as response,
        ):
            return await _whole(response, session.settings.max_body)
    except CapillaryError:
        raise
    except _BROKEN as error:
        session.ensure_open()
        if isinstance(error, TimeoutError) and limit.expired():
            failure = RequestTimeout(f"no whole answer within {session.attempt_timeout:g} s")
        else:
            failure, cause = _broken(error)
    raise failure from cause


async def _whole(response: aiohttp.ClientResponse, limit: int) -> Answer:
    """Status, headers and the body after decompression, if that is no more than `limit` bytes."""
    chunks = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise BadResponse(
                f"the body is larger than the limit of {limit} bytes", status=response.status
            )
        chunks.append(chunk)
    wait = response.headers.get("Retry-After")
    return Answer(
        response.status,
        chunks[0] if len(chunks) == 1 else b"".join(chunks),
        request_id=request_id_of(response.headers),
        retry_after=None if wait is None else parse_retry_after(wait, datetime.now(UTC)),
    )


def _broken(error: Exception) -> tuple[ConnectionFailed, Exception | None]:
    """What became of the connection, and the cause that may be shown."""
    said = getattr(error, "message", "") or str(error)
    name = type(error).__name__
    failed = ConnectionFailed(f"the connection failed: {name}: {said}" if said else name)
    failed.retryable = not isinstance(error, aiohttp.ClientConnectorCertificateError)
    # aiohttp's response errors carry the request's headers: they stay behind.
    return failed, None if isinstance(error, aiohttp.ClientResponseError) else error
