"""The world before anyone touches it: every fact a pure function of (seed, user, rule, index).

Nothing is stored, so a million users cost no memory, and row 99,999 of a long history costs as
much as row 0. Log ids leave 63 free numbers between neighbours, where late arrivals find room.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import overload

from attrs import frozen

from .model import Event, Group, Period, Rule

FIRST_USER = 1_000_001
FIRST_RULE = 3_001
FIRST_GROUP = 601
FIRST_LOG_ID = 1 << 30
LOG_GAP = 64
BLOCK = LOG_GAP << 21
"""Log ids kept for one (user, rule): two million rows with their gaps."""

START = datetime(2025, 1, 1, tzinfo=UTC)
TODAY = datetime(2025, 12, 10, tzinfo=UTC)
"""Seeded events lie in [START, TODAY); events added later follow."""
_SPAN = int((TODAY - START).total_seconds())
_MONTHS = 13
_WORD = (1 << 64) - 1
_DISPLAY_NAMES = ("appCheckIn", "Café visit", "surveyAnswered", "referral", 'video "how to"')


def mix(key: int, index: int) -> int:
    """A 64-bit hash (the splitmix64 finaliser) of two integers."""
    z = (key + (index + 1) * 0x9E3779B97F4A7C15) & _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return z ^ (z >> 31)


def moment(seconds: int) -> str:
    """Seconds since START as the API spells a date."""
    return f"{(START + timedelta(seconds=seconds)).isoformat(' ')[:19]}.0"


def _month(number: int) -> datetime:
    """The first day of the month that lies `number` months after START."""
    return START.replace(year=START.year + number // 12, month=number % 12 + 1)


def group(index: int) -> Group:
    """The target group of that index. Every second one runs quarterly, the others monthly."""
    group_id = FIRST_GROUP + index
    months = 3 if index % 2 else 1
    periods = tuple(
        Period(
            id=group_id * 100 + number,
            start=_month(month).date().isoformat(),
            end=(_month(month + months) - timedelta(days=1)).date().isoformat(),
            ref_code=f"G{group_id}-{number:02d}",
        )
        for number, month in enumerate(range(0, _MONTHS, months), start=1)
    )
    tracking = "UNIFIED" if index % 3 == 2 else "DEFAULT"
    return Group(group_id, f"Group {group_id}", tracking, periods)


_KINDS = (
    ("Spend", "GROSS_SALES", "LINEITEM", "TRANSACTION"),
    ("Engage", "COUNT", "EVENT", "IMPORT"),
    ("Baskets", "SALES", "TRANSACTION", "AUDIENCE_FILTER"),
    ("Visits", "VISIT", "TRANSACTION", "TRANSACTION"),
)


def catalogue(count: int) -> tuple[Rule, ...]:
    """The organisation's rules, `count` of them; of four in a row the last two share a group."""
    groups = [group(index) for index in range((count + 3) // 4 * 3)]
    rules = []
    for index in range(count):
        name, target_type, entity, method = _KINDS[index % 4]
        rules.append(
            Rule(
                id=FIRST_RULE + index,
                name=f"{name} {FIRST_RULE + index}",
                target_type=target_type,
                target_entity=entity,
                group=groups[index // 4 * 3 + min(index % 4, 2)],
                enrolment_method=method,
                user_created=index % 8 == 5,
                created_ms=int((START - timedelta(days=30 - index % 28)).timestamp() * 1000),
                expression="true" if entity == "EVENT" else "currentTxn.basketAmount>25",
                filters=(("STORE", (75_027_631 + index, 75_046_489 + index)),)
                if index % 2
                else (("ZONE", ()),),
                default_value=("250.500", "1000", "12.50")[index % 3] if index % 4 else None,
            )
        )
    return tuple(rules)


@frozen(slots=True)
class Seeds:
    """The numbers that the untouched world follows from.

    Args:
        seed: another seed, another world.
        users: how many, with ids FIRST_USER, FIRST_USER + 1, ...
        targets: enrolments of each user.
        events: mean rows of one enrolment (some have none, a few ten times the mean) ...
        exact: ... or exactly that many each.
    """

    seed: int
    users: int
    targets: int
    events: int
    exact: bool

    @property
    def rule_count(self) -> int:
        """Rules in the organisation: more than one user holds, so that a rule can be foreign."""
        return max(12, 2 * self.targets)

    def enrolled(self, user: int) -> tuple[int, ...]:
        """Indexes of the user's rules, ascending."""
        count = self.rule_count
        first = mix(mix(self.seed, user), 0) % count
        return tuple(sorted((first + step) % count for step in range(self.targets)))

    def count(self, user: int, rule_index: int) -> int:
        """How many rows the user has for an enrolled rule."""
        if self.exact or not self.events:
            return self.events
        draw = mix(mix(mix(self.seed, user), rule_index + 1), -2)
        lot = draw % 100
        if lot < 6:
            return 0
        if lot < 8:
            return 10 * self.events
        return 1 + (draw >> 8) % max(1, round(1.6 * self.events))


class History(Sequence[Event]):
    """The rows of one (user, rule) in chronological order, each made when asked for."""

    __slots__ = ("_count", "_key", "_rule", "_user", "first_log_id")

    def __init__(self, seeds: Seeds, user: int, rule: Rule) -> None:
        index = rule.id - FIRST_RULE
        self._user = user
        self._rule = rule
        self._count = seeds.count(user, index) if index in seeds.enrolled(user) else 0
        self._key = mix(mix(seeds.seed, user), index + 1)
        block = (user - FIRST_USER) * seeds.rule_count + index
        self.first_log_id = FIRST_LOG_ID + block * BLOCK

    def __len__(self) -> int:
        return self._count

    def seconds(self, index: int) -> int:
        """When row `index` happened, in seconds since START. Some rows share a moment."""
        draw = mix(self._key, index)
        if index % 2 and draw & 3 == 0:
            index -= 1
            draw = mix(self._key, index)
        width = _SPAN // self._count
        return index * _SPAN // self._count + (draw >> 4) % max(1, width)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        """Row `index`, computed from the index alone."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self._count))]
        if index < 0:
            index += self._count
        if not 0 <= index < self._count:
            raise IndexError(index)
        rule = self._rule
        draw = mix(self._key, index) >> 16
        seconds = self.seconds(index)
        name, value = _kind(rule, draw, index)
        display_name, unique_id = None, str(880_000_000 + draw % 10**8)
        date = processed = moment(seconds)
        if name == "GENERIC_EVENT":
            display_name = _DISPLAY_NAMES[draw % len(_DISPLAY_NAMES)]
            unique_id = _uuid(self._key, index)
            processed = moment(seconds + draw % (7 * 86_400))
        return Event(
            event_log_id=self.first_log_id + (index + 1) * LOG_GAP,
            event_name=name,
            customer_id=self._user,
            event_display_name=display_name,
            unique_id=unique_id,
            event_date=date,
            event_processed_date=processed,
            period_id=_period_id(rule.group, date[:10]),
            target_group_id=rule.group.id,
            target_rule_id=rule.id,
            target_value=value,
        )


def _kind(rule: Rule, draw: int, index: int) -> tuple[str, str | None]:
    """The event's name and its amount as text: 0 to 3 decimals, trailing zeros kept."""
    if rule.behavioural:
        return "GENERIC_EVENT", "1.000"
    if index == 0 and draw & 3 == 0:
        return "ENROL", None
    units, rest = 1 + (draw >> 8) % 4_000, (draw >> 24) % 1_000
    match draw % 5:
        case 0:
            amount = str(units)
        case 1:
            amount = f"{units}.{rest:03d}"
        case 2:
            amount = f"{units}.000"
        case 3:
            amount = f"{units}.{rest % 10}"
        case _:
            amount = f"{units}.{rest % 100:02d}"
    if (draw >> 40) % 16 == 0:
        return "RETURN_BILL", f"-{amount}"
    return "ADD_TRANSACTION", amount


def _uuid(key: int, index: int) -> str:
    """A version 4 UUID for a behavioural event's request id."""
    digits = f"{mix(key ^ 0xA5, index):016x}{mix(key ^ 0x5A, index):016x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


@lru_cache(maxsize=8192)
def _period_id(group: Group, day: str) -> int:
    """The period of a day: looked up once for each day and group."""
    return group.period_at(f"{day} 00:00:00.0").id
