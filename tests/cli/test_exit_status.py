"""0 everything, 1 may be tried again, 2 nothing was begun, 3 refused for good."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from capillary_targets.sandbox import Fault, Sandbox

from .terminal import COMMAND, ROOT, environment


async def ran(url: str, sandbox: Sandbox, *tokens: object) -> tuple[int, str, str]:
    """The status, stdout and stderr of a sweep."""
    username, password = sandbox.credentials
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "sweep",
        *map(str, tokens),
        cwd=ROOT,
        env=environment(
            CAPILLARY_BASE_URL=url, CAPILLARY_USERNAME=username, CAPILLARY_PASSWORD=password
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


def users_file(tmp_path: Path, *users: object) -> Path:
    path = tmp_path / "users.txt"
    path.write_text("".join(f"{user}\n" for user in users))
    return path


async def test_a_sweep_says_whether_it_is_worth_repeating(tmp_path: Path):
    sandbox = Sandbox(users=4, targets=1, events=2)
    async with sandbox as url:
        known = [*sandbox.world.user_ids()]
        users, out = users_file(tmp_path, *known, 7, "alice"), tmp_path / "out"
        tokens = (users, "--out", out, "--timeout", 1)
        sandbox.faults.add(Fault.http(503), times=None, path_contains=f"/{known[1]}/")
        status, shown, said = await ran(url, sandbox, *tokens)
        assert (status, said) == (1, "")  # one may come right
        assert "failures: 3 (2 of them for good; listed in" in shown
        sandbox.faults.clear()
        status, _, said = await ran(url, sandbox, *tokens)
        assert (status, said) == (3, "")  # a deleted member, a bad line: not red for ever
        status, _, said = await ran(url, sandbox, *tokens, "--raw")
        assert status == 2
        assert said.startswith(f"error: {out} was made with raw ")


@pytest.mark.parametrize(("limit", "asked"), [("3", 40), ("0", 40), ("5%", 160)])
async def test_too_many_failures_end_a_sweep_early(tmp_path: Path, limit: str, asked: int):
    sandbox = Sandbox(users=40, targets=1, events=2)
    async with sandbox as url:
        users = users_file(tmp_path, *sandbox.world.user_ids(), *range(1, 2001))
        status, shown, said = await ran(
            url, sandbox, users, "--out", tmp_path / "out", "--max-failures", limit
        )
        assert (status, shown) == (1, "")
        assert said.startswith("error: ")
        assert "max_failures" in said or "--max-failures" in said
        assert said.count("\n") == 1
        assert len(sandbox.requests) < asked + 300
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert not summary["finished"]


async def test_a_server_that_cannot_be_reached_is_not_asked_for_every_user(tmp_path: Path):
    sandbox = Sandbox(users=1)
    async with sandbox as url:
        pass  # its port is free again
    users = users_file(tmp_path, *range(1, 2001))
    status, shown, said = await ran(
        url, sandbox, users, "--out", tmp_path / "out", "--timeout", 1, "--concurrency", 50
    )
    assert (status, shown) == (1, "")
    assert "the server cannot be reached" in said
    assert said.count("\n") == 1
