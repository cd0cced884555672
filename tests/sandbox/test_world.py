import re
from decimal import Decimal
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.sandbox import Event, SandboxSettings, World
from capillary_targets.sandbox.world import total
from tests.conftest import examples


def pairs(world: World) -> list[tuple[int, int]]:
    return [(user, rule.id) for user in world.user_ids() for rule in world.targets(user)]


def chronological(rows: list[Event]) -> bool:
    keys = [(row.event_date, row.event_log_id) for row in rows]
    return all(one < next_one for one, next_one in pairwise(keys))


@examples(25)
@given(seed=st.integers(0, 10**6), events=st.integers(0, 60), exact=st.booleans())
def test_every_history_is_chronological_and_reproducible(
    seed: int, events: int, exact: bool
) -> None:
    world = World(SandboxSettings(seed=seed, users=4, events=events, exact_events=exact))
    again = World(SandboxSettings(seed=seed, users=4, events=events, exact_events=exact))
    for user, rule in pairs(world):
        rows = world.events(user, rule)
        assert rows == again.events(user, rule)
        assert chronological(rows)
        ids = [row.event_log_id or 0 for row in rows]
        assert ids == sorted(ids)
        assert world.count(user, rule) == len(rows)
        if exact:
            assert len(rows) == events


def test_log_ids_are_unique_across_the_world() -> None:
    world = World(SandboxSettings(users=60))
    ids = [row.event_log_id for pair in pairs(world) for row in world.events(*pair)]
    assert len(ids) == len(set(ids))


def test_counts_vary_around_the_mean_with_empty_and_long_histories() -> None:
    world = World(SandboxSettings(users=400, events=25))
    counts = [world.count(*pair) for pair in pairs(world)]
    assert 0 in counts
    assert 250 in counts
    assert 20 < sum(counts) / len(counts) < 30


def test_the_vocabulary_and_the_spellings_of_amounts() -> None:
    world = World(SandboxSettings(users=100))
    rows = [row for pair in pairs(world) for row in world.events(*pair)]
    assert {row.event_name for row in rows} == {
        "ADD_TRANSACTION",
        "RETURN_BILL",
        "GENERIC_EVENT",
        "ENROL",
    }
    for row in rows:
        if row.event_name == "ENROL":
            assert row.target_value is None
        elif row.event_name == "GENERIC_EVENT":
            assert str(row.target_value) == "1.000"
            assert row.event_display_name
            assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", row.unique_id)
        else:
            assert row.target_value is not None
            assert (row.event_name == "RETURN_BILL") == (row.target_value < 0)
            assert row.unique_id.isdigit()
    decimals = {len(str(row.target_value).partition(".")[2]) for row in rows}
    assert decimals == {0, 1, 2, 3}


def test_periods_belong_to_the_group_and_partition_the_history() -> None:
    world = World(SandboxSettings(users=40))
    several = 0
    for user, rule_id in pairs(world):
        rule = world.rule(rule_id)
        assert rule is not None
        parts = [world.events(user, rule_id, period.id) for period in rule.group.periods]
        assert [row for part in parts for row in part] == world.events(user, rule_id)
        assert all(
            row.period_id == period.id
            for period, part in zip(rule.group.periods, parts, strict=True)
            for row in part
        )
        several += sum(map(bool, parts)) > 1
    assert several


def test_a_million_users_and_long_histories_are_made_on_demand() -> None:
    world = World(SandboxSettings(users=1_000_000, targets=2, events=20_000, exact_events=True))
    user = world.user_ids()[-1]
    assert user == 2_000_000
    rule = world.targets(user)[0].id
    log = world.history(user, rule)
    assert len(log) == 20_000
    row = log[-1]
    assert row.customer_id == user
    assert row.event_log_id < 2**63


def test_an_added_event_is_last_and_reset_takes_it_back() -> None:
    world = World(SandboxSettings(users=3, exact_events=True))
    user, rule = pairs(world)[0]
    before = world.events(user, rule)
    added = [world.add_event(user, rule, value="1.50") for _ in range(3)]
    assert world.events(user, rule) == before + added
    assert chronological(before + added)
    world.reset()
    assert world.events(user, rule) == before


