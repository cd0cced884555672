"""Notification store: which notifications were handled, so that a duplicate is dropped.

`begin` leases a notification to one handler; `finish` or `release` ends the lease. A lease that
its process did not outlive runs out, so a kill loses nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from capillary_targets.errors import CapillaryError

from .models import Notification

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = [
    "Claim",
    "MemoryStore",
    "NotificationStore",
    "RedisStore",
    "SQLiteStore",
    "StoreUnavailable",
]

Claim: TypeAlias = Literal["new", "done", "busy"]
"""`new`: yours to handle. `done`: a duplicate. `busy`: another handler has it now."""

_LEASE: Final = 60.0


class StoreUnavailable(CapillaryError):
    """The store cannot be read or written now; the notification should be sent again."""

    retryable = True


class NotificationStore(Protocol):
    """What `NotificationHandler` needs. Implementations raise `StoreUnavailable`."""

    async def begin(self, notification: Notification) -> Claim:
        """Lease a notification, unless it is done or leased."""

    async def finish(self, event_id: str) -> None:
        """Remember a notification as done."""

    async def release(self, event_id: str) -> None:
        """Give a lease back: the notification was not handled."""

    async def set_aside(self, body: bytes, reason: str) -> None:
        """Keep a body that cannot be read, for people to look at."""


class MemoryStore:
    """A store in this process: the latest `size` ids. What is aside is in `aside`.

    Args:
        size: Notifications remembered; the oldest are forgotten first, leased ones too.
        lease: Seconds after which an unfinished notification may be handled again.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        size: int = 100_000,
        *,
        lease: float = _LEASE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._size, self._lease, self._clock = size, lease, clock
        self._ends: OrderedDict[str, float | None] = OrderedDict()  # None: done
        self.aside: list[tuple[bytes, str]] = []

    async def begin(self, notification: Notification) -> Claim:
        """Lease a notification, unless it is done or leased."""
        event_id, now = notification.event_id, self._clock()
        if event_id in self._ends:
            ends = self._ends[event_id]
            if ends is None:
                return "done"
            if ends > now:
                return "busy"
        self._ends[event_id] = now + self._lease
        while len(self._ends) > self._size:
            self._ends.popitem(last=False)
        return "new"

    async def finish(self, event_id: str) -> None:
        """Remember a notification as done."""
        self._ends[event_id] = None

    async def release(self, event_id: str) -> None:
        """Give a lease back: the notification was not handled."""
        self._ends.pop(event_id, None)

    async def set_aside(self, body: bytes, reason: str) -> None:
        """Keep a body that cannot be read, for people to look at."""
        self.aside.append((body, reason))
        del self.aside[: -self._size]


