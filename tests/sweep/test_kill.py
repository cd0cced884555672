"""`kill -9` at any moment, any number of times: every event once, none twice, none torn."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from capillary_targets.sandbox import Sandbox, World
from tests.cli.terminal import environment
from tests.conftest import is_nightly, users_file, variables_of

from .conftest import parts, true_events, written

NIGHTLY = is_nightly()
KILLS, USERS = (20, 300) if NIGHTLY else (2, 60)
EARLY, LATE = ((1, 60), (150, 200)) if NIGHTLY else ((1, 20), (60, 80))

STARTER = """
import json, os, sys

import capillary_targets.cli.sweep  # here, so that no process needs to
from capillary_targets.cli.app import main


def dying(name, left):
    called = getattr(os, name)

    def die(*arguments, **more):
        if left[0] == 0:
            os._exit(9)
        left[0] -= 1
        return called(*arguments, **more)

    setattr(os, name, die)


for order in sys.stdin:
    tokens, log, survived = json.loads(order)
    process = os.fork()
    if process == 0:
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        if survived is not None:
            left = [survived]
            for name in ("fsync", "rename", "unlink"):
                dying(name, left)
        os._exit(main(tokens))
    print(process, flush=True)
    _, status = os.waitpid(process, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
"""Runs command lines, each in a process of its own, without loading the package each time.

A process may be told how many steps towards the disk it survives: at the next one it dies as by
SIGKILL, and puts nothing in order.
"""


class Starter:
    """Starts command lines through `STARTER`; at most one at a time."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.running: int | None = None

    async def run(self, tokens: list[str], survived: int | None = None) -> int:
        """The exit status of a command line; `running` is its process meanwhile."""
        assert self._process.stdin is not None
        order = json.dumps([tokens, str(self._log), survived])
        self._process.stdin.write(order.encode() + b"\n")
        self.running = await self._number()
        status = await self._number()
        self.running = None
        return status

    async def _number(self) -> int:
        assert self._process.stdout is not None
        return int(await self._process.stdout.readline())

    def kill(self) -> None:
        """`kill -9`."""
        if self.running is not None:
            os.kill(self.running, signal.SIGKILL)

    @property
    def said(self) -> str:
        """What the latest command line printed, on stdout and stderr."""
        return self._log.read_text()


@asynccontextmanager
async def starter(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Starter]:
    """A starter of sweeps against a running sandbox."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTER),
        env=environment(**variables_of(sandbox)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Starter(process, tmp_path / "said.txt")
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def command(out: Path, users: str, detect: str = "groups") -> list[str]:
    return [
        *("sweep", users, "--out", str(out), "--concurrency", "4", "--page-size", "5"),
        *("--part-rows", "60", "--detect", detect),
    ]


def targets_in(out: Path) -> list[tuple[int, int]]:
    return sorted((row["user_id"], row["id"]) for row in parts(out, "targets"))


def sound(out: Path) -> int:
    """How many events the parts hold; none of them torn or there twice."""
    if not (out / "events").exists():
        return 0
    found = written(out)
    assert not found or max(found.values()) == 1
    return found.total()


@pytest.mark.nightly
async def test_kills_at_random_moments(tmp_path: Path):
    chance = random.Random(2026)
    sandbox = Sandbox(users=USERS, targets=2, events=9)
    out, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    async with sandbox, starter(sandbox, tmp_path) as sweeps:
        fatal: int | None = None

        def kill(world: World, before: int) -> None:
            if before == fatal:
                sweeps.kill()

        sandbox.settings.between_requests = kill
        users = str(users_file(tmp_path, sandbox.world.all_user_ids()))
        for number in range(KILLS):
            # Where the disk is slow, the early kills all come before the first part is sealed; the
            # late ones come after more requests than the look-ahead behind an open part holds.
            least, most = LATE if number in {KILLS // 2, KILLS - 1} else EARLY
            fatal = sandbox.counts["trackedTargetEvents"] + chance.randrange(least, most)
            assert await sweeps.run(command(out, users)) == -9, sweeps.said
            sound(out)
        fatal = None
        assert await sweeps.run(command(out, users)) == 0, sweeps.said
        assert f"users: {USERS + 4} (" in sweeps.said
        assert await sweeps.run(command(undisturbed, users, "events")) == 0, sweeps.said
    assert written(out) == written(undisturbed) == true_events(sandbox.world)
    assert targets_in(out) == targets_in(undisturbed)


async def test_a_kill_at_every_step_towards_the_disk(tmp_path: Path):
    sandbox = Sandbox(users=3, targets=2, events=9)
    out = tmp_path / "killed"
    kills = 0
    async with sandbox, starter(sandbox, tmp_path) as sweeps:
        users = str(users_file(tmp_path, sandbox.world.all_user_ids()))
        for survived in range(200):
            # A part takes about a dozen steps, so from some kill on each session gets one done.
            status = await sweeps.run(command(out, users), survived)
            sound(out)
            if status == 0:
                break
            assert status == 9, sweeps.said
            kills += 1
    assert kills > 10
    assert written(out) == true_events(sandbox.world)
