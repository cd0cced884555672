"""Notifications: what the vendor pushes when something is written, and how it delivers (§15)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from random import Random
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout
from attrs import evolve, field, frozen

from . import announcements
from .announcements import Announcement
from .model import Event
from .responses import encode
from .settings import SandboxSettings
from .world import TargetChange, World, make_uuid

_ORG = 100
_SHUFFLED = 100
"""How many waiting notifications may change places."""
_LONGEST_BACKOFF = 3600.0


@frozen(slots=True)
class PushAttempt:
    """One POST. No `status`: no answer in time, or no connection."""

    event_id: str
    name: str
    body: bytes = field(repr=False)
    status: int | None = None


@frozen(eq=False)
class _Push:
    attempt: PushAttempt
    due: float
    """By `time.monotonic`."""
    early: Event | None = None
    """The row that the API does not show before this has been sent."""


class Notifications:
    """Pushes of what changes in a world: made at once, delivered one at a time.

    What fails is repeated with exponential back-off while all others wait behind it; HTTP 400 is
    final.
    """

    def __init__(self, settings: SandboxSettings, world: World) -> None:
        self._settings = settings
        self._world = world
        world.on_change = self._announce
        self._pending: deque[_Push] = deque()
        self._started = False
        self._task: asyncio.Task[None] | None = None
        self.attempts: deque[PushAttempt] = deque(maxlen=10_000)
        """The latest attempts, oldest first."""
        self.counts: Counter[str] = Counter()
        """Notifications that are `delivered`, `refused` (for good), `lost` or `given up`."""
        self.clear()

    def __len__(self) -> int:
        """Notifications not yet delivered."""
        return len(self._pending)

    async def drained(self) -> None:
        """Wait until nothing is left to deliver.

        Raises:
            RuntimeError: the sandbox is not running, or was stopped meanwhile.
        """
        while self._pending:
            if self._task is None:
                raise RuntimeError("the sandbox is not running: nothing is delivered")
            await _ended(self._task)

    def clear(self) -> None:
        """Drop what is not delivered, and forget what was."""
        self._pending.clear()
        self.attempts.clear()
        self.counts.clear()
        self._random = Random(self._settings.seed)

    def start(self) -> None:
        """Deliver from now on, in a task that lasts for as long as there is something pending."""
        self._started = True
        self._wake()

    async def stop(self) -> None:
        """End the delivery; what is not delivered waits for the next `start`."""
        self._started = False
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await _ended(task)

    def _wake(self) -> None:
        if self._started and self._pending and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="sandbox-notifications")

    async def _run(self) -> None:
        while self._pending:  # something may come while a session closes
            async with ClientSession() as session:
                while self._pending:
                    known = min(len(self._pending), _SHUFFLED)
                    index = self._random.randrange(known) if self._settings.notify_shuffled else 0
                    await self._deliver(session, self._pending[index])

    # --- what is pushed ---

    def _announce(self, change: Event | TargetChange) -> None:
        """Queue what one change makes, unless it is lost; the row of an early one is hidden."""
        if self._settings.notify is None:
            return
        if not (made := list(announcements.of_change(self._settings, self._world, change))):
            return
        random, early = self._random.random, None
        lost = random() < self._settings.notify_losses
        if isinstance(change, Event) and not lost and random() < self._settings.notify_early:
            self._world.withhold(early := change)
        if lost:
            self.counts["lost"] += len(made)
        else:
            for one in made:
                self._add(one, early)

    def _add(self, made: Announcement, early: Event | None) -> None:
        settings = self._settings
        event_id, request_id = make_uuid(self._random), f"{self._random.getrandbits(128):032x}"
        known = made.log_id is not None and settings.notify_log_id in {"both", "loyaltyEventId"}
        attributes = {
            "eventName": made.name,
            "orgId": _ORG,
            "refId": f"{_ORG}_{request_id}",
            "apiRequestId": request_id,
            "createdAt": made.moment,
            "loyaltyEventId": str(made.log_id) if known else "",
            "data": made.data,
        }
        body: dict[str, Any] = {"eventId": event_id, **attributes}
        if settings.notify_envelope == "enriched":
            body = {
                "eventId": event_id,
                "eventType": f"{_ORG}_{made.name}",
                "consumerGroupId": None,
                "actionType": "START",
                "timeStamp": made.moment,
                "attributes": attributes,
            }
        if share := settings.notify_stray_blanks:
            body = announcements.with_stray_blanks(body, lambda: self._random.random() < share)
        due = time.monotonic() + settings.notify_delay * settings.notify_time_scale
        push = _Push(PushAttempt(event_id, made.name, encode(body)), due, early)
        self._pending.append(push)
        if self._random.random() < settings.notify_duplicates:
            self._pending.append(evolve(push, early=None))
        self._wake()

    # --- delivery ---

    async def _deliver(self, session: ClientSession, push: _Push) -> None:
        """Send until it is answered for good, or dropped; count what became of it."""
        await asyncio.sleep(max(0.0, push.due - time.monotonic()))
        waited, backoff, outcome = 0.0, self._settings.notify_backoff, ""
        while push in self._pending:
            status = await self._post(session, push)
            self.attempts.append(evolve(push.attempt, status=status))
            if status is not None and 200 <= status < 300:
                outcome = "delivered"
            # Of the other statuses only 429 and a time-out are documented as repeated.
            elif status is not None and status != 429 and status < 500:
                outcome = "refused"
            elif waited >= self._settings.notify_give_up:
                outcome = "given up"
            if outcome:
                self.counts[outcome] += 1
                self._pending.remove(push)
                return
            await asyncio.sleep(backoff * self._settings.notify_time_scale)
            waited, backoff = waited + backoff, min(2 * backoff, _LONGEST_BACKOFF)

    async def _post(self, session: ClientSession, push: _Push) -> int | None:
        settings = self._settings
        if push.early is not None:
            self._world.reveal_after(push.early, settings.notify_early_requests)
        try:
            async with session.post(
                settings.notify or "",
                data=push.attempt.body,
                headers={"Content-Type": "application/json", **settings.notify_headers},
                timeout=ClientTimeout(total=settings.notify_timeout),
                allow_redirects=False,
            ) as response:
                return response.status
        except (ClientError, OSError):
            return None


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for the end of a task, which may be cancelled. Raises what it has raised."""
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
