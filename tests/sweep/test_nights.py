"""Nights of every kind: what changed is found, and a member of whom nothing did costs a request."""

import asyncio
import random
import re
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nightly import arithmetic
from capillary_targets.sandbox import Fault, Sandbox, World
from capillary_targets.sweep import run as sweep_run
from capillary_targets.sweep.groups import is_due
from tests.conftest import is_nightly, users_file

from .conftest import Swept, needed, parts, stopped, true_events, written
from .test_groups import DIALECTS
from .test_kill import command, starter

run_module = sys.modules[sweep_run.__module__]

# --- the next nights ---


def change(world: World, draw: random.Random, user: int, kind: str | None = None) -> None:
    """One thing that happens to one member."""
    rule = draw.choice(world.targets(user))
    kinds = ("sale", "late", "enrol", "leave", "delete", "swap", "cancel")
    match kind or draw.choice(kinds):
        case "sale":
            world.add_event(user, rule.id, value=Decimal(draw.randrange(1, 10**6)) / 1000)
        case "late" if world.count(user, rule.id):
            world.insert_late(user, rule.id)
        case "delete" if world.count(user, rule.id):
            world.delete_events(user, rule.id, draw.randrange(world.count(user, rule.id)))
        case "swap" if world.count(user, rule.id) > 12:  # before the last eight rows
            world.insert_late(user, rule.id, at=2)
            world.delete_events(user, rule.id, 1)
        case "enrol":
            world.enrol(user, draw.choice(world.rules()).id)
        case "leave" if len(world.targets(user)) > 1:
            world.unenrol(user, rule.id)
        case "cancel" if not rule.behavioural:
            world.add_event(user, rule.id, value="19.990")
            world.add_event(user, rule.id, value="-19.990", event_name="RETURN_BILL")


def held(out: Path, world: World) -> Counter[Any]:
    """Events in files and not deleted since, of targets that members are in now."""
    rows = Counter(written(out))
    for row in parts(out, "vanished"):
        value = None if row["target_value"] is None else str(row["target_value"])
        key = (row["user_id"], row["target_rule_id"], row["event_log_id"], value)
        rows[key] += -1 if row["deleted"] else 1
    enrolled = {(user, r.id) for user in world.user_ids() for r in world.targets(user)}
    return Counter({key: count for key, count in rows.items() if count and key[:2] in enrolled})


@pytest.mark.parametrize("dialect", DIALECTS[2:6:3] + DIALECTS[4:5], ids=str)
async def test_no_change_is_missed_where_the_last_update_is_sent(
    swept: Swept, tmp_path: Path, dialect: dict[str, Any]
) -> None:
    draw = random.Random(repr(dialect))
    sandbox = Sandbox(users=9, events=5, recorded=0.5, seed=draw.randrange(99), **dialect)
    world = sandbox.world
    users = list(world.user_ids())
    async with sandbox:
        for night in range(3):
            summary = await swept(
                sandbox, users, detect="groups", incremental=night > 0, page_size=5
            )
            assert summary.all_complete
            assert held(tmp_path, world) == true_events(world, users), f"night {night}"
            assert summary.by_value == 0
            latest = {
                (row["user_id"], row["id"]): row["enrolled"] for row in parts(tmp_path, "targets")
            }
            enrolled = {(user, rule.id) for user in users for rule in world.targets(user)}
            assert {pair for pair, now in latest.items() if now} == enrolled
            for user in draw.sample(users, 6):
                change(world, draw, user)


async def test_the_arithmetic_of_the_document_is_that_of_a_sweep(swept: Swept) -> None:
    sandbox = Sandbox(users=20, targets=3, events=5, recorded=0.4, last_updated_on=False)
    world, users = sandbox.world, list(sandbox.world.user_ids())
    recorded = sum(world.count(user, r.id) > 0 for user in users for r in world.targets(user)) / 60
    first, later = arithmetic(3, recorded, 5 / 20, full_every=1)["the same, without lastUpdatedOn"]
    asked = []
    async with sandbox:
        for night in range(2):
            sandbox.counts.clear()
            await swept(sandbox, users, detect="groups", incremental=night > 0, full_every=1)
            counts = sandbox.counts
            asked.append(counts["targetGroups"] + counts["trackedTargetEvents"])
            pairs = [(user, r.id) for user in users for r in world.targets(user)]
            for user, rule in [pair for pair in pairs if not world.count(*pair)][:5]:
                world.add_event(user, rule)
    assert asked == pytest.approx([first * 20, later * 20])