class SQLiteStore:
    """A store in a file, shared by the processes of one machine.

    Each notification keeps its user, rule, `event_log_id` and the times (Unix seconds) of arrival
    and completion, for a sweep to compare with; bodies only where they were set aside.

    Args:
        path: The file; made where it is not there.
        lease: Seconds after which an unfinished notification may be handled again.
        clock: Unix seconds.
    """

    def __init__(
        self, path: Path | str, *, lease: float = _LEASE, clock: Callable[[], float] = time.time
    ) -> None:
        self.path: Path = Path(path)
        self._lease, self._clock = lease, clock

    async def begin(self, notification: Notification) -> Claim:
        """Lease a notification, unless it is done or leased."""
        return await asyncio.to_thread(self._begin, notification)

    async def finish(self, event_id: str) -> None:
        """Remember a notification as done, on disk when this returns."""
        await self._execute(
            "UPDATE notifications SET done_at = ?, lease_ends = NULL WHERE event_id = ?",
            (self._clock(), event_id),
        )

    async def release(self, event_id: str) -> None:
        """Give a lease back: the notification was not handled."""
        await self._execute(
            "UPDATE notifications SET lease_ends = 0 WHERE event_id = ? AND done_at IS NULL",
            (event_id,),
        )

    async def set_aside(self, body: bytes, reason: str) -> None:
        """Keep a body that cannot be read, for people to look at."""
        await self._execute(
            "INSERT INTO aside (received_at, reason, body) VALUES (?, ?, ?)",
            (self._clock(), reason, body),
        )

    def _begin(self, notification: Notification) -> Claim:
        now = self._clock()
        with self._transaction() as db:
            row = db.execute(
                "SELECT done_at, lease_ends FROM notifications WHERE event_id = ?",
                (notification.event_id,),
            ).fetchone()
            if row is not None:
                done_at, ends = row
                if done_at is not None:
                    return "done"
                if ends is not None and ends > now:
                    return "busy"
            db.execute(
                "INSERT INTO notifications (event_id, name, user_id, rule_id, event_log_id,"
                " received_at, lease_ends) VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (event_id) DO UPDATE SET lease_ends = excluded.lease_ends",
                (
                    notification.event_id,
                    notification.name,
                    notification.user_id,
                    next(iter(notification.rule_ids), None),
                    notification.event_log_id,
                    now,
                    now + self._lease,
                ),
            )
        return "new"

    async def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        def run() -> None:
            with self._transaction() as db:
                db.execute(statement, values)

        await asyncio.to_thread(run)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction of its own connection: no connection is shared between threads."""
        try:
            with closing(sqlite3.connect(self.path, timeout=10, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = FULL")
                db.execute("BEGIN IMMEDIATE")
                db.execute(_NOTIFICATIONS)
                db.execute(_ASIDE)
                yield db
                db.execute("COMMIT")
        except sqlite3.Error as error:
            failure = StoreUnavailable(f"the store of notifications failed: {self.path}: {error}")
        else:
            return
        raise failure


class RedisStore:
    """A store in Redis (extra `redis`), shared by any number of machines.

    Args:
        client: A `redis.asyncio.Redis`; yours to close.
        prefix: Of the keys, so that several handlers can share one Redis.
        lease: Seconds after which an unfinished notification may be handled again.
        keep: Seconds for which a handled one is remembered: longer than the vendor's 7 days of
            repetitions.
    """

    def __init__(
        self,
        client: Redis,
        *,
        prefix: str = "capillary-notifications:",
        lease: float = _LEASE,
        keep: float = 10 * 86400,
    ) -> None:
        self._client, self._prefix = client, prefix
        self._lease, self._keep = max(1, round(lease * 1000)), max(1, round(keep * 1000))

    async def begin(self, notification: Notification) -> Claim:
        """Lease a notification, unless it is done or leased."""
        key = self._prefix + notification.event_id
        before = await self._call(
            self._client.set(key, "leased", nx=True, px=self._lease, get=True)
        )
        if before is None:
            return "new"
        return "done" if before in {b"done", "done"} else "busy"

    async def finish(self, event_id: str) -> None:
        """Remember a notification as done."""
        await self._call(self._client.set(self._prefix + event_id, "done", px=self._keep))

    async def release(self, event_id: str) -> None:
        """Give a lease back: the notification was not handled."""
        await self._call(self._client.delete(self._prefix + event_id))

    async def set_aside(self, body: bytes, reason: str) -> None:
        """Keep a body that cannot be read, for people to look at."""
        await self._call(self._client.rpush(f"{self._prefix}aside", body, reason))

    async def _call(self, command: Awaitable[Any]) -> Any:
        from redis.exceptions import RedisError  # noqa: PLC0415 - an extra

        try:
            return await command
        except (RedisError, OSError) as error:
            failure = StoreUnavailable(f"the store of notifications failed: {type(error).__name__}")
        raise failure


_NOTIFICATIONS: Final = """CREATE TABLE IF NOT EXISTS notifications (
    event_id TEXT PRIMARY KEY, name TEXT NOT NULL, user_id INTEGER, rule_id INTEGER,
    event_log_id INTEGER, received_at REAL NOT NULL, done_at REAL, lease_ends REAL)"""
_ASIDE: Final = """CREATE TABLE IF NOT EXISTS aside (
    received_at REAL NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL)"""
