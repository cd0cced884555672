"""The documentation's one-liners read the parts, each with the exact sum where it says so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from capillary_targets.sandbox import Sandbox

from .conftest import Swept, needed

DOCS = Path(__file__).parents[2] / "docs" / "sweeps.md"
LINES = re.findall(r"```python\n(import [^\n]*)\n```", DOCS.read_text())


def run_in(out: Path, line: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", line],
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_there_are_one_liners_for_each_reader():
    for reader in ("duckdb", "polars", "pandas"):
        assert sum(line.startswith("import ") and reader in line for line in LINES) == 2


@pytest.mark.parametrize("line", LINES)
async def test_a_one_liner(swept: Swept, tmp_path: Path, line: str):
    reader = next(name for name in ("duckdb", "polars", "pandas") if name in line)
    needed(reader)
    needed("pyarrow")
    sandbox = Sandbox(users=0)
    parquet = "parquet" in line
    async with sandbox:
        await swept(sandbox, format="parquet" if parquet else "jsonl")
    shown = run_in(tmp_path, line)
    if "target_value" in line:
        assert re.search(r"\b15000\.460000\b|\b15002\.460000\b", shown)
    else:
        assert re.search(r"GENERIC_EVENT\W+2\b", shown)