def test_the_days_of_the_document_are_those_of_its_measured_shares() -> None:
    """Of 10,000 members measured, 50 million at 1,000 requests a minute: to 1.5 %."""
    text = (Path(__file__).parents[2] / "docs" / "nightly.md").read_text()
    rows = [
        re.split(r" *\| *", line)[1:-1]
        for line in re.findall(r"^\| (?:sweep|the same).*", text, re.MULTILINE)
    ]
    measured = {name: cells for name, *cells in rows if len(cells) == 4}
    simulated = {name: cells for name, *cells in rows if len(cells) == 2}
    assert len(simulated) == 3
    for name, days in simulated.items():
        for cost, told in zip(measured[name], days, strict=False):
            expected = 50_000_000 * float(cost) / 1_000 / 1_440
            assert float(told.removesuffix(" days")) == pytest.approx(expected, rel=0.015)


async def test_a_late_event_and_a_deletion_that_hide_each_other_are_found(
    swept: Swept, tmp_path: Path
) -> None:
    """As many rows as before, the latest ones the same: only `lastUpdatedOn` tells."""
    sandbox = Sandbox(users=2, targets=1, events=30, exact_events=True)
    world, users = sandbox.world, list(sandbox.world.user_ids())
    async with sandbox:
        for night in range(2):
            await swept(sandbox, users, detect="groups", incremental=night > 0)
            assert held(tmp_path, world) == true_events(world, users)
            for user in users:
                (rule,) = world.targets(user)
                world.insert_late(user, rule.id, at=2)
                world.delete_events(user, rule.id, 1)


async def test_what_cancels_out_is_found_by_the_rolling_pass(swept: Swept, tmp_path: Path) -> None:
    sandbox = Sandbox(users=12, events=5, last_updated_on=False)
    world = sandbox.world
    users = list(world.user_ids())
    cancelled = users[::4]

    async def night() -> Any:
        return await swept(sandbox, users, detect="groups", incremental=True, full_every=3)

    async with sandbox:
        await swept(sandbox, users, detect="groups", full_every=3)
        for user in cancelled:
            rule = next(
                r.id for r in world.targets(user) if not r.behavioural and world.count(user, r.id)
            )
            world.add_event(user, rule, value="19.990")
            world.add_event(user, rule, value="-19.990", event_name="RETURN_BILL")
        sold = next(user for user in users if user not in cancelled)
        world.add_event(sold, world.targets(sold)[0].id, value="7.5")
        missing = []
        for run in range(2, 5):
            summary = await night()
            missing.append(sum((true_events(world, users) - written(tmp_path)).values()))
            due = [user for user in users if is_due(user, run, 3, run)]
            assert summary.by_events >= len(due)
            assert summary.by_value > 0 or run > 2
            assert summary.oldest_proof is not None
    late = [user for user in cancelled if not is_due(user, 2, 3, 2)]
    assert missing[0] == 2 * len(late)  # exactly the cancelling pairs, and no other change
    assert missing == sorted(missing, reverse=True)
    assert missing[-1] == 0


async def test_a_list_that_lags_behind_its_sum_is_read_once_more(
    swept: Swept, tmp_path: Path
) -> None:
    sandbox = Sandbox(users=3, events=8)
    world = sandbox.world
    users = list(world.user_ids())
    rule = world.targets(users[0])[0].id
    async with sandbox:
        await swept(sandbox, users, detect="groups")
        new = world.add_event(users[0], rule, value="5")
        # The groups count it, the list of events does not show it yet.
        lagging = Fault.edited(
            r'"targetAchievedValue":\s*[\d.]+', '"targetAchievedValue": 12345.678'
        )
        world.withhold(new)
        sandbox.faults.add(lagging, None, f"{users[0]}/targetGroups")
        assert (await swept(sandbox, users, detect="groups", incremental=True)).events == 0
        world.reveal_after(new, 0)
        world.count_request(users[0], rule)
        found = await swept(sandbox, users, detect="groups", incremental=True)
        assert found.events == 1
        last = await swept(sandbox, users, detect="groups", incremental=True)
    assert (last.by_events, last.events) == (0, 0)
    assert written(tmp_path) == true_events(world, users)


