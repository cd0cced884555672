"""Recipes of docs/how-to/schedule.md: a read-only root, an image's contents, Airflow's command."""

import ast
import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.blocks import blocks_of

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "examples" / "Dockerfile").read_text()
PAGE = ROOT / "docs" / "how-to" / "schedule.md"
COMMAND = [sys.executable, "-m", "capillary_targets_cli"]
READ_ONLY = """
mount --make-rprivate /
mount --bind "$DATA" "$DATA"
disks='$3 ~ /^(ext|xfs|btrfs|tmpfs|overlay)/ {print $2}'
for directory in $(awk "$disks" /proc/self/mounts); do
    [ "$directory" = "$DATA" ] || mount -o remount,bind,ro "$directory"
done
if touch "$HERE/written" 2>/dev/null; then exit 99; fi
cd "$DATA"
exec "$@"
"""


def on_a_read_only_root(data: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a mount namespace where only `data` can be written to."""
    environment = os.environ | {
        "DATA": str(data),
        "HERE": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
    }
    script = ["unshare", "-m", "bash", "-euc", READ_ONLY, "bash", *command]
    return subprocess.run(script, env=environment, capture_output=True, text=True, check=False)


def may_unshare() -> bool:
    try:
        return subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not may_unshare(), reason="needs a mount namespace of its own")
def test_a_sweep_writes_nothing_outside_its_directory(tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("1000001\n1000002\n")
    arguments = ["sweep", "users.txt", "--sandbox", "--out", "night", "--format", "parquet"]
    ran = on_a_read_only_root(tmp_path, *COMMAND, *arguments)
    assert (ran.returncode, ran.stderr.count("error:")) == (0, 0), ran.stderr
    assert json.loads((tmp_path / "night" / "summary.json").read_text())["users"] == 2


def test_the_image_installs_extras_and_a_command_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (installed,) = [word for word in shlex.split(DOCKERFILE) if word.startswith("/source[")]
    extras = installed.partition("[")[2].rstrip("]").split(",")
    assert {*extras} <= project["optional-dependencies"].keys()
    (entry,) = [line for line in DOCKERFILE.splitlines() if line.startswith("ENTRYPOINT")]
    assert json.loads(entry.removeprefix("ENTRYPOINT "))[0] in project["scripts"]
    assert "PYTHONDONTWRITEBYTECODE=1" in DOCKERFILE
    assert "compileall" in DOCKERFILE


def test_airflow_runs_the_command_that_the_page_begins_with() -> None:
    blocks = blocks_of(PAGE)
    (dag,) = [block for block in blocks if block.language == "python"]
    (command,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(dag.code).body
        if isinstance(node, ast.Assign)
    ]
    assert command + "\n" == blocks[0].code
    (cron,) = [block for block in blocks if block.language == "text"]
    assert cron.code.count(command.removeprefix("capillary-targets ")) == 2
