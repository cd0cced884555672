"""Settling: fetch what a notification announces, and prove that it arrived.

A push can be early and the API late, so a fetch that does not find the announced event is repeated,
with growing waits, for a window of time. What proves the arrival: the event's `event_log_id`; the
transaction's or return's id (an event's `unique_id`); or, where the vendor sent neither, the
achieved value, held against the service's own (contract §15, §18).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

from attrs import define, evolve, field, frozen

from capillary_targets import lookups
from capillary_targets.errors import UsageError
from capillary_targets.models import TargetEvent
from capillary_targets.pager import EventPager
from capillary_targets.pagination import Checkpoint
from capillary_targets.retry import waiting_disabled
from capillary_targets.session import Session

from .models import Notification

__all__ = ["Proof", "Settlement", "Settler"]

Proof: TypeAlias = Literal["event", "transaction", "value", "nothing announced", "missing"]

_Key: TypeAlias = tuple[int, int]
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 8.0
_REMEMBERED: Final = 10_000
"""Pairs of a user and a rule whose latest events are remembered, so that a burst is one fetch."""
_REMEMBERED_EVENTS: Final = 1_000


@frozen
class Settlement:
    """What `TargetsClient.settle` found.

    Args:
        events: the events behind the checkpoints given, of all rules that the notification names.
        checkpoints: by rule id, where the next settling of this member starts.
        proof: what proves that the announced event is there; `missing` if nothing did in time.
        rewound: rows before a checkpoint had changed (a late or deleted event), so that `events`
            holds that rule's whole history: those known before come again.
        requests: made for it; 0 where an earlier settling had brought the event.
    """

    events: tuple[TargetEvent, ...]
    checkpoints: Mapping[int, Checkpoint] = field(hash=False)
    proof: Proof
    rewound: bool = False
    requests: int = 0

    @property
    def settled(self) -> bool:
        """Whether nothing that was announced is missing."""
        return self.proof != "missing"


@frozen
class _Fetched:
    """One fetch of a rule: `began` counts fetches, so that a caller knows if it came after it."""

    began: int
    start: Checkpoint | None
    events: tuple[TargetEvent, ...]
    checkpoint: Checkpoint
    rewound: bool
    requests: int


@define(eq=False)
class _Pair:
    """A user and a rule: what those who settle it now share, and its latest events' ids."""

    lock: asyncio.Lock = field(factory=asyncio.Lock)
    callers: int = 0
    latest: _Fetched | None = None
    """Kept for as long as there are callers."""
    row: int = 0
    """All of `ids` stand before it."""
    ids: dict[object, None] = field(factory=dict)
    """Log ids, which are numbers, and unique ids, which are texts."""


