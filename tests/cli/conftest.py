"""The command line under test, in this process: `cli(...)` gives status, stdout and stderr."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from capillary_targets.cli import main

VARIABLES = ("BASE_URL", "USERNAME", "PASSWORD", "PASSWORD_MD5", "CLIENT_KEY", "CLIENT_SECRET")


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command line without any of the caller's own settings."""
    for name in VARIABLES:
        monkeypatch.delenv(f"CAPILLARY_{name}", raising=False)

    def run(*tokens: object) -> Ran:
        status = main([str(token) for token in tokens])
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run


@pytest.fixture
def terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The same, with a stdout that passes for a terminal of 160 columns."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*tokens: object) -> Ran:
        # Not before the call: pytest puts a new stdout in place for each phase of a test.
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        return cli(*tokens)

    return run
