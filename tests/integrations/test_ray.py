"""A sweep on a real Ray of two workers on this machine, one of them killed on the way."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capillary_targets import BasicAuth, TargetsClient
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.sweep import Summary, SweepOptions, run
from tests.conftest import turns_until, variables_of
from tests.needs import required

required("ray", "pyarrow", "duckdb", "polars")

from capillary_targets.ray import _total, partition_of

USERS = 12
DRIVER = """
import asyncio, json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # where Ray talks
import ray
from capillary_targets import BasicAuth, RateLimit
from capillary_targets.ray import shared_budget, sweep
from capillary_targets.sweep import SweepOptions

async def swept(url, out, users, dataset=False, rate=None, incremental=False, **settings):
    if dataset:
        import ray.data
        users = ray.data.from_items([{"member": one, "town": "x"} for one in users])
    options = SweepOptions(
        source="the sandbox", part_users=3, incremental=incremental
    )
    summary = await sweep(
        users, out, options, base_url=url, auth=BasicAuth("till.sandbox", "sandbox"),
        concurrency=4, rate=RateLimit(rate[0], per=rate[1]) if rate else None, **settings,
    )
    return [summary.complete, summary.events, summary.failed, summary.run]

async def restarted():
    with shared_budget(RateLimit(1_000_000, per=60)) as budget:
        first = await budget.acquire(background=True)
        ray.kill(budget._actor, no_restart=False)
        granted = True
        while granted:  # until it is dead
            granted, wait = await budget.acquire(background=True)
        await budget.release(first[0])  # of the one before: nothing to give back
        return [first[1], wait]

async def address():
    return ray.get_runtime_context().gcs_address

for order in sys.stdin:
    name, settings = json.loads(order)
    try:
        said = asyncio.run(globals()[name](**settings))
    except Exception as error:
        said = repr(error)
    print(json.dumps(said), file=answers, flush=True)
