"""CachedClient: answers kept for a while, one request for all who ask at once, stale in an outage.

Needs the extra `cache` (cachetools).
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import UTC, datetime
from functools import partial, wraps
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeAlias, TypeVar

from attrs import define, evolve, field, frozen

from . import endpoints, lookups
from .errors import BadResponse, CapillaryError, UsageError
from .models import short_repr
from .progress import progress
from .retry import whole_number
from .session import Session

try:
    from cachetools import TTLCache
except ImportError as _error:
    raise ImportError(
        "client.cached() needs the extra: pip install 'capillary-targets[cache]'"
    ) from _error

P = ParamSpec("P")
T = TypeVar("T")
_Key: TypeAlias = tuple[Any, ...]


@frozen
class Cached(Generic[T]):
    """An answer, when it was fetched (aware, UTC), and why it could not be fetched again.

    `stale` answers are older than `ttl`: the service could not be asked, see `error`.
    """

    value: T
    fetched_at: datetime
    error: CapillaryError | None = None
    __repr__ = short_repr

    @property
    def stale(self) -> bool:
        """Whether it is older than `ttl`, because the service is not answering."""
        return self.error is not None


@define(eq=False)
class _Entry:
    """A cached answer and until when it is given out without asking, in monotonic seconds."""

    answer: Cached[Any]
    until: float


@define(eq=False)
class _Flight:
    """A request under way and the number of callers waiting for it."""

    task: asyncio.Task[Cached[Any]]
    callers: int = field(init=False, default=0)


def _cached(
    call: Callable[Concatenate[Session, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[CachedClient, P], Coroutine[Any, Any, Cached[T]]]:
    """An endpoint coroutine as a method whose answer comes from the cache."""
    signature = inspect.signature(call)

    @wraps(call)
    async def method(self: CachedClient, /, *args: P.args, **options: P.kwargs) -> Cached[T]:
        bound = signature.bind(self.session, *args, **options)
        bound.apply_defaults()  # one key, however the arguments are given
        session, *asked = ((name, _hashable(value)) for name, value in bound.arguments.items())
        ask: Callable[[], Awaitable[Any]] = partial(call, **dict([session, *asked]))
        found: Cached[T] = await self._get((call.__name__, *asked), ask)
        # A list may be changed by its caller; all in it is immutable.
        return evolve(found, value=copy.copy(found.value))

    return method


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


class CachedClient:
    """The look-ups of a client, cached. Made by `client.cached()`, and usable as long as it is.

    Each call returns a `Cached`. However many callers ask for the same at once, one request is
    made, and its answer or error is everybody's. A cancelled caller leaves it to the others; the
    last one cancels it, so no task is left behind.

    Args:
        session: of an open client.
        ttl: seconds for which an answer is given out without asking again.
        stale_if_error: seconds beyond `ttl` for which it is still given out, marked stale, while
            the service fails; it is then asked again every `ttl` seconds. Answers such as "no such
            user" are no failures: they are raised.
        max_size: answers kept; the least recently used goes first.
        clock: monotonic seconds.

    Raises:
        UsageError: a value that cannot work.
    """

    def __init__(
        self,
        session: Session,
        *,
        ttl: float,
        stale_if_error: float = 0.0,
        max_size: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not (0 < ttl < float("inf") and 0 <= stale_if_error < float("inf")):
            raise UsageError("ttl must be seconds above 0, stale_if_error seconds from 0")
        self.session: Session = session
        self._ttl = ttl
        self._clock = clock
        size = whole_number("max_size", max_size)
        self._entries: TTLCache[_Key, _Entry] = TTLCache(size, ttl + stale_if_error, clock)
        self._flights: dict[_Key, _Flight] = {}

    active_targets: Final = _cached(endpoints.active_targets)
    find_customer: Final = _cached(lookups.find_customer)
    target_groups: Final = _cached(lookups.target_groups)
    target_periods: Final = _cached(lookups.target_periods)
    progress: Final = _cached(progress)

    def expire(self, user_id: int) -> None:
        """Ask anew for what is kept of a member who has changed; it stays for an outage."""
        changed = ("user_id", user_id)
        for key in [key for key in self._flights if changed in key]:
            del self._flights[key]  # asked before the change
        for key, entry in self._entries.items():
            if changed in key:
                entry.until = self._clock()

    def __len__(self) -> int:
        return len(self._entries)

    async def _get(self, key: _Key, call: Callable[[], Awaitable[Any]]) -> Cached[Any]:
        self.session.ensure_open()
        entry = self._entries.get(key)
        if entry is not None and self._clock() < entry.until:
            return entry.answer
        flight = self._flights.get(key)
        if flight is None:
            flight = _Flight(asyncio.create_task(self._fetch(key, call)))
            self._flights[key] = flight
        flight.callers += 1
        try:
            await asyncio.wait([flight.task])
        finally:
            flight.callers -= 1
            if not flight.callers:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                if flight.task.cancel():
                    await asyncio.wait([flight.task])
        error = None if flight.task.cancelled() else flight.task.exception()
        if isinstance(error, CapillaryError):
            raise copy.copy(error)  # each caller adds its own traceback
        return flight.task.result()

    async def _fetch(self, key: _Key, call: Callable[[], Awaitable[Any]]) -> Cached[Any]:
        entry = None
        try:
            answer = Cached(await call(), datetime.now(UTC))
        except CapillaryError as error:
            entry = self._entries.get(key)
            if entry is None or not _is_outage(error):
                raise
            answer = evolve(entry.answer, error=error)
        flight = self._flights.get(key)
        if flight is not None and flight.task is asyncio.current_task():  # not expired meanwhile
            until = self._clock() + self._ttl
            if entry is None:
                self._entries[key] = _Entry(answer, until)
            else:  # in place: stored anew, it would be as young as its failure
                entry.answer, entry.until = answer, until
        return answer


def _is_outage(error: CapillaryError) -> bool:
    """Whether the error is about the service or the way to it, not about what was asked."""
    return error.retryable or error.scope != "request" or isinstance(error, BadResponse)
