"""Users, their targets and their events: everything follows from the seed until it is changed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from math import inf
from operator import attrgetter
from random import Random
from typing import Any
from uuid import UUID

import msgspec
from attrs import frozen

from . import samples
from .model import TODAY, Event, Group, Period, Rule
from .settings import AchievedBy, SandboxSettings

FIRST_USER = 1_000_001
FIRST_RULE = 3_001
FIRST_GROUP = 601
FIRST_LOG_ID = 1 << 30
_BLOCK = 1 << 27
"""Log ids reserved for one (user, rule)."""
_FRESH_LOG_ID = 700_000_000
_CACHED_ROWS = 200_000

START = datetime(2025, 1, 1, tzinfo=UTC)
_SPAN = int((TODAY - START).total_seconds())
_WORD = (1 << 64) - 1
_date = attrgetter("event_date")
_DISPLAY_NAMES = ("appCheckIn", "Café visit", "surveyAnswered", "referral", 'video "how to"')
_KINDS = (  # name, targetType, targetEntity, enrolmentMethod
    ("Spend", "GROSS_SALES", "LINEITEM", "TRANSACTION"),
    ("Engage", "COUNT", "EVENT", "IMPORT"),
    ("Baskets", "SALES", "TRANSACTION", "AUDIENCE_FILTER"),
    ("Visits", "VISIT", "TRANSACTION", "TRANSACTION"),
)
_MEAN_AMOUNT = 2_000


class EventHistory(list[Event]):
    """The rows of one (user, rule), in chronological order."""

    last_log_id: int | None = None
    changed_at: datetime | None = None

    def span(self, period: Period | None) -> tuple[int, int]:
        """The rows of a period as (start, stop)."""
        if period is None:
            return 0, len(self)
        start = bisect_left(self, period.first_moment, key=_date)
        return start, bisect_right(self, period.last_moment, lo=start, key=_date)

    def add(self, row: Event) -> None:
        """Put a row where its date belongs: behind all rows that are not later."""
        self.insert(bisect_right(self, row.event_date, key=_date), row)


@frozen(slots=True)
class TargetChange:
    """An enrolment made or ended; `enrolled` None: another value to reach."""

    user: int
    rule: Rule
    enrolled: bool | None = None


class World:
    """Users, their targets and their events; changes are kept until `reset`.

    Seeded users have the ids 1_000_001 ... 1_000_000 + users. The first of them has events in each
    of its targets and running cycles, so that examples have something to show.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self._settings = settings or SandboxSettings()
        # More rules than one user holds, so that a rule can be foreign.
        self._rule_count = max(12, 2 * self._settings.targets)
        catalogue = _catalogue(self._rule_count, self._settings.events)
        self._rules = {rule.id: rule for rule in catalogue} | samples.RULES
        self._groups = {rule.group.id: rule.group for rule in self._rules.values()}
        self._histories: dict[tuple[int, int], EventHistory] = {}
        """Those that were changed."""
        kept = _CACHED_ROWS // (1 + self._settings.events)
        self._seeded = lru_cache(max(1, kept))(self._generated)
        self._enrolments: dict[int, frozenset[int]] = {}
        self._target_values: dict[tuple[int, int], Decimal] = {}
        self._withheld: dict[tuple[int, int], dict[Event, float]] = {}
        """Rows that the API does not show, and how many requests are still to miss each."""
        self._changes = 0
        self.on_change: Callable[[Event | TargetChange], object] = lambda _: None
        """Called with each event that was written, and each change of a user's targets."""

    def reset(self) -> None:
        """Undo every change."""
        self._seeded.cache_clear()
        for changed in (self._histories, self._enrolments, self._target_values, self._withheld):
            changed.clear()
        self._changes = 0

    # --- users, targets, events ---

    def user_ids(self) -> range:
        """The seeded users' ids, lazily."""
        return range(FIRST_USER, FIRST_USER + self._settings.users)

    def all_user_ids(self) -> Iterator[int]:
        """Seeded users, then those behind the vendor's printed answers."""
        return chain(self.user_ids(), samples.ENROLLED)

    def has_user(self, user: int) -> bool:
        """Whether such a user exists."""
        return user in self.user_ids() or user in samples.ENROLLED

    def rules(self) -> Sequence[Rule]:
        """Every rule, the samples' included."""
        return tuple(self._rules.values())

    def rule(self, rule_id: int) -> Rule | None:
        """The rule of that id."""
        return self._rules.get(rule_id)

    def group(self, group_id: int) -> Group | None:
        """The target group of that id."""
        return self._groups.get(group_id)

    def targets(self, user: int) -> list[Rule]:
        """The rules that a user is enrolled in, by ascending id."""
        self._check_user(user)
        ids: Iterable[int] | None = self._enrolments.get(user, samples.ENROLLED.get(user))
        if ids is None:
            ids = {FIRST_RULE + index for index in self._seeded_indexes(user)}
        return [self._rules[one] for one in sorted(ids)]

    def history(self, user: int, rule: int) -> EventHistory:
        """The rows of a user's rule, live; empty if the user never was in it."""
        changed = self._histories.get((user, rule))
        return self._seeded(user, self._rules[rule]) if changed is None else changed

    def events(self, user: int, rule: int, period: int | None = None) -> list[Event]:
        """The true rows in chronological order: what a complete walk has to return."""
        history = self.history(user, rule)
        found = None if period is None else self._rules[rule].group.period(period)
        if period is not None and found is None:
            raise LookupError(f"rule {rule} has no period {period}")
        start, stop = history.span(found)
        return history[start:stop]

    def count(self, user: int, rule: int, period: int | None = None) -> int:
        """How many rows `events` returns."""
        return len(self.events(user, rule, period))

    def own(self, user: int, rule: Rule) -> Rule:
        """A rule with what this user is to reach."""
        value = self._target_values.get((user, rule.id))
        return rule if value is None else msgspec.structs.replace(rule, target_value=value)

    # --- changes ---

    def unenrol(self, user: int, rule: int) -> None:
        """End an enrolment; the history stays readable."""
        self.enrol(user, rule, enrolled=False)

    def enrol(self, user: int, rule: int, *, enrolled: bool = True) -> None:
        """Enrol a user in a rule. Writes no event: add an `ENROL` one if you want it."""
        before, changed = {one.id for one in self.targets(user)}, self._rules[rule]
        self._enrolments[user] = frozenset(before | {rule} if enrolled else before - {rule})
        if enrolled != (rule in before):
            self.on_change(TargetChange(user, changed, enrolled))

    def set_target_value(self, user: int, rule: int, value: Decimal | str) -> None:
        """Give one user another value to reach in a target."""
        self._check_user(user)
        before = self.own(user, self._rules[rule])
        self._target_values[user, rule] = Decimal(value)
        after = self.own(user, before)
        if after != before:
            self.on_change(TargetChange(user, after))

    def add_event(
        self,
        user: int,
        rule: int,
        *,
        value: Decimal | str | None = "100.00",
        date: str | None = None,
        **fields: Any,
    ) -> Event:
        """Write one event, with the next log id, and return it.

        Args:
            user: whose.
            rule: for which target.
            value: the amount, with the digits that are to be sent; None is `null`.
            date: `YYYY-MM-DD HH:MM:SS.s`; one minute after the last event if not given. An older
                one puts the row in the middle, where its date belongs.
            **fields: of `Event`, instead of what fits the rule, such as `event_name`.
        """
        ruled, history = self._rules[rule], self._changed(user, rule)
        date = date or _after(history, ruled.group)
        log_id = (history.last_log_id or _FRESH_LOG_ID + self._changes) + 1
        history.last_log_id = log_id
        row = Event(
            event_log_id=log_id,
            event_name="GENERIC_EVENT" if ruled.behavioural else "ADD_TRANSACTION",
            customer_id=user,
            event_display_name="appCheckIn" if ruled.behavioural else None,
            unique_id=make_uuid(Random(log_id)) if ruled.behavioural else str(log_id),
            event_date=date,
            event_processed_date=date,
            period_id=ruled.group.period_at(date).id,
            target_group_id=ruled.group.id,
            target_rule_id=rule,
            target_value=None if value is None else Decimal(value),
        )
        row = msgspec.structs.replace(row, **fields)
        history.add(row)
        self.on_change(row)
        return row

    def insert_late(self, user: int, rule: int, *, at: int | None = None) -> Event:
        """Write an event that carries the date of row `at` (by default the middle one).

        It shows up behind all rows of that date, and shifts whatever follows by one.
        """
        history = self.history(user, rule)
        index = len(history) // 2 if at is None else at
        date = history[index].event_date if index < len(history) else None
        return self.add_event(user, rule, date=date)

    def delete_events(self, user: int, rule: int, index: int | slice = 0) -> None:
        """Delete the row at a position, or a slice of rows."""
        del self._changed(user, rule)[index]

    # --- events that are announced before the API shows them ---

    def withhold(self, row: Event) -> None:
        """Hide a row from the API until `reveal_after`."""
        key = (row.customer_id, row.target_rule_id)
        self._changed(*key).remove(row)
        self._withheld.setdefault(key, {})[row] = inf

    def written(self, user: int, rule: int, period: int | None = None) -> list[Event]:
        """The rows that `events` returns, and those that are hidden now."""
        hidden = self._withheld.get((user, rule), ())
        found = [row for row in hidden if period in {None, row.period_id}]
        return sorted(self.events(user, rule, period) + found, key=_date)

    def reveal_after(self, row: Event, requests: int) -> None:
        """Show a hidden row once that many requests for its history have missed it."""
        hidden = self._withheld.get((row.customer_id, row.target_rule_id), {})
        if row in hidden:
            hidden[row] = min(hidden[row], requests)

    def count_request(self, user: int, rule: int) -> None:
        """Show the rows that have been missed often enough; the others are missed once more."""
        hidden = self._withheld.get((user, rule), {})
        for row, misses in tuple(hidden.items()):
            if misses:
                hidden[row] = misses - 1
            else:
                del hidden[row]
                self._changed(user, rule).add(row)

    # --- inside ---

    def _check_user(self, user: int) -> None:
        if not self.has_user(user):
            raise LookupError(f"no user {user}")

    def _changed(self, user: int, rule: int) -> EventHistory:
        """A history that is about to change, with the time of that."""
        history = self._histories.setdefault((user, rule), self.history(user, rule))
        self._changes += 1
        history.changed_at = TODAY + timedelta(seconds=self._changes)
        return history

    # --- what follows from the seed ---

    def _seeded_indexes(self, user: int) -> set[int]:
        """Indexes of the rules that a user is enrolled in."""
        count = self._rule_count
        first = splitmix64(splitmix64(self._settings.seed, user), 0) % count
        return {(first + step) % count for step in range(self._settings.targets)}

    def _row_count(self, user: int, rule_index: int) -> int:
        """Rows of an enrolment: some have none, a few ten times the mean."""
        mean = self._settings.events
        draw = splitmix64(splitmix64(splitmix64(self._settings.seed, user), rule_index + 1), -2)
        if (draw >> 40) % 10_000 >= round(10_000 * self._settings.recorded) and user != FIRST_USER:
            return 0
        if self._settings.exact_events or not mean:
            return mean
        percent = draw % 100
        count = 1 + (draw >> 8) % max(1, round(1.6 * mean))
        if percent < 8:
            count = 0 if percent < 6 else 10 * mean
        return max(count, mean) if user == FIRST_USER else count

    def _generated(self, user: int, rule: Rule) -> EventHistory:
        self._check_user(user)
        if user in samples.ENROLLED:
            return EventHistory(samples.HISTORIES.get((user, rule.id), ()))
        rule_index = rule.id - FIRST_RULE
        if rule.id in samples.RULES or rule_index not in self._seeded_indexes(user):
            return EventHistory()
        settings, count = self._settings, self._row_count(user, rule_index)
        random = Random(splitmix64(splitmix64(settings.seed, user), rule_index + 1))
        block = (user - FIRST_USER) * self._rule_count + rule_index
        log_id = FIRST_LOG_ID + block * _BLOCK
        history, seconds, periods = EventHistory(), 0, iter(rule.group.periods)
        period = next(periods)
        for first in range(0, count, settings.rows_per_id):
            log_id += 1
            is_last = first + settings.rows_per_id >= count
            if not first % 2 or is_last or random.random() < 0.75:  # some rows share a moment
                seconds = int((first + 1 - random.random() / 2) * _SPAN / count)
            date = processed = _spelled(START + timedelta(seconds=seconds))
            while date[:10] > period.end:
                period = next(periods)
            name, display_name, unique_id = "ADD_TRANSACTION", None, str(random.randrange(10**9))
            if rule.behavioural:
                name, display_name = "GENERIC_EVENT", random.choice(_DISPLAY_NAMES)
                unique_id = make_uuid(random)
                later = timedelta(seconds=seconds + random.randrange(7 * 86_400))
                processed = _spelled(START + later)
            elif first == 0 and random.random() < 0.25:
                name = "ENROL"
            elif random.random() < 1 / 16:
                name = "RETURN_BILL"
            nameless = random.random() < settings.missing_ids
            for _ in range(min(settings.rows_per_id, count - first)):
                value = Decimal("1.000") if rule.behavioural else _seeded_amount(random)
                if name == "RETURN_BILL" and settings.signed_returns:
                    value = -value
                history.append(
                    Event(
                        event_log_id=None if nameless else log_id,
                        event_name=name,
                        customer_id=user,
                        event_display_name=display_name,
                        unique_id=unique_id,
                        event_date=date,
                        event_processed_date=processed,
                        period_id=period.id,
                        target_group_id=rule.group.id,
                        target_rule_id=rule.id,
                        target_value=None if name == "ENROL" else value,
                    )
                )
        history.last_log_id = log_id
        return history


