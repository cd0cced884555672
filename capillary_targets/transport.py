"""One call: authorise, acquire a permit, send, read, release, and maybe again.

The only room that touches aiohttp's requests. Whatever goes wrong leaves it as a `CapillaryError`
that names the request; secrets are redacted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import aiohttp
import msgspec
from attrs import field, frozen
from msgspec.structs import replace

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
from .session import HEADERS, Session, UnreadRequest
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
_TLS_ALERT: Final = r"b'\x15\x03"
"""How the parser's error shows what a port for TLS answers to plain http."""
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


class _Call(msgspec.Struct, eq=False):
    """One call: how its request is sent, how it is shown, and what became of it so far."""

    session: Session
    deadline: Deadline
    path: str
    shown: str
    """The whole address, redacted."""
    secrets: tuple[str, ...] = ()
    method: str = "GET"
    body: bytes | None = None
    attempts: int = 0
    rejections: int = 0
    """Attempts whose token was rejected."""
    rejected: Mapping[str, str] | None = None
    """The headers of the latest of them."""
    quota: int = 0
    """Tokens of the retry quota that the latest retry took."""
    last: CapillaryError | None = None

    def __repr__(self) -> str:
        """Without path and body, which may hold secrets."""
        return object.__repr__(self)


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
        call = _Call(session, deadline, path, session.prefix + path)
    else:
        call = _Call(session, deadline, path.path, session.prefix + path.redacted, path.secrets)
    while True:
        call.attempts += 1
        headers = settings.auth.cached_headers
        try:
            if headers is None:
                headers = await _authorise(call)
            result = await _attempt(call, headers, read)
        except CapillaryError as error:
            error.attempts = call.attempts
            call.last = error.with_traceback(None)
            if headers is not None and _is_renewed(call, error, headers):
                continue
            wait = _plan_retry(call, error, authorised=headers is not None)
            if wait is None:
                if session.hooks:
                    session.hooks.emit(FailureDetails(error=error))
                raise
            await asyncio.sleep(0 if waiting_disabled.get() else wait)
        else:
            session.state.authorised = True
            session.quota.release(call.quota)
            return result


async def _authorise(call: _Call) -> SecretHeaders:
    """The headers of the credentials, for which a token may have to be requested first."""

    async def fetch(body: Mapping[str, str]) -> Token:
        """POST the client key and secret (API page "OAuth")."""
        shown, encoded = call.session.prefix + _TOKEN_PATH, msgspec.json.encode(dict(body))
        token = replace(
            call, method="POST", path=_TOKEN_PATH, shown=shown, secrets=(), body=encoded
        )
        return await _attempt(token, {}, read_token)

    deadline = call.deadline
    try:
        async with asyncio.timeout(None if deadline.paused_while_queued else deadline.left()):
            return await call.session.settings.auth.headers(fetch)
    except (CapillaryError, TimeoutError) as error:
        failure = _as_ours(call, error)
    except Exception as error:  # noqa: BLE001 - credentials may be of the caller's making
        failure = AuthError(f"the credentials failed: {type(error).__name__}: {error}")
        failure.__cause__ = error
        failure = _as_ours(call, failure)
    raise failure from failure.__cause__


async def _attempt(call: _Call, headers: Mapping[str, str], read: Read[T]) -> T:
    """Acquire a permit, send once, read the answer, release the permit."""
    session = call.session
    permit: Permit | None = None
    answer: Answer | None = None
    failure: CapillaryError | None = None
    ended: float | None = None
    outcome: Outcome = "cancelled"
    try:
        permit = await session.limiter.acquire(call.deadline)
        if session.state.closed:  # while this waited
            session.ensure_open()
        for counts in session.counted:
            counts.requests += 1
        answer = await _exchange(call, headers)
        ended = time.monotonic()
        if session.observers and call.method == "GET":  # nobody is shown a token
            session.observe(call.path, answer.status, answer.headers, answer.body)
        result = read(answer, session.structurer)
        outcome = "ok"
    except Exception as error:  # noqa: BLE001 - nothing foreign escapes
        failure = _as_ours(call, error, permit, answer)
        if not isinstance(failure, ClientClosed):
            outcome = outcome_of(failure)
    finally:
        if permit is not None:
            retry_after = None if failure is None else failure.retry_after
            session.limiter.release(permit, outcome, retry_after, ended)
    if session.hooks and permit is not None:
        session.hooks.emit(
            RequestDetails(
                method=call.method,
                url=call.shown,
                attempt=call.attempts,
                seconds=(ended or time.monotonic()) - permit.sent,
                status=None if answer is None else answer.status,
                request_id=None if answer is None else answer.request_id,
                error=failure,
                scope=current_scope(),
            )
        )
    if failure is not None:
        raise failure from failure.__cause__
    return result


