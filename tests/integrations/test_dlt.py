"""The example pipeline, run as a process each night, killed in one of them, into a real DuckDB."""

import asyncio
import os
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from capillary_targets.sandbox import Fault, Sandbox
from tests.conftest import turns_until, variables_of
from tests.needs import required

required("dlt", "duckdb")

import duckdb

ROOT = Path(__file__).parent.parent.parent

DYING = """
import os, sys
from examples.dlt_pipeline import *
asyncio.run(sweep(Path(sys.argv[1])))
under_way = pipeline()
under_way.extract(capillary())
under_way.normalize()
os._exit(9)
"""
"""A night that is killed when its rows are ready to be loaded."""


class Nights:
    """The pipeline's directory, and what it runs in."""

    def __init__(self, directory: Path, sandbox: Sandbox) -> None:
        self.directory = directory
        self.environment = os.environ | {
            **variables_of(sandbox),
            "DLT_DATA_DIR": str(directory / "dlt"),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "PYTHONPATH": str(ROOT),
        }
        users = "".join(f"{user}\n" for user in sandbox.world.user_ids())
        (directory / "users.txt").write_text(users)

    async def begin(
        self, *command: str, stdout: int = asyncio.subprocess.PIPE
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, *(command or ("-m", "examples.dlt_pipeline")), "users.txt"),
            cwd=self.directory,
            env=self.environment,
            stdout=stdout,
        )

    async def night(self) -> str:
        process = await self.begin()
        said, _ = await process.communicate()
        assert process.returncode == 0
        return said.decode().splitlines()[-1]

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.directory / "members.duckdb"), read_only=True) as database:
            rows: list[tuple[Any, ...]] = database.execute(query).fetchall()
            return rows

    def events(self) -> Counter[tuple[Any, ...]]:
        columns = "user_id, target_rule_id, event_log_id, target_value"
        return Counter(self.ask(f"SELECT {columns} FROM capillary_dataset.events"))


@pytest.fixture
def nights(tmp_path: Path, sandbox: Sandbox) -> Nights:
    return Nights(tmp_path, sandbox)


def truth(sandbox: Sandbox) -> Counter[tuple[Any, ...]]:
    return Counter(
        (user, rule.id, event.event_log_id, event.target_value and Decimal(event.target_value))
        for user in sandbox.world.user_ids()
        for rule in sandbox.world.targets(user)
        for event in sandbox.world.events(user, rule.id)
    )


async def test_killed_nights_lose_nothing_and_each_loads_what_is_new(
    sandbox: Sandbox, nights: Nights
) -> None:
    last = sandbox.world.user_ids()[-1]
    sandbox.faults.add(Fault.stall(), times=None, path_contains=f"/{last}/")
    killed = await nights.begin(stdout=asyncio.subprocess.DEVNULL)
    await turns_until(lambda: sandbox.faults.stalled > 0, seconds=60)
    killed.kill()
    await killed.wait()
    sandbox.faults.clear()

    dying = await nights.begin("-c", DYING, stdout=asyncio.subprocess.DEVNULL)
    assert await dying.wait() == 9
    assert not (nights.directory / "members.duckdb").exists()

    assert await nights.night() == "20 users, 0 new events, 0 failed"
    everything = truth(sandbox)
    assert nights.events() == everything
    total = nights.ask("SELECT sum(target_value) FROM capillary_dataset.events")
    assert total == [(sum(row[3] * count for row, count in everything.items() if row[3]),)]
    targets = "SELECT count(*), count(DISTINCT (user_id, id)) FROM capillary_dataset.targets"
    assert nights.ask(targets) == [(60, 60)]

    user = sandbox.world.user_ids()[3]
    rule = sandbox.world.targets(user)[0].id
    sandbox.world.add_event(user, rule, value="0.000001")
    assert await nights.night() == "20 users, 1 new events, 0 failed"
    assert nights.events() == truth(sandbox)
    assert nights.ask(targets) == [(60, 60)]
