"""`sweep` as a process of its own: signals, stdin, and going on afterwards."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from capillary_targets.sandbox import Sandbox
from capillary_targets.sandbox.faults import Fault
from capillary_targets.sweep.store import open_directory
from tests.conftest import users_file, variables_of

from .conftest import Cli
from .terminal import environment


async def started(sandbox: Sandbox, *tokens: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "capillary_targets_cli", "sweep", *map(str, tokens)),
        env=environment(**variables_of(sandbox)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def until(event: asyncio.Event, process: asyncio.subprocess.Process) -> None:
    """Wait for an event, but not longer than the process lives."""
    waiting = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(process.wait())]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for one in waiting:
        one.cancel()
    assert event.is_set(), (await process.communicate())[1]


def users_in(out: Path) -> set[int]:
    return {
        json.loads(line)["user_id"]
        for part in (out / "targets").iterdir()
        for line in part.read_text().splitlines()
    }


def events_in(out: Path) -> int:
    return sum(part.read_text().count("\n") for part in (out / "events").iterdir())


async def test_a_signal_finishes_the_part_in_hand(tmp_path: Path):
    """Here that of a terminal which is closed."""
    sandbox = Sandbox(users=20, targets=1, events=4)
    out = tmp_path / "out"
    reached = asyncio.Event()

    def watch(world, before: int) -> None:
        if before == 10:
            sandbox.faults.add(Fault.stall(), times=None)
            reached.set()

    sandbox.settings.between_requests = watch
    async with sandbox:
        users = users_file(tmp_path, sandbox.world.all_user_ids())
        tokens = (users, "--out", out, "--concurrency", 1)
        process = await started(sandbox, *tokens)
        await until(reached, process)
        process.send_signal(signal.SIGHUP)
        printed, said = await process.communicate()
        assert process.returncode == 129
        assert printed == b""
        assert said.decode() == (
            f"interrupted: the users done so far are safe in {out}; run the same command again to "
            "go on\n"
        )
        done = users_in(out)
        assert len(done) >= 8
        sandbox.faults.clear()
        sandbox.settings.between_requests = None
        printed, _ = await (again := await started(sandbox, *tokens)).communicate()
    assert again.returncode == 0
    assert f"users: 24 ({len(done)} of the list were done before)" in printed.decode()
    assert users_in(out) == set(sandbox.world.all_user_ids())


async def test_users_from_stdin_are_swept_as_they_come(tmp_path: Path):
    sandbox = Sandbox(users=5, targets=1, events=4)
    asked = asyncio.Event()
    sandbox.settings.between_requests = lambda world, before: asked.set()
    async with sandbox:
        for number, status in enumerate((0, 143)):
            asked.clear()
            process = await started(sandbox, "-", "--out", tmp_path / f"out{number}")
            assert process.stdin is not None
            process.stdin.write(b"1000001\n")
            await process.stdin.drain()
            await until(asked, process)  # the first is under way while the list goes on
            if status:  # and a signal ends the waiting for more of it
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == status
                process.stdin.close()
            else:
                printed, _ = await process.communicate(b"1000002\n1000003\n")
                assert process.returncode == status
                assert b"users: 3\n" in printed
    assert users_in(tmp_path / "out0") == {1_000_001, 1_000_002, 1_000_003}


def test_the_second_of_two_is_told_who_was_first(cli: Cli, tmp_path: Path):
    with open_directory(tmp_path, {}):
        ran = cli("sweep", users_file(tmp_path, [1_000_001]), "--sandbox", "--out", tmp_path)
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert f"is held by process {os.getpid()} on " in ran.err
