"""One call: authorise, acquire a permit, send, read, release, and maybe again.

The only room that touches aiohttp's requests. Whatever goes wrong leaves it as a `CapillaryError`
that names the request; secrets are redacted.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import aiohttp
import msgspec
from aiohttp.http_parser import RawResponseMessage
from attrs import define, evolve, field, frozen
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
from .hooks import FailureDetails, RequestDetails, RetryDetails, current_scope
from .limiter import Deadline, Outcome, Permit, outcome_of
from .retry import waiting_disabled
from .session import Session, connection_reused
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
    """One call's request: how it is sent, how it is shown, and what became of it so far."""

    session: Session
    deadline: Deadline
    path: str = field(repr=False)
    """Path and query below the base URL, encoded."""
    shown: str
    """The whole address, for errors, log lines and hooks."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    method: str = "GET"
    body: bytes | None = field(default=None, repr=False)
    attempts: int = 0
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
    settings = session.settings
    deadline = Deadline(settings.timeout, paused_while_queued=session.wait_for_limits)
    if isinstance(path, str):
        request = _Request(session, deadline, path, session.prefix + path)
    else:
        shown = session.prefix + path.redacted
        request = _Request(session, deadline, path.path, shown, path.secrets)
    quota = rejections = 0
    while True:
        request.attempts += 1
        headers = settings.auth.cached_headers
        try:
            if headers is None:
                headers = await _authorise(request)
                if rejections > 1 and not waiting_disabled.get():
                    await asyncio.sleep(min(_TOKEN_PROPAGATION, max(0.0, deadline.left())))
            result = await _send(request, headers, read)
        except CapillaryError as error:
            error.attempts = request.attempts
            request.last = error.with_traceback(None)
            if headers is not None and _token_rejected(session, error, headers, rejections):
                rejections += 1
                if rejections == 1 and error.retry_after is None:
                    continue  # the token was an old one: a new one may do at once
            # A failed token request is paced by the credentials, once for all calls.
            limited = headers is not None and not isinstance(error, AuthError | NullData)
            planned = _plan_retry(request, error, use_quota=limited)
            if planned is None:
                if session.hooks:
                    session.hooks.emit(FailureDetails(error=error))
                raise
            wait, quota = planned
            await asyncio.sleep(0 if waiting_disabled.get() else wait)
        else:
            session.state.authorised = True
            session.quota.release(quota)
            return result


async def _authorise(request: _Request) -> SecretHeaders:
    """The headers of the credentials, for which a token may have to be requested first."""
    session, deadline = request.session, request.deadline

    async def fetch(body: Mapping[str, str]) -> Token:
        """POST the client key and secret (API page "OAuth")."""
        token = evolve(
            request,
            method="POST",
            path=_TOKEN_PATH,
            shown=session.prefix + _TOKEN_PATH,
            secrets=(),
            body=msgspec.json.encode(dict(body)),
        )
        return await _send(token, {}, read_token)

    failure: CapillaryError
    try:
        async with asyncio.timeout(None if deadline.paused_while_queued else deadline.left()):
            return await session.settings.auth.headers(fetch)
    except CapillaryError as error:
        failure = error
    except TimeoutError:
        failure = _deadline_exceeded(request)
    except Exception as error:  # noqa: BLE001 - credentials may be of the caller's making
        failure = AuthError(f"the credentials failed: {type(error).__name__}: {error}")
        failure.__cause__ = error
    if failure.url is None:
        _annotate(request, failure)
    raise failure.with_traceback(None) from failure.__cause__


async def _send(request: _Request, headers: Mapping[str, str], read: Read[T]) -> T:
    """Acquire a permit, send once, read the answer, release the permit."""
    session = request.session
    permit: Permit | None = None
    answer: Answer | None = None
    failure: CapillaryError | None = None
    ended: float | None = None
    outcome: Outcome = "cancelled"
    try:
        permit = await session.limiter.acquire(request.deadline)
        if session.state.closed:  # while it waited
            session.ensure_open()
        session.counts.requested()
        answer = await _exchange(request, headers)
        ended = time.monotonic()
        if request.method == "GET":  # nobody is shown a token
            session.observe(request.path, answer.status, answer.headers, answer.body)
        result = read(answer, session.structurer)
        outcome = "ok"
    except CapillaryError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - nothing foreign escapes
        if answer is None:
            failure = _foreign(request, error, permit)
        else:
            failure = BadResponse(f"the answer cannot be read: {type(error).__name__}")
    finally:
        if failure is not None and not isinstance(failure, ClientClosed):
            outcome = outcome_of(failure)
        if permit is not None:
            retry_after = None if failure is None else failure.retry_after
            session.limiter.release(permit, outcome, retry_after, ended)
    if failure is not None and failure.url is None:
        _annotate(request, failure, answer)
    if session.hooks and permit is not None:
        session.hooks.emit(
            RequestDetails(
                method=request.method,
                url=request.shown,
                attempt=request.attempts,
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


async def _exchange(request: _Request, headers: Mapping[str, str]) -> Answer:
    """Send, and read the whole body, after decompression.

    What met a pooled connection that the server had closed meanwhile was never read: sent again at
    once, it is no attempt and costs nothing.

    Raises:
        BadResponse: the body is longer than `max_body` bytes.

    """
    session, settings = request.session, request.session.settings
    url, room = URL(session.prefix + request.path, encoded=True), settings.max_body
    response: aiohttp.ClientResponse | None = None
    chunks: list[bytes] = []
    # Not aiohttp's own timers, which a connection with an answer from before can escape.
    asleep = session.timer.asleep
    attempt = session.timer.start(min(request.deadline.left(), settings.attempt_timeout))
    try:
        while response is None:
            connection_reused.set(False)
            try:
                # Awaited, not entered: a body read to its end releases the connection.
                response = await session.http.request(
                    request.method,
                    url,
                    data=request.body,
                    allow_redirects=False,
                    raise_for_status=False,
                    timeout=_NO_LIMIT,
                    **_credentials(session, headers),
                )
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
                begun = isinstance(getattr(error, "message", None), RawResponseMessage)
                if begun or not connection_reused.get():
                    raise
        while room >= 0 and not (chunks and response.content.at_eof()):
            chunks.append(await response.content.readany())
            room -= len(chunks[-1])
    finally:
        cut_off = session.timer.stop(attempt)
        if session.wait_for_limits:  # a sweep: time asleep is none of its deadline
            request.deadline.ends += session.timer.asleep - asleep
        if response is not None and not response.content.at_eof():
            response.close()
        if cut_off:
            raise TimeoutError
    if room < 0:
        raise BadResponse(
            f"the body is larger than the limit of {settings.max_body} bytes",
            status=response.status,
        )
    return Answer(response.status, b"".join(chunks), response.headers)


def _credentials(session: Session, headers: Mapping[str, str]) -> dict[str, Any]:
    """The arguments that make aiohttp send these headers, and no credentials of its own."""
    if not session.override_auth:
        merged = SecretHeaders({**session.headers, **headers}) if session.headers else headers
        return {"headers": merged}

    async def override(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers.pop("Authorization", None)
        request.headers.update(headers)
        return await handler(request)

    given = session.http._middlewares  # noqa: SLF001 - those of a request replace the session's
    return {"headers": session.headers, "middlewares": (*given, override)}


def _token_rejected(
    session: Session, error: CapillaryError, headers: Mapping[str, str], rejections: int
) -> bool:
    """Whether a rejected token is reason to try again: with another one, or after a short wait.

    Where no token of this client has ever worked, two more tries are enough.
    """
    if not isinstance(error, AuthError) or not error.token_rejected:
        return False
    auth = session.settings.auth
    others = auth.rejected(headers, again=rejections > 0)
    error.retryable = others and (session.state.authorised or rejections < 2)
    if error.retryable and auth.cached_headers is headers:
        error.retry_after = _TOKEN_PROPAGATION
    return error.retryable


def _plan_retry(
    request: _Request, error: CapillaryError, *, use_quota: bool
) -> tuple[float, int] | None:
    """Seconds to wait before another attempt, and the tokens it took; None for no attempt."""
    session, deadline, attempts = request.session, request.deadline, request.attempts
    policy, sweep, retry_after = session.settings.retry, session.wait_for_limits, error.retry_after
    outcome = outcome_of(error)
    # To a sweep a refusal is a wait like that for the budget; but some user may be refused always.
    most = policy.attempts * 4 - 3 if sweep and outcome == "throttled" else policy.attempts
    if not error.retryable or attempts >= most or deadline.left() <= 0:
        return None
    if (retry_after or 0.0) > policy.retry_after_max:
        error.add_note("not retried: the server asks for a longer pause than retry_after_max")
        return None
    wait = policy.backoff(attempts, random.random(), retry_after)
    if sweep and retry_after is not None:
        if outcome in {"throttled", "overload"}:
            wait = 0.0  # the limiter holds everybody back for as long as it takes
        deadline.ends += wait  # like any other wait of a sweep for the server's limits
    if wait >= deadline.left():
        error.add_note("not retried: the deadline would pass before another attempt")
        return None
    spent: int | None = 0
    # A sweep needs no quota in an outage: the limiter lets few of its requests through.
    if use_quota and outcome != "throttled" and not sweep:
        spent = session.quota.acquire(timed_out=isinstance(error, RequestTimeout))
    if spent is None:
        error.add_note("not retried: too many requests are failing (retry quota used up)")
        return None
    session.counts.retried()
    _log.info("attempt %d failed, next in %.2f s: %s", attempts, wait, error)
    if session.hooks:
        method, url = request.method, request.shown
        session.hooks.emit(
            RetryDetails(method=method, url=url, attempt=attempts, wait=wait, error=error)
        )
    return wait, spent


def _foreign(request: _Request, error: Exception, permit: Permit | None) -> CapillaryError:
    """What was raised before there was an answer, as one of our errors."""
    said = getattr(error, "message", "") or str(error)
    name = type(error).__name__
    failed: CapillaryError
    try:
        request.session.ensure_open()
    except CapillaryError as closed:
        return closed
    timed_out = isinstance(error, TimeoutError) and error.errno is None  # by a timer, not TCP's
    if permit is None and not timed_out:
        failed = BudgetUnavailable(f"the rate budget failed: {name}: {said}")
    elif request.deadline.left() <= 0:
        return _deadline_exceeded(request)
    elif timed_out:
        seconds = request.session.settings.attempt_timeout
        return RequestTimeout(f"no whole answer within {seconds:g} s")
    elif isinstance(error, RuntimeError):
        failed = UsageError(f"the aiohttp session cannot be used here: {said}")
        failed.scope = "client"
    else:
        failed = ConnectionFailed(f"the connection failed: {name}: {said}" if said else name)
        failed.retryable = not isinstance(error, _LASTING)
    # aiohttp's response errors carry the request's headers: they stay behind.
    failed.__cause__ = None if isinstance(error, aiohttp.ClientResponseError) else error
    return failed


def _deadline_exceeded(request: _Request) -> RequestTimeout:
    """The deadline of the call has passed; its cause is the error of the attempt before."""
    seconds = request.session.settings.timeout
    exceeded = RequestTimeout(f"no whole answer within the deadline of {seconds:g} s")
    exceeded.__cause__ = request.last
    return exceeded


def _annotate(request: _Request, error: CapillaryError, answer: Answer | None = None) -> None:
    """Name the request in the error, and redact what the server said."""
    error.method, error.url = request.method, request.shown
    if answer is not None:
        error.status, error.request_id = answer.status, answer.request_id
    error.redact((*request.session.settings.auth.secrets, *request.secrets))
