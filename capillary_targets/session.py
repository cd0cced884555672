"""The session factory: one aiohttp session and the settings that every request shares."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Final, Unpack

import aiohttp
from attrs import define, evolve, field
from yarl import URL

from .auth import Auth
from .errors import ClientClosed
from .hooks import Hooks
from .limiter import RequestLimiter
from .pagination import Learned
from .retry import RetryQuota
from .settings import Options, Settings
from .structuring import Structurer, structurer

__all__ = ["Counts", "Session", "open_session", "opened", "time_limit"]


_HEADERS: Final = {"Accept": "application/json", "Content-Type": "application/json"}


def time_limit(seconds: float) -> aiohttp.ClientTimeout:
    """For one request, from asking for a connection to the last byte; exact, not whole seconds."""
    # 0 would mean no limit.
    return aiohttp.ClientTimeout(total=max(seconds, 1e-6), ceil_threshold=math.inf)


@cache
def _user_agent() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - reads files

    try:
        return f"capillary-targets/{version('capillary-targets')}"
    except PackageNotFoundError:  # run from a source tree
        return "capillary-targets/0"


@define
class Counts:
    """What has been done so far; what a sweep does counts for its client too."""

    requests: int = 0
    retries: int = 0
    _whole: Counts | None = None

    def requested(self) -> None:
        """A request is sent."""
        self.requests += 1
        if self._whole is not None:
            self._whole.requested()

    def retried(self) -> None:
        """Another attempt follows."""
        self.retries += 1
        if self._whole is not None:
            self._whole.retried()


@define(eq=False, repr=False)
class Life:
    """Whether a session is still open; shared by its patient twin."""

    closed: bool = False


@define(eq=False)
class Session:
    """An open session, which the endpoint coroutines are fed. Made by `open_session`."""

    settings: Settings
    http: aiohttp.ClientSession = field(repr=False)
    limiter: RequestLimiter = field(repr=False)
    structurer: Structurer = field(repr=False)
    prefix: str = field(repr=False)
    """The base URL as text, to show."""
    headers: Mapping[str, str] = field(repr=False)
    """What every request says besides who asks, unless the aiohttp session says it."""
    attempt_timeout: float
    attempt_limit: aiohttp.ClientTimeout = field(repr=False)
    quota: RetryQuota = field(repr=False)
    hooks: Hooks = field(repr=False)
    counts: Counts = field(factory=Counts)
    learned: Learned = field(factory=Learned, repr=False)
    life: Life = field(factory=Life, repr=False)
    patient: bool = False
    """Whether waiting for places and budget counts towards a call's deadline: not in a sweep."""

    def patiently(self) -> Session:
        """A twin for work that would rather wait than fail, with counts of its own."""
        return evolve(self, patient=True, counts=Counts(whole=self.counts))

    def ensure_open(self) -> None:
        """Raise `ClientClosed` unless requests can be made."""
        if self.life.closed:
            raise ClientClosed("this client is closed; open a new one")
        if self.http.closed:
            raise ClientClosed("the aiohttp session given to this client has been closed")


@asynccontextmanager
async def open_session(
    base_url: str | URL,
    auth: Auth,
    *,
    session: aiohttp.ClientSession | None = None,
    **options: Unpack[Options],
) -> AsyncIterator[Session]:
    """Open a session for the bare endpoint coroutines; the client holds one of these.

    `session`, an aiohttp session of the caller's, is used and never closed. The other settings
    are those of `Settings`. Raises `UsageError` for settings that cannot work.
    """
    settings = Settings(base_url=base_url, auth=auth, **options)
    async with opened(settings, session) as opened_session:
        yield opened_session


class ConnectionDropped(aiohttp.ClientError):
    """The connection broke after the request was sent."""


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET again by itself when its connection breaks.

    Such a second request would be outside quota and budget. aiohttp repeats only on its own
    classes of error.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise ConnectionDropped(str(error)) from error


@asynccontextmanager
async def opened(
    settings: Settings, http: aiohttp.ClientSession | None = None
) -> AsyncIterator[Session]:
    """A session for checked settings, closed at the end whatever happens."""
    own = http is None
    if http is None:
        http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the limiter bounds what is in flight
            cookie_jar=aiohttp.DummyCookieJar(),  # the API needs none, so none can leak
            headers={"User-Agent": _user_agent(), **_HEADERS},
            middlewares=(_send_once,),
        )
    hooks = Hooks(settings.hooks)
    attempt_timeout = settings.retry.attempt_timeout or settings.timeout / 2
    session = Session(
        settings,
        http,
        limiter=RequestLimiter(settings.concurrency, settings.rate, hooks),
        structurer=structurer(settings.timezone),
        prefix=str(settings.base_url).rstrip("/"),
        headers={} if own else _HEADERS,
        attempt_timeout=attempt_timeout,
        attempt_limit=time_limit(attempt_timeout),
        quota=RetryQuota(settings.retry.quota),
        hooks=hooks,
    )
    try:
        yield session
    finally:
        session.life.closed = True
        if own:
            await http.close()
        await session.limiter.aclose()
