"""One exchange over the network: a request sent once, its answer read whole.

The only room that touches aiohttp's requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError
from attrs import define, field
from yarl import URL

from .auth import SecretHeaders
from .errors import BadResponse, CapillaryError, ConnectionFailed, RequestTimeout
from .retry import parse_retry_after
from .session import Session, time_limit
from .wire import Answer, request_id_of

__all__ = ["Request", "exchange"]

_BROKEN: Final = (aiohttp.ClientError, HttpProcessingError, OSError, EOFError)


@define(eq=False)
class Request:
    """What is sent below the base URL, and the whole address that is shown for it."""

    method: str
    path: str = field(repr=False)
    shown: str
    body: Mapping[str, str] | None = field(default=None, repr=False)


async def exchange(
    session: Session, request: Request, headers: Mapping[str, str], left: float
) -> Answer:
    """Send once; the whole answer, its body bounded. `left` are the seconds until the deadline.

    Raises `RequestTimeout` when they or the attempt's time are up, `ConnectionFailed` when there is
    no connection or it breaks, `BadResponse` when the body is too large, `ClientClosed` when the
    session was closed meanwhile.
    """
    limit = session.attempt_limit if left > session.attempt_timeout else time_limit(left)
    session.counts.requested()
    failure: CapillaryError
    cause: Exception | None = None
    try:
        async with session.http.request(
            request.method,
            _address(session.settings.base_url, request.path),
            data=None if request.body is None else msgspec.json.encode(dict(request.body)),
            headers=SecretHeaders({**session.headers, **headers}) if session.headers else headers,
            allow_redirects=False,
            raise_for_status=False,
            timeout=limit,
        ) as response:
            return await _whole(response, session.settings.max_body)
    except CapillaryError:
        raise
    except _BROKEN as error:
        session.ensure_open()
        if isinstance(error, TimeoutError) and error.errno is None:
            failure = RequestTimeout(f"no whole answer within {limit.total:g} s")
        else:
            failure, cause = _broken(error)
    raise failure from cause


def _address(base: URL, path: str) -> URL:
    """The address of a path and query, both encoded, below the base URL."""
    path, _, query = path.partition("?")
    return URL.build(
        scheme=base.scheme,
        authority=base.raw_authority,
        path=base.raw_path.rstrip("/") + path,
        query_string=query,
        encoded=True,
    )


async def _whole(response: aiohttp.ClientResponse, limit: int) -> Answer:
    """Status, headers and the body after decompression, if that is no more than `limit` bytes."""
    content = response.content
    body = await content.readany()
    if not content.at_eof():
        body = await _the_rest(body, content, limit)
    if len(body) > limit:
        raise BadResponse(
            f"the body is larger than the limit of {limit} bytes", status=response.status
        )
    headers = response.headers
    wait = headers.get("Retry-After")
    return Answer(
        response.status,
        body,
        request_id_of(headers),
        None if wait is None else parse_retry_after(wait, datetime.now(UTC)),
    )


async def _the_rest(body: bytes, content: aiohttp.StreamReader, limit: int) -> bytes:
    """The body so far and what follows it, until it is longer than `limit`."""
    chunks, size = [body], len(body)
    while size <= limit and not content.at_eof():
        chunks.append(await content.readany())
        size += len(chunks[-1])
    return b"".join(chunks)


def _broken(error: Exception) -> tuple[ConnectionFailed, Exception | None]:
    """What became of the connection, and the cause that may be shown."""
    said = getattr(error, "message", "") or str(error)
    name = type(error).__name__
    failed = ConnectionFailed(f"the connection failed: {name}: {said}" if said else name)
    failed.retryable = not isinstance(error, aiohttp.ClientConnectorCertificateError)
    # aiohttp's response errors carry the request's headers: they stay behind.
    return failed, None if isinstance(error, aiohttp.ClientResponseError) else error
