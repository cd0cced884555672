"""A field added in one line of the models and one of the sandbox is in every output."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent.parent
LINES = {
    "models.py": (
        "    event_processed_date_iso: datetime | None = None\n",
        "    store_code: str | None = None\n",
    ),
    "sandbox/model.py": ("    target_value: Decimal | None\n", '    store_code: str = "S-7"\n'),
}
SCRIPT = """
import asyncio
from capillary_targets import BasicAuth, TargetsClient
from capillary_targets.cli import main as run
from capillary_targets.sandbox import Sandbox

async def main():
    sandbox = Sandbox()
    async with sandbox as url, TargetsClient(url, BasicAuth(*sandbox.credentials)) as client:
        events = await client.events(564332013, 1986).collect()
        assert {event.store_code for event in events} == {"S-7"}

asyncio.run(main())
assert run(["events", "1000001", "3004", "--sandbox"]) == 0
for form in ("jsonl", "parquet"):
    sweep = ["sweep", "users.txt", "--sandbox", "--out", form, "--format", form, "--quiet"]
    assert run(sweep) == 0
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package with the two lines added."""
    copied = shutil.copytree(ROOT / "capillary_targets", tmp_path / "capillary_targets")
    for file, (before, line) in LINES.items():
        text = (copied / file).read_text()
        assert text.count(before) == 1
        (copied / file).write_text(text.replace(before, before + line))
    return tmp_path


def test_a_new_field_of_an_event_takes_two_lines_of_code(package: Path) -> None:
    (package / "users.txt").write_text("1000001\n1000002\n")
    (event, *_) = subprocess.check_output(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": str(package)},
        cwd=package,
        text=True,
    ).splitlines()
    assert json.loads(event)["store_code"] == "S-7"
    lines = [
        line
        for part in (package / "jsonl/events").iterdir()
        for line in part.read_text().splitlines()
    ]
    assert {json.loads(line)["store_code"] for line in lines} == {"S-7"}
    table = pq.read_table(package / "parquet" / "events")
    assert set(table.column("store_code").to_pylist()) == {"S-7"}
