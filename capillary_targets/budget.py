"""One rate budget for whoever shares it: a process, a machine (SQLite), or many (Redis).

The shared ones keep the same sliding window as `limits.Window`, in a table that every process can
see: a row for each request, free again `per` seconds after its answer, and one for a pause that
a refusal (429) asked for. A row also carries a lease, so that a process that dies gives its places
back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from uuid import uuid4

from .errors import UsageError
from .limits import RateLimit, Window

__all__ = ["Budget", "LocalBudget", "open_budget"]

T = TypeVar("T")

_LEASE: Final = 120.0
"""Seconds after which a request whose process never came back no longer counts as under way."""


class Budget(Protocol):
    """A place for each request, in any window of the budget's length."""

    async def take(self) -> tuple[str, float]:
        """A ticket and 0.0, or "" and the seconds until asking again makes sense."""

    async def answered(self, ticket: str) -> None:
        """The request of this ticket was answered, or failed."""

    async def pause(self, seconds: float) -> None:
        """The server refused: nobody sends for so long."""

    async def close(self) -> None:
        """Let go of files and connections."""


class LocalBudget:
    """The budget of one process."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self._window = Window(limit.requests, limit.per)
        self._clock = clock

    async def take(self) -> tuple[str, float]:
        """A place in the window, or how long to wait for one."""
        wait = self._window.take(self._clock())
        return ("" if wait else "local"), wait

    async def answered(self, ticket: str) -> None:  # noqa: ARG002 - places are alike
        """Start the time after which the place is free."""
        self._window.answered(self._clock())

    async def pause(self, seconds: float) -> None:
        """Nothing to tell: this process knows."""

    async def close(self) -> None:
        """Nothing to let go of."""


_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS places (ticket TEXT PRIMARY KEY, free_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS places_free_at ON places (free_at);
CREATE TABLE IF NOT EXISTS pause (one INTEGER PRIMARY KEY CHECK (one = 1), until REAL NOT NULL);
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

        self._limit = limit
        self._clock = clock
        try:
            self._db = sqlite3.connect(
                path, timeout=30.0, isolation_level=None, check_same_thread=False
            )
            # Nothing here is worth an fsync: after a crash of the machine the window is over.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise UsageError(f"the shared budget {path!r} cannot be opened: {error}") from error
        self._turn = asyncio.Lock()

    async def _run(self, job: Callable[[], T]) -> T:
        # One at a time, and off the loop: another process may hold the file for a moment.
        async with self._turn:
            return await asyncio.shield(asyncio.to_thread(job))

    async def take(self) -> tuple[str, float]:
        """A place in the shared window, or how long to wait for one."""
        return await self._run(self._take)

    def _take(self) -> tuple[str, float]:
        now = self._clock()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            longest = max(_LEASE, self._limit.per) + self._limit.per
            self._db.execute(
                "DELETE FROM places WHERE free_at <= ? OR free_at > ?", (now, now + longest)
            )
            pause = self._db.execute("SELECT until FROM pause").fetchone()
            if pause is not None and now < pause[0] <= now + longest:
                return "", pause[0] - now
            taken, first = self._db.execute("SELECT count(*), min(free_at) FROM places").fetchone()
            if taken >= self._limit.requests:
                return "", max(first - now, 0.001)
            ticket = uuid4().hex
            lease = now + max(_LEASE, self._limit.per)
            self._db.execute("INSERT INTO places VALUES (?, ?)", (ticket, lease))
            return ticket, 0.0
        finally:
            self._db.execute("COMMIT")

    async def answered(self, ticket: str) -> None:
        """Start the time after which the place is free."""
        free_at = self._clock() + self._limit.per
        statement = "UPDATE places SET free_at = ? WHERE ticket = ?"
        await self._run(lambda: self._db.execute(statement, (free_at, ticket)))

    async def pause(self, seconds: float) -> None:
        """Tell the other processes."""
        until = self._clock() + seconds
        statement = (
            "INSERT INTO pause VALUES (1, ?) ON CONFLICT DO UPDATE SET until = max(until, ?)"
        )
        await self._run(lambda: self._db.execute(statement, (until, until)))

    async def close(self) -> None:
        """Close the file."""
        await self._run(self._db.close)


_TAKE: Final = """
local now = redis.call('TIME'); now = now[1] + now[2] / 1e6
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local pause = tonumber(redis.call('GET', KEYS[2]) or '0')
if pause > now then return tostring(pause - now) end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return tostring(math.max(first[2] - now, 0.001))
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[2]) * 2)
return '0'
"""
_ANSWERED: Final = """
local now = redis.call('TIME'); now = now[1] + now[2] / 1e6
redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[2])
"""
_PAUSE: Final = """
local now = redis.call('TIME'); now = now[1] + now[2] / 1e6
local till = math.max(now + ARGV[1], tonumber(redis.call('GET', KEYS[1]) or '0'))
redis.call('SET', KEYS[1], tostring(till), 'EX', math.ceil(till - now) + 1)
"""


class RedisBudget:
    """The budget of all processes that name the same Redis database; times are the server's."""

    def __init__(self, limit: RateLimit, url: str) -> None:
        try:
            from redis.asyncio import Redis  # noqa: PLC0415 - only who shares by Redis needs it
        except ImportError as error:
            raise UsageError(
                "a budget shared by Redis needs the extra: pip install 'capillary-targets[redis]'"
            ) from error
        self._limit = limit
        self._redis: Any = Redis.from_url(url, decode_responses=True)
        key = f"capillary-targets:{{{limit.requests}/{limit.per:g}}}"
        self._places, self._paused = f"{key}:places", f"{key}:pause"
        self._take = self._redis.register_script(_TAKE)
        self._answered = self._redis.register_script(_ANSWERED)
        self._pause = self._redis.register_script(_PAUSE)

    async def take(self) -> tuple[str, float]:
        """A place in the shared window, or how long to wait for one."""
        ticket = uuid4().hex
        lease = max(_LEASE, self._limit.per)
        wait = float(
            await self._take(
                keys=[self._places, self._paused], args=[self._limit.requests, lease, ticket]
            )
        )
        return ("" if wait else ticket), wait

    async def answered(self, ticket: str) -> None:
        """Start the time after which the place is free."""
        await self._answered(keys=[self._places], args=[self._limit.per, ticket])

    async def pause(self, seconds: float) -> None:
        """Tell the other processes."""
        await self._pause(keys=[self._paused], args=[seconds])

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def open_budget(limit: RateLimit | Budget) -> Budget:
    """The budget that a `RateLimit` describes, or the caller's own as it is.

    Raises `UsageError` if it cannot be shared so.
    """
    if not isinstance(limit, RateLimit):
        return limit
    if limit.shared is None:
        return LocalBudget(limit)
    scheme, _, rest = limit.shared.partition("://")
    if scheme == "sqlite" and rest.removeprefix("/"):
        path = Path(rest) if not rest.startswith("//") else Path(rest[1:])
        return SqliteBudget(limit, str(path))
    if scheme in {"redis", "rediss", "unix"}:
        return RedisBudget(limit, limit.shared)
    raise UsageError(f"shared budget: sqlite:///PATH or redis://HOST:PORT/0, not {limit.shared!r}")
