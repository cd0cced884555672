"""`doctor` and `record` as a person types them."""

import asyncio
import json
import logging
from pathlib import Path

import pytest

from capillary_targets.cli import main
from capillary_targets.sandbox import Sandbox

from .conftest import Cli


def test_a_table_and_a_file(tmp_path: Path, terminal: Cli) -> None:
    file = tmp_path / "cluster.toml"
    first = terminal("doctor", "--sandbox", "--out", file)
    assert first.status == 0
    assert "limit=2&offset=1 began at row 2" in first.out
    assert 'offset = "page"' in file.read_text()
    assert "nothing changed" in terminal("doctor", "--sandbox", "--since", file).out
    file.write_text(file.read_text().replace('answer = "page"', 'answer = "row"'))
    ran = terminal("doctor", "--sandbox", "--since", file, "--json")
    assert ran.status == 3
    (change,) = json.loads(ran.out)["changes"]
    assert change == {"question": "offset", "before": "row", "now": "page"}


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--since", "absent"], 2, "absent cannot be read"),
        (["--out", "/absent/x"], 1, "'/absent/x'; mend that"),
        (["--rule", "x"], 2, "rule"),
    ],
)
def test_wrong_input_is_one_line(
    flags: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--sandbox", *flags]) == status
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_command_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = tmp_path / "tape.jsonl"
    command = ["record", "--out", str(tape), "--", "user", "--id", "1000001", "--sandbox"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "1000001" in printed.out
    assert printed.err.endswith("1 answers\n")
    assert Sandbox.replay(tape).user_ids == (1_000_000_001,)
    assert main(command) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["--", "sandbox"], ["--", "record"], ["--", "nothing"]])
def test_what_cannot_be_recorded(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--out", str(tmp_path / "t"), *command]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "t").exists()


def test_a_warning_of_the_package_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("capillary_targets")

    async def serve() -> None:
        log.warning("the API is not as it was: %s", "new key\x1b[31m")

    for flags, said in (
        ([], "warning: the API is not as it was: new key\\x1b[31m\n"),
        (["-q"], ""),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("capillary_targets.cli.app._run", lambda _: asyncio.run(serve()) or 0)
            assert main(["doctor", *flags]) == 0
        assert capsys.readouterr().err == said
    assert not log.handlers