def test_a_late_event_lands_in_the_middle_with_the_newest_id() -> None:
    world = World(SandboxSettings(users=1, exact_events=True))
    user, rule = pairs(world)[0]
    before = world.events(user, rule)
    late = [world.insert_late(user, rule, at=7) for _ in range(3)]
    rows = world.events(user, rule)
    assert rows[:8] == before[:8]
    assert [row for row in rows[8:] if row in late] == late
    assert rows[-1] == before[-1]
    assert min(row.event_log_id or 0 for row in late) > max(row.event_log_id or 0 for row in before)


def test_deleted_ids_never_come_back() -> None:
    world = World(SandboxSettings(users=1, exact_events=True))
    user, rule = pairs(world)[0]
    late = world.insert_late(user, rule, at=3)
    place = world.events(user, rule).index(late)
    world.delete_events(user, rule, place)
    assert late not in world.events(user, rule)
    assert world.insert_late(user, rule, at=3).event_log_id != late.event_log_id
    world.delete_events(user, rule, slice(0, 5))
    assert world.count(user, rule) == 21


def test_enrolment() -> None:
    world = World(SandboxSettings(users=1, targets=1))
    user = world.user_ids()[0]
    held = {rule.id for rule in world.targets(user)}
    other = next(rule for rule in world.rules() if rule.id not in held)
    assert world.count(user, other.id) == 0
    world.enrol(user, other.id)
    assert other in world.targets(user)
    assert world.add_event(user, other.id).target_rule_id == other.id
    world.unenrol(user, other.id)
    assert other not in world.targets(user)
    assert world.count(user, other.id) == 1


@pytest.mark.parametrize("user", [564_332_013, 387_544_807, 42_381_788])
def test_sample_users_can_change_too(user: int) -> None:
    world = World(SandboxSettings(users=1))
    rule = world.targets(user)[0].id
    before = world.events(user, rule)
    added = world.add_event(user, rule)
    assert world.events(user, rule) == [*before, added]
    assert added.event_log_id not in {row.event_log_id for row in before}


def test_behind_the_last_period_time_stands_still() -> None:
    world = World(SandboxSettings(users=1))
    user = 564_332_013
    rule = world.targets(user)[0]
    world.add_event(user, rule.id, date="2025-01-31 23:59:30.0")
    rows = [world.add_event(user, rule.id) for _ in range(3)]
    assert {row.period_id for row in rows} == {9889}
    assert chronological(world.events(user, rule.id))


def test_unknown_users_rules_and_periods_are_refused() -> None:
    world = World(SandboxSettings(users=1))
    with pytest.raises(LookupError, match="no user 5"):
        world.targets(5)
    with pytest.raises(LookupError, match="no user 5"):
        world.events(5, 1986)
    with pytest.raises(LookupError, match="rule 1986 has no period 5"):
        world.events(564_332_013, 1986, 5)


def test_the_first_user_has_events_in_every_target_and_running_cycle_whatever_the_seed() -> None:
    for seed in range(30):
        world = World(SandboxSettings(seed=seed, users=1))
        assert min(world.count(*pair) for pair in pairs(world)) >= 25
        for user, rule in pairs(world):
            periods = world.rule(rule).group.periods
            (running,) = [one.id for one in periods if one.status == "RUNNING"]
            assert world.events(user, rule, running)


def test_target_values_are_of_the_size_of_what_is_achieved() -> None:
    world = World(SandboxSettings(users=300))
    shares = []
    for user, rule_id in pairs(world):
        rule = world.rule(rule_id)
        assert rule is not None
        period = rule.group.periods[3]
        shares.append(total(world.events(user, rule_id, period.id)) / rule.target_value)
    assert Decimal("0.3") < sum(shares, Decimal(0)) / len(shares) < Decimal("1.5")


