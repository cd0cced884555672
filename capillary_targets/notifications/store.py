"""Notification store: which notifications were handled, so that a duplicate is dropped.

`begin` leases a notification to one handler; `finish` or `release` ends the lease. A lease that
its process did not outlive runs out, so a kill loses nothing. What a notification announces stays,
for a sweep to compare with.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import msgspec

from capillary_targets.errors import CapillaryError

from .models import Notification

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = [
    "Announced",
    "AnnouncementSource",
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


class Announced(msgspec.Struct, frozen=True, kw_only=True):
    """What a stored notification announces: its event, by any of three numbers, of any rule.

    `position` rises with each notification of a store.
    """

    position: int = 0
    event_id: str
    name: str
    rule_ids: tuple[int, ...]
    event_log_id: int | None = None
    transaction_id: int | None = None
    return_id: int | None = None

    @classmethod
    def by(cls, notification: Notification, position: int = 0) -> Announced:
        """What a notification announces."""
        return cls(position=position, **{name: getattr(notification, name) for name in _FACTS})


_FACTS: Final = Announced.__struct_fields__[1:]


class AnnouncementSource(Protocol):
    """What a sweep needs of a store: each one here has it. Raises `StoreUnavailable`."""

    async def announced(self, user_id: int, after: int = 0) -> list[Announced]:
        """What was announced of a member behind a position, in the order of arrival."""


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


class MemoryStore(NotificationStore, AnnouncementSource):
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
        self._leases: OrderedDict[str, tuple[int | None, float]] = OrderedDict()
        """Whose event it is, and when its lease ends; infinity: done."""
        self._announced: dict[int | None, deque[Announced]] = {}  # by member
        self._arrived = 0
        self.aside: list[tuple[bytes, str]] = []

    async def begin(self, notification: Notification) -> Claim:
        event_id, now = notification.event_id, self._clock()
        member, ends = self._leases.get(event_id, (notification.user_id, None))
        if ends is None:
            self._arrived += 1
            announced = Announced.by(notification, self._arrived)
            self._announced.setdefault(member, deque()).append(announced)
        elif ends > now:
            return "done" if ends == math.inf else "busy"
        self._leases[event_id] = member, now + self._lease
        if len(self._leases) > self._size:
            _, (member, _) = self._leases.popitem(last=False)
            self._announced[member].popleft()
            if not self._announced[member]:
                del self._announced[member]
        return "new"

    async def finish(self, event_id: str) -> None:
        self._end(event_id, math.inf)

    async def release(self, event_id: str) -> None:
        self._end(event_id, -math.inf)

    def _end(self, event_id: str, ends: float) -> None:
        member, before = self._leases.get(event_id, (None, math.inf))
        if before < math.inf:
            self._leases[event_id] = member, ends

    async def set_aside(self, body: bytes, reason: str) -> None:
        self.aside.append((body, reason))
        del self.aside[: -self._size]

    async def announced(self, user_id: int, after: int = 0) -> list[Announced]:
        return [one for one in self._announced.get(user_id, ()) if one.position > after]


class SQLiteStore(NotificationStore, AnnouncementSource):
    """A store in a file, shared by the processes of one machine.

    Each notification keeps what it announces and the times (Unix seconds) of arrival and
    completion; bodies only where they were set aside. What is done is on disk when `finish`
    returns.

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
        return await asyncio.to_thread(self._begin, notification)

    async def finish(self, event_id: str) -> None:
        await self._execute(
            "UPDATE notifications SET done_at = ?, lease_ends = NULL WHERE event_id = ?",
            (self._clock(), event_id),
        )

    async def release(self, event_id: str) -> None:
        await self._execute(
            "UPDATE notifications SET lease_ends = 0 WHERE event_id = ? AND done_at IS NULL",
            (event_id,),
        )

    async def set_aside(self, body: bytes, reason: str) -> None:
        await self._execute(
            "INSERT INTO aside (received_at, reason, body) VALUES (?, ?, ?)",
            (self._clock(), reason, body),
        )

    def _begin(self, notification: Notification) -> Claim:
        now = self._clock()
        with self._transaction() as db:
            known = db.execute(
                "SELECT done_at, lease_ends FROM notifications WHERE event_id = ?",
                (notification.event_id,),
            )
            done_at, ends = known.fetchone() or (None, None)
            if done_at is not None:
                return "done"
            if ends is not None and ends > now:
                return "busy"
            columns = (*_FACTS, "user_id", "received_at", "lease_ends")
            values = {name: getattr(notification, name) for name in _FACTS}
            values["rule_ids"] = msgspec.json.encode(notification.rule_ids).decode()
            db.execute(
                f"INSERT INTO notifications ({', '.join(columns)})"  # noqa: S608 - our own names
                f" VALUES ({', '.join('?' * len(columns))})"
                " ON CONFLICT (event_id) DO UPDATE SET lease_ends = excluded.lease_ends",
                (*values.values(), notification.user_id, now, now + self._lease),
            )
        return "new"

    async def announced(self, user_id: int, after: int = 0) -> list[Announced]:
        return await asyncio.to_thread(self._read, user_id, after)

    def _read(self, user_id: int, after: int) -> list[Announced]:
        # Read-only: a store that is not there must not count as an empty one.
        with self._connected("ro") as db:
            db.row_factory = sqlite3.Row
            rows = db.execute(
                f"SELECT position, {', '.join(_FACTS)} FROM notifications"  # noqa: S608
                " WHERE user_id = ? AND position > ? ORDER BY position",
                (user_id, after),
            ).fetchall()
        return [
            Announced(**{**row, "rule_ids": tuple(msgspec.json.decode(row["rule_ids"]))})
            for row in rows
        ]

    async def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        def run() -> None:
            with self._transaction() as db:
                db.execute(statement, values)

        await asyncio.to_thread(run)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connected("rwc") as db:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                db.execute(statement)
            yield db
            db.execute("COMMIT")

    @contextmanager
    def _connected(self, mode: str) -> Iterator[sqlite3.Connection]:
        """A connection for one use: none is shared between threads."""
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None)) as db:
                yield db
        except sqlite3.Error as error:
            failure = StoreUnavailable(f"the store of notifications failed: {self.path}: {error}")
        else:
            return
        raise failure


