"""The notebook of examples/ runs from its first cell to its last."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.needs import required

required("ipykernel", "nbclient", "polars", "pyarrow")

import nbformat

ROOT = Path(__file__).parent.parent.parent


def test_every_cell_of_the_notebook_runs(tmp_path: Path) -> None:
    path = shutil.copy(ROOT / "examples" / "events.ipynb", tmp_path)
    empty = nbformat.read(path, as_version=4)
    assert len(empty.cells) == 10
    assert not any(cell.get("outputs") for cell in empty.cells), "clear the outputs"
    execute = [sys.executable, "-c", "from nbclient.cli import main; main()", path, "--inplace"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    ran = subprocess.run(execute, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    cells = nbformat.read(path, as_version=4).cells
    shown = [cell.outputs[-1].data["text/plain"] for cell in cells if cell.get("outputs")]
    assert "Decimal(precision=38, scale=6)" in shown[-2]
    assert len(shown) == 5