async def test_between_ways_nothing_is_lost(swept: Swept, tmp_path: Path) -> None:
    sandbox = Sandbox(users=7, events=4, recorded=0.5)
    world, draw = sandbox.world, random.Random(4)
    users = list(world.user_ids())
    async with sandbox:
        for night, way in enumerate(("events", "groups", "events", "groups")):
            await swept(sandbox, users, detect=way, incremental=night > 0)
            assert held(tmp_path, world) == true_events(world, users)
            for user in draw.sample(users, 4):
                rule = draw.choice(world.targets(user)).id
                world.add_event(user, rule, value="19.990")
                world.add_event(user, rule, value="-19.990", event_name="RETURN_BILL")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_an_interrupted_night_goes_on_where_it_was(
    swept: Swept, tmp_path: Path, form: str
) -> None:
    if form == "parquet":
        needed("pyarrow")
    sandbox = Sandbox(users=10, events=4, recorded=0.5)
    world = sandbox.world
    users = list(world.user_ids())
    options = {"detect": "groups", "format": form, "part_users": 4}
    async with sandbox:
        await swept(sandbox, users, **options)
        for user in users[::2]:
            world.add_event(user, world.targets(user)[0].id, value="3.5")
        half = asyncio.Event()

        def progress(summary: Any) -> None:
            if summary.complete >= 4:
                half.set()

        await stopped(
            swept(sandbox, users, incremental=True, progress=progress, concurrency=1, **options),
            half,
        )
        summary = await swept(sandbox, users, incremental=True, **options)
        again = await swept(sandbox, users, incremental=True, **options)
    assert (summary.run, again.run) == (2, 3)
    assert (summary.events, again.events) == (5, 0)
    assert again.by_events == 0


def take(out: Path, kept: Path) -> None:
    """What another program does with --moved: it takes the finished parts away."""
    for part in out.glob("*/part-*"):
        there = kept / part.relative_to(out)
        there.parent.mkdir(parents=True, exist_ok=True)
        assert not there.exists()
        part.rename(there)


def by_id(rows: Counter[Any]) -> Counter[Any]:
    """Rows without amounts: of one that vanished, parts that left tell no more than the ids."""
    found: Counter[Any] = Counter()
    for row, number in rows.items():
        found[row[:3]] += number
    return Counter({row: number for row, number in found.items() if number})


async def test_killed_nights_whose_parts_leave_miss_nothing(tmp_path: Path) -> None:
    draw = random.Random(9)
    sandbox = Sandbox(users=8, targets=2, events=9, recorded=0.6)
    world, out, kept = sandbox.world, tmp_path / "out", tmp_path / "kept"
    users = list(world.user_ids())
    async with sandbox, starter(sandbox, tmp_path) as sweeps:
        night = [*command(out, str(users_file(tmp_path, users))), "--moved", "--incremental"]
        for _ in range(3):
            for survived in range(1, 40) if is_nightly() else (draw.randrange(3, 30),):
                if await sweeps.run(night, survived) == 0:
                    break
                take(out, kept)
            assert await sweeps.run(night) == 0, sweeps.said
            take(out, kept)
            assert by_id(held(kept, world)) == by_id(true_events(world, users))
            for user in draw.sample(users, 5):
                change(world, draw, user)
    assert max(written(kept).values()) == 1


