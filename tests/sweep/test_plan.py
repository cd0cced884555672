"""What a sweep would cost, told beforehand, beside what it did cost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import RateLimit
from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import Plan, Summary, SweepOptions, SweepRefused, plan, run
from capillary_targets.sweep.plan import estimate
from tests.conftest import examples

from .conftest import Swept, connected, needed, stopped


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


@pytest.mark.parametrize("way", ["events", "groups"])
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_a_plan_of_a_short_list_is_what_comes_of_it(
    swept: Swept, tmp_path: Path, way: str, form: str
) -> None:
    if form == "parquet":
        needed("pyarrow")
    sandbox = Sandbox(users=9, events=25, recorded=0.4)
    users = list(sandbox.world.user_ids())
    async with sandbox:
        for night in range(2):
            options: dict[str, Any] = {"detect": way, "format": form, "incremental": night > 0}
            told = await planned(sandbox, tmp_path, users, **options)
            assert (tmp_path / "ledger.sqlite").exists() == (night > 0)
            found = await swept(sandbox, users, **options)
            assert (found.run, told.users, told.sampled) == (night + 1, 9, 9)
            assert found.requests == pytest.approx(told.requests.value, rel=0.05)
            assert told.hours is not None
            assert told.hours.value == pytest.approx(told.requests.value / 60_000)
            if not night:
                assert size_of(tmp_path) == pytest.approx(told.size.value, rel=0.05)
            for user in users[::3]:
                sandbox.world.add_event(user, sandbox.world.targets(user)[0].id)
    assert told.size.value > 0


@examples(3)
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
    spread = 3 * (told.requests.high - told.requests.value) + 0.02 * found.requests
    assert abs(found.requests - told.requests.value) <= spread
    assert told.requests.low <= told.requests.value <= told.requests.high


@given(values=st.lists(st.floats(0, 100), min_size=1, max_size=50), more=st.integers(0, 1000))
def test_an_estimate_lies_within_its_bounds(values: list[float], more: int) -> None:
    found = estimate(values, len(values) + more, fixed=7)
    assert found.low <= found.value + 1e-6
    assert found.value <= found.high + 1e-6
    assert found.low >= min(7 + sum(values), found.value) - 1e-6
    if not more:
        assert found.low == found.high == pytest.approx(7 + sum(values))


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
