"""The notebook of examples/ runs from its first cell to its last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.needs import required

required("ipykernel", "nbclient", "polars", "pyarrow")

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_every_cell_of_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
    notebook = nbformat.read(ROOT / "examples" / "events.ipynb", as_version=4)
    assert len(notebook.cells) == 10
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs"
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    shown = [cell.outputs[-1].data["text/plain"] for cell in notebook.cells if cell.get("outputs")]
    assert "Decimal(precision=38, scale=6)" in shown[-2]
    assert len(shown) == 5