def splitmix64(key: int, index: int) -> int:
    """A 64-bit hash of two integers: the finaliser of the generator of that name."""
    z = (key + (index + 1) * 0x9E3779B97F4A7C15) & _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return z ^ (z >> 31)


def total(rows: Iterable[Event], by: AchievedBy = "sum") -> Decimal:
    """The exact sum of what the rows add, to three decimals."""
    return sum((_counted(row, by) for row in rows), Decimal("0.000"))


def achieved(
    settings: SandboxSettings, rule: Rule, rows: Iterable[Event]
) -> tuple[Decimal, Event | None]:
    """A cycle's `targetAchievedValue` (contract §18), and the row that first reached the target."""
    value, reached = Decimal("0.000") + settings.carry_over, None
    for row in rows:
        value += _counted(row, settings.achieved_by)
        if reached is None and value >= rule.target_value:
            reached = row
    return min(value, rule.target_value) if settings.achieved_by == "capped" else value, reached


def _counted(row: Event, by: AchievedBy) -> Decimal:
    """What a row adds: a return counts against the sum, however it is signed."""
    returned = row.event_name == "RETURN_BILL"
    if row.target_value is None or (returned and by in {"gross", "count"}):
        return Decimal(0)
    if by == "count":
        return Decimal(1)
    return -abs(row.target_value) if returned else row.target_value