async def test_the_rolling_pass_keeps_its_word_while_the_list_changes(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each night a pair that cancels out for everybody: only who is read in full has it."""
    every, draw = 3, random.Random(5)
    sandbox = Sandbox(users=14, targets=1, events=3, exact_events=True, last_updated_on=False)
    world = sandbox.world
    users, present = list(world.user_ids()), set(world.user_ids()[:9])
    read: dict[int, int] = {}
    waits = Counter[int]()
    async with sandbox:
        for run in range(1, 12):
            monkeypatch.setattr(run_module, "_now", lambda run=run: f"night {run}")
            failing = draw.choice([*present])
            sandbox.faults.add(Fault.http(503), None, f"/{failing}/")
            options = {"detect": "groups", "full_every": every, "incremental": run > 1}
            summary = await swept(sandbox, sorted(present), **options)
            sandbox.faults.clear()
            assert (summary.run, summary.failed) == (run, 1)
            missing = {user for user, *_ in (true_events(world, users) - written(tmp_path))}
            read |= dict.fromkeys(present - missing - {failing}, run)
            asked = present - {failing}
            for user in asked:
                waits[run - read[user]] += 1
            assert summary.oldest_proof == f"night {min(read[user] for user in asked)}"
            present ^= {*draw.sample(users, 3)}
            for user in users:
                (rule,) = world.targets(user)
                world.add_event(user, rule.id, value="19.990")
                world.add_event(user, rule.id, value="-19.990", event_name="RETURN_BILL")
    assert set(waits) == {*range(every)}  # nobody who is asked waits for longer


@pytest.mark.parametrize(
    "dialect",
    [{}, {"offset_mode": "row"}, {"past_end": "error", "last_updated_on": False}],
    ids=str,
)
async def test_nights_of_a_server_whose_total_counts_pages(
    swept: Swept, tmp_path: Path, dialect: dict[str, Any]
) -> None:
    sandbox = Sandbox(users=8, targets=2, recorded=0.6, total_mode="pages", **dialect)
    world, draw, users = sandbox.world, random.Random(6), list(sandbox.world.user_ids())
    for user, rows in zip(users, (9, 10, 11, 19, 20, 21, 0, 1), strict=True):
        rule = world.targets(user)[0]
        world.delete_events(user, rule.id, slice(None))
        for _ in range(rows):
            world.add_event(user, rule.id)
    options = {"detect": "groups", "page_size": 10, "full_every": 10**6}
    async with sandbox:
        await swept(sandbox, users, **options)
        for _ in range(2):
            assert held(tmp_path, world) == true_events(world, users)
            sandbox.counts.clear()
            quiet = await swept(sandbox, users, incremental=True, **options)
            assert sandbox.counts["trackedTargetEvents"] == quiet.events == 0
            assert sandbox.counts["targetGroups"] == len(users)
            for user in users[::2]:
                kind = draw.choice(("sale", "late", "delete"))
                change(world, draw, user, kind)
            await swept(sandbox, users, incremental=True, **options)


@pytest.mark.parametrize("left_out", [None, '"periodId":', '"currentPeriod":'])
async def test_nights_of_two_rules_in_one_period(
    swept: Swept, tmp_path: Path, left_out: str | None
) -> None:
    """Rules of one group, which share its periods, and of another, which has no such one."""
    sandbox = Sandbox(users=6, events=8, recorded=0.6, last_updated_on=False)
    world, users = sandbox.world, list(sandbox.world.user_ids())
    one, same = next(
        (a, b) for a in world.rules() for b in world.rules() if a.id < b.id and a.group is b.group
    )
    other = next(rule for rule in world.rules() if rule.group is not one.group)
    period, before = one.group.periods[5], one.group.periods[4]
    for rules in ((one, same), (one, other)):
        ids = tuple(rule.id for rule in rules)
        for user in users:
            for rule in ids:
                world.enrol(user, rule)
        out = tmp_path / f"{ids}"
        options = {"target_rule_ids": ids, "period": period.id, "out": out, "detect": "groups"}
        async with sandbox:
            if left_out is not None:
                sandbox.faults.add(Fault.edited(left_out, '"leftOut":'), None, "targetGroups")
            for night in range(3):
                for user in users[night::3]:
                    for when in (period, before):
                        world.add_event(user, ids[night % 2], date=f"{when.start} 10:00:00.0")
                sandbox.counts.clear()
                await swept(sandbox, users, incremental=night > 0, full_every=10**6, **options)
                truth = Counter(
                    (user, rule, event.event_log_id)
                    for user in users
                    for rule in ids
                    for event in world.events(user, rule)
                    if event.period_id == period.id
                )
                assert Counter(row[:3] for row in written(out).elements()) == truth
            asked = []
            for _ in range(2):  # sales of other cycles, whose rows name none, are looked for twice
                sandbox.counts.clear()
                await swept(sandbox, users, incremental=True, full_every=10**6, **options)
                asked.append(sandbox.counts["trackedTargetEvents"])
            assert asked[-1] == 0
            assert asked[0] == 0 or left_out == '"periodId":'
