"""Change detection by target groups: decisions, then whole sweeps of every kind of server."""

import asyncio
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.sandbox import Fault, Period, Rule, Sandbox, World
from capillary_targets.sandbox.world import total
from capillary_targets.sweep.groups import decide, is_due, next_states
from capillary_targets.sweep.ledger import CycleState, States
from tests.conftest import examples, turns_until

from .conftest import Swept, needed, parts, true_events, written

# --- decisions ---

states = st.builds(
    CycleState,
    st.sampled_from(["0", "10", "20"]),
    st.sampled_from([None, "2025-01-01", "2025-01-02"]),
    st.sampled_from([b"a", b"b"]),
    st.sampled_from([b"r", b"s"]),
    st.integers(0, 5),
    st.booleans(),
)
cycles = st.dictionaries(st.integers(1, 3), states, max_size=3)
pairs = st.dictionaries(st.integers(1, 4), cycles, max_size=4)
RULES = range(1, 5)


@examples(50)
@given(
    now=cycles,
    before=cycles,
    listed=st.booleans(),
    held=st.none() | st.booleans(),
    full=st.booleans(),
)
def test_a_target_is_left_out_only_if_nothing_can_have_happened(
    now: dict[int, Any], before: dict[int, Any], listed: bool, held: bool | None, full: bool
) -> None:
    why = decide(now, before, listed=listed, held=held, full=full)
    assert not full or why != "by_value"
    assert full or why != "full"
    if why in {"changed", "full"}:
        return
    if now:
        assert {c: s[:3] for c, s in now.items()} == {c: s[:3] for c, s in before.items()}
        assert all(state.settled for state in before.values())
        assert (why == "by_update") == all(state.updated for state in now.values())
    else:
        assert not before
        assert not held  # nothing in files, and
        assert listed or (held is not None and not full)  # told so, or was read once


@given(now=pairs, before=pairs, found=st.sets(st.sampled_from(RULES)))
def test_what_was_settled_is_left_alone_from_then_on(
    now: dict[int, Any], before: dict[int, Any], found: set[int]
) -> None:
    def read(held: States) -> set[int]:
        seen = {rule: (now.get(rule, {}), held.get(rule, {})) for rule in RULES}
        return {
            rule
            for rule, (mine, was) in seen.items()
            if decide(mine, was, listed=True, held=bool(was) if rule in held else None, full=False)
            == "changed"
        }

    def run(held: States) -> States:
        return {**held, **next_states(now, held, read(held), found & read(held))}

    once = run(before)
    for rule, cycles in now.items():
        for cycle, state in once.get(rule, {}).items():
            assert state[:4] == cycles[cycle][:4]
            old = before.get(rule, {}).get(cycle)
            assert state.first_seen == (old or cycles[cycle]).first_seen
    twice = run(once)
    assert read(twice) == set()  # read at most twice for the same news
    assert next_states(now, twice, (), set()) == {}


@given(user=st.integers(-(2**63), 2**63 - 1), every=st.integers(1, 60), start=st.integers(1, 99))
def test_every_member_has_one_turn_in_so_many_runs(user: int, every: int, start: int) -> None:
    turns = [run for run in range(start, start + every) if is_due(user, run, every, proven=run)]
    assert len(turns) == 1
    assert not is_due(user, turns[0] + every - 1, every, turns[0]) or every == 1
    assert is_due(user, turns[0] + every + 1, every, turns[0])  # not asked, or failed, in between


def test_turns_are_spread_evenly() -> None:
    turns = Counter(run for run in range(10) for user in range(3_000) if is_due(user, run, 10, run))
    assert min(turns.values()) > 240
    assert max(turns.values()) < 360


# --- the first sweep ---