async def _exchange(call: _Call, headers: Mapping[str, str]) -> Answer:
    """Send, and read the whole body, after decompression.

    What met a pooled connection that the server had closed meanwhile was never read: sent again at
    once, it is no attempt and costs nothing.

    Raises:
        BadResponse: the body is longer than `max_body` bytes.

    """
    session, settings = call.session, call.session.settings
    path, _, query = call.path.partition("?")
    url = session.url(path=session.root + path, query_string=query)
    response: aiohttp.ClientResponse | None = None
    answer: Answer | None = None
    asleep = session.timer.asleep
    # Not aiohttp's own timers, which a connection with an answer from before can escape.
    timed = session.timer.start(min(call.deadline.left(), settings.attempt_timeout))
    try:
        while response is None:
            try:
                # Awaited, not entered: a body read to its end releases the connection.
                response = await session.http.request(
                    call.method,
                    url,
                    data=call.body,
                    allow_redirects=False,
                    raise_for_status=False,
                    timeout=_NO_LIMIT,
                    **_headers(session, headers),
                )
            except UnreadRequest:
                continue
        chunks = [await response.content.readany()]
        room = settings.max_body - len(chunks[0])
        while room >= 0 and not response.content.at_eof():
            chunks.append(await response.content.readany())
            room -= len(chunks[-1])
        if room < 0:
            raise BadResponse(
                f"the body is larger than the limit of {settings.max_body} bytes",
                status=response.status,
            )
        answer = Answer(response.status, b"".join(chunks), response.headers)
    finally:
        cut_off = session.timer.stop(timed)
        if session.wait_for_limits:  # a sweep: time asleep is none of its deadline
            call.deadline.ends += session.timer.asleep - asleep
        if response is not None and answer is None:
            response.close()
        if cut_off:
            raise TimeoutError
    return answer


