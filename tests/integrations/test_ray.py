"""A sweep on a real Ray of two workers on this machine, one of them killed on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
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

required("ray", "pyarrow")

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
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"},
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
    return Counter(
        line for part in (out / kind).glob("part-*") for line in part.read_bytes().splitlines()
    )


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
    held = [
        path.read_text().split()[1]
        for path in (tmp_path / "cluster" / "partitions").glob("*/ledger.lock")
        if f"{users[20]}\n" in path.parent.with_suffix(".txt").read_text()
    ]
    os.kill(int(held[0]), signal.SIGKILL)
    sandbox.faults.clear()
    assert await swept(driver) == [40, sum(rows(tmp_path / "cluster", "events").values()), 0, 1]

    await alone(sandbox, tmp_path / "alone")
    for kind in ("events", "targets"):
        assert rows(tmp_path / "cluster", kind) == rows(tmp_path / "alone", kind)
    summaries = [
        msgspec.json.decode((tmp_path / name / "summary.json").read_bytes())
        for name in ("cluster", "alone")
    ]
    for name in ("users", "complete", "events", "targets", "value_sum", "finished"):
        assert summaries[0][name] == summaries[1][name]
    assert "<svg" in (tmp_path / "cluster" / "report.html").read_text()
    assert (tmp_path / "cluster" / "failures.jsonl").read_bytes() == b""


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


async def test_on_the_command_line(tmp_path: Path) -> None:
    for engine in ("ray", "local"):
        command = ("-m", "capillary_targets.cli", "sweep", "--sandbox", "--engine", engine)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command, "--out", str(tmp_path / engine)),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0
        assert "users: 204" in said.decode()
    for kind in ("events", "targets"):
        assert rows(tmp_path / "ray", kind) == rows(tmp_path / "local", kind)