DIALECTS: list[dict[str, Any]] = [
    {},
    {"offset_mode": "row", "total_mode": "pages"},
    {"past_end": "310149", "max_limit": 7, "error_status": 200},
    {"past_end": "error", "total_mode": "none", "last_updated_on": False},
    {"rows_per_id": 3, "missing_ids": 0.5, "iso": True, "achieved_log_id": False},
    {"carry_over": Decimal("-150.25"), "signed_returns": False},
    {"achieved_by": "gross", "not_enrolled_code": 310126},
]


def facts(out: Path, kind: str) -> list[Any]:
    """The rows of a kind, in no order, but for when they were seen."""
    return sorted(
        repr(sorted((name, value) for name, value in row.items() if name != "seen_at"))
        for row in parts(out, kind)
    )


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_the_files_are_those_of_the_plain_way_for_half_the_requests(
    swept: Swept, tmp_path: Path, dialect: dict[str, Any]
) -> None:
    sandbox = Sandbox(users=8, events=9, recorded=0.3, **dialect)
    plain, groups = tmp_path / "plain", tmp_path / "groups"
    async with sandbox:
        one = await swept(sandbox, out=plain, concurrency=1)
        other = await swept(sandbox, out=groups, detect="groups", concurrency=1)
    assert written(groups) == written(plain) == true_events(sandbox.world)
    assert facts(groups, "targets") == facts(plain, "targets")
    assert (other.complete, other.targets) == (one.complete, one.targets) == (12, 28)
    assert other.by_events + other.no_record == one.by_events == 28
    assert other.by_update == other.by_value == other.groups_refused == 0
    assert other.no_record > 5
    # Each member's groups in place of their targets, and some definitions of targets.
    assert other.requests <= one.requests - other.no_record + 44


async def test_progress_has_a_row_for_each_cycle_with_a_record(
    swept: Swept, tmp_path: Path
) -> None:
    sandbox = Sandbox(users=8, events=12, recorded=0.5, carry_over=Decimal(-20))
    async with sandbox:
        await swept(sandbox, detect="groups")
    rows = parts(tmp_path, "progress")
    world, found = sandbox.world, {}
    for user in world.all_user_ids():
        for rule in world.targets(user):
            events = world.events(user, rule.id)
            for period in rule.group.periods:
                mine = [one for one in events if one.period_id == period.id]
                if mine or (events and events[0].event_date < period.first_moment):
                    value = sum((one.target_value or Decimal(0) for one in mine), Decimal(-20))
                    found[user, rule.id, period.id] = (rule.name, value, rule.target_value)
    assert {
        (row["user_id"], row["target_rule_id"], row["period_id"]): (
            row["target_name"],
            row["achieved_value"],
            row["target_value"],
        )
        for row in rows
    } == found
    assert len(rows) == len(found)
    for row in rows:
        assert row["recorded"] is True
        assert row["run"] == 1
        assert row["remaining"] == max(row["target_value"] - row["achieved_value"], 0)
        assert row["first_seen"][:19] <= row["seen_at"][:19]
        assert row["period_start"] < row["period_end"]


@pytest.mark.parametrize(
    "options",
    [
        {"target_rule_ids": (3004, 3005, 3006)},
        {"target_rule_ids": (3004, 3005), "fetch_targets": False},
        {"period": 60_303, "target_rule_ids": (3004,), "fetch_targets": False},
        {"raw": True, "moved": True},
    ],
    ids=str,
)
async def test_other_options_mean_the_same_with_groups(
    swept: Swept, tmp_path: Path, options: dict[str, Any]
) -> None:
    sandbox = Sandbox(users=6, events=12, recorded=0.4)
    plain, groups = tmp_path / "plain", tmp_path / "groups"
    users = sandbox.world.user_ids()
    async with sandbox:
        await swept(sandbox, users, out=plain, **options)
        summary = await swept(sandbox, users, out=groups, detect="groups", **options)
        assert written(groups) == written(plain)
        assert written(groups)
        assert facts(groups, "targets") == facts(plain, "targets")
        user, rule = next(written(groups).elements())[:2]
        sandbox.world.add_event(user, rule, date="2025-03-04 10:00:00.0")
        for out in (plain, groups):
            way = "groups" if out == groups else "events"
            night = {"detect": way, "incremental": True, "full_every": 10**6, **options}
            summary = await swept(sandbox, users, out=out, **night)
            assert summary.all_complete
        assert written(groups) == written(plain)
        assert summary.by_events == summary.events == 1


