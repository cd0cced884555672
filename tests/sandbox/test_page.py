"""The front page's own commands, run as printed."""

import asyncio
import html
import json
import os
import re
import sysconfig
from pathlib import Path

from capillary_targets.sandbox import Sandbox

from .conftest import Caller


async def shell(script: str, directory: Path) -> tuple[int | None, str]:
    scripts = sysconfig.get_path("scripts")
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        cwd=directory,
        env=os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode() if process.returncode == 0 else err.decode()


async def test_commands_of_the_front_page_show_something(caller: Caller, tmp_path: Path) -> None:
    async with (sandbox := Sandbox(users=3, username="o'till <1>", password="p $HOME")) as url:
        page = (await caller.get(url)).body.decode()
        targets, events, commands, faults, written = (
            html.unescape(one) for one in re.findall("<pre>(.*?)</pre>", page, re.DOTALL)
        )
        user = sandbox.world.user_ids()[0]
        status, out = await shell(targets, tmp_path)
        assert status == 0, out
        assert [row["id"] for row in json.loads(out)["data"]] == [
            rule.id for rule in sandbox.world.targets(user)
        ]
        status, out = await shell(events, tmp_path)
        assert status == 0, out
        assert len(json.loads(out)["data"]) == 5
        status, out = await shell(commands, tmp_path)
        assert status == 0, out
        assert out.count(f'"customer_id":{user}') + out.count(f'"customerId":{user}') >= 25
        swept = (tmp_path / "out" / "events").glob("*.jsonl")
        assert any(path.read_text().strip() for path in swept)
        status, out = await shell(faults, tmp_path)
        assert status == 0, out
        assert out.count("scheduled") == out.count("reset") == 1
        assert len(sandbox.faults) == 0
        status, out = await shell(written, tmp_path)
        assert status == 0, out
        (rule, *_) = sandbox.world.targets(user)
        assert json.loads(out)["eventLogId"] == sandbox.world.events(user, rule.id)[-1].event_log_id


async def test_the_page_needs_nothing_from_outside_and_escapes_what_it_shows(
    caller: Caller,
) -> None:
    async with (sandbox := Sandbox(users=3, username="<till>")) as url:
        page = (await caller.get(url)).body.decode()
    assert "&lt;till&gt;" in page
    assert "<till>" not in page
    assert "$" not in page
    links = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert all(link.startswith(("/", "data:")) for link in links)
    assert "https:" not in page
    for user in sandbox.world.user_ids():
        assert str(user) in page


async def test_a_sandbox_without_users_has_a_page_too(caller: Caller) -> None:
    for settings in ({"users": 0}, {"targets": 0}):
        async with Sandbox(**settings) as url:
            assert (await caller.get(url)).status == 200
