"""What a sweep would cost, told beforehand, beside what it did cost."""

import asyncio
import itertools
import json
import random
import sys
from math import inf
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import RateLimit
from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import Plan, Summary, SweepOptions, SweepRefused, plan, run
from capillary_targets.sweep.plan import choose, estimate, seconds_for
from capillary_targets.sweep.store import open_directory
from tests.conftest import examples

from .conftest import Swept, connected, needed, stopped

plan_module = sys.modules[plan.__module__]


async def planned(
    sandbox: Sandbox, out: Path, users: Any, *, sample: int = 100, **options: Any
) -> Plan:
    async with connected(sandbox, rate=RateLimit(1000, per=60)) as client:
        return await plan(
            client, users, out, SweepOptions(source="the sandbox", **options), sample=sample
        )


def size_of(out: Path) -> int:
    """Bytes of parts and ledger."""
    if not (out / "ledger.sqlite").exists():
        return 0
    return sum(path.stat().st_size for path in (*out.glob("*/part-*"), out / "ledger.sqlite"))


WORLDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("jsonl", {"events": 25, "recorded": 0.4}, {"detect": "groups"}),
    ("jsonl", {"events": 3, "rows_per_id": 2}, {"detect": "events", "raw": True}),
    ("jsonl", {"events": 12, "last_updated_on": False}, {"detect": "groups", "moved": True}),
    ("parquet", {"events": 25, "recorded": 0.4}, {"detect": "groups"}),
    ("parquet", {"events": 9, "missing_ids": 0.5}, {"detect": "events"}),
    ("parquet", {"events": 60, "targets": 1}, {"detect": "groups", "raw": True}),
]


@pytest.mark.parametrize(("form", "settings", "given"), WORLDS, ids=str)
async def test_a_plan_of_a_whole_list_is_what_comes_of_it(
    swept: Swept, tmp_path: Path, form: str, settings: dict[str, Any], given: dict[str, Any]
) -> None:
    if form == "parquet":
        needed("pyarrow")
    sandbox = Sandbox(users=12, **settings)
    users = list(sandbox.world.user_ids())
    async with sandbox:
        for night in range(2):
            options = {"format": form, "incremental": night > 0, **given}
            before = size_of(tmp_path)
            told = await planned(sandbox, tmp_path, users, **options)
            assert (tmp_path / "ledger.sqlite").exists() == (night > 0)
            found = await swept(sandbox, users, **options)
            assert (found.run, told.users, told.sampled) == (night + 1, 12, 12)
            assert found.requests == pytest.approx(told.requests.value, rel=0.05)
            assert told.hours is not None
            assert told.hours.value == pytest.approx(told.requests.value / 60_000)
            assert told.held == before
            page = 4096 * (1 + 2 * night)  # of SQLite: the ledger grows by so many, or by none
            assert size_of(tmp_path) == pytest.approx(told.size.value, rel=0.05, abs=page)
            for user in users[::3]:
                sandbox.world.add_event(user, sandbox.world.targets(user)[0].id)
    assert told.size.value > 0


@examples(2)
@given(seed=st.integers(0, 2**32), way=st.sampled_from(["events", "groups"]))
async def test_a_plan_of_a_sample_bounds_what_comes_of_it(seed: int, way: str) -> None:
    sandbox = Sandbox(seed=seed, users=40, targets=2, events=4, recorded=0.5)
    users = list(sandbox.world.user_ids())
    with TemporaryDirectory() as out:
        async with sandbox:
            told = await planned(sandbox, Path(out), users, sample=25, detect=way)
            assert (told.users, told.sampled) == (40, 25)
            assert told.asked < 120
            async with connected(sandbox) as client:
                options = SweepOptions(detect=way, source="the sandbox")
                found = await run(client, users, Path(out), options)
            size = size_of(Path(out))
            for user in users[::20]:
                sandbox.world.add_event(user, sandbox.world.targets(user)[0].id)
            night = {"incremental": True, "detect": way}
            later = await planned(sandbox, Path(out), users, sample=25, **night)
            async with connected(sandbox) as client:
                options = SweepOptions(source="the sandbox", **night)
                after = await run(client, users, Path(out), options)
            # Eight at a time may ask for the same definitions.
            assert after.requests == pytest.approx(later.requests.value, rel=0.05, abs=8)
            assert size_of(Path(out)) == pytest.approx(later.size.value, rel=0.05, abs=3 * 4096)
    for value, told_so in ((found.requests, told.requests), (size, told.size)):
        spread = 3 * (told_so.high - told_so.value) + 0.02 * value
        assert abs(value - told_so.value) <= spread
        assert told_so.low <= told_so.value <= told_so.high


