"""The world that the sandbox answers from: seeded users, sample users, and later changes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from . import samples
from .log import EventHistory
from .model import Event, Group, Period, Rule
from .seeded import FIRST_USER, LOG_GAP, TODAY, History, Seeds, catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_MEAN = 1 << 17
_MAX_EXACT = 1 << 20
_FRESH_LOG_ID = 700_000_000


class World:
    """Users, their targets and their events.

    Everything follows from the seeds until it is changed; changes are kept apart and `reset` drops
    them. Seeded users have the ids 1_000_001 ... 1_000_000 + users.

    Args:
        seed: another seed, another world.
        users: how many seeded users; a million costs nothing.
        targets: enrolments of each user, at most 1,000.
        events: mean rows of one enrolment.
        exact_events: every enrolment has exactly `events` rows.
    """

    def __init__(
        self,
        *,
        seed: int = 7,
        users: int = 200,
        targets: int = 3,
        events: int = 25,
        exact_events: bool = False,
    ) -> None:
        if not 0 <= targets <= 1_000:
            raise ValueError("targets must lie in 0 ... 1000")
        most = _MAX_EXACT if exact_events else _MAX_MEAN
        if not 0 <= events <= most:
            raise ValueError(f"events must lie in 0 ... {most}")
        self._seeds = Seeds(seed, users, targets, events, exact_events)
        self._catalogue = catalogue(self._seeds.rule_count)
        self._rules = {rule.id: rule for rule in self._catalogue} | samples.RULES
        self._groups = {rule.group.id: rule.group for rule in self._rules.values()}
        self._logs: dict[tuple[int, int], EventHistory] = {}
        self._enrolments: dict[int, tuple[int, ...]] = {}
        self._fresh_log_id = _FRESH_LOG_ID

    def reset(self) -> None:
        """Undo every change."""
        self._logs.clear()
        self._enrolments.clear()
        self._fresh_log_id = _FRESH_LOG_ID

    # --- what there is ---

    def user_ids(self) -> range:
        """The seeded users' ids, lazily."""
        return range(FIRST_USER, FIRST_USER + self._seeds.users)

    def sample_user_ids(self) -> tuple[int, ...]:
        """The users behind the vendor's printed answers."""
        return tuple(samples.ENROLLED)

    def all_user_ids(self) -> Iterator[int]:
        """Seeded users, then sample users."""
        yield from self.user_ids()
        yield from self.sample_user_ids()

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
        self._known(user)
        if user in self._enrolments:
            return [self._rules[one] for one in self._enrolments[user]]
        if user in samples.ENROLLED:
            return [self._rules[one] for one in samples.ENROLLED[user]]
        return [self._catalogue[index] for index in self._seeds.enrolled(user)]

    def history(self, user: int, rule: int) -> EventHistory:
        """The history of a user's rule; empty if the user never was in it."""
        self._known(user)
        log = self._logs.get((user, rule))
        return log if log is not None else EventHistory(self._origin(user, self._rules[rule]))

    def events(self, user: int, rule: int, period: int | None = None) -> list[Event]:
        """The true rows in chronological order: what a complete walk has to return."""
        log = self.history(user, rule)
        return log.rows(*log.span(self._period(rule, period)))

    def count(self, user: int, rule: int, period: int | None = None) -> int:
        """How many rows `events` would return."""
        start, stop = self.history(user, rule).span(self._period(rule, period))
        return stop - start

    # --- what happens to it ---

    def enrol(self, user: int, rule: int) -> None:
        """Enrol a user in a rule. Writes no event: add an `ENROL` one if you want it."""
        held = {one.id for one in self.targets(user)}
        self._enrolments[user] = tuple(sorted(held | {self._rules[rule].id}))

    def unenrol(self, user: int, rule: int) -> None:
        """End an enrolment; the history stays readable."""
        held = {one.id for one in self.targets(user)}
        self._enrolments[user] = tuple(sorted(held - {rule}))

    def add_event(
        self,
        user: int,
        rule: int,
        *,
        name: str | None = None,
        value: str | None = "100.00",
        date: str | None = None,
        display_name: str | None = None,
        unique_id: str | None = None,
        newest_id: bool = True,
    ) -> Event:
        """Write one event and return it.

        Args:
            user: who.
            rule: for which target.
            name: `ADD_TRANSACTION`, or `GENERIC_EVENT` where the rule counts behavioural events.
            value: the amount as spelled on the wire; None is `null`.
            date: `YYYY-MM-DD HH:MM:SS.s`; one minute after the last event if not given. An older
                one puts the row in the middle, where its date belongs.
            display_name: for behavioural events.
            unique_id: made up if not given.
            newest_id: give it the next log id. If false, one that keeps ids ascending in
                chronological order (as in the vendor's samples) as long as there is room.
        """
        ruled, log = self._rules[rule], self._change(user, rule)
        date = date or self._after(log, ruled.group)
        place = log.place(date)
        log_id = None if newest_id else self._between(log, place)
        if log_id is None:
            log_id = self._next_log_id(user, ruled, log)
        row = Event(
            event_log_id=log_id,
            event_name=name or ("GENERIC_EVENT" if ruled.behavioural else "ADD_TRANSACTION"),
            customer_id=user,
            event_display_name=display_name or ("appCheckIn" if ruled.behavioural else None),
            unique_id=unique_id or str(log_id),
            event_date=date,
            event_processed_date=date,
            period_id=ruled.group.period_at(date).id,
            target_group_id=ruled.group.id,
            target_rule_id=rule,
            target_value=value,
        )
        log.insert(place, row)
        return row

    def insert_late(
        self, user: int, rule: int, *, at: int | None = None, newest_id: bool = False
    ) -> Event:
        """Write an event that carries the date of row `at` (by default the middle one).

        It shows up behind all rows of that date, and shifts whatever follows by one.
        """
        log = self.history(user, rule)
        rows = (
            log.rows(at, at + 1) if at is not None else log.rows(len(log) // 2, len(log) // 2 + 1)
        )
        date = rows[0].event_date if rows else None
        return self.add_event(user, rule, date=date, newest_id=newest_id)

    def delete_events(self, user: int, rule: int, index: int | slice = 0) -> None:
        """Take out the row at a position, or a slice of rows."""
        self._change(user, rule).delete(index)

    # --- inside ---

    def _known(self, user: int) -> None:
        if not self.has_user(user):
            raise LookupError(f"no user {user}")

    def _origin(self, user: int, rule: Rule) -> Sequence[Event]:
        if user in samples.ENROLLED:
            return samples.HISTORIES.get((user, rule.id), ())
        return () if rule.id in samples.RULES else History(self._seeds, user, rule)

    def _period(self, rule: int, period: int | None) -> Period | None:
        if period is None:
            return None
        found = self._rules[rule].group.period(period)
        if found is None:
            raise LookupError(f"rule {rule} has no period {period}")
        return found

    def _change(self, user: int, rule: int) -> EventHistory:
        return self._logs.setdefault((user, rule), self.history(user, rule))

    def _after(self, log: EventHistory, group: Group) -> str:
        last = group.periods[-1].last_moment
        if not len(log):
            return min(f"{TODAY.isoformat(' ')[:19]}.0", f"{last[:19]}.0")
        date = log.rows(len(log) - 1, len(log))[0].event_date
        later = datetime.fromisoformat(date[:19]) + timedelta(minutes=1)
        # Behind the group's last period time stands still: equal dates are allowed.
        return max(date, min(f"{later.isoformat(' ')[:19]}.0", f"{last[:19]}.0"))

    def _next_log_id(self, user: int, rule: Rule, log: EventHistory) -> int:
        if user in samples.ENROLLED or rule.id in samples.RULES:
            self._fresh_log_id += 1
            return self._fresh_log_id
        history = History(self._seeds, user, rule)
        return history.first_log_id + (len(history) + log.added + 1) * LOG_GAP

    def _between(self, log: EventHistory, place: int) -> int | None:
        around = log.rows(max(0, place - 1), place + 1)
        if place == len(log) or not around:
            return None
        low = around[0].event_log_id if place else around[0].event_log_id - LOG_GAP
        free = range(low + 1, around[-1].event_log_id)
        found = next((one for one in free if one not in log.squeezed), None)
        if found is not None:
            log.squeezed.add(found)
        return found
