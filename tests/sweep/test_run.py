"""A sweep against the sandbox: every event once, whatever happened before."""

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from capillary_targets.errors import AuthError, UsageError
from capillary_targets.pagination import Checkpoint
from capillary_targets.sandbox import Sandbox, World
from capillary_targets.sandbox.faults import Fault
from capillary_targets.sweep import (
    BadLine,
    Summary,
    SweepOptions,
    SweepRefused,
    make_report,
    run,
)

from .conftest import (
    Swept,
    connected,
    names,
    needed,
    parts,
    read_jsonl,
    stopped,
    true_events,
    write,
    written,
)

SANDBOX = SweepOptions(source="the sandbox")
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
    "limit", [{"part_users": 1}, {"part_users": 5}, {"part_rows": 10}, {"part_seconds": 0}], ids=str
)
async def test_parts_of_any_size_hold_the_same(swept: Swept, tmp_path: Path, limit: dict):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        await swept(sandbox, **limit)
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
    assert (more.complete, more.failed, more.refused) == (16, 0, 1)
    assert written(tmp_path) == true_events(sandbox.world)


async def test_duplicates_are_swept_once(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    users = [*sandbox.world.user_ids()] * 3 + [999, 999]
    async with sandbox:
        summary = await swept(sandbox, users, part_users=2)
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
        assert (first.complete, first.failed, first.refused, first.bad_lines) == (11, 1, 1, 1)
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
    assert (again.complete, again.failed, again.refused) == (12, 0, 1)
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
    assert where.date is not None
    assert events[3].event_date.startswith(f"{where.date:%Y-%m-%d %H:%M:%S}")
    assert len(where.last) == 4
    assert parts(tmp_path, "events") == []


async def test_retrying_does_not_pass_for_the_whole_list(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        halfway = asyncio.Event()

        def progress(summary: Summary) -> None:
            if summary.users == 6:
                halfway.set()

        users = [999, *sandbox.world.user_ids()]
        sandbox.faults.add(Fault.stall(), times=None, path_contains="/1000006/")
        await stopped(swept(sandbox, users, concurrency=1, progress=progress), halfway)
        sandbox.faults.clear()
        summary = await swept(sandbox, (), retry_failed=True)
        assert (summary.complete, summary.refused, summary.finished) == (5, 1, False)
        assert not summary.all_complete
        assert (await swept(sandbox)).finished
        assert (await swept(sandbox, (), retry_failed=True)).finished


async def test_rejected_credentials_end_it_at_once(tmp_path: Path, swept: Swept):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        async with connected(sandbox) as client:
            sandbox.settings.password = "another"
            with pytest.raises(AuthError):
                await run(client, sandbox.world.user_ids(), tmp_path, SANDBOX)
        assert sandbox.counts["enrolledTargets"] <= 10
        await swept(sandbox)
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
            sweeping = asyncio.create_task(run(client, users, tmp_path, SANDBOX, progress=progress))
            with pytest.raises(asyncio.CancelledError):
                await sweeping
    assert seen[-1] < 10_000


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "eu"}, "was made with base_url the sandbox, not eu"),
        ({"raw": True}, "was made with raw False, not True"),
        ({"target_rule_ids": (5, 3)}, r"was made with target_rule_ids \[\], not \[3, 5\]"),
        ({"target_rule_ids": (5, 3), "fetch_targets": False}, "was made with target_rule_ids"),
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
        with pytest.raises(UsageError, match="name the targets"):
            await swept(sandbox, fetch_targets=False)
        with pytest.raises(UsageError, match="exclude each other"):
            await swept(sandbox, incremental=True, retry_failed=True)
        with pytest.raises(UsageError, match="jsonl, parquet"):
            await swept(sandbox, format="csv")


async def test_what_a_kill_left_behind_is_removed(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        await swept(sandbox, [1_000_001])
        write(tmp_path / "events" / ".part-00001.jsonl.tmp", "never recorded\n")
        write(tmp_path / "targets" / ".part-00007.jsonl.tmp", "half a li")
        write(tmp_path / ".summary.json.tmp", "{")
        await swept(sandbox)
    assert written(tmp_path) == true_events(sandbox.world)
    assert names(tmp_path / "events") == ["part-00000.jsonl", "part-00001.jsonl"]
    assert names(tmp_path / "targets") == ["part-00000.jsonl", "part-00001.jsonl"]
    assert ".summary.json.tmp" not in names(tmp_path)


async def test_files_of_others_are_left_alone(swept: Swept, tmp_path: Path):
    others = [
        *("part-00000.jsonl.gz", "part-00001.jsonl", "part-00000 (copy).jsonl", "_SUCCESS"),
        *(".part-1.jsonl.tmp", "part-00002-1f3c.snappy.parquet", ".part-00003.jsonl.tmp.swp"),
    ]
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        await swept(sandbox, [1_000_001])
        for name in others:
            write(tmp_path / "events" / name, '{"mine": 1}\n')
        before = {name: (tmp_path / "events" / name).read_bytes() for name in others}
        make_report(tmp_path)
        await swept(sandbox)
        make_report(tmp_path)
    assert {name: (tmp_path / "events" / name).read_bytes() for name in others} == before
    for name in others:
        (tmp_path / "events" / name).unlink()
    assert written(tmp_path) == true_events(sandbox.world)
    assert names(tmp_path / "events") == ["part-00000.jsonl", "part-00002.jsonl"]


async def test_parts_without_a_ledger_are_left_alone(swept: Swept, tmp_path: Path):
    write(tmp_path / "events" / "part-00000.jsonl", '{"mine": 1}')
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        with pytest.raises(SweepRefused, match="not in its ledger"):
            await swept(sandbox)
    assert read_jsonl(tmp_path / "events" / "part-00000.jsonl") == [{"mine": 1}]


async def test_a_ledger_that_is_none_is_refused(swept: Swept, tmp_path: Path):
    write(tmp_path / "ledger.sqlite", "not a database, but long enough to look at it" * 9)
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        with pytest.raises(SweepRefused, match=r"ledger\.sqlite cannot be used"):
            await swept(sandbox)
