"""Signals: from the first moment to the last, one line and 128 + its number."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from capillary_targets.sandbox import Fault
from tests.conftest import turns_until, variables_of

from .terminal import COMMAND, ROOT, environment
from .test_progress import Held, held

__all__ = ["held"]


@pytest.mark.parametrize("module", ["capillary_targets.errors", "rich.table"])
def test_ctrl_c_while_the_program_is_still_being_loaded(module: str):
    """Import times are printed as modules are loaded, so it is known how far it is."""
    command = [sys.executable, "-X", "importtime", "-m", "capillary_targets_cli", "targets", "1"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == module:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read().splitlines()
        assert process.wait(20) == 130
    said = [line for line in rest if not line.startswith("import time:")]
    assert said == ["interrupted"]


async def started(held: Held, *tokens: object, **kwargs: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND,
        *map(str, tokens),
        cwd=ROOT,
        env=environment(**variables_of(held.sandbox)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        **kwargs,
    )


async def test_a_query_is_interrupted_in_one_line(held: Held):
    held.sandbox.faults.add(Fault.stall(), times=None)
    process = await started(held, "targets", 1_000_001)
    await turns_until(lambda: held.sandbox.faults.stalled > 0, 30)
    process.send_signal(signal.SIGINT)
    printed, said = await process.communicate()
    assert (process.returncode, printed, said) == (130, b"", b"interrupted\n")


async def test_nohup_and_background_jobs_stay_deaf_to_what_they_ignore(tmp_path: Path, held: Held):
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    tokens = ("sweep", held.users(tmp_path), "--out", tmp_path / "out")
    process = await started(held, *tokens, preexec_fn=ignore)
    await held.reached.wait()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    held.release()
    printed, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")
    assert b"users: 24\n" in printed


def waiting(pipe: int) -> int:
    """The bytes that wait in a pipe to be read."""
    found = fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4)
    return int.from_bytes(found, sys.byteorder)


async def test_a_second_signal_ends_it_even_while_it_is_stuck_in_a_write(held: Held):
    """Nobody reads its stdout, so the loop never turns; the first signal has to wait for it."""
    held.release()
    held.sandbox.settings.between_requests = None
    user = next(iter(held.sandbox.world.user_ids()))
    rule = held.sandbox.world.targets(user)[0].id
    for _ in range(600):
        held.sandbox.world.add_event(user, rule)
    read, write = os.pipe()
    tokens = ("events", user, rule, "--page-size", 1000)
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *map(str, tokens),
        cwd=ROOT,
        env=environment(**variables_of(held.sandbox)),
        stdout=write,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(write)
    await turns_until(lambda: waiting(read) >= 65536, 30)  # as much as a pipe holds
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert await process.wait() in {130, 143}
    os.close(read)


async def test_a_named_pipe_that_nobody_writes_to(tmp_path: Path, held: Held):
    os.mkfifo(tmp_path / "pipe")
    process = await started(held, "sweep", tmp_path / "pipe", "--out", tmp_path / "out")
    await turns_until((tmp_path / "out" / "ledger.lock").exists, 30)
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 130
