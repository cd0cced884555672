"""The session factory: one aiohttp session and the settings that every request shares."""

from __future__ import annotations

import asyncio
import logging
import math
import select
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.http_parser import RawResponseMessage
from attrs import define, evolve, field
from yarl import URL

from .auth import Auth
from .contract import DriftWatch
from .errors import ClientClosed, UsageError
from .hooks import DriftDetails, Hooks, SessionDetails
from .limiter import RequestLimiter
from .models import short_repr
from .pagination import UNKNOWN, Dialect
from .retry import RetryQuota
from .settings import Observer, Options, Settings
from .structuring import Structurer, structurer

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

__all__ = ["HEADERS", "Counts", "Session", "UnreadRequest", "__version__", "open_session"]

__version__ = "0.2.0.dev0"
_log = logging.getLogger("capillary_targets")

_DRIFT_IN_SWEEPS: Final = 1000
_ASLEEP: Final = 1.0
"""Seconds that the event loop must be late for the process to count as stopped meanwhile."""
HEADERS: Final = {"Accept": "application/json", "Content-Type": "application/json"}

_reused: ContextVar[bool] = ContextVar("capillary_targets_reused", default=False)
"""Whether the request of the running task went out on a connection that had been used before."""


@define
class Counts:
    """Requests and retries so far."""

    requests: int = 0
    retries: int = 0


@define(eq=False, repr=False)
class AttemptTimer:
    """Ends attempts that take too long, by one timer of the loop for all of them.

    `asyncio.timeout` for each takes an eighth of what aiohttp needs for a whole request.
    """

    _loop: asyncio.AbstractEventLoop
    _attempts: dict[asyncio.Task[Any], tuple[float, int]] = field(init=False, factory=dict)
    """When each is due (inf: it was cut off), and how often its task was cancelled before it."""
    _handle: asyncio.TimerHandle | None = field(init=False, default=None)
    asleep: float = field(init=False, default=0.0)
    """Seconds for which attempts were not cut off because the process, or its loop, stood still."""

    def start(self, seconds: float) -> asyncio.Task[Any]:
        """The attempt of the running task, which may take so long."""
        task, due = asyncio.current_task(), self._loop.time() + seconds
        if task is None:
            raise RuntimeError("it is not used inside a task")
        self._attempts[task] = due, task.cancelling()
        if self._handle is None or due < self._handle.when():
            self._wake_up_at(due)
        return task

    def stop(self, attempt: asyncio.Task[Any]) -> bool:
        """It is over; whether it was cut off, and cancelled by nobody else."""
        due, cancelling = self._attempts.pop(attempt)
        return due == math.inf and attempt.uncancel() <= cancelling

    def close(self) -> None:
        """Cancel the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _wake_up_at(self, due: float) -> None:
        self.close()
        if due < math.inf:
            self._handle = self._loop.call_at(due, self._cut_off)

    def _cut_off(self) -> None:
        now, first = self._loop.time(), math.inf
        if self._handle is not None and (late := now - self._handle.when()) > _ASLEEP:
            self.asleep += late
        for task, (due, cancelling) in self._attempts.items():
            if due <= now:
                self._attempts[task] = math.inf, cancelling
                task.cancel()
            else:
                first = min(first, due)
        self._wake_up_at(first)


@define(eq=False, repr=False)
class _State:
    """State shared with copies made by `with_options()`."""

    loop: asyncio.AbstractEventLoop
    closed: bool = False
    authorised: bool = False
    """Whether these credentials have ever been accepted."""
    dialect: Dialect = UNKNOWN


@define(eq=False)
class Session:
    """An open session, the first argument of the endpoint coroutines. Made by `open_session`."""

    settings: Settings = field(repr=False)
    http: aiohttp.ClientSession = field(repr=False)
    limiter: RequestLimiter = field(repr=False)
    structurer: Structurer = field(repr=False)
    prefix: str
    """The base URL as text, to show."""
    url: Callable[..., URL] = field(repr=False)
    """The URL of a `path` and a `query_string`, both encoded."""
    root: str = field(repr=False)
    """The base URL's own path, which comes before each other."""
    quota: RetryQuota = field(repr=False)
    hooks: Hooks = field(repr=False)
    state: _State = field(repr=False)
    timer: AttemptTimer = field(repr=False)
    counts: Counts = field(factory=Counts)
    counted: tuple[Counts, ...] = field(default=(), repr=False)
    """The counts that a request is added to: a sweep's own, and its client's."""
    wait_for_limits: bool = False
    """Whether waiting for the limiter is no part of a call's deadline, and goes behind others."""
    watch: DriftWatch | None = field(default=None, repr=False)
    """What compares answers with the contract."""
    observers: tuple[Observer, ...] = field(init=False, repr=False)
    """What is shown each answer: the watch, and the caller's own."""
    __repr__ = short_repr

    def __attrs_post_init__(self) -> None:
        self.counted = (self.counts, *self.counted)
        watch = () if self.watch is None else (self.watch,)
        self.observers = (*watch, *self.settings.observers)

    def with_options(self, *, wait_for_limits: bool) -> Session:
        """A copy with counts of its own, for work that would rather wait than fail: a sweep."""
        watch = self.watch
        if watch is None and self.settings.drift is None:
            watch = _watch(self.hooks, _DRIFT_IN_SWEEPS)
        return evolve(self, wait_for_limits=wait_for_limits, counts=Counts(), watch=watch)

    def observe(self, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Show an answer to all observers."""
        for observe in self.observers:
            try:
                observe(path, status, headers, body)
            except Exception:  # noqa: BLE001 - logged and ignored, as a hook's
                _log.exception("an observer failed: %r", observe)

    @property
    def dialect(self) -> Dialect:
        """The server's pagination dialect as walks have detected it so far."""
        return self.state.dialect

    @dialect.setter
    def dialect(self, detected: Dialect) -> None:
        if self.watch is not None and detected is not self.state.dialect:
            self.watch.dialect_changed(self.state.dialect.to_dict(), detected.to_dict())
        self.state.dialect = detected

    def ensure_open(self) -> None:
        """Raise `ClientClosed` or `UsageError` unless requests can be made here and now."""
        if self.state.closed:
            raise ClientClosed("this client is closed; open a new one")
        if self.http.closed:
            raise ClientClosed("the aiohttp session given to this client has been closed")
        try:
            here = asyncio.get_running_loop() is self.state.loop
        except RuntimeError:
            return  # not asked by a coroutine
        if not here:
            error = UsageError(
                "this client was opened in another event loop: open one client in each loop, "
                "inside the coroutine that asyncio.run is given"
            )
            error.scope = "client"
            raise error


@asynccontextmanager
async def open_session(
    base_url: str | URL | Settings,
    auth: Auth | None = None,
    **options: Unpack[Options],
) -> AsyncIterator[Session]:
    """Open a session for the bare endpoint coroutines; the client holds one of these.

    Args:
        base_url: a cluster's short name, an address, or checked `Settings`, which hold all else.
        auth: `BasicAuth` or `OAuth`.
        options: all else, see `Options`.

    Raises:
        UsageError: settings that cannot work.

    """
    settings = base_url
    if not isinstance(settings, Settings):
        settings = Settings.of(settings, auth, options)
    hooks, base = Hooks(settings.hooks), settings.base_url
    # Freed at once: from then on glibc keeps the 256 KiB that asyncio allocates for each read,
    # and does not map them anew.
    bytearray(2**20)
    async with AsyncExitStack() as stack:
        limiter = RequestLimiter(
            settings.concurrency,
            settings.rate,
            hooks,
            retry_after_max=settings.retry.retry_after_max,
        )
        stack.push_async_callback(limiter.aclose)
        timer = AttemptTimer(asyncio.get_running_loop())
        stack.callback(timer.close)
        http = settings.session
        if http is None:
            http = await stack.enter_async_context(_open_http(settings))
        opened = Session(
            settings,
            http,
            limiter=limiter,
            structurer=structurer(settings.timezone),
            prefix=str(base).rstrip("/"),
            url=partial(URL.build, scheme=base.scheme, authority=base.raw_authority, encoded=True),
            root=base.raw_path.rstrip("/"),
            quota=RetryQuota(settings.retry.quota),
            hooks=hooks,
            state=_State(asyncio.get_running_loop(), dialect=settings.dialect),
            timer=timer,
            watch=_watch(hooks, settings.drift) if settings.drift else None,
        )
        url, state = opened.prefix, limiter.state
        hooks.emit(SessionDetails(phase="opens", url=url, state=state))
        try:
            yield opened
        finally:
            opened.state.closed = True
            hooks.emit(SessionDetails(phase="closed", url=url, state=state))


def _watch(hooks: Hooks, every: int) -> DriftWatch:
    return DriftWatch(lambda one: hooks.emit(DriftDetails(finding=one)), every)


def _open_http(settings: Settings) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=_Connector(limit=0),  # the limiter bounds what is in flight
        cookie_jar=aiohttp.DummyCookieJar(),  # the API needs none, so none can leak
        headers={"User-Agent": f"capillary-targets/{__version__}", **HEADERS},
        # Looked up once: aiohttp's own trust_env asks two threads at each request, and lets a
        # .netrc override our credentials.
        proxy=_proxy_from_env(settings.base_url) if settings.trust_env else None,
        response_class=_Response,
    )