def parse_date(date: str) -> datetime:
    """A date of the API, whatever its form, taken for UTC."""
    return datetime.fromisoformat(date[:19]).replace(tzinfo=UTC)


def _spelled(moment: datetime) -> str:
    """A moment as events spell a date."""
    return f"{moment.isoformat(' ')[:19]}.0"


def _after(history: EventHistory, group: Group) -> str:
    """A minute after the last row. After the group's last period time stands still."""
    end = f"{group.periods[-1].last_moment[:19]}.0"
    if not history:
        return min(_spelled(TODAY), end)
    last = history[-1].event_date
    return max(last, min(_spelled(parse_date(last) + timedelta(minutes=1)), end))


def _seeded_amount(random: Random) -> Decimal:
    """An amount of 1 to 4,000 with 0 to 3 decimals, trailing zeros kept."""
    draw = random.getrandbits(48)
    units, rest = 1 + draw % (2 * _MEAN_AMOUNT), (draw >> 16) % 1_000
    forms = ("", f".{rest:03d}", ".000", f".{rest % 10}", f".{rest % 100:02d}")
    return Decimal(f"{units}{forms[(draw >> 32) % 5]}")


def make_uuid(random: Random) -> str:
    """A version 4 UUID, as behavioural events have for their request."""
    return str(UUID(int=random.getrandbits(128), version=4))


