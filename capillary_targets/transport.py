"""One GET: authorise, wait for a place, send, retry, read.

The only room that touches aiohttp's requests. Everything that can go wrong leaves it as a
`CapillaryError` that knows the request and holds no secret.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

import aiohttp
import msgspec
import stamina
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from .auth import SecretHeaders, Token
from .errors import AuthError, BadResponse, CapillaryError, ConnectionFailed, RequestTimeout
from .hooks import RequestDetails, RetryDetails, WaitDetails
from .private import PrivatePath
from .retry import parse_retry_after
from .session import Session
from .structuring import Structurer
from .wire import Answer, read_token, request_id_of

__all__ = ["get"]

T = TypeVar("T")
Read = Callable[[Answer, Structurer], T]

_NAME: Final = "capillary_targets"
_log = logging.getLogger(_NAME)
# Stamina logs every retry too, without saying which request; ours says it, so its own is dropped.
logging.getLogger("stamina").addFilter(
    lambda record: getattr(record, "stamina.callable", None) != _NAME
)

_HEADERS: Final = {"Accept": "application/json", "Content-Type": "application/json"}
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)
_TOKEN_PATH: Final = "/v3/oauth/token/generate"  # noqa: S105 - a path
_BROKEN: Final = (aiohttp.ClientError, HttpProcessingError, OSError, EOFError)


async def get(session: Session, path: str | PrivatePath, read: Read[T]) -> T:
    """GET `path` below the base URL and `read` the answer.

    One deadline covers everything: authorising, waiting for a place, all attempts, and the whole
    body. Raises whatever `read` raises for the answer, `AuthError`, `ConnectionFailed`,
    `RateLimited` or `RequestTimeout`.
    """
    session.ensure_open()
    deadline = asyncio.timeout(session.settings.timeout)
    call = _Call(session, path, read, deadline)
    try:
        async with deadline:
            return await call.run()
    except TimeoutError as error:
        if isinstance(error, CapillaryError) or not deadline.expired():
            raise
    late = RequestTimeout(f"no whole answer within the deadline of {session.settings.timeout:g} s")
    raise call.told(late, "GET", call.url) from call.last


class _Call(Generic[T]):
    """One logical request and the attempts made for it."""

    def __init__(
        self,
        session: Session,
        path: str | PrivatePath,
        read: Read[T],
        deadline: asyncio.Timeout,
    ) -> None:
        self.session = session
        self.private = path if isinstance(path, PrivatePath) else None
        self.url = f"{session.prefix}{path}"
        self.read = read
        self.deadline = deadline
        self.attempts = 0
        self.last: CapillaryError | None = None
        self._taken = 0  # from the retry quota, for the latest retry
        self._renewed = False

    async def run(self) -> T:
        """Try, and try again as far as policy, quota and deadline allow."""
        failure: CapillaryError | None = None
        try:
            result = await self.attempt()
        except CapillaryError as error:
            if not error.retryable:
                raise
            failure = error
        else:
            self.session.quota.give_back(0)
            return result
        # The retry machinery is entered only after a first failure, which is replayed to it.
        async for attempt in stamina.retry_context(
            on=self._wait_before_retry, attempts=self.session.settings.retry.attempts, timeout=None
        ).with_name(_NAME, (), {}):
            with attempt:
                if failure is not None:
                    first, failure = failure, None
                    raise first
                result = await self.attempt()
        self.session.quota.give_back(self._taken)
        return result

    def _wait_before_retry(self, error: Exception) -> float | bool:
        """Stamina's hook: seconds to wait before another attempt, or False for none."""
        policy = self.session.settings.retry
        if (
            not isinstance(error, CapillaryError)
            or not error.retryable
            or self.attempts >= policy.attempts
        ):
            return False
        wait = policy.wait(self.attempts, random.random(), getattr(error, "retry_after", None))
        ends = self.deadline.when()
        if ends is not None and asyncio.get_running_loop().time() + wait >= ends:
            error.add_note("not retried: the deadline would pass before another attempt")
            return False
        taken = self.session.quota.take(timed_out=isinstance(error, RequestTimeout))
        if taken is None:
            error.add_note("not retried: too many requests are failing (retry quota used up)")
            return False
        self._taken = taken
        self.session.counts.retries += 1
        _log.info("attempt %d failed, next in %.2f s: %s", self.attempts, wait, error)
        if self.session.hooks:
            self.session.hooks.emit(
                RetryDetails(
                    method="GET", url=self.url, attempt=self.attempts, wait=wait, error=error
                )
            )
        return wait

    async def attempt(self) -> T:
        """Authorise, wait for a place, send and read. A rejected token is renewed once a call."""
        session = self.session
        headers = await session.settings.auth.headers(self._fetch_token)
        try:
            waiting = time.perf_counter()
            async with session.places:
                session.ensure_open()
                self._waited(waiting)
                self.attempts += 1
                return await self._send(headers)
        except AuthError as error:
            if self._renewed or not error.token_rejected:
                raise
            if not session.settings.auth.rejected(headers):
                raise
        self._renewed = True
        return await self.attempt()

    def _waited(self, since: float) -> None:
        if self.session.hooks:
            seconds = time.perf_counter() - since
            self.session.hooks.emit(WaitDetails(reason="place", seconds=seconds))

    async def _send(self, headers: Mapping[str, str]) -> T:
        answer = await self._exchange("GET", self.url, headers, private=self.private)
        try:
            return self.read(answer, self.session.structurer)
        except CapillaryError as error:
            failure = self.told(error, "GET", self.url, answer)
        # Raised afresh: the reader's frames hold what the server said before redaction.
        raise failure.with_traceback(None)

    async def _fetch_token(self, body: Mapping[str, str]) -> Token:
        """POST the client key and secret, read the token (API page "OAuth")."""
        url = self.session.prefix + _TOKEN_PATH
        answer = await self._exchange("POST", url, {}, body)
        try:
            return read_token(answer, self.session.structurer)
        except CapillaryError as error:
            failure = self.told(error, "POST", url, answer)
        # Raised afresh: the reader's frames hold what the server said before redaction.
        raise failure.with_traceback(None)

    async def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Mapping[str, str] | None = None,
        private: PrivatePath | None = None,
    ) -> Answer:
        """Send once; the whole answer, its body bounded. Raises what the connection did."""
        session = self.session
        failure: CapillaryError | None = None
        cause: Exception | None = None
        session.counts.requests += 1
        started = time.perf_counter()
        limit = asyncio.timeout(session.attempt_timeout)
        try:
            async with (
                limit,
                session.http.request(
                    method,
                    URL(url if private is None else session.prefix + private.sent, encoded=True),
                    data=None if body is None else msgspec.json.encode(dict(body)),
                    headers=SecretHeaders({**_HEADERS, **headers}),
                    allow_redirects=False,
                    raise_for_status=False,
                    timeout=_NO_TIMEOUT,
                ) as response,
            ):
                answer = Answer(
                    response.status,
                    await _body(response, session.settings.max_body),
                    request_id=request_id_of(response.headers),
                    retry_after=parse_retry_after(
                        response.headers.get("Retry-After"), datetime.now(UTC)
                    ),
                )
        except BadResponse as error:  # the body is too large
            failure = error
        except _BROKEN as error:
            session.ensure_open()
            if isinstance(error, TimeoutError) and limit.expired():
                failure = RequestTimeout(f"no whole answer within {session.attempt_timeout:g} s")
            else:
                failure = ConnectionFailed(f"the connection failed: {_reason(error)}")
                failure.retryable = not isinstance(error, aiohttp.ClientConnectorCertificateError)
                # aiohttp's response errors carry the request's headers: they stay behind.
                cause = None if isinstance(error, aiohttp.ClientResponseError) else error
        if session.hooks:
            session.hooks.emit(
                RequestDetails(
                    method=method,
                    url=url,
                    attempt=self.attempts,
                    seconds=time.perf_counter() - started,
                    status=None if failure else answer.status,
                    request_id=None if failure else answer.request_id,
                    error=failure,
                )
            )
        if failure is not None:
            raise self.told(failure, method, url) from cause
        return answer

    def told(
        self, error: CapillaryError, method: str, url: str, answer: Answer | None = None
    ) -> CapillaryError:
        """The error, knowing the request it belongs to; whatever echoes a secret is redacted."""
        error.method = method
        error.url = url
        error.attempts = self.attempts
        if answer is not None:
            error.status = answer.status
            error.request_id = answer.request_id
        error.redact(self.session.settings.auth.secrets)
        if self.private is not None:
            error.redact(self.private.words)
        self.last = error
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
    said = getattr(error, "message", "") or str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
