"""A sweep against the sandbox: every event once, whatever happened before."""

import asyncio
import os
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from capillary_targets.errors import AuthError, UsageError
from capillary_targets.pagination import Checkpoint
from capillary_targets.sandbox import Sandbox, World
from capillary_targets.sandbox.faults import Fault
from capillary_targets.sweep import BadLine, Limits, Summary, SweepRefused, run

from .conftest import (
    Swept,
    connected,
    names,
    needed,
    parts,
    read_jsonl,
    true_events,
    write,
    written,
)

SMALL = {"users": 12, "targets": 2, "events": 7}


async def test_every_event_once(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        summary = await swept(sandbox, page_size=3)
    truth = true_events(sandbox.world)
    assert written(tmp_path) == truth
    assert summary.finished
    assert summary.all_complete
    assert summary.users == summary.complete == 16
    assert summary.events == truth.total()
    assert summary.value_sum == sum(Decimal(row[3] or 0) for row in truth.elements())
    targets = parts(tmp_path, "targets")
    assert sorted((row["user_id"], row["id"]) for row in targets) == sorted(
        (user, rule.id)
        for user in sandbox.world.all_user_ids()
        for rule in sandbox.world.targets(user)
    )
    (told,) = read_jsonl(tmp_path / "summary.json")
    assert told["events"] == summary.events
    assert told["value_sum"] == summary.value_sum
    assert read_jsonl(tmp_path / "failures.jsonl") == []
    assert set(names(tmp_path)) == {
        *("events", "targets", "failures.jsonl", "summary.json", "report.html"),
        *("ledger.sqlite", "ledger.lock"),
    }


@pytest.mark.parametrize(
    "limits", [Limits(users=1), Limits(users=5), Limits(rows=10), Limits(seconds=0)]
)
async def test_parts_of_any_size_hold_the_same(swept: Swept, tmp_path: Path, limits: Limits):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        await swept(sandbox, limits=limits)
    assert len(names(tmp_path / "targets")) > 1
    assert written(tmp_path) == true_events(sandbox.world)


async def test_a_sweep_that_is_over_asks_for_nothing_again(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        first = await swept(sandbox)
        before = sandbox.counts.total()
        again = await swept(sandbox)
        assert sandbox.counts.total() == before
        more = await swept(sandbox, [1_000_001, 42381788, 999])
    assert again.skipped == 16
    assert (again.users, again.events) == (first.users, first.events)
    assert more.skipped == 2
    assert (more.complete, more.failed) == (16, 1)
    assert written(tmp_path) == true_events(sandbox.world)


async def test_duplicates_are_swept_once(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    users = [*sandbox.world.user_ids()] * 3 + [999, 999]
    async with sandbox:
        summary = await swept(sandbox, users, limits=Limits(users=2))
        assert sandbox.counts["enrolledTargets"] == 13
    assert summary.skipped == 25
    assert written(tmp_path) == true_events(sandbox.world, sandbox.world.user_ids())


async def test_failures_are_listed_and_tried_again(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        sandbox.faults.add(
            *[Fault.http(500)], times=None, path_contains="/1000003/trackedTargetEvents"
        )
        users = [*sandbox.world.user_ids(), BadLine(99, "bob"), 999]
        first = await swept(sandbox, users)
        assert (first.complete, first.failed, first.bad_lines) == (11, 2, 1)
        assert not first.all_complete
        bad, invalid, failed = read_jsonl(tmp_path / "failures.jsonl")
        assert bad == {"line": 99, "text": "bob", "error": "not a user id"}
        assert (invalid["user_id"], invalid["error"], invalid["code"]) == (
            *(999, "InvalidUser", 310011),
        )
        assert (failed["user_id"], failed["error"]) == (1_000_003, "ServiceUnavailable")
        assert failed["request_id"]
        assert 1_000_003 not in {row["user_id"] for row in parts(tmp_path, "targets")}

        sandbox.faults.clear()
        before = sandbox.counts["enrolledTargets"]
        again = await swept(sandbox, (), retry_failed=True)
        assert sandbox.counts["enrolledTargets"] == before + 2
    assert (again.complete, again.failed) == (12, 1)
    (left,) = read_jsonl(tmp_path / "failures.jsonl")
    assert left["user_id"] == 999
    assert written(tmp_path) == true_events(sandbox.world, sandbox.world.user_ids())


async def test_a_failure_in_the_middle_of_a_walk_says_where_it_can_go_on(
    swept: Swept, tmp_path: Path
):
    sandbox = Sandbox(users=1, targets=1, events=9, exact_events=True)

    def fail_from_the_second_page_on(world: World, before: int) -> None:
        if before == 0:
            sandbox.faults.add(Fault.http(503), times=None, path_contains="trackedTargetEvents")

    sandbox.settings.between_requests = fail_from_the_second_page_on
    async with sandbox:
        await swept(sandbox, [1_000_001], page_size=4)
    (failure,) = read_jsonl(tmp_path / "failures.jsonl")
    assert failure["error"] == "ServiceUnavailable"
    assert failure["retryable"]
    where = Checkpoint.from_dict(failure["checkpoint"])
    events = sandbox.world.events(1_000_001, sandbox.world.targets(1_000_001)[0].id)
    assert where.row == 4
    assert where.last[-1] == events[3].event_log_id
    assert parts(tmp_path, "events") == []


async def test_retrying_does_not_pass_for_the_whole_list(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    async with sandbox:

        def stop(summary: Summary) -> None:
            if summary.users == 6:
                raise RuntimeError("stop here")

        with pytest.raises(RuntimeError, match="stop here"):
            await swept(sandbox, [999, *sandbox.world.user_ids()], concurrency=1, progress=stop)
        summary = await swept(sandbox, (), retry_failed=True)
        assert (summary.complete, summary.failed, summary.finished) == (5, 1, False)
        assert not summary.all_complete
        assert (await swept(sandbox)).finished
        assert (await swept(sandbox, (), retry_failed=True)).finished


async def test_rejected_credentials_end_it_at_once(tmp_path: Path, swept: Swept):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        async with connected(sandbox) as client:
            sandbox.settings.password = "another"
            with pytest.raises(AuthError):
                await run(client, sandbox.world.user_ids(), tmp_path, source="the sandbox")
        assert sandbox.counts["enrolledTargets"] <= 10
        await swept(sandbox)
    assert written(tmp_path) == true_events(sandbox.world)


async def test_cancelling_finishes_the_part_in_hand(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    seen: list[int] = []

    async with sandbox:
        sandbox.faults.add(Fault.stall(), times=None, path_contains="/1000009/")
        async with connected(sandbox, concurrency=1) as client:
            halfway = asyncio.Event()

            def progress(summary: Summary) -> None:
                seen.append(summary.complete)
                if summary.complete == 8:
                    halfway.set()

            sweeping = asyncio.create_task(
                run(
                    *(client, sandbox.world.user_ids(), tmp_path),
                    progress=progress,
                    source="the sandbox",
                )
            )
            await halfway.wait()
            sweeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sweeping
        done = {row["user_id"] for row in parts(tmp_path, "targets")}
        assert done == set(range(1_000_001, 1_000_009))
        (told,) = read_jsonl(tmp_path / "summary.json")
        assert (told["complete"], told["finished"]) == (8, False)
        sandbox.faults.clear()
        before = sandbox.counts["enrolledTargets"]
        summary = await swept(sandbox)
        assert sandbox.counts["enrolledTargets"] - before == 8
    assert (summary.complete, summary.skipped) == (16, 8)
    assert written(tmp_path) == true_events(sandbox.world)


async def test_a_long_list_of_users_who_are_done_can_be_interrupted(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(users=1)
    seen: list[int] = []
    async with sandbox:
        await swept(sandbox, [1_000_001])
        async with connected(sandbox) as client:

            def progress(summary: Summary) -> None:
                seen.append(summary.skipped)
                if len(seen) == 3:
                    sweeping.cancel()

            users = [1_000_001] * 100_000
            sweeping = asyncio.create_task(
                run(client, users, tmp_path, source="the sandbox", progress=progress)
            )
            with pytest.raises(asyncio.CancelledError):
                await sweeping
    assert seen[-1] < 10_000


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "eu"}, "was made with base_url the sandbox, not eu"),
        ({"raw": True}, "was made with raw False, not True"),
        ({"rules": (5, 3)}, r"was made with rules \[\], not 3, 5"),
        ({"rules": (5, 3), "enrolled": False}, "was made with rules"),
        ({"format": "parquet"}, "was made with format jsonl, not parquet"),
    ],
)
async def test_other_settings_are_refused(swept: Swept, tmp_path: Path, settings: dict, words: str):
    if settings.get("format") == "parquet":
        needed("pyarrow")
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        await swept(sandbox, [1_000_001])
        before = names(tmp_path)
        with pytest.raises(SweepRefused, match=words):
            await swept(sandbox, **settings)
    assert names(tmp_path) == before


async def test_a_directory_in_which_nothing_came_to_be_takes_any_settings(
    swept: Swept, tmp_path: Path
):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        await swept(sandbox, [])
        await swept(sandbox, [1_000_001], source="eu")


async def test_settings_that_contradict_each_other(swept: Swept):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        with pytest.raises(UsageError, match="name the rules"):
            await swept(sandbox, enrolled=False)
        with pytest.raises(UsageError, match="exclude each other"):
            await swept(sandbox, incremental=True, retry_failed=True)
        with pytest.raises(UsageError, match="jsonl, parquet"):
            await swept(sandbox, format="csv")


async def test_a_second_process_is_told_who_holds_it(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        sandbox.faults.add(Fault.stall(), times=None)
        asked = asyncio.Event()
        async with connected(sandbox) as client:
            sandbox.settings.between_requests = None
            sweeping = asyncio.create_task(
                run(client, sandbox.world.user_ids(), tmp_path, progress=lambda _: asked.set())
            )
            await asked.wait()
            with pytest.raises(SweepRefused, match=f"is held by process {os.getpid()} on "):
                await swept(sandbox)
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
        sandbox.faults.clear()
        await swept(sandbox)
    assert written(tmp_path) == true_events(sandbox.world)


async def test_what_a_kill_left_behind_is_removed(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        await swept(sandbox, [1_000_001])
        write(tmp_path / "events" / "part-00001.jsonl", "never noted\n")
        write(tmp_path / "targets" / "part-00007.jsonl.partial", "half a li")
        await swept(sandbox)
    assert written(tmp_path) == true_events(sandbox.world)
    assert names(tmp_path / "events") == ["part-00000.jsonl", "part-00001.jsonl"]
    assert names(tmp_path / "targets") == ["part-00000.jsonl", "part-00001.jsonl"]


async def test_parts_without_a_ledger_are_left_alone(swept: Swept, tmp_path: Path):
    write(tmp_path / "events" / "part-00000.jsonl", '{"mine": 1}')
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        with pytest.raises(SweepRefused, match="its ledger knows nothing of"):
            await swept(sandbox)
    assert read_jsonl(tmp_path / "events" / "part-00000.jsonl") == [{"mine": 1}]


async def test_only_some_targets_and_without_asking_who_is_in_them(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    rule = sandbox.world.targets(1_000_001)[0].id
    users = [*sandbox.world.user_ids()]
    truth = Counter({row: 1 for row in true_events(sandbox.world, users) if row[1] == rule})
    async with sandbox:
        await swept(sandbox, users, rules=(rule,), out=tmp_path / "some")
        assert sandbox.counts["enrolledTargets"] == 12
        sandbox.reset()
        await swept(sandbox, users, rules=(rule,), enrolled=False, out=tmp_path / "events")
        assert sandbox.counts["enrolledTargets"] == 0
    assert written(tmp_path / "some") == written(tmp_path / "events") == truth


async def test_a_ledger_that_is_none_is_refused(swept: Swept, tmp_path: Path):
    write(tmp_path / "ledger.sqlite", "not a database, but long enough to look at it" * 9)
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        with pytest.raises(SweepRefused, match=r"ledger\.sqlite cannot be used"):
            await swept(sandbox)
