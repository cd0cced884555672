"""A rate budget shared by the processes of a machine (SQLite), or by many machines (Redis).

Both keep the same sliding window as `limits.Window`, in a table that every process can see: a row
for each request, free again `per` seconds after its answer, and one for a pause that a refusal
(429) asked for. A row also carries a lease, so that a process that dies gives its places back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, runtime_checkable
from uuid import uuid4

from .errors import BudgetUnavailable, CapillaryError, UsageError
from .limits import RateLimit, Window, background_after, catch_up, room, spacing

T = TypeVar("T")

_LEASE: Final = 120.0
"""Seconds after which a request whose process never came back no longer counts as in flight."""

_PATIENCE: Final = 5.0
"""Seconds to wait for the store: for another process to unlock the file, for Redis to answer."""
_SQLITE_PASSING: Final = frozenset({5, 6, 10, 13, 15})
"""Errors that another try may not meet: BUSY, LOCKED, IOERR, FULL, PROTOCOL."""

_REDIS_PASSING: Final = ("BUSY", "MISCONF", "NOREPLICAS")
"""Errors without a class in redis-py that another try may not meet: a script that runs, a disk that
is full, replicas that are away."""

_log = logging.getLogger("capillary_targets")


@runtime_checkable
class Budget(Protocol):
    """A place for each request, in any window of the budget's length."""

    async def acquire(self, *, background: bool) -> tuple[str, float]:
        """A ticket and 0.0, or "" and the seconds until asking again makes sense.

        `background`: for a sweep, which goes behind people.
        """

    async def release(self, ticket: str) -> None:
        """The request of this ticket was answered, or failed."""

    async def pause(self, seconds: float) -> None:
        """The server refused: nobody sends for so long."""

    async def close(self) -> None:
        """Close files and connections."""


class SharedBudget:
    """A shared budget for the limiter, which never waits for its store.

    One task fetches tickets while requests are queued for one, and delivers the reports of ended
    requests; so a cancelled call leaves nothing half done.

    Args:
        rate: the budget to open, or the caller's own.
        on_change: called when a ticket was fetched, or the time to wait for one became known.
        on_error: called with the error when no ticket could be fetched.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        rate: RateLimit | Budget,
        on_change: Callable[[], None],
        on_error: Callable[[CapillaryError], None],
        clock: Callable[[], float],
    ) -> None:
        self._budget = open_budget(rate) if isinstance(rate, RateLimit) else rate
        self._on_change = on_change
        self._on_error = on_error
        self._clock = clock
        self._part = Window(rate) if isinstance(rate, RateLimit) else None
        self._ticket = ""
        self._free_at = {False: -math.inf, True: -math.inf}  # by lane: for the background?
        self._wanted: bool | None = None  # for which lane, as above
        self._reports: deque[Callable[[], Awaitable[None]]] = deque()
        self._task: asyncio.Task[None] | None = None

    def delay(self, now: float, *, background: bool) -> float:
        """Seconds until there may be a ticket: 0 with one in hand, inf: one is asked for."""
        if self._ticket:
            return 0.0
        if (wait := self._free_at[background] - now) > 0:
            return wait
        self._wanted = background
        self._start()
        return math.inf

    def acquire(self, now: float, *, background: bool) -> str:
        """The ticket in hand, which `delay` has found."""
        if self._part is not None:
            self._part.acquire(now, background=background)
        ticket, self._ticket = self._ticket, ""
        return ticket

    def release(self, now: float, ticket: str) -> None:
        """Report that the request of this ticket is over."""
        if self._part is not None:
            self._part.release(now, ticket)
        self._report(partial(self._budget.release, ticket))

    def used(self, now: float) -> int | None:
        """Places that this process has taken, where the budget's window is known."""
        return None if self._part is None else self._part.used(now)

    def pause(self, seconds: float) -> None:
        """Tell everybody who shares the budget to send nothing for so long."""
        self._report(partial(self._budget.pause, seconds))

    async def aclose(self) -> None:
        """Deliver what is unreported, and close the budget unless it is the caller's."""
        self._wanted = None
        if self._task is not None:
            await self._task
        if self._part is not None:  # opened here
            await self._budget.close()

    def _report(self, delivery: Callable[[], Awaitable[None]]) -> None:
        self._reports.append(delivery)
        self._start()

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._exchange())

    async def _exchange(self) -> None:
        """Reports first: a place given back may be the one that is waited for."""
        try:
            while self._reports or self._wanted is not None:
                if self._wanted is not None and not self._reports:
                    await self._fetch(background=self._wanted)
                    continue
                try:
                    await self._reports.popleft()()
                except Exception as error:  # noqa: BLE001 - the request it belongs to is over
                    _log.warning("not reported to the rate budget: %s", _unavailable(error))
        finally:
            self._task = None

    async def _fetch(self, *, background: bool) -> None:
        try:
            ticket, wait = await self._budget.acquire(background=background)
        except Exception as error:  # noqa: BLE001 - whatever it is, callers get a CapillaryError
            self._wanted = None
            self._on_error(_unavailable(error))
        else:
            self._wanted, self._ticket = None, ticket
            if not ticket:
                self._free_at[background] = self._clock() + wait
        self._on_change()
        if self._ticket:  # whoever was queued for it has given up
            self._report(partial(self._budget.release, self._ticket))
            self._ticket = ""


