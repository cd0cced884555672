"""A sweep on a real Ray of two workers on this machine, one of them killed on the way."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capillary_targets import BasicAuth, TargetsClient
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.sweep import SweepOptions, run
from tests.conftest import turns_until
from tests.needs import required

required("ray", "pyarrow", "duckdb", "polars")

from capillary_targets.ray import partition_of

DRIVER = """
import asyncio, json, sys
import ray
from capillary_targets import BasicAuth, RateLimit
from capillary_targets.ray import sweep
from capillary_targets.sweep import PartLimits, SweepOptions

ray.init(
    num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000,
    _temp_dir=sys.argv[4],
)
url, out, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
users = settings.pop("users")
if settings.pop("dataset", False):
    import ray.data
    users = ray.data.from_items([{"member": one, "town": "x"} for one in users])
if rate := settings.pop("rate", None):
    settings["rate"] = RateLimit(rate[0], per=rate[1])
options = SweepOptions(
    source="the sandbox", limits=PartLimits(users=3), incremental=settings.pop("incremental", False)
)
summary = asyncio.run(sweep(
    users, out, options, base_url=url, auth=BasicAuth("till.sandbox", "sandbox"), concurrency=4,
    **settings,
))
print(json.dumps([summary.complete, summary.events, summary.failed, summary.run]))
"""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(users=40, targets=2, events=12)
    async with sandbox:
        yield sandbox


ENVIRONMENT = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
Begin = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
def begun(sandbox: Sandbox) -> Iterator[Begin]:
    """Begins a sweep by a Ray of its own. Its directory has sockets in it: the path is short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:
        yield partial(begin, short, sandbox)


async def begin(
    directory: str, sandbox: Sandbox, out: Path, **settings: Any
) -> asyncio.subprocess.Process:
    settings.setdefault("users", list(sandbox.world.user_ids()))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DRIVER, sandbox.url, str(out)),
        *(msgspec.json.encode(settings).decode(), directory),
        env=ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def swept(process: asyncio.subprocess.Process) -> list[int]:
    """Users complete, events, users failed, number of the run."""
    said, _ = await process.communicate()
    assert process.returncode == 0
    found: list[int] = msgspec.json.decode(said.splitlines()[-1])
    return found


def rows(out: Path, kind: str) -> Counter[bytes]:
    """The lines of all parts, without what says when a row was seen."""
    return Counter(
        re.sub(rb'"seen_at":"[^"]*"', b"", line)
        for part in out.glob(f"**/{kind}/part-*")
        for line in part.read_bytes().splitlines()
    )


def partition(out: Path, user: int) -> Path:
    """The directory of a user's partition."""
    (found,) = out.glob(f"partition={partition_of(user, 4):05d}-of-00004")
    return found


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_bytes(), parse_float=Decimal)
    return found


def test_users_spread_evenly_whatever_their_ids_have_in_common() -> None:
    for step in (1, 2, 8, 1000):
        shares = Counter(partition_of(user, 8) for user in range(0, 8000 * step, step))
        assert len(shares) == 8
        assert max(shares.values()) < 1.2 * min(shares.values())
    assert [partition_of(user, 8) for user in (-5, 0, 1, 2**63 - 1)] == [0, 0, 1, 6]  # for ever


async def alone(sandbox: Sandbox, out: Path) -> None:
    """The same sweep by this one process."""
    auth = BasicAuth(*sandbox.credentials)
    async with TargetsClient(sandbox.url, auth) as client:
        options = SweepOptions(source="the sandbox")
        await run(client, sandbox.world.user_ids(), out, options)


async def test_a_killed_worker_changes_nothing(
    sandbox: Sandbox, tmp_path: Path, begun: Begin
) -> None:
    users = list(sandbox.world.user_ids())
    sandbox.faults.add(Fault.stall(), times=None, path_contains=f"/{users[20]}/")
    driver = await begun(tmp_path / "cluster")
    await turns_until(lambda: sandbox.faults.stalled > 0, seconds=100)
    cluster = tmp_path / "cluster"
    lock = partition(cluster, users[20]) / "ledger.lock"
    os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
    sandbox.faults.clear()
    assert await swept(driver) == [40, sum(rows(cluster, "events").values()), 0, 1]

    await alone(sandbox, tmp_path / "alone")
    for kind in ("events", "targets"):
        assert rows(cluster, kind) == rows(tmp_path / "alone", kind)
    for name in ("users", "complete", "events", "targets", "value_sum", "finished"):
        assert summary(cluster)[name] == summary(tmp_path / "alone")[name]
    parts = [summary(path) for path in cluster.glob("partition=*")]
    assert len(parts) == 4
    assert sum(one["events"] for one in parts) == summary(cluster)["events"]