def _headers(session: Session, headers: Mapping[str, str]) -> dict[str, Any]:
    """The arguments that make aiohttp send these headers, and no credentials of its own."""
    if session.settings.session is None:
        return {"headers": headers}

    async def override(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers.pop("Authorization", None)
        request.headers.update(headers)
        return await handler(request)

    given = session.http._middlewares  # noqa: SLF001 - those of a request replace the session's
    return {"headers": HEADERS, "middlewares": (*given, override)}


def _plan_retry(call: _Call, error: CapillaryError, *, authorised: bool) -> float | None:
    """Seconds to wait before another attempt; None for no other attempt."""
    session, deadline = call.session, call.deadline
    policy, sweep, retry_after = session.settings.retry, session.wait_for_limits, error.retry_after
    outcome = outcome_of(error)
    # To a sweep a refusal is a wait like that for the budget; but some user may be refused always.
    most = policy.attempts * 4 - 3 if sweep and outcome == "throttled" else policy.attempts
    if not error.retryable or call.attempts >= most or deadline.left() <= 0:
        return None
    if (retry_after or 0.0) > policy.retry_after_max:
        error.add_note("not retried: the server asks for a longer pause than retry_after_max")
        return None
    wait = policy.backoff(call.attempts, random.random(), retry_after)
    if sweep and retry_after is not None:
        if outcome in {"throttled", "overload"}:
            wait = 0.0  # the limiter holds everybody back for as long as it takes
        deadline.ends += wait  # like any other wait of a sweep for the server's limits
    if wait >= deadline.left():
        error.add_note("not retried: the deadline would pass before another attempt")
        return None
    # A failed token request is paced by the credentials, once for all calls; a null is no outage;
    # and a sweep needs no quota in one: the limiter lets few of its requests through.
    free = not authorised or isinstance(error, AuthError | NullData)
    spent: int | None = 0
    if not (free or sweep or outcome == "throttled"):
        spent = session.quota.acquire(timed_out=isinstance(error, RequestTimeout))
    if spent is None:
        error.add_note("not retried: too many requests are failing (retry quota used up)")
        return None
    call.quota = spent
    for counts in session.counted:
        counts.retries += 1
    _log.info("attempt %d failed, next in %.2f s: %s", call.attempts, wait, error)
    if session.hooks:
        session.hooks.emit(RetryDetails(wait=wait, error=error))
    return wait


def _is_renewed(call: _Call, error: CapillaryError, headers: Mapping[str, str]) -> bool:
    """Whether an old token was rejected, for the first time: that is no failure.

    A token so new that not every node may know it yet is kept, and tried again after a short wait.
    Where no token of this client has ever worked, two more tries are enough.
    """
    if not isinstance(error, AuthError) or not error.token_rejected:
        return False
    auth = call.session.settings.auth
    others = auth.rejected(headers, again=headers is call.rejected)
    error.retryable = others and (call.session.state.authorised or call.rejections < 2)
    call.rejections, call.rejected = call.rejections + 1, headers
    if error.retryable and auth.cached_headers is headers:
        error.retry_after = _TOKEN_PROPAGATION
    return error.retryable and call.rejections == 1 and error.retry_after is None


def _as_ours(
    call: _Call, error: Exception, permit: Permit | None = None, answer: Answer | None = None
) -> CapillaryError:
    """Whatever went wrong as one of our errors, its request named, what the server said redacted.

    Without its traceback: the frames hold what the server said before.
    """
    ours = error if isinstance(error, CapillaryError) else _translated(call, error, permit, answer)
    if ours.url is None:
        ours.method, ours.url = call.method, call.shown
        if answer is not None:
            ours.status, ours.request_id = answer.status, answer.request_id
        ours.redact((*call.session.settings.auth.secrets, *call.secrets))
    return ours.with_traceback(None)


def _translated(
    call: _Call, error: Exception, permit: Permit | None, answer: Answer | None
) -> CapillaryError:
    name, said = type(error).__name__, getattr(error, "message", "") or str(error)
    if answer is not None:
        return BadResponse(f"the answer cannot be read: {name}")
    try:
        call.session.ensure_open()
    except CapillaryError as closed:
        return closed
    failed: CapillaryError
    settings = call.session.settings
    timed_out = isinstance(error, TimeoutError) and error.errno is None  # by a timer, not TCP's
    if permit is None and not timed_out:
        failed = BudgetUnavailable(f"the rate budget failed: {name}: {said}")
    elif call.deadline.left() <= 0:
        failed = RequestTimeout(f"no whole answer within the deadline of {settings.timeout:g} s")
        failed.__cause__ = call.last
        return failed
    elif timed_out:
        return RequestTimeout(f"no whole answer within {settings.attempt_timeout:g} s")
    elif isinstance(error, RuntimeError):
        failed = UsageError(f"the aiohttp session cannot be used here: {said}")
        failed.scope = "client"
    else:
        failed = ConnectionFailed(_what_to_check(error, said or name))
        failed.retryable = not isinstance(error, _LASTING)
    # aiohttp's response errors carry the request's headers: they stay behind.
    failed.__cause__ = None if isinstance(error, aiohttp.ClientResponseError) else error
    return failed


def _what_to_check(error: Exception, said: str) -> str:
    """Why there is no connection, in one line that ends with what to check."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
        return (
            f"the certificate of {error.host}:{error.port} is not trusted ({why}): behind a "
            "company's proxy, set SSL_CERT_FILE to a file with its authorities"
        )
    if not isinstance(error, aiohttp.ClientConnectorError):
        said = " ".join(line.strip() for line in said.splitlines() if line.strip(" ^"))
        tls = ": the server speaks TLS, check that the base URL is https" * (_TLS_ALERT in said)
        return f"the connection broke: {said}{tls}"
    place = f"{error.host}:{error.port}"
    number = error.errno or 0
    why = os.strerror(number) if number > 0 else error.strerror
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        why = getattr(error.os_error, "reason", why)
        return f"no TLS with {place} ({why}): check that it speaks https, and not http"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"no connection to the proxy {place} ({why}): check HTTPS_PROXY and ALL_PROXY"
    return (
        f"no connection to {place} ({why}): check the base URL, that the server runs, and whether "
        "a proxy is needed (HTTPS_PROXY; in Python with trust_env=True)"
    )
