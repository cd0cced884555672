"""`kill -9` at any moment, any number of times: every event once, none twice, none torn."""

import asyncio
import os
import random
import sys
from pathlib import Path

from capillary_targets.sandbox import Sandbox, World

from .conftest import parts, true_events, written

KILLS = 20

FROM_HERE_ON = """
import os, sys

from capillary_targets.cli import main

survived = int(sys.argv[1])


def dying(name):
    called = getattr(os, name)

    def die(*arguments, **more):
        global survived
        if survived == 0:
            os._exit(9)
        survived -= 1
        return called(*arguments, **more)

    setattr(os, name, die)


for name in ("fsync", "rename", "unlink"):
    dying(name)

sys.exit(main(sys.argv[2:]))
"""
"""The command line, dying (as by SIGKILL: nothing is put in order) at its n-th durable step."""


def command(out: Path, users: str) -> list[str]:
    return [
        *("sweep", users, "--out", str(out), "--concurrency", "4", "--page-size", "5"),
        *("--part-rows", "60"),
    ]


def environment(sandbox: Sandbox) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CAPILLARY_")}
    return kept | {
        "CAPILLARY_BASE_URL": sandbox.url,
        "CAPILLARY_USERNAME": sandbox.username,
        "CAPILLARY_PASSWORD": sandbox.password,
    }


def users_file(tmp_path: Path, world: World) -> str:
    path = tmp_path / "users.txt"
    path.write_text("".join(f"{user}\n" for user in world.all_user_ids()))
    return str(path)


async def started(sandbox: Sandbox, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=environment(sandbox),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def sound(out: Path) -> int:
    """How many events the parts hold; none of them torn or there twice."""
    if not (out / "events").exists():
        return 0
    whole = {path for path in (out / "events").iterdir() if path.suffix == ".jsonl"}
    for path in (out / "events").iterdir():
        if path not in whole:
            path.rename(out / path.name)  # aside: it is not a part yet
    found = written(out)
    for path in out.glob("part-*"):
        path.rename(out / "events" / path.name)
    assert not found or max(found.values()) == 1
    return found.total()


async def test_twenty_kills_at_random_moments(tmp_path: Path):
    chance = random.Random(2026)
    sandbox = Sandbox(users=150, targets=2, events=9)
    out, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    killed: asyncio.subprocess.Process | None = None
    fatal = 0

    def kill(world: World, before: int) -> None:
        if killed is not None and before == fatal:
            killed.kill()

    sandbox.between_requests = kill
    async with sandbox:
        users = users_file(tmp_path, sandbox.world)
        for _ in range(KILLS):
            asked = sandbox.counts["trackedTargetEvents"]
            fatal = asked + chance.randrange(1, 60)
            killed = await started(sandbox, "-m", "capillary_targets.cli", *command(out, users))
            assert await killed.wait() == -9
            sound(out)
        killed = None
        last = await started(sandbox, "-m", "capillary_targets.cli", *command(out, users))
        printed, complaints = await last.communicate()
        assert last.returncode == 0, complaints
        assert b"users: 154 (" in printed
        whole = await started(sandbox, "-m", "capillary_targets.cli", *command(undisturbed, users))
        await whole.communicate()
    assert written(out) == written(undisturbed) == true_events(sandbox.world)
    key = ("user_id", "id")
    assert sorted(tuple(row[one] for one in key) for row in parts(out, "targets")) == sorted(
        tuple(row[one] for one in key) for row in parts(undisturbed, "targets")
    )


async def test_a_kill_at_every_step_towards_the_disk(tmp_path: Path):
    sandbox = Sandbox(users=25, targets=2, events=9)
    out = tmp_path / "killed"
    kills = 0
    async with sandbox:
        users = users_file(tmp_path, sandbox.world)
        for survived in range(200):
            # A part takes about a dozen steps, so from some kill on each session gets one done.
            arguments = (f"{survived}", *command(out, users))
            process = await started(sandbox, "-c", FROM_HERE_ON, *arguments)
            _, complaints = await process.communicate()
            sound(out)
            if process.returncode == 0:
                break
            assert process.returncode == 9, complaints
            kills += 1
    assert kills > 10
    assert written(out) == true_events(sandbox.world)
