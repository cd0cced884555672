"""Which events were never announced, and which announcements never showed up (contract §15).

Pure. An announcement stands for its event by the event's log id, or where the vendor sent none by
the number of the transaction or return, in any of the targets that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from capillary_targets.notifications.store import Announced


class EventIds(msgspec.Struct, frozen=True):
    """What tells an event: its target, its log id, its transaction, return or request.

    One that adds nothing, an enrolment's row for one, is announced without its ids, if at all.
    """

    rule_id: int
    event_log_id: int | None
    unique_id: str | None
    adds: bool = True

    def shared_keys(self) -> Iterator[tuple[object, ...]]:
        """Those that it shares with its announcements."""
        yield self.rule_id, self.event_log_id
        yield self.rule_id, self.unique_id
        if self.event_log_id is None:
            yield self.rule_id, None, self.unique_id


class Unmatched(msgspec.Struct):
    """What the ledger keeps of one member.

    Announcements up to `position` were compared; `unannounced` events and `missing` announcements
    are those that are still to find their counterparts.
    """

    position: int = 0
    unannounced: list[EventIds] = []
    missing: list[Announced] = []


Finding: TypeAlias = EventIds | Announced


def compare(
    before: Unmatched | None,
    events: Sequence[EventIds],
    due: Sequence[Announced],
    announced: Iterable[Announced],
    written: Callable[[Announced], Iterable[EventIds]],
) -> tuple[Unmatched, list[Finding], list[Finding]]:
    """What is unmatched of a member now, what of it is new, and what of before is settled.

    Args:
        before: The findings of earlier sweeps; None: there was no comparison of this member, so
            that `events` may be a history from before the first notification, and is not judged.
        events: Those that are new in files.
        due: Announcements behind `before.position` that were there before the events were read.
        announced: As `due`, and those that came meanwhile: they are due next time.
        written: The events of an announcement's targets that were in files before.
    """
    known = before or Unmatched()
    told = {key for one in (*known.missing, *announced) for key in _keys(one)}
    there = _keys_of((*known.unannounced, *events))
    missing = [
        one
        for one in {one.event_id: one for one in (*known.missing, *due)}.values()
        if any(_keys(one))
        and there.isdisjoint(_keys(one))
        and _keys_of(written(one)).isdisjoint(_keys(one))
    ]
    judged = (event for event in events if event.adds and before is not None)
    unannounced = [
        one
        for one in dict.fromkeys((*known.unannounced, *judged))
        if told.isdisjoint(one.shared_keys())
    ]
    position = max((one.position for one in due), default=known.position)
    now: list[Finding] = [*unannounced, *missing]
    earlier: list[Finding] = [*known.unannounced, *known.missing]
    new = [one for one in now if one not in earlier]
    settled = [one for one in earlier if one not in now]
    return Unmatched(position, unannounced, missing), new, settled


def columns(finding: Finding, *, settled: bool) -> dict[str, Any]:
    """The columns of `announcements/`."""
    found: dict[str, Any] = {"settled": settled, "event_log_id": finding.event_log_id}
    if isinstance(finding, EventIds):
        return found | {
            "finding": "never announced",
            "target_rule_id": finding.rule_id,
            "unique_id": finding.unique_id,
        }
    number = finding.return_id or finding.transaction_id
    return found | {
        "finding": "never showed up",
        "target_rule_id": finding.rule_ids[0],
        "unique_id": None if number is None else str(number),
        "event_id": finding.event_id,
        "name": finding.name,
    }


def _keys_of(events: Iterable[EventIds]) -> set[tuple[object, ...]]:
    return {key for event in events for key in event.shared_keys()}


def _keys(announced: Announced) -> Iterator[tuple[object, ...]]:
    """None where it announces no event that can be told."""
    numbers = [
        str(one) for one in (announced.return_id, announced.transaction_id) if one is not None
    ]
    for rule in announced.rule_ids:
        if announced.event_log_id is not None:
            yield rule, announced.event_log_id
            yield from ((rule, None, number) for number in numbers)
        else:
            yield from ((rule, number) for number in numbers)
