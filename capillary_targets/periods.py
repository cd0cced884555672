"""A period by the name people use: "current", or a refCode such as "Cycle_3", to its id.

The answer about the user's groups mostly knows it: that is one request. Otherwise the periods of
the target's group are asked for as well. What "current" means is the service's to say
(`currentPeriod`, or the status RUNNING): no clock of ours is asked, for its zone may not be theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from .errors import UnknownPeriod
from .lookups import target_groups, target_periods
from .members import TargetPeriod, UserTarget
from .session import Session

__all__ = ["CURRENT", "resolve_period"]

CURRENT: Final = "current"
_RUNNING: Final = frozenset({"RUNNING", "LIVE"})


async def resolve_period(session: Session, user_id: int, target_rule_id: int, name: str) -> int:
    """The id of the period that a user's target calls `name`.

    Raises `UnknownPeriod`, which names those that exist, if there is none or more than one, and
    whatever `lookups.target_groups` and `lookups.target_periods` can raise.
    """
    answer = await target_groups(
        session,
        user_id,
        target_rule_id=target_rule_id,
        # Events are kept of periods that are over, and of targets that were deactivated.
        include_inactive=True,
        include_inactive_targets=True,
    )
    # Whether the server heeds targetRuleId is not relied on.
    held = {
        group.id: [one for one in group.targets if one.target_rule_id == target_rule_id]
        for group in answer.target_groups
    }
    groups = [group for group, targets in held.items() if targets]
    if not groups:
        raise UnknownPeriod(
            f"user {user_id} is not in target {target_rule_id}: it has no period {name!r} for them"
        )
    found = _of_targets(name, (one for group in groups for one in held[group]))
    if not found:
        periods = [one for group in groups for one in await target_periods(session, group)]
        found = _of_periods(name, periods)
        if not found:
            raise _none(name, target_rule_id, periods)
    if len(found) > 1:
        raise _several(name, target_rule_id, found)
    (only,) = found
    return only


def _of_targets(name: str, targets: Iterable[UserTarget]) -> dict[int, str | None]:
    """The periods of that name among a user's targets: id to refCode."""
    return {
        one.period_id: one.period_ref_code
        for one in targets
        if one.period_id is not None
        and (one.current_period if name == CURRENT else one.period_ref_code == name)
    }


def _of_periods(name: str, periods: Iterable[TargetPeriod]) -> dict[int, str | None]:
    """The periods of that name among a group's: id to refCode."""
    return {
        one.id: one.ref_code
        for one in periods
        if (one.period_status in _RUNNING if name == CURRENT else one.ref_code == name)
    }


def _none(name: str, target_rule_id: int, periods: Sequence[TargetPeriod]) -> UnknownPeriod:
    listed = [(one.ref_code or f"id {one.id}", one.period_status) for one in periods]
    there = ", ".join(f"{code} ({status})" if status else code for code, status in listed)
    said = "is running" if name == CURRENT else f"has the refCode {name!r}"
    return UnknownPeriod(
        f"no period of target {target_rule_id} {said}; there are: {there or 'none at all'}",
        known=[one.ref_code for one in periods if one.ref_code],
    )


def _several(name: str, target_rule_id: int, found: Mapping[int, str | None]) -> UnknownPeriod:
    listed = ", ".join(f"{id_} ({code})" if code else str(id_) for id_, code in found.items())
    said = "are running" if name == CURRENT else f"have the refCode {name!r}"
    return UnknownPeriod(
        f"several periods of target {target_rule_id} {said}: give the id of one: {listed}",
        known=[code for code in found.values() if code],
    )
