"""Progress: how far a member is with each target, and how that comes about from the events.

The sum of a target's events is not the progress (contract §18): the service buffers, prorates and
ignores some of them by settings that the API does not show. Its own figure is
`targetAchievedValue`, which `progress` reads and `reconcile` compares with the events. `explain` is
pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Context, Decimal, localcontext
from typing import Final

from attrs import field, frozen

from .endpoints import checked_id
from .errors import UnknownPeriod
from .lookups import CURRENT, checked_period, target_groups
from .members import Milestone, TargetGroup, UserTarget, UserTargetGroups
from .models import ApiWarning, Model, TargetEvent, short_repr
from .pager import EventPager
from .session import Session

_WIDE: Final = Context(prec=2000)
_PLACES: Final = Decimal("0.001")
"""The service stores amounts with three decimals (contract §17)."""
_ZERO: Final = Decimal(0)


@frozen(repr=False)
class TargetProgress(Model):
    """How far a member is with one target in one cycle, by the service's own figure.

    Amounts are exact and have no currency. `period_start` and `period_end` both belong to the
    cycle, whose name is `period`. `achieved_on` and `achieved_event_log_id` are when the target was
    first reached, and by which event; `is_achieved` is whether the value reaches it now.
    `recorded` is False as long as the member has done nothing in the cycle. What is None, the
    service does not say.
    """

    target_rule_id: int
    target_name: str | None = None
    target_type: str | None = None
    target_entity: str | None = None
    target_group_id: int | None = None
    group_name: str | None = None
    period_id: int | None = None
    period: str | None = None
    period_start: date | None = None
    period_end: date | None = None
    is_current: bool | None = None
    recorded: bool = False
    target_value: Decimal | None = None
    achieved_value: Decimal | None = None
    remaining: Decimal | None = None
    is_achieved: bool | None = None
    achieved_on: datetime | None = None
    achieved_event_log_id: int | None = None
    milestones_reached: tuple[Milestone, ...] = ()
    next_milestone: Milestone | None = None
    enrolled_on: datetime | None = None
    last_updated_on: datetime | None = None

    @property
    def share(self) -> Decimal | None:
        """Achieved over target: 0.5 is half way, above 1 more than enough. None: not known."""
        if self.achieved_value is None or not self.target_value:
            return None
        return self.achieved_value / self.target_value


class UserProgress(list[TargetProgress]):
    """A member's progress, target by target, with the `warnings` of the service."""

    __repr__ = short_repr

    def __init__(
        self,
        user_id: int,
        targets: Iterable[TargetProgress] = (),
        warnings: tuple[ApiWarning, ...] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(targets)
        self.user_id: int = user_id
        self.warnings: tuple[ApiWarning, ...] = warnings
        self.request_id: str | None = request_id


async def progress(
    session: Session,
    user_id: int,
    *,
    target_rule_id: int | None = None,
    all_periods: bool = False,
) -> UserProgress:
    """How far a member is with each target: one request (API page "Get Associated Target Groups").

    Args:
        session: of `open_session`.
        user_id: 64 bits.
        target_rule_id: only this target.
        all_periods: not only the running cycle of each target, but all of them.

    Raises:
        InvalidUser: no member has this id.
        AuthError: the account may not read the resource "Target Loyalty" (403).
        CapillaryError: whatever any request can raise.

    """
    groups = await target_groups(
        session,
        user_id,
        include_inactive=all_periods or None,
        target_rule_id=target_rule_id,
    )
    rows = _rows(groups, target_rule_id)
    running = {one.target_rule_id for one in rows if one.is_current}
    found = [
        one for one in rows if all_periods or one.is_current or one.target_rule_id not in running
    ]
    return UserProgress(user_id, found, groups.warnings, groups.request_id)


def _rows(groups: UserTargetGroups, target_rule_id: int | None) -> list[TargetProgress]:
    """The rows of a target, or of all: the server may ignore for which one was asked."""
    return [
        progress_of(group, one)
        for group in groups.target_groups
        for one in group.targets
        if target_rule_id in {None, one.target_rule_id}
    ]


def progress_of(group: TargetGroup, target: UserTarget) -> TargetProgress:
    """A row of `target_groups` as progress. Pure."""
    goal, value = target.target_value, target.target_achieved_value
    achieved_on = target.target_achieved_date_time_iso or target.target_achieved_date_time
    remaining, is_achieved = None, True if achieved_on else None
    if goal is not None and value is not None:
        with localcontext(_WIDE):
            remaining = max(goal - value, _ZERO)
        is_achieved = not remaining
    steps = sorted(
        (one for one in target.milestones if not one.is_achieved),
        key=lambda one: Decimal("Infinity") if one.trigger_value is None else one.trigger_value,
    )
    return TargetProgress(
        target_rule_id=target.target_rule_id,
        target_name=target.target_name,
        target_type=target.target_type,
        target_entity=target.target_entity,
        target_group_id=group.id,
        group_name=group.name,
        period_id=target.period_id,
        period=target.period_ref_code and target.period_ref_code.strip(),
        period_start=target.period_start_date,
        period_end=target.period_end_date,
        is_current=target.current_period,
        recorded=target.target_id is not None,
        target_value=goal,
        achieved_value=value,
        remaining=remaining,
        is_achieved=is_achieved,
        achieved_on=achieved_on,
        achieved_event_log_id=target.target_achieved_event_log_id,
        milestones_reached=tuple(one for one in target.milestones if one.is_achieved),
        next_milestone=steps[0] if steps else None,
        enrolled_on=target.enrolled_on_iso or target.enrolled_on,
        last_updated_on=target.last_updated_on,
    )


# --- events beside the service's own value ---


@frozen(repr=False)
class Explanation(Model):
    """One way in which the events of a cycle make the service's value, to the last digit.

    `basis` is what is added up: `plain sum` (amounts as the events show them), `unsigned returns`
    (returns come without a sign and are taken off), `returns ignored`, `count instead of amount`
    (one for each event that is no return), `count less returns` (one taken off for each), `count
    with returns`. `then` is what is done to it: `carried-over start`,
    `capped` at the target, `prorated` by the days of enrolment, or None. `by` is the start, the
    target, or the share of days.
    """

    basis: str
    then: str | None = None
    by: Decimal | None = None

    def __str__(self) -> str:
        if self.then is None or self.by is None:
            return self.basis
        then = f"{self.then} {_BY[self.then].format(self.by)}"
        return then if self.basis == PLAIN_SUM else f"{self.basis}, {then}"


PLAIN_SUM: Final = "plain sum"
_BY: Final = {"carried-over start": "of {:f}", "capped": "at {:f}", "prorated": "to {:.4g}"}


@frozen(repr=False)
class Cycle(Model):
    """One cycle of a target: the service's figure, and what the events come to.

    `explanations` are all of the simplest kind that fit; none means `unexplained`, which is what
    the service has beyond the plain sum.
    """

    progress: TargetProgress
    events: tuple[TargetEvent, ...] = field(repr=False)
    event_sum: Decimal
    explanations: tuple[Explanation, ...] = ()

    @property
    def difference(self) -> Decimal | None:
        """The service's value less the plain sum of the events."""
        if self.progress.achieved_value is None:
            return None
        with localcontext(_WIDE):
            return self.progress.achieved_value - self.event_sum

    @property
    def unexplained(self) -> Decimal | None:
        """The difference, where nothing explains it."""
        return None if self.explanations else self.difference

    @property
    def verdict(self) -> str:
        """The explanation in words."""
        if self.explanations:
            ambiguous = "ambiguous: " if len(self.explanations) > 1 else ""
            return ambiguous + " or ".join(map(str, self.explanations))
        if self.difference is None:
            return "the service gives no value"
        return f"unexplained by {self.difference:f}"


@frozen(repr=False)
class Reconciliation(Model):
    """The cycles of one member's target that have a record or events, oldest first.

    `is_member`: the target is in the member's groups.
    """

    user_id: int
    target_rule_id: int
    cycles: tuple[Cycle, ...] = ()
    is_member: bool = True
    warnings: tuple[ApiWarning, ...] = ()


async def reconcile(
    session: Session,
    user_id: int,
    target_rule_id: int,
    period: int | str | None = None,
    *,
    page_size: int = 100,
) -> Reconciliation:
    """A target's events beside the service's own value, cycle by cycle, and what explains it.

    One request and a walk. Where something is left unexplained both are done once more, since a
    sale may have come in between.

    Args:
        session: of `open_session`.
        user_id: 64 bits.
        target_rule_id: the `id` of a `Target`.
        period: only this cycle: its id, "current" or a refCode.
        page_size: events asked for in one request.

    Raises:
        UnknownPeriod: the member has no cycle of that name in this target.
        PaginationError: the events are not proven complete.
        CapillaryError: whatever any request can raise.

    """
    checked_id("target_rule_id", target_rule_id)
    checked_period(period)
    for _ in range(2):
        groups = await target_groups(
            session,
            user_id,
            target_rule_id=target_rule_id,
            include_inactive=True,
            include_inactive_targets=True,
        )
        rows = _rows(groups, target_rule_id)
        if rows and not any(is_period(one, period) for one in rows):
            known = tuple(one.period for one in rows if one.period)
            raise UnknownPeriod(
                f"user {user_id} has no period {period!r} in target {target_rule_id}; there are: "
                f"{', '.join(known) or 'none with a name'}",
                known=known,
            )
        pager = EventPager(session, user_id, target_rule_id, page_size=page_size)
        events = await pager.collect() if rows else []
        cycles = tuple(one for one in explain(rows, events) if is_period(one.progress, period))
        if all(cycle.explanations for cycle in cycles):
            break
    return Reconciliation(user_id, target_rule_id, cycles, bool(rows), groups.warnings)


def is_period(one: TargetProgress, period: int | str | None) -> bool:
    """Whether a row is of that cycle: its id, "current" or a refCode; None is any."""
    if isinstance(period, str):
        return bool(one.is_current) if period == CURRENT else one.period == period.strip()
    return period in {None, one.period_id}


def explain(rows: Sequence[TargetProgress], events: Iterable[TargetEvent]) -> list[Cycle]:
    """The cycles that have a record or events, each with what explains the service's value. Pure.

    Args:
        rows: a member's progress with one target, a row for each cycle.
        events: all events of that member and target.
    """
    rows = sorted(rows, key=lambda row: (row.period_start or date.min, row.period_id or 0))
    mine: list[list[TargetEvent]] = [[] for _ in rows]
    for event in events:
        fits = [_fit(event, row) for row in rows]
        if not any(fits):  # of a cycle that the groups do not tell of
            rule = rows[0].target_rule_id if rows else event.target_rule_id or 0
            rows.append(TargetProgress(rule, period_id=event.period_id))
            mine.append([])
            fits.append(1)
        mine[fits.index(max(fits))].append(event)
    with localcontext(_WIDE):
        sums = [{name: sum(map(f, these), _ZERO) for name, f in _BASES.items()} for these in mine]
        shared = _shared_starts(rows, sums)
        found = []
        for place, (row, these, amounts) in enumerate(zip(rows, mine, sums, strict=True)):
            if row.recorded or these or row.achieved_value:
                starts = {*shared, *_starts_after(rows[place - 1] if place else None)}
                explanations = tuple(_explanations(row, these, amounts, starts))
                found.append(Cycle(row, tuple(these), amounts[PLAIN_SUM], explanations))
    return found


def _fit(event: TargetEvent, row: TargetProgress) -> int:
    """How well a cycle fits an event: the one it names, or else the one that its date falls in."""
    if event.period_id is not None and row.period_id is not None:
        return 3 * (event.period_id == row.period_id)
    if row.period_start is None or row.period_end is None:
        return 1
    day = event.event_date and event.event_date.date()
    return 2 * (day is not None and row.period_start <= day <= row.period_end)


def _is_return(event: TargetEvent) -> bool:
    return "return" in (event.event_name or "").lower()


def _amount(event: TargetEvent) -> Decimal:
    return event.target_value or _ZERO


def _counted(event: TargetEvent) -> Decimal:
    return Decimal(event.target_value is not None)


_BASES: Final[Mapping[str, Callable[[TargetEvent], Decimal]]] = {
    PLAIN_SUM: _amount,
    "unsigned returns": lambda one: -abs(_amount(one)) if _is_return(one) else _amount(one),
    "returns ignored": lambda one: _ZERO if _is_return(one) else _amount(one),
    "count instead of amount": lambda one: _ZERO if _is_return(one) else _counted(one),
    "count less returns": lambda one: -_counted(one) if _is_return(one) else _counted(one),
    "count with returns": _counted,
}


def _shared_starts(
    rows: Sequence[TargetProgress], sums: Sequence[Mapping[str, Decimal]]
) -> set[Decimal]:
    """Differences that cycles have in common: the same start, carried into each.

    Not those of equal sums and equal values, which may both be capped, unless there is no event.
    """
    found = {
        (name, base, not base and place, row.achieved_value - base)
        for place, (row, amounts) in enumerate(zip(rows, sums, strict=True))
        for name, base in amounts.items()
        if row.achieved_value is not None and row.recorded
    }
    counts = Counter((name, start) for name, *_, start in found)
    return {start for (_, start), number in counts.items() if number > 1}


def _starts_after(before: TargetProgress | None) -> Iterator[Decimal]:
    """What a cycle can carry over from the one before: its surplus or shortfall, or a debt."""
    if before is None or before.achieved_value is None:
        return
    if before.target_value is not None:
        yield before.achieved_value - before.target_value
    if before.achieved_value < 0:
        yield before.achieved_value


def _explanations(
    row: TargetProgress,
    events: Sequence[TargetEvent],
    sums: Mapping[str, Decimal],
    starts: set[Decimal],
) -> list[Explanation]:
    """The simplest that give the service's value: a basis or the cap, else a basis and a change."""
    value, goal = row.achieved_value, row.target_value
    if value is None:
        return []
    first: dict[tuple[Decimal, ...], str] = {}
    for name, added in _BASES.items():  # of those that add the same for each event, the first
        first.setdefault(tuple(map(added, events)), name)
    names = first.values()
    fits = [Explanation(name) for name in names if sums[name] == value]
    if fits[:1] == [Explanation(PLAIN_SUM)]:
        return fits
    # Which basis exceeds the target does not show: one is enough.
    if value == goal and (more := [name for name in names if sums[name] > goal]):
        fits.append(Explanation(more[0], "capped", goal))
    if any(one.then is None for one in fits):
        return fits
    share = _enrolled_share(row)
    for name in names:
        base = sums[name]
        if value - base in starts:
            fits.append(Explanation(name, "carried-over start", value - base))
        if share is not None and base and abs(base * share - value) < _PLACES:
            fits.append(Explanation(name, "prorated", share))
    return fits


def _enrolled_share(row: TargetProgress) -> Decimal | None:
    """The share of the cycle's days since the enrolment; None where that is all, or not known."""
    first, last, enrolled = row.period_start, row.period_end, row.enrolled_on
    if first is None or last is None or enrolled is None or not first < enrolled.date() <= last:
        return None
    return Decimal((last - enrolled.date()).days + 1) / Decimal((last - first).days + 1)