async def test_one_budget_and_then_what_is_new(
    sandbox: Sandbox, tmp_path: Path, begun: Begin
) -> None:
    users = list(sandbox.world.user_ids())
    sandbox.settings.rate_limit = (60, 2.0)
    first = await swept(await begun(tmp_path, dataset=True, column="member", rate=[60, 2.0]))
    assert first[0] == len(users)
    assert 429 not in {entry.status for entry in sandbox.requests}
    assert sandbox.peak_window <= 60

    rule = sandbox.world.targets(users[5])[0].id
    sandbox.world.add_event(users[5], rule, value="7.250")
    sandbox.settings.rate_limit = None
    again = await swept(await begun(tmp_path, incremental=True))
    assert again == [len(users), 1, 0, 2]
    assert all(count == 1 for count in rows(tmp_path, "events").values())
    assert sum(rows(tmp_path, "events").values()) == first[1] + 1


async def test_the_command_line_and_readers_that_take_the_directory_as_it_is(
    tmp_path: Path,
) -> None:
    users = tmp_path / "users.txt"
    known = "\n".join(map(str, Sandbox().world.all_user_ids()))
    users.write_text(f"{known}\nalice\n7\n")
    for engine in ("ray", "local"):
        command = (sys.executable, "-m", "capillary_targets_cli", "sweep", str(users), "--sandbox")
        process = await asyncio.create_subprocess_exec(
            *(*command, "--engine", engine, "--out", str(tmp_path / engine)),
            *("--format", "parquet", "--max-failures", "5"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, shown = await process.communicate()
        assert process.returncode == 3, shown
        assert "users: 205" in said.decode()
        assert "failures: 2 (2 of them for good; listed in" in said.decode()
        if engine == "ray":
            assert b" elapsed" in shown
    failures = [path.read_text() for path in (tmp_path / "ray").glob("*/failures.jsonl")]
    found = [json.loads(line) for text in failures for line in text.splitlines()]
    assert sorted(one.get("line", one.get("user_id")) for one in found) == [7, 205]

    import duckdb
    import polars as pl
    import pyarrow.dataset as ds

    for kind in ("events", "targets"):
        alone = ds.dataset(tmp_path / "local" / kind).count_rows()
        pattern = str(tmp_path / "ray" / "*" / kind / "*.parquet")
        files = [*(tmp_path / "ray").glob(f"*/{kind}/*.parquet")]
        assert ds.dataset(files).count_rows() == alone
        assert pl.scan_parquet(pattern).select(pl.len()).collect().item() == alone
        assert duckdb.sql(f"SELECT count(*) FROM '{pattern}'").fetchall() == [(alone,)]


RESTART = """
import asyncio, json, sys
import ray
from capillary_targets import RateLimit
from capillary_targets.ray import shared_budget

ray.init(
    num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000,
    _temp_dir=sys.argv[1],
)

async def main():
    with shared_budget(RateLimit(5, per=60)) as budget:
        first = await budget.acquire()
        ray.kill(budget._actor, no_restart=False)
        second = await budget.acquire()
        await budget.release(first[0])  # of the one before: nothing to give back
        print(json.dumps([bool(first[0]), first[1], bool(second[0]), second[1]]))

asyncio.run(main())
"""


async def test_a_budget_whose_actor_was_restarted_lets_a_window_pass() -> None:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", RESTART, short),
            env=ENVIRONMENT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        said, _ = await process.communicate()
    granted, wait, again, pause = json.loads(said.splitlines()[-1])
    assert (granted, wait, again) == (True, 0, False)
    assert 0 < pause <= 60


async def test_another_number_of_partitions_and_a_directory_of_one_machine_are_refused(
    sandbox: Sandbox, tmp_path: Path, begun: Begin
) -> None:
    await swept(await begun(tmp_path / "out", partitions=3))
    assert len([*(tmp_path / "out").glob("partition=*-of-00003")]) == 3
    assert (await swept(await begun(tmp_path / "out")))[0] == 40  # keeps to it
    refused = await begun(tmp_path / "out", partitions=5)
    await refused.communicate()
    assert refused.returncode == 1
    await alone(sandbox, tmp_path / "alone")
    refused = await begun(tmp_path / "alone")
    await refused.communicate()
    assert refused.returncode == 1
