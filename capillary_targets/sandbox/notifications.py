"""Notifications: what the vendor pushes when something is written, and how it delivers (§15)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError, ClientSession, ClientTimeout
from attrs import define, field, frozen

from .responses import encode, identifiers
from .world import achieved, make_uuid, parse_date, splitmix64

if TYPE_CHECKING:
    from .model import Event, Period, Rule
    from .settings import SandboxSettings
    from .world import World

_ORG = 100
_RECORDED = 10_000
_SHUFFLED = 100
"""How many waiting notifications may change places."""
_FIRST_BACKOFF = 1.0
_LONGEST_BACKOFF = 3600.0
_GIVE_UP = 7 * 24 * 3600.0
"""Seconds of the vendor's; "at least 7 days" is what it promises."""


@frozen(slots=True)
class PushAttempt:
    """One POST. No `status`: no answer in time, or no connection."""

    event_id: str
    name: str
    body: bytes = field(repr=False)
    status: int | None


@define(slots=True, eq=False)
class _Push:
    event_id: str
    name: str
    body: bytes
    due: float
    """By `time.monotonic`."""
    early: Event | None = None
    """The row that the API does not show before this has been sent."""


class Notifications:
    """Pushes of the events that are written: made at once, delivered one at a time.

    Written events are announced by `targetAchievedValueUpdated`, and by `targetValueAchieved` if
    one makes the member reach the target; `world.enrol` by `targetCustomerEnrolment`. What fails is
    repeated with exponential back-off while all others wait behind it; HTTP 400 is final.
    """

    def __init__(self, settings: SandboxSettings, world: World) -> None:
        self._settings = settings
        self._world = world
        world.on_event = self._announce_event
        world.on_enrolment = self._announce_enrolment
        self._pending: deque[_Push] = deque()
        self._delivering = False
        self._started = False
        self._task: asyncio.Task[None] | None = None
        self._change = asyncio.Event()
        self._made = self._drawn = 0
        self.attempts: deque[PushAttempt] = deque(maxlen=_RECORDED)
        """The latest attempts, oldest first."""
        self.counts: Counter[str] = Counter()
        """Notifications that are `delivered`, `refused` (for good), `lost` or `given up`."""

    def __len__(self) -> int:
        """Notifications not yet delivered."""
        return len(self._pending) + self._delivering

    async def drained(self) -> None:
        """Wait until nothing is left to deliver.

        Raises:
            RuntimeError: the sandbox is not running, or was stopped meanwhile.
        """
        while self:
            if not self._started:
                raise RuntimeError("the sandbox is not running: nothing is delivered")
            await self._change.wait()

    def clear(self) -> None:
        """Drop what is not delivered, and forget what was."""
        self._pending.clear()
        self.attempts.clear()
        self.counts.clear()
        self._made = self._drawn = 0
        self._changed()

    def start(self) -> None:
        """Deliver from now on, in a task that the first notification starts and `stop` ends."""
        self._started = True
        self._changed()

    async def stop(self) -> None:
        """End the delivery; what is not delivered waits for the next `start`."""
        self._started = False
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            self._changed()
            if not task.cancelled():
                task.result()

    async def _run(self) -> None:
        async with ClientSession() as session:
            while True:
                while not self._pending:
                    await self._change.wait()
                await self._deliver_next(session)

    # --- what is pushed ---

    def _announce_event(self, row: Event) -> None:
        if self._settings.notify is None or row.target_value is None:
            return
        rule = self._world.rule(row.target_rule_id)
        period = None if rule is None else rule.group.period(row.period_id)
        if rule is None or period is None:
            return
        rows = self._world.events(row.customer_id, rule.id, period.id)
        rows += self._world.withheld(row.customer_id, rule.id, period.id)
        value = achieved(self._settings, rule, rows)
        before = achieved(self._settings, rule, [one for one in rows if one is not row])
        data = self._event_data(row, rule, period, value)
        names = ["targetAchievedValueUpdated"]
        if before < rule.target_value <= value:
            names.append("targetValueAchieved")
        lost, early = self._draw(self._settings.notify_losses), False
        if not lost:
            early = self._draw(self._settings.notify_early)
        if early:
            self._world.withhold(row)
        log_id = "" if row.event_log_id is None else str(row.event_log_id)
        moment = _milliseconds(row.event_processed_date)
        for name in names:
            self._add(name, log_id, moment, data, lost=lost, early=row if early else None)

    def _event_data(
        self, row: Event, rule: Rule, period: Period, achieved: Decimal
    ) -> dict[str, Any]:
        keys: dict[str, str] = {}
        activity, number = "GenericEvent", ""
        if not rule.behavioural:
            returned = row.event_name == "RETURN_BILL"
            activity = "ReturnBill" if returned else "TransactionAdd"
            number = "returnId" if returned else "transactionId"
            keys[number] = row.unique_id
        if row.event_log_id is not None and self._settings.notify_log_id in {"both", "eventLogId"}:
            keys["eventLogId"] = str(row.event_log_id)
        data: dict[str, Any] = {
            "customerIdentifiers": self._customer(row.customer_id),
            "eventName": activity,
            "targetDetails": {
                "id": rule.id,
                "name": rule.name,
                "targetGroupId": rule.group.id,
                "targetGroupName": rule.group.name,
                "targetPeriodId": period.id,
                "targetPeriodName": period.ref_code.strip(),
            },
            # Unsigned, even of a return.
            "currentEventTargetValue": _amount(abs(row.target_value or Decimal(0))),
            "achievedTargetValue": _amount(achieved),
            "definedTargetValue": _amount(rule.target_value),
            "triggeringActivity": {
                "name": activity,
                "identifiers": [{"key": key, "value": value} for key, value in keys.items()],
                "additionalAttributes": [],
            },
            "milestoneDetails": [],
        }
        if number and row.unique_id.isdecimal():
            data[number] = int(row.unique_id)
        return data

    def _announce_enrolment(self, user: int, rule: Rule) -> None:
        if self._settings.notify is None:
            return
        running = (one for one in rule.group.periods if one.status == "RUNNING")
        period = next(running, rule.group.periods[-1])
        data: dict[str, Any] = {
            "customerIdentifiers": self._customer(user),
            "defaultTargetValue": _amount(rule.target_value),
            "targetId": rule.id,
            "targetName": rule.name,
            "targetGroupId": rule.group.id,
            "targetGroupName": rule.group.name,
            "source": rule.enrolment_method,
            "targetPeriodId": period.id,
            "targetPeriodName": period.ref_code.strip(),
            "targetPeriodStartDate": f"{period.start} 00:00:00",
            "milestoneDetails": [],
        }
        lost = self._draw(self._settings.notify_losses)
        moment = _milliseconds(period.first_moment)
        self._add("targetCustomerEnrolment", "", moment, data, lost=lost)

    def _customer(self, user: int) -> dict[str, Any]:
        """Enriched, it holds personal data."""
        enriched = self._settings.notify_envelope == "enriched"
        return {"customerId": user, **(identifiers(user) if enriched else {})}

    def _add(
        self,
        name: str,
        log_id: str,
        moment: int,
        data: dict[str, Any],
        *,
        lost: bool,
        early: Event | None = None,
    ) -> None:
        """Queue one notification, unless it is lost.

        Args:
            name: the vendor's name of the event.
            log_id: `eventLogId` as text; "" if there is none.
            moment: of its making, epoch milliseconds.
            data: the part that both envelopes share.
            lost: it is counted, and never sent.
            early: the row to show only once this has been sent.
        """
        self._made += 1
        if lost:
            self.counts["lost"] += 1
            return
        key = splitmix64(self._settings.seed, -self._made)
        event_id, request_id = make_uuid(key, 0), f"{key:016x}{splitmix64(key, 1):016x}"
        attributes = {
            "eventName": name,
            "orgId": _ORG,
            "refId": f"{_ORG}_{request_id}",
            "apiRequestId": request_id,
            "createdAt": moment,
            "loyaltyEventId": log_id
            if self._settings.notify_log_id in {"both", "loyaltyEventId"}
            else "",
            "data": data,
        }
        body: dict[str, Any] = {"eventId": event_id, **attributes}
        if self._settings.notify_envelope == "enriched":
            body = {
                "eventId": event_id,
                "eventType": f"{_ORG}_{name}",
                "consumerGroupId": None,
                "actionType": "START",
                "timeStamp": moment,
                "attributes": attributes,
            }
        due = time.monotonic() + self._settings.notify_delay * self._settings.notify_time_scale
        encoded = encode(body)
        self._pending.append(_Push(event_id, name, encoded, due, early))
        if self._draw(self._settings.notify_duplicates):
            self._pending.append(_Push(event_id, name, encoded, due))
        self._changed()

    # --- delivery ---

    async def _deliver_next(self, session: ClientSession) -> None:
        index = 0
        if self._settings.notify_shuffled:
            self._drawn += 1
            index = splitmix64(self._settings.seed, self._drawn) % min(
                len(self._pending), _SHUFFLED
            )
        push = self._pending[index]
        del self._pending[index]
        self._delivering = True
        try:
            await asyncio.sleep(max(0.0, push.due - time.monotonic()))
            self.counts[await self._deliver(session, push)] += 1
        except asyncio.CancelledError:
            self._pending.appendleft(push)
            raise
        finally:
            self._delivering = False
            self._changed()

    async def _deliver(self, session: ClientSession, push: _Push) -> str:
        """Send until it is answered for good; what became of it."""
        waited, backoff = 0.0, _FIRST_BACKOFF
        while True:
            status = await self._post(session, push)
            self.attempts.append(PushAttempt(push.event_id, push.name, push.body, status))
            self._changed()
            if status is not None and 200 <= status < 300:
                return "delivered"
            # Of the other statuses only 429 and a time-out are documented as repeated.
            if status is not None and status != 429 and status < 500:
                return "refused"
            if waited >= _GIVE_UP:
                return "given up"
            await asyncio.sleep(backoff * self._settings.notify_time_scale)
            waited, backoff = waited + backoff, min(2 * backoff, _LONGEST_BACKOFF)

    async def _post(self, session: ClientSession, push: _Push) -> int | None:
        settings = self._settings
        if push.early is not None:
            self._world.reveal_after(push.early, settings.notify_early_requests)
        try:
            async with session.post(
                settings.notify or "",
                data=push.body,
                headers={"Content-Type": "application/json", **settings.notify_headers},
                timeout=ClientTimeout(total=settings.notify_timeout),
                allow_redirects=False,
            ) as response:
                return response.status
        except (ClientError, OSError):
            return None

    def _draw(self, share: float) -> bool:
        self._drawn += 1
        draw = splitmix64(self._settings.seed ^ 0x15, self._drawn)
        return draw % 1_000_000 < share * 1_000_000

    def _changed(self) -> None:
        if self._started and self._pending and self._task is None:
            self._task = asyncio.create_task(self._run(), name="sandbox-notifications")
        self._change.set()
        self._change = asyncio.Event()


def _amount(value: Decimal) -> str:
    """An amount as notifications spell it: text with three decimals."""
    return f"{value:.3f}"


def _milliseconds(date: str) -> int:
    return int(parse_date(date).timestamp()) * 1000
