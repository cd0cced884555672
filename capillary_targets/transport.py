"""One GET: authorise, wait for a place, send, retry, read.

The only room that touches aiohttp's requests. Everything that can go wrong leaves it as a
`CapillaryError` that knows the request.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

import aiohttp
import stamina
from yarl import URL

from .errors import BadResponse, CapillaryError, ConnectionFailed, RequestTimeout
from .retry import parse_retry_after
from .session import Session
from .structuring import Structurer
from .wire import Answer, request_id_of

__all__ = ["get"]

T = TypeVar("T")
Read = Callable[[Answer, Structurer], T]

_log = logging.getLogger("capillary_targets")
_HEADERS: Final = {"Accept": "application/json", "Content-Type": "application/json"}
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)


async def get(session: Session, path: str, read: Read[T]) -> T:
    """GET `path` below the base URL and `read` the answer.

    One deadline covers everything: waiting for a place, all attempts, and the whole body.
    Raises whatever `read` raises for the answer, `ConnectionFailed`, or `RequestTimeout`.
    """
    session.ensure_open()
    call = _Call(session, session.prefix + path)
    deadline = asyncio.timeout(session.settings.timeout)
    try:
        async with deadline:
            return await call.run(read)
    except TimeoutError as error:
        if isinstance(error, CapillaryError) or not deadline.expired():
            raise
        late = RequestTimeout(
            f"no whole answer within the deadline of {session.settings.timeout:g} s"
        )
        raise call.told(late) from call.last


class _Call:
    """One logical request and the attempts made for it."""

    def __init__(self, session: Session, url: str) -> None:
        self.session = session
        self.url = url
        self.attempts = 0
        self.last: CapillaryError | None = None

    async def run(self, read: Read[T]) -> T:
        async for attempt in stamina.retry_context(
            on=self.wait_before_retry, attempts=self.session.settings.retry.attempts, timeout=None
        ):
            with attempt:
                return await self.attempt(read)
        raise AssertionError("unreachable")  # pragma: no cover

    def wait_before_retry(self, error: Exception) -> float | bool:
        """Stamina's hook: seconds to wait before another attempt, or False for none."""
        if not isinstance(error, CapillaryError) or not error.retryable:
            return False
        policy = self.session.settings.retry
        if self.attempts >= policy.attempts:
            return False
        wait = policy.wait(self.attempts, random.random(), getattr(error, "retry_after", None))
        self.session.counts.retries += 1
        _log.info("retrying in %.2f s: %s", wait, error)
        return wait

    async def attempt(self, read: Read[T]) -> T:
        """Send once and read the answer."""
        session = self.session
        headers = await session.settings.auth.headers()
        async with session.places:
            session.ensure_open()
            self.attempts += 1
            session.counts.requests += 1
            answer = None
            try:
                answer = await self.exchange({**_HEADERS, **headers})
                return read(answer, session.structurer)
            except CapillaryError as error:
                self.last = self.told(error, answer)
                raise
            except (aiohttp.ClientError, OSError) as error:
                session.ensure_open()
                failed = ConnectionFailed(f"the connection failed: {_reason(error)}")
                self.last = self.told(failed, answer)
                raise self.last from error

    async def exchange(self, headers: dict[str, str]) -> Answer:
        """The whole answer, its body bounded."""
        async with self.session.http.get(
            URL(self.url, encoded=True),
            headers=headers,
            allow_redirects=False,
            raise_for_status=False,
            timeout=_NO_TIMEOUT,
        ) as response:
            body = await _body(response, self.session.settings.max_body)
            return Answer(
                response.status,
                body,
                request_id=request_id_of(response.headers),
                retry_after=parse_retry_after(
                    response.headers.get("Retry-After"), datetime.now(UTC)
                ),
            )

    def told(self, error: CapillaryError, answer: Answer | None = None) -> CapillaryError:
        """The error, knowing the request it belongs to."""
        error.method = "GET"
        error.url = self.url
        error.attempts = self.attempts
        if answer is not None:
            error.status = answer.status
            error.request_id = answer.request_id
        return error


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body after decompression. Raises `BadResponse` rather than hold more than `limit`."""
    chunks = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise BadResponse(
                f"the body is larger than the limit of {limit} bytes", status=response.status
            )
        chunks.append(chunk)
    return b"".join(chunks)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
