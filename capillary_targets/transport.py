"""One GET: authorise, wait for a place, send, retry, read.

Everything that can go wrong leaves it as a `CapillaryError` that knows the request and holds no
secret.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from .auth import SecretHeaders, Token
from .errors import (
    AuthError,
    CapillaryError,
    ClientClosed,
    RateLimited,
    RequestTimeout,
)
from .exchange import Request, exchange
from .hooks import RequestDetails, RetryDetails, current_scope
from .limiter import Deadline, Outcome, Permit, outcome_of
from .private import PrivatePath
from .session import Session
from .structuring import Structurer
from .wire import Answer, read_token

__all__ = ["get"]

T = TypeVar("T")
R = TypeVar("R")
Read = Callable[[Answer, Structurer], T]

_NAME: Final = "capillary_targets"
_log = logging.getLogger(_NAME)
# Stamina logs every retry too, without saying which request; ours says it, so its own is dropped.
logging.getLogger("stamina").addFilter(
    lambda record: getattr(record, "stamina.callable", None) != _NAME
)

_TOKEN_PATH: Final = "/v3/oauth/token/generate"  # noqa: S105 - a path


async def get(session: Session, path: str | PrivatePath, read: Read[T]) -> T:
    """GET `path` below the base URL and `read` the answer.

    One deadline covers everything: authorising, waiting for a place, all attempts, and the whole
    body. Raises whatever `read` raises for the answer, `AuthError`, `ConnectionFailed`,
    `RateLimited` or `RequestTimeout`.
    """
    session.ensure_open()
    call = _Call(session, path, read)
    try:
        result = await call.attempt()
    except CapillaryError as error:
        if not error.retryable:
            raise
        failure = error
    else:
        session.quota.release(0)
        return result
    return await call.try_again(failure)


class _Call(Generic[T]):
    """One logical request and the attempts made for it."""

    def __init__(self, session: Session, path: str | PrivatePath, read: Read[T]) -> None:
        self.session = session
        self.private = path if isinstance(path, PrivatePath) else None
        sent = path.sent if isinstance(path, PrivatePath) else path
        self.request = Request("GET", sent, f"{session.prefix}{path}")
        self.read = read
        self.deadline = Deadline(session.settings.timeout, paused_while_queued=session.patient)
        self.attempts = 0
        self.last: CapillaryError | None = None
        self._taken = 0  # from the retry quota, for the latest retry
        self._renewed = False

    async def try_again(self, failure: CapillaryError | None) -> T:
        """After a first failure: as often as policy, quota and deadline allow."""
        # The retry machinery is entered only now, and the failure replayed to it; with all it
        # brings along, it would be a quarter of what importing this package costs.
        import stamina  # noqa: PLC0415

        async for attempt in stamina.retry_context(
            on=self._wait_before_retry, attempts=self.session.settings.retry.attempts, timeout=None
        ).with_name(_NAME, (), {}):
            with attempt:
                if failure is not None:
                    first, failure = failure, None
                    raise first
                result = await self.attempt()
        self.session.quota.release(self._taken)
        return result

    def _wait_before_retry(self, error: Exception) -> float | bool:
        """Stamina's hook: seconds to wait before another attempt, or False for none."""
        policy = self.session.settings.retry
        left = self.deadline.left()
        if (
            not isinstance(error, CapillaryError)
            or not error.retryable
            or self.attempts >= policy.attempts
            or left <= 0
        ):
            return False
        refused = isinstance(error, RateLimited)
        if refused and self.deadline.paused_while_queued:
            wait = 0.0  # the limiter holds everybody back for as long as it takes
        else:
            wait = policy.backoff(
                self.attempts, random.random(), getattr(error, "retry_after", None)
            )
        if wait >= left:
            error.add_note("not retried: the deadline would pass before another attempt")
            return False
        if not refused:  # a refusal is no outage
            taken = self.session.quota.acquire(timed_out=isinstance(error, RequestTimeout))
            if taken is None:
                error.add_note("not retried: too many requests are failing (retry quota used up)")
                return False
            self._taken = taken
        self.session.counts.retried()
        _log.info("attempt %d failed, next in %.2f s: %s", self.attempts, wait, error)
        if self.session.hooks:
            self.session.hooks.emit(
                RetryDetails(
                    method="GET",
                    url=self.request.shown,
                    attempt=self.attempts,
                    wait=wait,
                    error=error,
                )
            )
        return wait

    async def attempt(self) -> T:
        """Authorise, send and read. A rejected token is renewed once a call."""
        auth = self.session.settings.auth
        headers = auth.at_hand or await self._authorise()
        try:
            return await self._send(self.request, headers, self.read)
        except AuthError as error:
            if self._renewed or not error.token_rejected or not auth.rejected(headers):
                raise
        self._renewed = True
        return await self.attempt()

    async def _authorise(self) -> SecretHeaders:
        try:
            async with asyncio.timeout(
                None if self.deadline.paused_while_queued else self.deadline.left()
            ):
                return await self.session.settings.auth.headers(self._fetch_token)
        except TimeoutError as error:
            if isinstance(error, CapillaryError):
                raise
        raise self._late(self.request)

    async def _fetch_token(self, body: Mapping[str, str]) -> Token:
        """POST the client key and secret, read the token (API page "OAuth")."""
        url = self.session.prefix + _TOKEN_PATH
        return await self._send(Request("POST", _TOKEN_PATH, url, body), {}, read_token)

    async def _send(self, request: Request, headers: Mapping[str, str], read: Read[R]) -> R:
        """Acquire a permit, send once, read the answer, and release the permit."""
        session = self.session
        answer: Answer | None = None
        failure: CapillaryError | None = None
        permit = await self._acquire(request)
        outcome: Outcome = "cancelled"
        ended = None
        try:
            try:
                left = self.deadline.left()
                self.attempts += request is self.request
                answer = await exchange(session, request, headers, left)
                ended = time.monotonic()
                result = read(answer, session.structurer)
            except CapillaryError as error:
                failure = error
            outcome = "ok" if failure is None else outcome_of(failure)
        finally:
            retry_after = failure.retry_after if isinstance(failure, RateLimited) else None
            session.limiter.release(permit, outcome, retry_after, ended)
        if isinstance(failure, RequestTimeout) and self.deadline.left() <= 0:
            failure = self._late(request)
        elif failure is not None:
            self.told(failure, request, answer)
        if session.hooks:
            session.hooks.emit(
                RequestDetails(
                    method=request.method,
                    url=request.shown,
                    attempt=self.attempts,
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

    async def _acquire(self, request: Request) -> Permit:
        try:
            permit = await self.session.limiter.acquire(self.deadline)
        except CapillaryError as error:
            self.told(error, request)
            raise
        except TimeoutError:
            late = self._late(request)
        else:
            try:
                self.session.ensure_open()
            except ClientClosed:
                self.session.limiter.release(permit, "cancelled")
                raise
            return permit
        raise late

    def _late(self, request: Request) -> CapillaryError:
        """The deadline has passed; `last` is what became of the attempt before."""
        late = RequestTimeout(
            f"no whole answer within the deadline of {self.session.settings.timeout:g} s"
        )
        late.__cause__ = self.last
        return self.told(late, request)

    def told(
        self, error: CapillaryError, request: Request, answer: Answer | None = None
    ) -> CapillaryError:
        """The error, knowing the request it belongs to; whatever echoes a secret is redacted."""
        error.method = request.method
        error.url = request.shown
        error.attempts = self.attempts
        if answer is not None:
            error.status = answer.status
            error.request_id = answer.request_id
        error.redact(self.session.settings.auth.secrets)
        if self.private is not None:
            error.redact(self.private.words)
        self.last = error
        return error
