"""The public names under pyright, strictly; under mypy they are by `nox -s types`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.needs import program, required

required(programs=("basedpyright",))

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def pyright(*arguments: str) -> Any:
    command = [program("basedpyright"), "--pythonpath", sys.executable, "--outputjson", *arguments]
    # It finds an editable package only by the `python` of the PATH, whatever --pythonpath says.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_pyright_agrees() -> None:
    assert pyright("-p", str(HERE))["generalDiagnostics"] == []


def test_every_public_name_is_typed() -> None:
    found = pyright("--verifytypes", "capillary_targets", "--ignoreexternal")["typeCompleteness"]
    untyped = [
        symbol["name"]
        for symbol in found["symbols"]
        if symbol["isExported"] and not (symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"])
    ]
    assert (found["completenessScore"], untyped) == (1, [])