@given(values=st.lists(st.floats(0, 100), min_size=1, max_size=50), more=st.integers(0, 1000))
def test_an_estimate_lies_within_its_bounds(values: list[float], more: int) -> None:
    asked, users = dict(enumerate(values)), len(values) + more
    found = estimate([0.0] * users, asked, users, fixed=7)
    assert found.low <= found.value + 1e-6
    assert found.value <= found.high + 1e-6
    assert found.low >= min(7 + sum(values), found.value) - 1e-6
    if not more:
        assert found.low == found.high == pytest.approx(7 + sum(values))
    else:
        assert found.low < found.high


@given(frame=st.lists(st.sampled_from([0.0, 1.0, 4.0]), max_size=300), sample=st.integers(1, 120))
def test_a_sample_is_spread_over_the_list_and_over_new_and_known(
    frame: list[float], sample: int
) -> None:
    chosen = choose(frame, sample)
    assert len(chosen) == len({*chosen}) == min(sample, len(frame))
    for mine in ([n for n, one in enumerate(frame) if bool(one) is known] for known in (0, 1)):
        asked = sorted({*chosen} & {*mine})
        assert len(asked) >= min(len(mine), sample // 4)
        if len(asked) > 1:  # one in each of so many stretches of the list
            stretch = -(-len(mine) // len(asked))
            gaps = [mine.index(b) - mine.index(a) for a, b in itertools.pairwise(asked)]
            assert max(gaps) < 2 * stretch


@pytest.mark.parametrize("in_order", [False, True])
def test_the_part_that_is_done_tells_better_unless_the_list_is_in_order(in_order: bool) -> None:
    """Half of 2,000 are done: within 5 % for 9 of 10 lists, where 100 alone are for 3 of 4."""
    draw, close, within = random.Random(7), 0, 0
    for _ in range(60):
        costs = [1.0 + sum(draw.random() < 0.3 for _ in range(3)) for _ in range(2_000)]
        if in_order:
            costs.sort()
        done, left = costs[:1_000], costs[1_000:]
        frame = [0.0] * 1_000
        found = estimate(
            frame, {n: left[n] for n in choose(frame, 100)}, 1_000, earlier=(sum(done), 1_000)
        )
        close += abs(found.value / sum(left) - 1) <= 0.05
        within += found.low <= sum(left) <= found.high
    assert within >= 55
    assert close >= 54


def world(draw: random.Random, kind: str) -> tuple[list[float], list[int]]:
    """What the ledger foresees for each member of some list, and what each costs."""
    targets, recorded = draw.randrange(1, 7), draw.uniform(0.1, 0.9)
    changing, knows = 10 ** draw.uniform(-3, -1), {"first": 0.0, "grown": draw.random()}
    members = []
    for _ in range(draw.randrange(200, 600)):
        mine = draw.randrange(1, 2 * targets)
        read = [1 + int(draw.expovariate(1.5)) for _ in range(mine) if draw.random() < recorded]
        if draw.random() >= knows.get(kind, 1.0):
            members.append((0.0, 1 + sum(read)))
            continue
        due = mine if kind == "plain" else len(read) * (draw.random() < 1 / 30)
        members.append((1.0 + due, 1 + due + (draw.random() < changing)))
    if draw.random() < 0.5:  # the busiest members come last
        members.sort(key=lambda one: one[1] + 3 * draw.random())
    return [one for one, _ in members], [cost for _, cost in members]


def test_bounds_hold_where_few_members_have_most_events() -> None:
    """Four in ten have none, and a few have most: the bounds hold for 9 of 10 lists and more."""
    draw, within = random.Random(4), 0
    for _ in range(200):
        sizes = [draw.lognormvariate(0, 1.3) * (draw.random() < 0.6) for _ in range(1_000)]
        found = estimate([0.0] * 1_000, {n: sizes[n] for n in choose([0.0] * 1_000, 100)}, 1_000)
        within += found.low <= sum(sizes) <= found.high
    assert 180 <= within < 198


@pytest.mark.parametrize("kind", ["first", "grown", "groups", "plain"])
def test_the_truth_is_within_five_percent_or_within_the_bounds(kind: str) -> None:
    draw, within, close = random.Random(2), 0, 0
    for _ in range(100):
        frame, costs = world(draw, kind)
        found = estimate(frame, {n: float(costs[n]) for n in choose(frame, 100)}, len(frame))
        is_within = found.low <= sum(costs) <= found.high
        within += is_within
        close += is_within or abs(found.value / sum(costs) - 1) <= 0.05
    assert within >= 93
    assert close >= 95


def test_a_hundred_members_cannot_tell_more() -> None:
    """Where it is by chance which pairs have a record, no unbiased estimate has a smaller error.

    (Cramér-Rao: the variance of one pair, by the number of pairs.)
    """
    draw, errors = random.Random(3), []
    for _ in range(300):
        costs = {n: 1.0 + sum(draw.random() < 0.3 for _ in range(3)) for n in range(100)}
        errors.append(estimate([0.0] * 100, costs, 10_000).value / 10_000 - 1.9)
    least = (0.3 * 0.7 * 3 / 100) ** 0.5
    assert fmean(error**2 for error in errors) ** 0.5 == pytest.approx(least, rel=0.1)
    assert 1.96 * least / 1.9 == pytest.approx(0.08, abs=0.003)  # docs/nightly.md


def test_a_night_in_which_nobody_of_the_sample_changed_is_not_proven_quiet() -> None:
    found = estimate([1.0] * 5_000, dict.fromkeys(range(100), 1.0), 5_000)
    assert found.value == 5_000
    assert found.high > 5_000 * 1.02


@pytest.mark.parametrize(
    ("rate", "pace", "seconds"),
    [
        (None, inf, None),
        (None, 50.0, 20.0),
        (RateLimit(1000, per=60), inf, 60.0),
        (RateLimit(1000, per=60), 50.0, 60.0),  # a budget lets the first ones through at once
        (RateLimit(1000, per=60), 5.0, 200.0),
    ],
)
def test_requests_take_as_long_as_the_slower_of_pace_and_budget(
    rate: RateLimit | None, pace: float, seconds: float | None
) -> None:
    assert seconds_for(1000, rate, pace) == (seconds and pytest.approx(seconds))


async def test_who_is_in_a_list_often_is_asked_once_and_counted_once(tmp_path: Path) -> None:
    sandbox = Sandbox(users=6, events=4)
    users = list(sandbox.world.user_ids()) * 40
    async with sandbox:
        told = await planned(sandbox, tmp_path, users, sample=100)
        assert (told.users, told.sampled) == (6, 6)
        many = await planned(sandbox, tmp_path, users[:3] * 40 + users[:6], sample=2)
        assert (many.users, many.sampled) == (6, 2)


async def test_a_long_list_is_counted_and_drawn_without_bias(monkeypatch: Any) -> None:
    monkeypatch.setattr(plan_module, "_FRAME", 100)
    with TemporaryDirectory() as out, open_directory(Path(out), {}) as directory:
        ids = list(range(1, 2001))
        count, members = await plan_module._read(ids, directory.ledger)
        assert count == 2000  # exact as long as nobody comes twice
        assert 30 < len(members) <= 100
        assert members == sorted(members)
        assert 700 < fmean(members) < 1300
        count, again = await plan_module._read(ids[:1000] * 3 + ids, directory.ledger)
        assert again == members
        assert count == pytest.approx(2000, rel=0.2)


async def test_the_rolling_pass_is_in_a_plan(swept: Swept, tmp_path: Path) -> None:
    """Whose turn it is the ledger knows: nobody has to be asked for that."""
    sandbox = Sandbox(users=60, targets=2, events=3, last_updated_on=False)
    users = list(sandbox.world.user_ids())
    options: dict[str, Any] = {"detect": "groups", "incremental": True, "full_every": 4}
    async with sandbox:
        await swept(sandbox, users, **options)
        told = await planned(sandbox, tmp_path, users, sample=24, **options)
        found = await swept(sandbox, users, **options)
    assert found.by_events > 20
    assert found.requests == pytest.approx(told.requests.value, rel=0.05)


async def test_a_plan_counts_whom_an_interrupted_sweep_has_left(
    swept: Swept, tmp_path: Path
) -> None:
    sandbox = Sandbox(users=12, events=3)
    users = list(sandbox.world.user_ids())

    half = asyncio.Event()

    def progress(summary: Summary) -> None:
        if summary.complete >= 5:
            half.set()

    async with sandbox:
        await stopped(
            swept(sandbox, users, detect="groups", progress=progress, concurrency=1), half
        )
        left = 12 - json.loads((tmp_path / "summary.json").read_text())["complete"]
        assert 0 < left <= 7
        for _ in range(2):  # a plan changes nothing
            told = await planned(sandbox, tmp_path, users, detect="groups")
            assert told.users == left
        assert (await planned(sandbox, tmp_path, users, incremental=True)).users == left
        summary = await swept(sandbox, users, detect="groups")
        assert (summary.run, summary.complete, summary.all_complete) == (1, 12, True)
        assert (await planned(sandbox, tmp_path, users)).users == 0
        assert (await planned(sandbox, tmp_path, users, incremental=True)).users == 12
        with pytest.raises(SweepRefused, match="format jsonl, not parquet"):
            await planned(sandbox, tmp_path, users, format="parquet")
        with pytest.raises(SweepRefused, match="retry_failed"):
            await planned(sandbox, tmp_path, users, retry_failed=True)
        nobody = await planned(sandbox, tmp_path, [])
        assert (nobody.users, nobody.requests.value) == (0, 0)