async def test_a_named_period_is_found_in_the_groups(swept: Swept, tmp_path: Path) -> None:
    sandbox = Sandbox(users=6, events=30, recorded=0.5)
    users = sandbox.world.user_ids()
    async with sandbox:
        for way in ("events", "groups"):
            await swept(sandbox, users, out=tmp_path / way, detect=way, period="current")
    assert written(tmp_path / "groups") == written(tmp_path / "events")
    assert written(tmp_path / "groups")


# --- the account may not, or the answer cannot be used ---

NO_GROUPS = {
    "4000": Fault.authorisation(4000),
    "403": Fault.http(403),
    "gone": Fault.http(404),
    "gateway": Fault.edited(r"(?s).*", '{"data": 5, "errors": null}'),
    "empty": Fault.edited(r'(?s)"targetGroups":\s*\[.*', '"targetGroups":[]},"errors":null}'),
}


@pytest.mark.parametrize("fault", NO_GROUPS)
async def test_without_groups_the_sweep_goes_the_plain_way(
    swept: Swept, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = Sandbox(users=8, events=6, recorded=0.5)
    async with sandbox:
        sandbox.faults.add(NO_GROUPS[fault], times=None, path_contains="targetGroups")
        summary = await swept(sandbox, detect="groups", concurrency=1)
        asked = sandbox.counts["targetGroups"]
    assert summary.all_complete
    assert written(tmp_path) == true_events(sandbox.world)
    assert (summary.groups_refused, summary.no_record) == (12, 0)
    assert summary.groups_off
    assert asked == 5
    assert sum("not asked for any more" in record.message for record in caplog.records) == 1


async def test_a_refusal_for_some_costs_them_a_request_each(swept: Swept, tmp_path: Path) -> None:
    sandbox = Sandbox(users=30, events=6, recorded=0.5)
    users = sandbox.world.user_ids()
    async with sandbox:
        for user in users[1::3]:
            sandbox.faults.add(Fault.authorisation(4000), None, f"{user}/targetGroups")
        summary = await swept(sandbox, users, detect="groups", concurrency=1)
    assert summary.all_complete
    assert written(tmp_path) == true_events(sandbox.world, list(users))
    assert (summary.groups_refused, summary.groups_off) == (10, None)
    assert summary.no_record > 20
    assert sandbox.counts["targetGroups"] == 30


async def test_a_refusal_half_way_loses_nothing_and_neither_does_the_night_after(
    swept: Swept, tmp_path: Path
) -> None:
    """Nights by groups, half by groups, plain, by groups: a sale, then its return, one by one."""
    sandbox = Sandbox(users=16, events=4, recorded=0.5, last_updated_on=False)
    world, users = sandbox.world, list(sandbox.world.user_ids())
    pairs = [
        (user, next(r.id for r in world.targets(user) if world.count(user, r.id)))
        for user in users
        if any(world.count(user, r.id) for r in world.targets(user))
    ]
    refused = Fault.authorisation(4000)
    async with sandbox:
        for night, value in enumerate((None, "19.990", None, "-19.990")):
            for user, rule in pairs if value else ():
                world.add_event(user, rule, value=value)
            if night in {1, 2}:
                for user in users[8:] if night == 1 else users:
                    sandbox.faults.add(refused, None, f"{user}/targetGroups")
            summary = await swept(
                sandbox,
                users,
                detect="groups",
                incremental=night > 0,
                full_every=10**6,
                concurrency=1,
            )
            sandbox.faults.clear()
            assert summary.all_complete
            assert bool(summary.groups_off) == (night in {1, 2})
            assert written(tmp_path) == true_events(world, users), f"night {night}"


FIELDS_LEFT_OUT = {
    "values": r'"targetAchievedValue":',
    "periods": r'"periodId":',
    "period names": r'"periodRefCode":',
    "days": r'"period(Start|End)Date":',
    "periods and days": r'"period(Id|StartDate|EndDate|RefCode)":',
    "milestones": r'"(milestones|currentPeriod|targetValue|targetName)":',
}


@pytest.mark.parametrize("left_out", FIELDS_LEFT_OUT)
@pytest.mark.parametrize("updated", [True, False])
async def test_an_answer_without_some_fields_loses_nothing(
    swept: Swept, tmp_path: Path, left_out: str, updated: bool
) -> None:
    sandbox = Sandbox(users=4, events=6, recorded=0.5, last_updated_on=updated)
    world, users = sandbox.world, list(sandbox.world.user_ids())
    fault = Fault.edited(FIELDS_LEFT_OUT[left_out], '"leftOut":')
    async with sandbox:
        sandbox.faults.add(fault, None, "targetGroups")
        for night in range(3):
            summary = await swept(
                sandbox, users, detect="groups", incremental=night > 0, full_every=10**6
            )
            assert summary.all_complete
            assert written(tmp_path) == true_events(world, users), f"night {night}"
            for user in users[night::2]:
                world.add_event(user, world.targets(user)[night].id, value="12.5")


async def test_a_target_in_two_groups_is_read_and_never_left_out(
    swept: Swept, tmp_path: Path
) -> None:
    sandbox = Sandbox(users=5, events=6, recorded=0.5, last_updated_on=False)
    world, users = sandbox.world, list(sandbox.world.user_ids())
    group = r'(?s)"targetGroups":\s*\[(.*)\]\}(,"errors"|\})'
    async with sandbox:
        sandbox.faults.add(Fault.edited(group, r'"targetGroups":[\1,\1]}\2'), None, "targetGroups")
        for night in range(2):
            summary = await swept(
                sandbox, users, detect="groups", incremental=night > 0, full_every=10**6
            )
            assert summary.all_complete
            assert summary.groups_refused == 0
            assert written(tmp_path) == true_events(world, users)
            for user in users:
                world.add_event(user, world.targets(user)[0].id, value="12.5")
                world.add_event(user, world.targets(user)[0].id, value="-12.5")


async def test_cycles_without_ids_are_told_apart_by_their_first_day(
    swept: Swept, tmp_path: Path
) -> None:
    sandbox = Sandbox(users=4, events=12)
    async with sandbox:
        sandbox.faults.add(Fault.edited('"periodId":', '"leftOut":'), None, "targetGroups")
        await swept(sandbox, list(sandbox.world.user_ids()), detect="groups")
    rows = parts(tmp_path, "progress")
    pairs = {(row["user_id"], row["target_rule_id"]) for row in rows}
    cycles = {(row["user_id"], row["target_rule_id"], row["period_start"]) for row in rows}
    assert len(pairs) < len(cycles) == len(rows)


async def test_rejected_credentials_still_end_the_sweep(swept: Swept) -> None:
    from capillary_targets import AuthError

    async with (sandbox := Sandbox(users=3)):
        sandbox.faults.add(Fault.http(401), None, "targetGroups")
        with pytest.raises(AuthError):
            await swept(sandbox, detect="groups")


async def test_a_server_that_never_sends_target_ids_loses_nothing(
    swept: Swept, tmp_path: Path
) -> None:
    sandbox = Sandbox(users=10, events=8, recorded=0.5)
    async with sandbox:
        silent = Fault.edited(r'"targetId":\s*\d+', '"targetId": null')
        sandbox.faults.add(silent, None, "targetGroups")
        summary = await swept(sandbox, detect="groups")
        assert written(tmp_path) == true_events(sandbox.world)
        assert summary.no_record == 0
        user = sandbox.world.user_ids()[0]
        rule = sandbox.world.targets(user)[0].id
        sandbox.world.add_event(user, rule, value="5")
        again = await swept(sandbox, detect="groups", incremental=True)
    assert again.events == 1
    assert written(tmp_path) == true_events(sandbox.world)


async def test_passing_faults_of_the_groups_fail_the_member_and_no_other(
    swept: Swept, tmp_path: Path
) -> None:
    sandbox = Sandbox(users=10, events=6)
    users = sandbox.world.user_ids()
    async with sandbox:
        sandbox.faults.add(Fault.http(503), None, f"{users[4]}/targetGroups")
        summary = await swept(sandbox, users, detect="groups")
        assert (summary.failed, summary.complete) == (1, 9)
        sandbox.faults.clear()
        summary = await swept(sandbox, users, detect="groups", retry_failed=True)
    assert summary.all_complete
    assert written(tmp_path) == true_events(sandbox.world, list(users))


async def test_a_first_member_who_fails_makes_the_others_wait_no_longer(swept: Swept) -> None:
    sandbox = Sandbox(users=8, events=3)
    users = sandbox.world.user_ids()
    async with sandbox:
        sandbox.faults.add(Fault.http(503), 1, "targetGroups")
        sandbox.faults.add(Fault.stall(), None, "targetGroups")
        sweep = asyncio.ensure_future(swept(sandbox, users, detect="groups", concurrency=8))
        await turns_until(lambda: sandbox.faults.stalled >= 7)
        sandbox.faults.clear()
        summary = await sweep
    assert (summary.failed, summary.complete) == (1, 7)


@pytest.mark.parametrize("every", [0, -3])
async def test_wrong_options_are_refused_in_one_line(swept: Swept, every: int) -> None:
    from capillary_targets import UsageError

    async with (sandbox := Sandbox(users=1)):
        with pytest.raises(UsageError, match=r"full_every .*1 or more"):
            await swept(sandbox, detect="groups", full_every=every)
        with pytest.raises(UsageError, match=r"detect must be one of events, groups, not 'all'"):
            await swept(sandbox, detect="all")


async def test_who_is_within_a_tenth_of_the_goal_is_one_line(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed("duckdb")
    needed("pyarrow")
    text = (Path(__file__).parents[2] / "docs" / "nightly.md").read_text()
    (line,) = re.findall(r"```python\n(import duckdb[^\n]*)\n```", text)
    sandbox = Sandbox(users=12, events=10)
    world, users = sandbox.world, list(sandbox.world.user_ids())
    async with sandbox:
        await swept(sandbox, users, detect="groups", format="parquet")
        close, rule, value = next(
            (user, one, missing)
            for user in users
            for one in world.targets(user)
            if not one.behavioural and world.count(user, one.id)
            if (missing := one.target_value * Decimal("0.95") - achieved(world, user, one)) > 0
        )
        world.add_event(close, rule.id, value=round(value, 3))
        await swept(sandbox, users, detect="groups", format="parquet", incremental=True)
    monkeypatch.chdir(tmp_path)
    shown: list[Any] = []
    exec(line, {"print": shown.append})
    found = {(user, period): remaining for user, _, period, remaining in shown[0].fetchall()}
    wanted = {}
    for user in users:
        for one in world.targets(user):
            for period in one.group.periods:
                value = achieved(world, user, one, period)
                if one.target_value * Decimal("0.9") <= value < one.target_value:
                    wanted[user, period.ref_code.strip()] = one.target_value - value
    assert found == wanted
    assert (close, latest(world, close, rule).ref_code.strip()) in wanted


def latest(world: World, user: int, rule: Rule) -> Period:
    return rule.group.period_at(world.events(user, rule.id)[-1].event_date)


def achieved(world: World, user: int, rule: Rule, period: Period | None = None) -> Decimal:
    period = period or latest(world, user, rule)
    return total(world.events(user, rule.id, period.id))