def _unavailable(error: Exception) -> CapillaryError:
    if isinstance(error, CapillaryError):
        return error
    failed = BudgetUnavailable(f"the rate budget failed: {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed


_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS places (ticket TEXT PRIMARY KEY, free_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS places_free_at ON places (free_at);
CREATE TABLE IF NOT EXISTS pauses (since REAL NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS lanes (background INTEGER PRIMARY KEY, next_at REAL NOT NULL);
COMMIT;
"""


class SqliteBudget:
    """The budget of all processes of one machine that name the same file.

    Times are the machine's monotonic clock, which its processes share; a file from before a
    reboot holds times in the future, which the lease bounds.
    """

    def __init__(
        self, limit: RateLimit, path: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        import sqlite3  # noqa: PLC0415 - not for those who share no budget

        self._sqlite = sqlite3
        self._limit = limit
        # SQLite's name for a database in memory is none of a file.
        self._path = path if path == ":memory:" else str(Path(path).absolute())
        self._clock = clock
        try:
            self._open()
        except sqlite3.Error as error:
            failed = _file_failed(error)
            if failed.retryable:
                raise failed from error
            raise UsageError(f"the shared budget {path!r} cannot be opened: {error}") from error
        # One thread does all the work on the file, in order, whoever stops waiting for it.
        self._thread = ThreadPoolExecutor(1, "capillary-targets-budget")

    async def _run(self, job: Callable[[], T]) -> T:
        try:
            work = self._thread.submit(job)
        except RuntimeError:
            raise BudgetUnavailable("the shared budget is closed") from None
        try:
            return await asyncio.shield(asyncio.wrap_future(work))
        except self._sqlite.Error as error:
            raise _file_failed(error) from error

    def _open(self) -> None:
        self._db = self._sqlite.connect(
            self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        # Nothing here is worth an fsync: after a crash of the machine the window is over. And no
        # WAL: to begin one while another process opens the file fails without waiting for it.
        try:
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.executescript(_SCHEMA)
        except self._sqlite.Error:
            self._db.close()
            raise
        self._inode = _inode(self._path)

    async def acquire(self, *, background: bool) -> tuple[str, float]:
        """A place in the shared window, or how long to wait for one."""
        ticket = uuid4().hex
        try:
            wait = await self._run(lambda: self._acquire(ticket, background=background))
        except asyncio.CancelledError:
            with suppress(RuntimeError):  # closed meanwhile: the lease frees the place
                self._thread.submit(self._free, ticket, -math.inf)
            raise
        return ("" if wait else ticket), wait

    def _acquire(self, ticket: str, *, background: bool) -> float:
        if _inode(self._path) != self._inode:  # removed or replaced: others count in another file
            self._db.close()
            self._open()
        now, limit, execute = self._clock(), self._limit, self._db.execute
        with self._db:
            execute("BEGIN IMMEDIATE")
            lease = now + max(_LEASE, limit.per)
            longest = lease + limit.per
            execute("DELETE FROM places WHERE free_at <= ? OR free_at > ?", (now, longest))
            execute("DELETE FROM pauses WHERE until <= ? OR since > ?", (now, now))
            execute("DELETE FROM lanes WHERE next_at > ?", (now + 2 * limit.per,))
            (pause,) = execute("SELECT max(until) FROM pauses").fetchone()
            if pause is not None:
                return float(pause) - now
            (at,) = execute("SELECT coalesce(max(next_at), -9e999) FROM lanes").fetchone()
            taken, first = execute("SELECT count(*), min(free_at) FROM places").fetchone()
            wait = max(0.0, at - now) if background else 0.0
            if taken >= room(limit, background=background):
                # A lease does not say when its request will be over, but then `per` follows.
                wait = max(min(float(first) - now, limit.per), wait, 0.001)
                if not background:  # who goes before the sweeps of all processes
                    at = max(at, now + wait + spacing(limit, background=False))
            if not wait:
                execute("INSERT INTO places VALUES (?, ?)", (ticket, lease))
                at = background_after(limit, at, now, background=background)
            if at > -math.inf:
                execute("INSERT OR REPLACE INTO lanes VALUES (1, ?)", (at,))
            return wait

    async def release(self, ticket: str) -> None:
        """Start the time after which the place is free."""
        await self._run(partial(self._free, ticket, self._clock() + self._limit.per))

    def _free(self, ticket: str, free_at: float) -> None:
        self._db.execute("UPDATE places SET free_at = ? WHERE ticket = ?", (free_at, ticket))

    async def pause(self, seconds: float) -> None:
        """Tell the other processes."""
        now = self._clock()
        row = (now, now + seconds)
        await self._run(lambda: self._db.execute("INSERT INTO pauses VALUES (?, ?)", row))

    async def close(self) -> None:
        """Close the file, once the work on it is done."""
        try:
            await self._run(self._db.close)
        finally:
            self._thread.shutdown(wait=False)


_ACQUIRE: Final = """
local room, lease, per = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local background, spacing, catch_up = ARGV[5] == '1', tonumber(ARGV[6]), tonumber(ARGV[7])
local now = redis.call('TIME'); now = now[1] + now[2] / 1e6
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return '0' end
local pause = tonumber(redis.call('GET', KEYS[2]) or '0')
if pause > now then return tostring(pause - now) end
local at, wait = tonumber(redis.call('GET', KEYS[3]) or '0'), 0
if background then wait = math.max(0, at - now) end
if redis.call('ZCARD', KEYS[1]) >= room then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  wait = math.max(math.min(first[2] - now, per), wait, 0.001)
  if not background then at = math.max(at, now + wait + spacing) end
end
if wait == 0 then
  redis.call('ZADD', KEYS[1], now + lease, ARGV[1])
  redis.call('EXPIRE', KEYS[1], math.ceil(lease) * 2)
  if at > 0 or not background then at = math.max(at, now - catch_up) + spacing end
end
if at > 0 then redis.call('SET', KEYS[3], string.format('%.6f', at), 'EX', math.ceil(per) * 2) end
return tostring(wait)
"""
# A script that has deleted something first is not refused when Redis is full.
_RELEASE: Final = """
local now = redis.call('TIME'); now = now[1] + now[2] / 1e6
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[2])
"""
_PAUSE: Final = """
local now = redis.call('TIME'); now = now[1] + now[2] / 1e6
local till = math.max(now + ARGV[1], tonumber(redis.call('GET', KEYS[2]) or '0'))
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[2], tostring(till), 'EX', math.ceil(till - now) + 1)
"""


def _inode(path: str) -> int | None:
    with suppress(OSError):
        return os.stat(path).st_ino  # noqa: PTH116 - a name, as SQLite takes it
    return None


def _file_failed(error: Exception) -> BudgetUnavailable:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return BudgetUnavailable(
        f"the shared budget's file failed: {error}", retryable=code in _SQLITE_PASSING
    )


class RedisBudget:
    """The budget of all processes that name the same Redis database; times are the server's."""

    def __init__(self, limit: RateLimit, url: str) -> None:
        try:
            import redis  # noqa: PLC0415 - only who shares by Redis needs it
            from redis.asyncio import Redis  # noqa: PLC0415
            from redis.asyncio.retry import Retry  # noqa: PLC0415
            from redis.backoff import ExponentialWithJitterBackoff  # noqa: PLC0415
        except ImportError as error:
            raise UsageError(
                "a budget shared by Redis needs the extra: pip install 'capillary-targets[redis]'"
            ) from error
        errors = redis.exceptions
        self._error = errors.RedisError
        self._final = (errors.AuthenticationError, errors.AuthorizationError)
        self._plain = (errors.ResponseError, errors.NoPermissionError)
        self._limit = limit
        try:
            self._redis: Any = Redis.from_url(
                url,
                decode_responses=True,
                socket_connect_timeout=_PATIENCE,
                socket_timeout=_PATIENCE,
                health_check_interval=30,
                retry=Retry(ExponentialWithJitterBackoff(cap=1.0, base=0.05), 3),
            )
        except (ValueError, errors.RedisError) as error:
            raise UsageError(f"the shared budget's Redis address cannot be read: {error}") from None
        key = f"capillary-targets:{{{limit.requests}/{limit.per:g}}}"
        self._keys = [f"{key}:{name}" for name in ("places", "pause", "background")]
        scripts = map(self._redis.register_script, (_ACQUIRE, _RELEASE, _PAUSE))
        self._acquire, self._release, self._pause = scripts

    async def _run(self, script: Any, *args: object) -> Any:
        try:
            return await script(keys=self._keys, args=args)
        except self._error as error:
            passing = type(error) not in self._plain or str(error).startswith(_REDIS_PASSING)
            raise BudgetUnavailable(
                f"the shared budget's Redis failed: {type(error).__name__}: {error}",
                retryable=passing and not isinstance(error, self._final),
            ) from error

    async def acquire(self, *, background: bool) -> tuple[str, float]:
        """A place in the shared window, or how long to wait for one."""
        ticket, limit = uuid4().hex, self._limit
        wait = await self._run(
            self._acquire,
            *(ticket, room(limit, background=background), max(_LEASE, limit.per), limit.per),
            *(int(background), spacing(limit, background=background), catch_up(limit)),
        )
        return ("" if float(wait) else ticket), float(wait)

    async def release(self, ticket: str) -> None:
        """Start the time after which the place is free."""
        await self._run(self._release, self._limit.per, ticket)

    async def pause(self, seconds: float) -> None:
        """Tell the other processes."""
        await self._run(self._pause, seconds)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def open_budget(limit: RateLimit) -> Budget:
    """Open the shared budget that a `RateLimit` describes.

    Raises `UsageError` if it cannot be shared so.
    """
    shared = limit.shared or ""
    scheme, _, rest = shared.partition("://")
    if scheme == "sqlite" and rest.removeprefix("/"):
        path = Path(rest) if not rest.startswith("//") else Path(rest[1:])
        return SqliteBudget(limit, str(path))
    if scheme in {"redis", "rediss", "unix"}:
        return RedisBudget(limit, shared)
    raise UsageError(f"shared budget: sqlite:///PATH or redis://HOST:PORT/0, not {shared!r}")