"""


class Cluster:
    """One process that gives orders to one Ray, which its first sweep starts on this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    async def order(self, name: str, **settings: Any) -> Any:
        """What `DRIVER` answers: a list, or the text of an error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode([name, settings]) + b"\n")
        self._process.stdin.flush()
        async with asyncio.timeout(120):  # its end kills the cluster, and with that the reading
            return json.loads(await asyncio.to_thread(self._process.stdout.readline))

    async def sweep(self, sandbox: Sandbox, out: Path, **settings: Any) -> Any:
        """Users complete, events, users failed, number of the run; or the text of an error."""
        settings = {"partitions": 4, "users": list(sandbox.world.user_ids()), **settings}
        return await self.order("swept", url=sandbox.url, out=str(out), **settings)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Its directory has sockets in it: the path is short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:
        environment = os.environ | {
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_TMPDIR": short,
            "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "80000000",
        }
        with subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            yield Cluster(process)
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                pass
            finally:  # whatever hangs of Ray's own processes
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(users=USERS, targets=2, events=12)
    async with sandbox:
        yield sandbox


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


def test_sums_of_partitions_say_which_proof_is_the_oldest() -> None:
    total = _total([Summary(oldest_proof="2026-01-02", by_value=2), Summary(groups_off="403")])
    assert (total.oldest_proof, total.groups_off, total.by_value) == ("2026-01-02", "403", 2)


async def alone(sandbox: Sandbox, out: Path) -> None:
    """The same sweep by this one process."""
    auth = BasicAuth(*sandbox.credentials)
    async with TargetsClient(sandbox.url, auth) as client:
        options = SweepOptions(source="the sandbox")
        await run(client, sandbox.world.user_ids(), out, options)


async def test_a_killed_worker_changes_nothing(
    sandbox: Sandbox, tmp_path: Path, cluster: Cluster
) -> None:
    users = list(sandbox.world.user_ids())
    sandbox.faults.add(Fault.stall(), times=None, path_contains=f"/{users[5]}/")
    out = tmp_path / "cluster"
    sweep = asyncio.create_task(cluster.sweep(sandbox, out))
    await turns_until(lambda: sandbox.faults.stalled > 0, seconds=100)
    lock = partition(out, users[5]) / "ledger.lock"
    os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
    sandbox.faults.clear()
    found = await sweep
    assert found == [USERS, sum(rows(out, "events").values()), 0, 1]

    await alone(sandbox, tmp_path / "alone")
    for kind in ("events", "targets"):
        assert rows(out, kind) == rows(tmp_path / "alone", kind)
    for name in ("users", "complete", "events", "targets", "value_sum", "finished"):
        assert summary(out)[name] == summary(tmp_path / "alone")[name]
    parts = [summary(path) for path in out.glob("partition=*")]
    assert len(parts) == 4
    assert sum(one["events"] for one in parts) == summary(out)["events"]


async def test_one_budget_and_then_what_is_new(
    sandbox: Sandbox, tmp_path: Path, cluster: Cluster
) -> None:
    users = list(sandbox.world.user_ids())
    sandbox.settings.rate_limit = (20, 0.5)
    first = await cluster.sweep(sandbox, tmp_path, dataset=True, column="member", rate=[20, 0.5])
    assert first[0] == USERS
    assert 429 not in {entry.status for entry in sandbox.requests}
    assert sandbox.peak_window <= 20

    rule = sandbox.world.targets(users[5])[0].id
    sandbox.world.add_event(users[5], rule, value="7.250")
    sandbox.settings.rate_limit = None
    assert await cluster.sweep(sandbox, tmp_path, incremental=True) == [USERS, 1, 0, 2]
    assert all(count == 1 for count in rows(tmp_path, "events").values())
    assert sum(rows(tmp_path, "events").values()) == first[1] + 1


async def test_the_command_line_and_readers_that_take_the_directory_as_it_is(
    sandbox: Sandbox, tmp_path: Path, cluster: Cluster
) -> None:
    users = tmp_path / "users.txt"
    known = "\n".join(map(str, sandbox.world.user_ids()))
    users.write_text(f"{known}\nalice\n7\n")
    await cluster.sweep(sandbox, tmp_path / "started")
    environment = os.environ | {
        **variables_of(sandbox),
        "RAY_AUTH_MODE": "disabled",
        "RAY_ADDRESS": await cluster.order("address"),
    }
    user = sandbox.world.user_ids()[5]
    sandbox.faults.add(Fault.stall(), times=None, path_contains=f"/{user}/")
    for engine in ("ray", "local"):
        command = (sys.executable, "-m", "capillary_targets_cli", "sweep", str(users))
        process = await asyncio.create_subprocess_exec(
            *(*command, "--engine", engine, "--out", str(tmp_path / engine)),
            *("--format", "parquet", "--max-failures", "5"),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        shown = b""
        if engine == "ray":  # goes on once its progress was seen
            assert process.stderr is not None
            while b" elapsed" not in shown:
                line = await process.stderr.readline()
                assert line, shown
                shown += line
            sandbox.faults.clear()
        said, rest = await process.communicate()
        assert process.returncode == 3, shown + rest
        assert f"users: {USERS + 1}" in said.decode()
        assert "failures: 2 (2 of them for good; listed in" in said.decode()
    failures = [path.read_text() for path in (tmp_path / "ray").glob("*/failures.jsonl")]
    found = [json.loads(line) for text in failures for line in text.splitlines()]
    assert sorted(one.get("line", one.get("user_id")) for one in found) == [7, USERS + 1]

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


async def test_a_budget_whose_actor_was_restarted_lets_a_window_pass(
    sandbox: Sandbox, tmp_path: Path, cluster: Cluster
) -> None:
    await cluster.sweep(sandbox, tmp_path)
    wait, pause = await cluster.order("restarted")
    assert wait == 0
    assert 0 < pause <= 60


async def test_another_number_of_partitions_and_a_directory_of_one_machine_are_refused(
    sandbox: Sandbox, tmp_path: Path, cluster: Cluster
) -> None:
    await cluster.sweep(sandbox, tmp_path / "out", partitions=3)
    assert len([*(tmp_path / "out").glob("partition=*-of-00003")]) == 3
    kept = await cluster.sweep(sandbox, tmp_path / "out", partitions=None)
    assert kept[0] == USERS
    refused = await cluster.sweep(sandbox, tmp_path / "out", partitions=5)
    assert refused.startswith("SweepRefused")
    await alone(sandbox, tmp_path / "alone")
    refused = await cluster.sweep(sandbox, tmp_path / "alone")
    assert refused.startswith("SweepRefused")
