"""The image of examples/Dockerfile, built and run as docs/how-to/schedule.md says: `nox -s image`.

podman stands for Docker. Where no registry serves the base image, one is made of Debian's packages;
every line above it is built as it stands. pytest collects this module only when it is named.
"""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest

from capillary_targets.sandbox import Sandbox
from tests.conftest import turns_until, users_file
from tests.docs.blocks import blocks_of
from tests.needs import required

from .test_schedule import DOCKERFILE, PAGE, ROOT, may_unshare

required(programs=("podman", "runc", "debootstrap"))
pytestmark = pytest.mark.skipif(not may_unshare(), reason="needs a mount namespace of its own")

USER = 10001
DOCKER = """
docker() {
    podman --runtime runc "$1" --network=host --ulimit nofile=1024 --ulimit nproc=1024 "${@:2}"
}
"""
BASE = """
podman image exists "$1" || podman pull -q "$1" || {
    debootstrap --variant=minbase --include=ca-certificates,python3-venv,python-is-python3 \
        trixie "$2" >/dev/null
    authorities=/etc/ssl/certs/ca-certificates.crt # a company's own among them
    cp "$authorities" "$2$authorities"
    tar -C "$2" -c . | podman import -q -c "ENV PIP_CERT=$authorities" - "$1"
}
"""
"""Debian trixie with its Python 3.13, which is what `python:3.13-slim` is made of, too."""


async def bash(script: str, *arguments: str, directory: Path = ROOT) -> tuple[int | None, str]:
    """The exit status of a script, and what it printed."""
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script, "bash", *arguments),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await shell.communicate()
    return shell.returncode, said.decode()


async def test_a_sweep_in_the_image_is_stopped_and_resumed(tmp_path: Path) -> None:
    (base,) = {*re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)}
    made = await bash(BASE, f"docker.io/library/{base}", str(tmp_path / "root"))
    assert made[0] == 0, made
    (block,) = [block for block in blocks_of(PAGE) if block.code.startswith("docker build")]
    build, run = block.code.split("\n", 1)
    built = await bash(DOCKER + build)
    assert built[0] == 0, built

    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, USER, USER)
    (tmp_path / "password").write_text("password\n")
    sandbox = Sandbox(users=100, latency=0.02, username="till.id", password="password")
    users_file(data, sandbox.world.user_ids())
    async with sandbox as url:
        run = run.replace("=eu ", f"={url} ").replace('"$(id -u)"', str(USER))
        # Docker's read-only root has no /tmp either.
        run = run.replace("--read-only", "--name capillary-test --read-only --read-only-tmpfs=0")
        first = asyncio.create_task(bash(DOCKER + run, directory=tmp_path))
        await turns_until(lambda: sandbox.counts.total() > 100, 60)
        stopped, _ = await bash("podman stop --time 60 capillary-test")
        assert (await first)[0] == 128 + signal.SIGTERM, first.result()
        second = await bash(DOCKER + run, directory=tmp_path)
    assert (stopped, second[0]) == (0, 0), second
    summary = data / "night" / "summary.json"
    assert json.loads(summary.read_text())["users"] == 100
    assert summary.stat().st_uid == USER