def _proxy_from_env(url: URL) -> URL | None:
    """The proxy that the environment names for an address; its user and password are kept."""
    if proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    if not found:
        return None
    with suppress(ValueError):
        proxy = URL(found if "://" in found else f"http://{found}")
        if proxy.scheme == "http" and proxy.host:
            return proxy
    raise UsageError(
        f"proxy: only http://HOST:PORT can be used, not {found.rpartition('@')[2]}; "
        "see HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
    )


class UnreadRequest(aiohttp.ClientConnectionError):
    """A pooled connection broke before anything of the answer had come: it was closed already."""


class _Connector(aiohttp.TCPConnector):
    """Drops pooled connections on which something arrived while they were idle, or that ended.

    An unasked-for answer, or the rest of one, would be taken for the next request's.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A new connection, or a pooled one on which nothing is waiting to be read."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            reused = protocol is None or protocol._parser is not None  # noqa: SLF001 - no public way
            _reused.set(reused)
            if not reused or not _has_received(protocol):
                return connection
            connection.close()


def _has_received(protocol: ResponseHandler | None) -> bool:
    """Whether anything came on an idle connection: a message, part of one, or its end."""
    if protocol is None or protocol.should_close or protocol.transport is None:
        return True
    try:
        if protocol._parser.feed_eof() is not None:  # type: ignore[union-attr] # noqa: SLF001
            return True
    except Exception:  # noqa: BLE001 - a parser may raise anything for half a message
        return True
    unread = select.poll()  # for what the loop has not read yet
    unread.register(protocol.transport.get_extra_info("socket"), select.POLLIN)
    return bool(unread.poll(0))


class _Response(aiohttp.ClientResponse):
    """Has the transport send again, within the limits, where aiohttp itself would."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Wait for the headers. Raises `UnreadRequest` where no server has read the request."""
        try:
            return await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            begun = isinstance(getattr(error, "message", None), RawResponseMessage)
            unread = _reused.get() and not begun
            kind = UnreadRequest if unread else aiohttp.ClientConnectionError
            raise kind(str(error)) from error
