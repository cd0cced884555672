"""Change detection by target groups: which of a member's targets have to be read at all.

One `targetGroups` call tells of all of a member's targets, cycle by cycle, whether there is a
record, the achieved value, and on newer servers when it was last updated (contract §11.2, §14).
Where that is as the ledger has it, no events are asked for. What is decided is pure; `GroupsReader`
asks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final, Literal, TypeAlias

from attrs import define, field, frozen

from capillary_targets.errors import AuthError, BadResponse, EndpointGone
from capillary_targets.fanout import FanOut
from capillary_targets.lookups import CURRENT, target_groups
from capillary_targets.members import UserTargetGroups
from capillary_targets.models import Target
from capillary_targets.progress import TargetProgress, is_period, progress_of

from .ledger import CycleState, States, UserState
from .options import SweepOptions
from .rows import PROGRESS_FIELDS
from .stats import EXACT

_log = logging.getLogger("capillary_targets")

_REFUSALS: Final = 5
"""Refusals in a row after which no member's groups are asked for any more."""
_CATALOGUE: Final = 10_000
_COMPARED: Final = 20
"""New members of one session whose groups are compared with their enrolled targets anyway."""
_REFRESHES: Final = 1_000
"""Requests of one session for the definitions of targets that are in the ledger."""


Reason: TypeAlias = Literal["changed", "full", "by_update", "by_value", "no_record"]
"""Why a target's events are read (`changed`, `full`), or what vouches for it that they need not."""
READ: Final = frozenset({"changed", "full"})
"""The reasons to read them."""


def decide(
    now: Mapping[int, CycleState],
    before: Mapping[int, CycleState],
    *,
    listed: bool,
    held: bool | None,
    full: bool,
) -> Reason:
    """What is to be done about one of a member's targets.

    Args:
        now: its cycles with a record.
        before: the same as they were when the events were read last.
        listed: the groups tell whether there is a record.
        held: whether it has events in files; None: it was never read.
        full: read again what only the achieved value vouches for.
    """
    if listed and not (now or before or held):
        return "no_record"
    same = now.keys() == before.keys() and all(
        state.is_same(before[cycle]) and before[cycle].settled for cycle, state in now.items()
    )
    if held is None or not same or (held and not now):
        return "changed"
    if now and all(state.updated is not None for state in now.values()):
        return "by_update"
    return "full" if full else "by_value"


def next_states(now: States, before: States, read: Iterable[int], found: set[int]) -> States:
    """What the ledger has to keep from now on, of the targets where that is something else.

    Args:
        now: cycles with a record.
        before: the same as the ledger has them.
        read: targets whose events were read.
        found: those of them where an event was new, late or gone.
    """
    settled = {}
    for rule in {*now, *before}:
        mine, was = now.get(rule, {}), before.get(rule, {})
        kept = {}
        for cycle, state in mine.items():
            old = was.get(cycle)
            first_seen = state.first_seen if old is None else old.first_seen
            same = old is not None and state.is_same(old) and (old.settled or rule in read)
            kept[cycle] = state._replace(first_seen=first_seen, settled=same or rule in found)
        if kept != was:
            settled[rule] = kept
    return settled


def is_due(user_id: int, run: int, every: int, proven: int) -> bool:
    """Whether a member's turn of the rolling pass is in this run: once in `every` runs.

    So it is where the last one, in run `proven`, is longer ago: they were not asked, or failed.
    """
    return stable_hash(user_id) % every == run % every or run - proven >= every


def stable_hash(user_id: int) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(blake2b(user_id.to_bytes(8, "big", signed=True), digest_size=8).digest())


def _recorded(one: TargetProgress, now: int) -> tuple[CycleState, dict[str, Any]]:
    """A record as the ledger keeps it, first seen `now`, and its row of `progress/`."""
    step = one.next_milestone
    row = {name: getattr(one, name) for name in PROGRESS_FIELDS} | {
        "milestones_reached": len(one.milestones_reached),
        "next_milestone": step and step.trigger_name,
        "next_milestone_value": step and step.trigger_value,
    }
    plain = {name: _plain(value) for name, value in row.items()}
    steps = sorted((step.id or 0, step.trigger_name or "") for step in one.milestones_reached)
    rest = _digest(steps, one.achieved_event_log_id)
    told = plain["achieved_value"], plain["last_updated_on"]
    return CycleState(*told, rest, _digest(plain), now), row


def _plain(value: Any) -> Any:
    """A spelling is no change: 1.50 is 1.500, and the client may be told the zone tomorrow."""
    if isinstance(value, Decimal):
        return f"{value.normalize(EXACT):f}"
    return value.replace(tzinfo=None).isoformat() if isinstance(value, datetime) else value


def _digest(*values: object) -> bytes:
    return blake2b(repr(values).encode("utf-8", "replace"), digest_size=8).digest()


# --- asking ---


@frozen
class MemberGroups:
    """What the groups told of one member.

    `targets` are the definitions that are known, `reasons` what is to be done about each target
    that the member is in, or that was asked for.
    """

    targets: tuple[Target, ...]
    reasons: Mapping[int, Reason]
    now: States
    _rows: Mapping[tuple[int, int], dict[str, Any]]
    _before: States

    @property
    def read(self) -> tuple[int, ...]:
        """The targets whose events are to be read."""
        return tuple(rule for rule, why in self.reasons.items() if why in READ)

    def settled(self, found: set[int]) -> tuple[States, list[dict[str, Any]]]:
        """What the ledger has to keep, and the rows of `progress/`, of what has changed."""
        kept = next_states(self.now, self._before, self.read, found)
        rows = []
        for rule, cycles in kept.items():
            was = self._before.get(rule, {})
            for cycle, state in {**was, **cycles}.items():
                row = self._rows.get((rule, cycle))
                if row is None:
                    gone = {"target_rule_id": rule, "period_id": max(cycle, 0) or None}
                    row = gone | {"recorded": False}
                elif cycle in was and was[cycle].row == state.row:
                    continue
                rows.append({**row, "first_seen": datetime.fromtimestamp(state.first_seen, UTC)})
        return kept, rows


