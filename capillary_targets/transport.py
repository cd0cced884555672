"""One call: authorise, acquire a permit, send, read, release, and maybe again.

The only room that touches aiohttp's requests. Whatever goes wrong leaves it as a `CapillaryError`
that names the request; secrets are redacted.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import aiohttp
import msgspec
from attrs import define, field, frozen
from yarl import URL

from .auth import SecretHeaders, Token
from .errors import (
    AuthError,
    BadResponse,
    BudgetUnavailable,
    CapillaryError,
    ClientClosed,
    ConnectionFailed,
    RequestTimeout,
    UsageError,
)
from .hooks import RequestDetails, RetryDetails, current_scope
from .limiter import Deadline, Outcome, outcome_of
from .retry import waiting_disabled
from .session import Session
from .structuring import Structurer
from .wire import Answer, NullData, read_token

__all__ = ["RedactedPath", "get"]

T = TypeVar("T")
Read: TypeAlias = Callable[[Answer, Structurer], T]

_log = logging.getLogger("capillary_targets")

_TOKEN_PATH: Final = "/v3/oauth/token/generate"  # noqa: S105 - a path
_TOKEN_PROPAGATION: Final = 0.5
"""Seconds to wait after a new token was rejected: not every node may know it yet."""
_NO_LIMIT: Final = aiohttp.ClientTimeout(total=None, sock_connect=None)
_LASTING: Final = (aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL)
"""Errors that another attempt would meet again."""


@frozen
class RedactedPath:
    """A path and query that hold personal data.

    `path` is sent; `redacted` is shown in errors, log lines and hooks. `secrets` are redacted in
    what the server answers.
    """

    path: str = field(repr=False)
    redacted: str
    secrets: tuple[str, ...] = field(default=(), repr=False)


@define(eq=False)
class _Request:
    """A request as it is sent below the base URL, and the whole address that is shown for it."""

    method: str
    path: str = field(repr=False)
    shown: str
    body: Mapping[str, str] | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


@define(eq=False)
class _Call:
    """One call: its session, its deadline, and what became of its attempts so far."""

    session: Session
    deadline: Deadline
    attempts: int = 0
    rejections: int = 0
    """Tokens of ours that the server rejected."""
    last: CapillaryError | None = None


async def get(session: Session, path: str | RedactedPath, read: Read[T]) -> T:
    """GET `path` below the base URL and `read` the answer.

    One deadline covers everything: authorising, waiting for a permit, all attempts, and the whole
    body. A rejected token is renewed; retryable errors are retried as often as policy, quota and
    deadline allow.

    Raises:
        CapillaryError: what `read` raises for the answer, `AuthError`, `BudgetUnavailable`,
            `ClientClosed`, `ConnectionFailed`, `RateLimited`, `RequestTimeout`, `UsageError`.

    """
    session.ensure_open()
    if isinstance(path, RedactedPath):
        shown = f"{session.prefix}{path.redacted}"
        request = _Request("GET", path.path, shown, secrets=path.secrets)
    else:
        request = _Request("GET", path, f"{session.prefix}{path}")
    timeout, auth = session.settings.timeout, session.settings.auth
    call = _Call(session, Deadline(timeout, paused_while_queued=session.wait_for_limits))
    quota = 0
    while True:
        call.attempts += 1
        headers = auth.cached_headers
        try:
            if headers is None:
                headers = await _authorise(call)
                if call.rejections > 1 and not waiting_disabled.get():
                    await asyncio.sleep(min(_TOKEN_PROPAGATION, max(0.0, call.deadline.left())))
            result = await _send(call, request, headers, read)
        except CapillaryError as error:
            error.attempts = call.attempts
            call.last = error.with_traceback(None)
            if headers is not None and _token_rejected(call, error, headers):
                call.rejections += 1
                if call.rejections == 1 and error.retry_after is None:
                    continue  # the token was an old one: a new one may do at once
            # A failed token request is paced by the credentials, once for all calls.
            limited = headers is not None and not isinstance(error, AuthError | NullData)
            spent = await _retry(call, request, error, use_quota=limited)
            if spent is None:
                raise
            quota = spent
        else:
            session.state.authorised = True
            session.quota.release(quota)
            return result


async def _authorise(call: _Call) -> SecretHeaders:
    """The headers of the credentials, for which a token may have to be requested first."""

    async def fetch(body: Mapping[str, str]) -> Token:
        """POST the client key and secret (API page "OAuth")."""
        request.body = body
        return await _send(call, request, {}, read_token)

    async def headers() -> SecretHeaders:
        seconds = None if call.deadline.paused_while_queued else call.deadline.left()
        async with asyncio.timeout(seconds):
            return await call.session.settings.auth.headers(fetch)

    request = _Request("POST", _TOKEN_PATH, f"{call.session.prefix}{_TOKEN_PATH}")
    return await _guarded(call, request, headers(), AuthError)


async def _guarded(
    call: _Call, request: _Request, waiting: Awaitable[T], kind: type[CapillaryError]
) -> T:
    """Await something that the caller may have made; what it raises is raised as a `kind`."""
    failure: CapillaryError
    try:
        return await waiting
    except CapillaryError as error:
        failure = error
    except TimeoutError:
        failure = _deadline_exceeded(call)
    except Exception as error:  # noqa: BLE001 - nothing foreign escapes
        what = "the credentials" if kind is AuthError else "the rate budget"
        failure = kind(f"{what} failed: {type(error).__name__}: {error}")
        failure.__cause__ = error
    if failure.url is None:
        _annotate(call.session, request, failure)
    raise failure.with_traceback(None) from failure.__cause__


def _token_rejected(call: _Call, error: CapillaryError, headers: Mapping[str, str]) -> bool:
    """Whether a rejected token is reason to try again: with another one, or after a short wait.

    Where no token of this client has ever worked, two more tries are enough.
    """
    if not isinstance(error, AuthError) or not error.token_rejected:
        return False
    auth, authorised = call.session.settings.auth, call.session.state.authorised
    others = auth.rejected(headers, again=call.rejections > 0)
    error.retryable = others and (authorised or call.rejections < 2)
    if error.retryable and auth.cached_headers is headers:
        error.retry_after = _TOKEN_PROPAGATION
    return error.retryable


async def _retry(
    call: _Call, request: _Request, error: CapillaryError, *, use_quota: bool
) -> int | None:
    """Back off before another attempt; tokens taken from the retry quota, None for no attempt."""
    session, deadline, attempts = call.session, call.deadline, call.attempts
    policy = session.settings.retry
    if not error.retryable or attempts >= policy.attempts or deadline.left() <= 0:
        return None
    if (error.retry_after or 0.0) > policy.retry_after_max:
        error.add_note("not retried: the server asks for a longer pause than retry_after_max")
        return None
    outcome = outcome_of(error)
    asked = error.retry_after is not None
    if session.wait_for_limits and asked and outcome in {"throttled", "overload"}:
        wait = 0.0  # the limiter holds everybody back for as long as it takes
    else:
        wait = policy.backoff(attempts, random.random(), error.retry_after)
        if session.wait_for_limits and asked:
            deadline.ends += wait  # like any other wait of a sweep for the server's limits
    if wait >= deadline.left():
        error.add_note("not retried: the deadline would pass before another attempt")
        return None
    spent: int | None = 0
    # A sweep needs no quota in an outage: the limiter lets few of its requests through.
    if use_quota and outcome != "throttled" and not session.wait_for_limits:
        spent = session.quota.acquire(timed_out=isinstance(error, RequestTimeout))
    if spent is None:
        error.add_note("not retried: too many requests are failing (retry quota used up)")
        return None
    session.counts.retried()
    _log.info("attempt %d failed, next in %.2f s: %s", attempts, wait, error)
    if session.hooks:
        session.hooks.emit(
            RetryDetails(
                method=request.method, url=request.shown, attempt=attempts, wait=wait, error=error
            )
        )
    await asyncio.sleep(0 if waiting_disabled.get() else wait)
    return spent


async def _send(call: _Call, request: _Request, headers: Mapping[str, str], read: Read[T]) -> T:
    """Acquire a permit, send once, read the answer, release the permit."""
    session, deadline = call.session, call.deadline
    permit = await _guarded(call, request, session.limiter.acquire(deadline), BudgetUnavailable)
    answer: Answer | None = None
    failure: CapillaryError | None = None
    outcome: Outcome = "cancelled"
    ended = None
    try:
        session.ensure_open()
        answer = await _exchange(session, request, headers, deadline.left())
        ended = time.monotonic()
        if request.method == "GET":  # nobody is shown a token
            session.answered(request.path, answer.status, answer.headers, answer.body)
        result = read(answer, session.structurer)
        outcome = "ok"
    except ClientClosed as error:
        failure = error
    except CapillaryError as error:
        failure, outcome = error, outcome_of(error)
    except Exception as error:  # noqa: BLE001 - a reader's fault must not look like anything else
        failure, outcome = BadResponse(f"the answer cannot be read: {type(error).__name__}"), "ok"
    finally:
        retry_after = None if failure is None else failure.retry_after
        session.limiter.release(permit, outcome, retry_after, ended)
    if failure is not None:
        if isinstance(failure, RequestTimeout) and deadline.left() <= 0:
            failure = _deadline_exceeded(call)
        _annotate(session, request, failure, answer)
    if session.hooks:
        session.hooks.emit(
            RequestDetails(
                method=request.method,
                url=request.shown,
                attempt=call.attempts,
                seconds=(ended or time.monotonic()) - permit.sent,
                status=None if answer is None else answer.status,
                request_id=None if answer is None else answer.request_id,
                error=failure,
                scope=current_scope(),
            )
        )
    if failure is not None:
        # Raised afresh: the reader's frames hold what the server said before redaction.
        raise failure.with_traceback(None) from failure.__cause__
    return result


async def _exchange(
    session: Session, request: _Request, headers: Mapping[str, str], left: float
) -> Answer:
    """Send once; the whole answer, its body bounded. `left` are the seconds until the deadline.

    Raises `RequestTimeout` when they or the attempt's time are up, `ConnectionFailed` when there is
    no connection or it breaks, `BadResponse` when the body is too large, `ClientClosed` when the
    session was closed meanwhile.
    """
    session.counts.requested()
    settings = session.settings
    seconds = min(left, settings.retry.attempt_timeout or settings.timeout / 2)
    # Not aiohttp's own timers, which a connection with an answer from before can escape.
    timeout = asyncio.timeout(seconds)
    failure: CapillaryError
    try:
        async with (
            timeout,
            session.http.request(
                request.method,
                _address(settings.base_url, request.path),
                data=None if request.body is None else msgspec.json.encode(dict(request.body)),
                allow_redirects=False,
                raise_for_status=False,
                timeout=_NO_LIMIT,
                **_credentials(session, headers),
            ) as response,
        ):
            return Answer(
                response.status,
                await _read_body(response, settings.max_body),
                response.headers,
            )
    except CapillaryError:
        raise
    except Exception as error:  # noqa: BLE001 - nothing foreign escapes
        session.ensure_open()
        if timeout.expired():
            failure = RequestTimeout(f"no whole answer within {seconds:g} s")
        else:
            failure = _connection_failed(error)
    raise failure from failure.__cause__


def _credentials(session: Session, headers: Mapping[str, str]) -> dict[str, Any]:
    """The arguments that make aiohttp send these headers, and no credentials of its own."""
    if not session.override_auth:
        return {"headers": SecretHeaders({**session.headers, **headers})}

    async def override(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers.pop("Authorization", None)
        request.headers.update(headers)
        return await handler(request)

    given = session.http._middlewares  # noqa: SLF001 - those of a request replace the session's
    return {"headers": session.headers, "middlewares": (*given, override)}


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


async def _read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body after decompression. Raises `BadResponse` if it is longer than `limit` bytes."""
    content = response.content
    chunks, size = [], 0
    while size <= limit:
        chunks.append(await content.readany())
        size += len(chunks[-1])
        if content.at_eof():
            break
    if size > limit:
        raise BadResponse(
            f"the body is larger than the limit of {limit} bytes", status=response.status
        )
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _connection_failed(error: Exception) -> CapillaryError:
    """What broke the connection, as an error whose cause may be shown."""
    said = getattr(error, "message", "") or str(error)
    name = type(error).__name__
    failed: CapillaryError
    if isinstance(error, RuntimeError):
        failed = UsageError(f"the aiohttp session cannot be used here: {said}")
        failed.scope = "client"
    else:
        failed = ConnectionFailed(f"the connection failed: {name}: {said}" if said else name)
        failed.retryable = not isinstance(error, _LASTING)
    # aiohttp's response errors carry the request's headers: they stay behind.
    failed.__cause__ = None if isinstance(error, aiohttp.ClientResponseError) else error
    return failed


def _deadline_exceeded(call: _Call) -> RequestTimeout:
    """The deadline of the call has passed; its cause is the error of the attempt before."""
    seconds = call.session.settings.timeout
    exceeded = RequestTimeout(f"no whole answer within the deadline of {seconds:g} s")
    exceeded.__cause__ = call.last
    return exceeded


def _annotate(
    session: Session, request: _Request, error: CapillaryError, answer: Answer | None = None
) -> None:
    """Name the request in the error, and redact what the server said."""
    error.method, error.url = request.method, request.shown
    if answer is not None:
        error.status, error.request_id = answer.status, answer.request_id
    error.redact((*session.settings.auth.secrets, *request.secrets))
