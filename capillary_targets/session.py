"""The session factory: one aiohttp session and the settings that every request shares."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import tzinfo
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import Final

import aiohttp
from attrs import define, evolve, field, frozen
from yarl import URL

from .auth import Auth
from .budget import open_budget
from .errors import ClientClosed, UsageError
from .gate import Gate
from .hooks import Hook, Hooks
from .limits import AdaptiveConcurrency, RateLimit
from .pagination import Learned
from .retry import RetryPolicy, RetryQuota
from .structuring import Structurer, structurer

__all__ = ["CLUSTERS", "Counts", "Session", "Settings", "open_session"]

CLUSTERS: Final = {
    "apac": "https://apac.api.capillarytech.com",
    "apac2": "https://apac2.api.capillarytech.com",
    "eu": "https://eu.api.capillarytech.com",
    "us": "https://us.api.capillarytech.com",
}
"""Short names for the cluster hosts. A tenant lives on exactly one; it is told, never found."""

try:
    _VERSION = version("capillary-targets")
except PackageNotFoundError:  # run from a source tree
    _VERSION = "0"


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


@define
class Life:
    """Whether a session is still open; shared by its patient twin."""

    closed: bool = False


@frozen(kw_only=True)
class Settings:
    """Everything a session is told. Checked when made: a bad one raises `UsageError` at once."""

    base_url: URL
    auth: Auth
    timeout: float = 30.0
    retry: RetryPolicy = field(factory=RetryPolicy)
    concurrency: int | AdaptiveConcurrency = field(factory=AdaptiveConcurrency)
    rate: RateLimit | None = None
    timezone: tzinfo | None = None
    max_body: int = 64 * 2**20
    hooks: tuple[Hook, ...] = ()

    @staticmethod
    def check(
        base_url: str | URL,
        auth: Auth,
        *,
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        concurrency: int | AdaptiveConcurrency | None = None,
        rate: RateLimit | None = None,
        timezone: tzinfo | None = None,
        max_body: int = 64 * 2**20,
        allow_insecure: bool = False,
        hooks: Iterable[Hook] = (),
    ) -> Settings:
        """Settings from what a caller wrote."""
        if not timeout > 0:
            raise UsageError(f"timeout must be a positive number of seconds, not {timeout!r}")
        if isinstance(concurrency, int) and concurrency < 1:
            raise UsageError(f"concurrency must be at least 1, not {concurrency!r}")
        return Settings(
            base_url=_base_url(base_url, allow_insecure=allow_insecure),
            auth=auth,
            timeout=timeout,
            retry=retry or RetryPolicy(),
            concurrency=AdaptiveConcurrency() if concurrency is None else concurrency,
            rate=rate,
            timezone=timezone,
            max_body=max_body,
            hooks=tuple(hooks),
        )


def _base_url(given: str | URL, *, allow_insecure: bool) -> URL:
    """The base URL of a cluster's short name or an address; a gateway's path prefix is kept."""
    text = CLUSTERS.get(given, given) if isinstance(given, str) else given
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        names = ", ".join(sorted(CLUSTERS))
        raise UsageError(f"base URL: give https://HOST or one of {names}, not {str(given)!r}")
    if url.user is not None or url.password is not None:
        raise UsageError("base URL: credentials belong in auth, not in the address")
    if url.query_string or url.fragment:
        raise UsageError("base URL: it cannot have a query or a fragment")
    if url.scheme == "http" and not allow_insecure and not _is_loopback(url.host):
        raise UsageError(
            f"base URL: http would send the credentials to {url.host} in clear; use https, "
            "or say allow_insecure=True"
        )
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@define(eq=False)
class Session:
    """An open session, which the endpoint coroutines are fed. Made by `open_session`."""

    settings: Settings
    http: aiohttp.ClientSession = field(repr=False)
    gate: Gate = field(repr=False)
    structurer: Structurer = field(repr=False)
    prefix: str = field(repr=False)
    attempt_timeout: float
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
    timeout: float = 30.0,
    retry: RetryPolicy | None = None,
    concurrency: int | AdaptiveConcurrency | None = None,
    rate: RateLimit | None = None,
    timezone: tzinfo | None = None,
    max_body: int = 64 * 2**20,
    allow_insecure: bool = False,
    hooks: Iterable[Hook] = (),
) -> AsyncIterator[Session]:
    """Open a session for the bare endpoint coroutines; the client holds one of these.

    `base_url` is a cluster's short name (`eu`) or an address, whose path prefix is kept.
    `session`, an aiohttp session of the caller's, is used and never closed. `timeout` is the
    deadline in seconds of one call, all its attempts and waits included; `max_body` the largest
    body read, in bytes after decompression. Raises `UsageError` for settings that cannot work.
    """
    settings = Settings.check(
        base_url,
        auth,
        timeout=timeout,
        retry=retry,
        concurrency=concurrency,
        rate=rate,
        timezone=timezone,
        max_body=max_body,
        allow_insecure=allow_insecure,
        hooks=hooks,
    )
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
            connector=aiohttp.TCPConnector(limit=0),  # the gate bounds what is in flight
            cookie_jar=aiohttp.DummyCookieJar(),  # the API needs none, so none can leak
            timeout=aiohttp.ClientTimeout(total=None),  # the transport keeps the deadline
            headers={"User-Agent": f"capillary-targets/{_VERSION}"},
            middlewares=(_send_once,),
        )
    hooks = Hooks(settings.hooks)
    budget = None if settings.rate is None else open_budget(settings.rate)
    session = Session(
        settings,
        http,
        gate=Gate(settings.concurrency, budget, hooks),
        structurer=structurer(settings.timezone),
        prefix=str(settings.base_url).rstrip("/"),
        attempt_timeout=settings.retry.attempt_timeout or settings.timeout / 2,
        quota=RetryQuota(settings.retry.quota),
        hooks=hooks,
    )
    try:
        yield session
    finally:
        session.life.closed = True
        if own:
            await http.close()
        await session.gate.close()