@define
class GroupsReader:
    """Asks for members' groups, as long as the account may.

    `off` is why it no longer does. Definitions of targets, which are the same for all members, come
    from the members who are asked for theirs.
    """

    options: SweepOptions
    run: int
    sends_ids: bool
    """Whether the server was seen to send `targetId`: until then null means nothing."""
    off: str | None = field(init=False, default=None)
    _refusals: int = field(init=False, default=0)
    _asked: int = field(init=False, default=0)
    """Requests for definitions that were not needed for a new target."""
    _catalogue: dict[int, tuple[Target, ...]] = field(init=False, factory=dict)

    async def look(
        self, fan: FanOut[Any], user_id: int, before: UserState, proven: int
    ) -> MemberGroups | None:
        """What a member's groups tell; None: go the plain way.

        Args:
            fan: the fan-out.
            user_id: the member.
            before: what the ledger has.
            proven: see `is_due`.
        """
        if self.off is not None:
            return None
        held = {rule: mark.row > 0 for rule, mark in before.marks.items()}
        try:
            found = await target_groups(
                fan.session, user_id, include_inactive=self.options.period != CURRENT or None
            )
            enrolled = [one.target_rule_id for one in found.targets() if not one.un_enrolled]
            rules = tuple(dict.fromkeys(one for one in enrolled if self._is_wanted(one)))
            targets = await self._definitions(fan, user_id, rules, held)
        except (AuthError, EndpointGone, BadResponse) as error:
            if isinstance(error, AuthError) and not _is_denied(error):
                raise
            self._refuse(str(error))
            return None
        if unlisted := {one.id for one in targets} - {*rules}:
            self._refuse(f"target {min(unlisted)} of user {user_id} is not in their groups")
            return None
        self._refusals = 0
        self.sends_ids = self.sends_ids or any(one.target_id for one in found.targets())
        states, rows = self._records(found)
        if not self.options.fetch_targets:
            rules = self.options.target_rule_ids
        full = is_due(user_id, self.run, self.options.full_every, proven)
        reasons = {
            rule: decide(
                states.get(rule, {}),
                before.progress.get(rule, {}),
                listed=self.sends_ids and rule in states,
                held=held.get(rule),
                full=full,
            )
            for rule in rules
        }
        return MemberGroups(targets, reasons, states, rows, before.progress)

    def _is_wanted(self, rule: int) -> bool:
        return not self.options.target_rule_ids or rule in self.options.target_rule_ids

    def _records(
        self, found: UserTargetGroups
    ) -> tuple[States, dict[tuple[int, int], dict[str, Any]]]:
        """The targets that are listed, with their records by cycle, and these as rows."""
        now, period = int(datetime.now(UTC).timestamp()), self.options.period
        states: dict[int, dict[int, CycleState]] = {}
        rows: dict[tuple[int, int], dict[str, Any]] = {}
        for group in found.target_groups:
            for target in group.targets:
                one, rule = progress_of(group, target), target.target_rule_id
                # A row that does not name its cycle may be of any.
                unnamed = isinstance(period, int) and one.period_id is None
                left = target.un_enrolled and self.options.fetch_targets
                if not self._is_wanted(rule) or left or not (unnamed or is_period(one, period)):
                    continue
                cycles = states.setdefault(rule, {})
                if one.recorded or one.achieved_value:
                    first = one.period_start  # stands for the id of a cycle that has none
                    cycle = one.period_id or (-first.toordinal() if first else 0)
                    state, row = _recorded(one, now)
                    if cycle in cycles:  # neither of two records tells of the other
                        state = state._replace(achieved=None, updated=None)
                    cycles[cycle], rows[rule, cycle] = state, row
        return states, rows

    async def _definitions(
        self, fan: FanOut[Any], user_id: int, rules: Sequence[int], held: Mapping[int, bool]
    ) -> tuple[Target, ...]:
        """The targets' definitions: asked for where one is new, or was not asked for in this run.

        Of the first new members anyway, to see that the groups leave no target out. Where each
        member has targets of their own, known ones are not asked for without end.
        """
        if not self.options.fetch_targets:
            return ()
        unknown = [rule for rule in rules if rule not in self._catalogue]
        fresh = any(rule not in held for rule in unknown)
        compare = not held and self._asked < _COMPARED
        if compare or fresh or (unknown and self._asked < _REFRESHES):
            self._asked += compare or not fresh
            targets, _ = await fan.targets(user_id)
            for rule in {one.id for one in targets}:
                self._catalogue[rule] = tuple(one for one in targets if one.id == rule)
            while len(self._catalogue) > _CATALOGUE:
                del self._catalogue[next(iter(self._catalogue))]
            return targets
        return tuple(one for rule in rules for one in self._catalogue.get(rule, ()))

    def _refuse(self, why: str) -> None:
        self._refusals += 1
        if self._refusals >= _REFUSALS:
            self.off = why
            _log.warning("target groups are not asked for any more: %s", why)


def _is_denied(error: AuthError) -> bool:
    """Whether the account may not read this resource, and may well read others (contract §14)."""
    return error.code in {403, 4000} or (error.code is None and error.status == 403)
