"""The Celery worker of the how-to, pasted, under real workers that fork or have threads."""

import asyncio
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from capillary_targets.sandbox import Fault, Sandbox
from tests.conftest import client_of, in_environment, is_nightly, turns_until
from tests.docs.blocks import blocks_of
from tests.needs import program, required

required("celery", programs=("celery",))

ROOT = Path(__file__).parent.parent.parent
(CODE,) = (
    block.code
    for block in blocks_of(ROOT / "docs" / "how-to" / "event-loops.md")
    if "celery" in block.code
)
SETTINGS = """
app.conf.broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue"}
"""


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.nightly)])
async def test_the_celery_worker_of_the_how_to(
    pool: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pool == "threads" and not is_nightly():
        pytest.skip("only with --hypothesis-profile=nightly")
    code = CODE.replace("redis://localhost", "filesystem://", 1)  # a broker without a server
    code = code.replace("redis://localhost", f"file://{tmp_path}/results") + SETTINGS
    if pool == "threads":  # as the how-to says
        code = code.replace("worker_process_", "worker_")
    (tmp_path / "tasks.py").write_text(code)
    for name in ("queue", "results"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    in_environment(monkeypatch, sandbox)
    tasks: Any = importlib.import_module("tasks")
    users = sandbox.world.user_ids()[:8]
    async with client_of(sandbox) as client:
        expected = [
            [one.target_name for one in await client.progress(user) if one.is_achieved]
            for user in users
        ]
    sandbox.faults.add(Fault.too_many_requests(3600), times=1, path_contains="/1000009/")
    unknown = tasks.reached.delay(999)
    sent = [tasks.reached.delay(user) for user in users]
    options = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO")
    worker = await asyncio.create_subprocess_exec(
        *(program("celery"), "-A", "tasks", "worker", "--pool", pool, "-c", "2", *options),
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        found = [await asyncio.to_thread(result.get, timeout=30) for result in sent]
        with pytest.raises(Exception, match="Invalid userId"):
            await asyncio.to_thread(unknown.get, timeout=30)
        busy = tasks.reached.delay(1_000_009)  # the last one: a refusal holds back all others
        await turns_until(lambda: busy.state == "RETRY", seconds=30)
    finally:
        worker.terminate()
        log, _ = await worker.communicate()
    assert found == expected
    assert any(expected)
    assert "retry: Retry in 3600.0s" in log.decode()
    assert sandbox.counts["targetGroups"] == 2 * len(users) + 2  # nobody was asked for twice
    assert not sandbox.in_flight