class RedisStore(NotificationStore, AnnouncementSource):
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
        self._lease, self._keep_for = max(1, round(lease * 1000)), max(1, round(keep * 1000))

    async def begin(self, notification: Notification) -> Claim:
        key = self._prefix + notification.event_id
        before = await self._call(
            self._client.set(key, "leased", nx=True, px=self._lease, get=True)
        )
        if before is None:
            if notification.user_id is not None:
                await self._keep(notification, notification.user_id)
            return "new"
        return "done" if before in {b"done", "done"} else "busy"

    async def finish(self, event_id: str) -> None:
        await self._call(self._client.set(self._prefix + event_id, "done", px=self._keep_for))

    async def release(self, event_id: str) -> None:
        await self._call(self._client.delete(self._prefix + event_id))

    async def set_aside(self, body: bytes, reason: str) -> None:
        await self._call(self._client.rpush(f"{self._prefix}aside", body, reason))

    async def announced(self, user_id: int, after: int = 0) -> list[Announced]:
        key = f"{self._prefix}member:{user_id}"
        found = await self._call(self._client.zrange(key, f"({after}", "+inf", byscore=True))
        return [msgspec.json.decode(one, type=Announced) for one in found]

    async def _keep(self, notification: Notification, member: int) -> None:
        position = await self._call(self._client.incr(f"{self._prefix}position"))
        announced = msgspec.json.encode(Announced.by(notification, position))
        key = f"{self._prefix}member:{member}"
        await self._call(self._client.zadd(key, {announced: position}))
        await self._call(self._client.pexpire(key, self._keep_for))

    async def _call(self, command: Awaitable[Any]) -> Any:
        from redis.exceptions import RedisError  # noqa: PLC0415 - an extra

        try:
            return await command
        except (RedisError, OSError) as error:
            failure = StoreUnavailable(f"the store of notifications failed: {type(error).__name__}")
        raise failure


_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS notifications (
    event_id TEXT UNIQUE NOT NULL, name TEXT NOT NULL, user_id INTEGER, rule_ids TEXT NOT NULL,
    event_log_id INTEGER, transaction_id INTEGER, return_id INTEGER, received_at REAL NOT NULL,
    done_at REAL, lease_ends REAL, position INTEGER PRIMARY KEY)""",
    "CREATE INDEX IF NOT EXISTS by_member ON notifications (user_id, position)",
    """CREATE TABLE IF NOT EXISTS aside (
    received_at REAL NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL)""",
)
