"""0 everything, 1 may be tried again, 2 nothing was begun, 3 refused for good."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from capillary_targets.sandbox import Fault, Sandbox
from tests.conftest import in_environment, in_thread, users_file

from .conftest import Cli, Ran


@pytest.fixture
def swept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Sweep a sandbox by the command line; its status, stdout and stderr."""

    def run(sandbox: Sandbox, *tokens: object) -> Ran:
        in_environment(monkeypatch, sandbox)
        return cli("sweep", *tokens)

    return run


def test_a_sweep_says_whether_it_is_worth_repeating(tmp_path: Path, swept: Callable[..., Ran]):
    with in_thread(Sandbox(users=4, targets=1, events=2)) as sandbox:
        known = [*sandbox.world.user_ids()]
        users, out = users_file(tmp_path, [*known, 7, "alice"]), tmp_path / "out"
        tokens = (users, "--out", out, "--timeout", 1)
        sandbox.faults.add(Fault.http(503), times=None, path_contains=f"/{known[1]}/")
        status, shown, said = swept(sandbox, *tokens)
        assert (status, said) == (1, "")  # one may come right
        assert "failures: 3 (2 of them for good; listed in" in shown
        sandbox.faults.clear()
        status, _, said = swept(sandbox, *tokens)
        assert (status, said) == (3, "")  # a deleted member, a bad line: not red for ever
        status, _, said = swept(sandbox, *tokens, "--raw")
        assert status == 2
        assert said.startswith(f"error: {out} was made with raw ")
        assert said.endswith("keep to that, or name another directory\n")


def test_too_many_failures_end_a_sweep_early(tmp_path: Path, swept: Callable[..., Ran]):
    with in_thread(Sandbox(users=40, targets=1, events=2)) as sandbox:
        users = users_file(tmp_path, [*sandbox.world.user_ids(), *range(1, 2001)])
        status, shown, said = swept(
            sandbox, users, "--out", tmp_path / "out", "--max-failures", "5%"
        )
        assert (status, shown) == (1, "")
        assert said.startswith("error: ")
        assert "max_failures" in said or "--max-failures" in said
        assert said.count("\n") == 1
        assert len(sandbox.requests) < 460
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert not summary["finished"]


@pytest.mark.parametrize("users", [2, 2000])
def test_a_server_that_cannot_be_reached_is_not_asked_for_every_user(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, users: int
):
    with in_thread(Sandbox(users=1)) as sandbox:
        in_environment(monkeypatch, sandbox)  # its port is free again afterwards
    path = users_file(tmp_path, range(1, users + 1))
    tokens = ("--out", tmp_path / "out", "--timeout", 1, "--concurrency", 50)
    status, shown, said = cli("sweep", path, *tokens)
    assert (status, shown) == (1, "")
    assert "the server cannot be reached" in said
    assert said.count("\n") == 1