@pytest.mark.parametrize("size", [2, 3, 7])
def test_rows_of_one_bill_share_id_date_and_unique_id(size: int) -> None:
    world = World(SandboxSettings(users=6, exact_events=True, rows_per_id=size))
    equal = 0
    for user, rule in pairs(world):
        rows = world.events(user, rule)
        bills = [list(bill) for _, bill in groupby(rows, lambda row: row.event_log_id)]
        assert [len(bill) for bill in bills] == [size] * (25 // size) + [25 % size][: 25 % size]
        for bill in bills:
            assert len({(row.event_date, row.unique_id, row.event_name) for row in bill}) == 1
            equal += len(set(bill)) < len(bill)
        assert [row.event_date for row in rows] == sorted(row.event_date for row in rows)
        assert world.add_event(user, rule).event_log_id not in {row.event_log_id for row in rows}
    assert equal  # behavioural rows of one id are equal in everything


def test_missing_ids_are_as_many_as_ordered_and_late_rows_cope() -> None:
    world = World(SandboxSettings(users=40, missing_ids=0.3))
    rows = [row for pair in pairs(world) for row in world.events(*pair)]
    missing = sum(row.event_log_id is None for row in rows)
    assert 0.25 < missing / len(rows) < 0.35
    for user, rule in pairs(world):
        late = world.insert_late(user, rule)
        assert late in world.events(user, rule)
        assert late.event_log_id is not None
    none = World(SandboxSettings(users=1, missing_ids=1.0))
    assert {row.event_log_id for pair in pairs(none) for row in none.events(*pair)} == {None}


def test_unsigned_returns_are_positive_and_count_down_all_the_same() -> None:
    signed = World(SandboxSettings(users=20))
    unsigned = World(SandboxSettings(users=20, signed_returns=False))
    returns = 0
    for pair in pairs(signed):
        one, other = signed.events(*pair), unsigned.events(*pair)
        assert total(one) == total(other)
        assert sum(row.target_value or 0 for row in one) == total(one)
        returns += sum(row.event_name == "RETURN_BILL" for row in other)
        assert all(row.target_value is None or row.target_value > 0 for row in other)
    assert returns


def test_changes_outlive_the_cache_and_a_history_may_be_emptied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("capillary_targets.sandbox.world._CACHED_ROWS", 200)
    world = World(SandboxSettings(users=50, targets=1, events=40, exact_events=True))
    user, rule = pairs(world)[0]
    world.delete_events(user, rule, slice(0, None))
    other, other_rule = pairs(world)[1]
    added = world.add_event(other, other_rule)
    for pair in pairs(world):
        world.history(*pair)
    assert world._seeded.cache_info().currsize * 40 <= 200
    assert world.events(user, rule) == []
    assert world.events(other, other_rule)[-1] == added
    world.reset()
    assert world.count(user, rule) == 40


def test_a_user_may_leave_the_last_target() -> None:
    world = World(SandboxSettings(users=1, targets=1))
    ((user, rule),) = pairs(world)
    world.unenrol(user, rule)
    assert world.targets(user) == []
    world.unenrol(564_332_013, 1986)
    assert world.targets(564_332_013) == []


def test_an_added_event_may_differ_in_any_field() -> None:
    world = World(SandboxSettings(users=1, exact_events=True))
    user, rule = pairs(world)[0]
    row = world.add_event(user, rule, value=None, event_name="ENROL", unique_id="x")
    assert world.events(user, rule)[-1] == row
    assert (row.event_name, row.unique_id, row.target_value) == ("ENROL", "x", None)
    without = world.add_event(user, rule, event_log_id=None)
    assert world.events(user, rule)[-1].event_log_id is without.event_log_id is None
    with pytest.raises(TypeError, match="colour"):
        world.add_event(user, rule, colour="red")
    assert world.count(user, rule) == 27


def test_an_event_added_has_the_unique_id_of_its_kind() -> None:
    world = World(SandboxSettings(users=1, targets=4))
    for user, rule in pairs(world):
        found = world.add_event(user, rule).unique_id
        assert (len(found) == 36) == world.rule(rule).behavioural
        assert found.isdecimal() != world.rule(rule).behavioural