class Settler:
    """Settles notifications for one session; a burst about one member is one fetch or two."""

    def __init__(self, session: Session, page_size: int) -> None:
        self._session, self._page_size = session, page_size
        self._pairs: OrderedDict[_Key, _Pair] = OrderedDict()
        self._fetches = 0

    async def settle(
        self, notification: Notification, start: Mapping[int, Checkpoint], window: float
    ) -> Settlement:
        """Fetch until the announced event is there, or `window` seconds have passed.

        Raises:
            UsageError: the notification names no member or no target.
            CapillaryError: a fetch failed; nothing is lost, settle it again.
        """
        if notification.user_id is None or not notification.rule_ids:
            raise UsageError("this notification names no member or no target: nothing to settle")
        waited, wait = 0.0, _FIRST_WAIT
        found: dict[int, _Fetched] = {}
        requests = 0
        while True:
            arrived = self._fetches
            for rule in notification.rule_ids:
                known = self._proof_known(notification, rule, start.get(rule))
                if known is not None and not found:
                    return Settlement((), dict(start), known)
                found[rule] = await self._fetch(notification, rule, start.get(rule), arrived)
                requests += found[rule].requests
            last = waited >= window
            if last and any(one.start is not None for one in found.values()):
                # Before it is called missing: it may stand before a checkpoint.
                for rule in notification.rule_ids:
                    whole = await self._fetch(notification, rule, None, self._fetches)
                    requests += whole.requests
                    if _proof_among(notification, whole.events) is not None:
                        found[rule] = whole
            proof, asked = await self._proof(notification, found)
            requests += asked
            if proof is not None or last:
                return Settlement(
                    tuple(event for one in found.values() for event in one.events),
                    {rule: one.checkpoint for rule, one in found.items()},
                    proof or "missing",
                    any(one.rewound for one in found.values()),
                    requests,
                )
            wait = min(wait, window - waited)
            await asyncio.sleep(0 if waiting_disabled.get() else wait)
            waited, wait = waited + wait, min(wait * 2, _LONGEST_WAIT)

    def _proof_known(
        self, notification: Notification, rule: int, start: Checkpoint | None
    ) -> Proof | None:
        """The proof by an event that an earlier settling brought, if it stands before `start`."""
        pair = self._pairs.get((notification.user_id or 0, rule))
        if pair is None or start is None or start.row < pair.row:
            return None
        return _proof_by(notification, pair.ids)

    async def _fetch(
        self, notification: Notification, rule: int, start: Checkpoint | None, arrived: int
    ) -> _Fetched:
        """The events behind `start`, by a fetch of another caller where that serves."""
        key = (notification.user_id or 0, rule)
        pair = self._pairs.setdefault(key, _Pair())
        self._pairs.move_to_end(key)
        if len(self._pairs) > _REMEMBERED:
            self._pairs.popitem(last=False)
        pair.callers += 1
        try:
            async with pair.lock:
                latest = pair.latest
                if (
                    latest is not None
                    and latest.start == start
                    and (latest.began > arrived or _proof_among(notification, latest.events))
                ):
                    return evolve(latest, requests=0)
                self._fetches += 1
                pair.latest = fetched = await self._walk(key, start, self._fetches)
                pair.row = max(pair.row, fetched.checkpoint.row)
                pair.ids |= dict.fromkeys(_ids_of(fetched.events[-_REMEMBERED_EVENTS:]))
                while len(pair.ids) > 2 * _REMEMBERED_EVENTS:
                    del pair.ids[next(iter(pair.ids))]
                return fetched
        finally:
            pair.callers -= 1
            if not pair.callers:
                pair.latest = None

    async def _walk(self, key: _Key, start: Checkpoint | None, began: int) -> _Fetched:
        user_id, rule = key
        pager = EventPager(
            self._session, user_id, rule, page_size=self._page_size, start=start, prefetch=0
        )
        events = await pager.collect()
        requests, rewound = pager.report.requests, False
        if start is not None and pager.report.moved:
            rewound = True
            pager = EventPager(self._session, user_id, rule, page_size=self._page_size)
            events = await pager.collect()
            requests += pager.report.requests
        return _Fetched(began, start, tuple(events), pager.checkpoint, rewound, requests)

    async def _proof(
        self, notification: Notification, found: Mapping[int, _Fetched]
    ) -> tuple[Proof | None, int]:
        """The proof, and the requests that it took."""
        events = [event for one in found.values() for event in one.events]
        proof = _proof_among(notification, events)
        named = notification.event_log_id is not None or _numbers(notification)
        if proof is not None or named:
            return proof, 0
        expected = {
            (target.rule_id, target.period_id): value
            for target in notification.targets
            for value in (notification.achieved_value, target.achieved_value)
            if value is not None
        }
        if not expected:
            return "nothing announced", 0
        groups = await lookups.target_groups(
            self._session, notification.user_id or 0, include_inactive=True
        )
        for target in (target for group in groups.target_groups for target in group.targets):
            for period in (target.period_id, None):  # None: the notification names no period
                value = expected.get((target.target_rule_id, period))
                if value is not None and value == target.target_achieved_value:
                    return "value", 1
        return None, 1


def _ids_of(events: Iterable[TargetEvent]) -> Iterator[object]:
    return (one for event in events for one in (event.event_log_id, event.unique_id))


def _proof_among(notification: Notification, events: Iterable[TargetEvent]) -> Proof | None:
    return _proof_by(notification, set(_ids_of(events)))


def _numbers(notification: Notification) -> list[int]:
    """The transaction's and the return's id, where the vendor sent them."""
    numbers = (notification.return_id, notification.transaction_id)
    return [one for one in numbers if one is not None]


def _proof_by(notification: Notification, ids: Container[object]) -> Proof | None:
    """The announced event's own id decides where the vendor sent one; else the transaction's."""
    if notification.event_log_id is not None:
        return "event" if notification.event_log_id in ids else None
    return "transaction" if any(str(one) in ids for one in _numbers(notification)) else None