def _month(number: int) -> datetime:
    """The first day of the month that lies `number` months after START."""
    return START.replace(year=START.year + number // 12, month=number % 12 + 1)


def _group(index: int) -> Group:
    """The target group of that index: every second one is quarterly, the others monthly."""
    group_id, months = FIRST_GROUP + index, 3 if index % 2 else 1
    periods = tuple(
        Period(
            id=group_id * 100 + number,
            start=_month(month).date().isoformat(),
            end=(_month(month + months) - timedelta(days=1)).date().isoformat(),
            # The vendor prints a code that ends in a blank (contract §14).
            ref_code=f"G{group_id}-{number:02d}{' ' if months == 3 and number == 1 else ''}",
        )
        for number, month in enumerate(range(0, 13, months), start=1)
    )
    return Group(
        group_id,
        f"Group {group_id}",
        ("DEFAULT", "DEFAULT", "UNIFIED", "STREAKS", "DEFAULT", "UNIFIED")[index % 6],
        periods,
        "CALENDAR_CYCLIC_WINDOW" if index % 4 == 3 else "FIXED_CALENDAR_WINDOW",
    )


@lru_cache
def _catalogue(count: int, events: int) -> tuple[Rule, ...]:
    """The organisation's rules; of four in a row the last two share a group.

    Their target values are a little above what `events` rows a year come to.
    """
    groups = [_group(index) for index in range((count + 3) // 4 * 3)]
    rules = []
    for index in range(count):
        name, target_type, entity, method = _KINDS[index % 4]
        group = groups[index // 4 * 3 + min(index % 4, 2)]
        cycles = len([one for one in group.periods if one.start < "2026"])
        digits = (".500", "", ".50")[index % 3]
        goal = max(1, 6 * events // (5 * cycles)) * (1 if entity == "EVENT" else _MEAN_AMOUNT)
        rules.append(
            Rule(
                id=FIRST_RULE + index,
                name=f"{name} {FIRST_RULE + index}",
                target_type=target_type,
                target_entity=entity,
                group=group,
                enrolment_method=method,
                user_created=index % 8 == 5,
                created_ms=int((START - timedelta(days=30 - index % 28)).timestamp() * 1000),
                expression="true" if entity == "EVENT" else "currentTxn.basketAmount>25",
                filters=(("STORE", (75_027_631 + index, 75_046_489 + index)),)
                if index % 2
                else (("ZONE", ()),),
                target_value=Decimal(f"{goal}{'.000' if entity == 'EVENT' else digits}"),
                shows_default=index % 4 != 0,
            )
        )
    return tuple(rules)
