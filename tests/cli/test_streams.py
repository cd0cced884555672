"""stdin, stdout and stderr as a shell hands them over: closed, full, gone, in any encoding."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from .conftest import Cli
from .terminal import COMMAND, ROOT, environment

TARGETS = "targets 42381788 --sandbox"
SWEEP = "sweep {users} --sandbox --events-only --rule 1986 --out {out}"


def shell(line: str, tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command line, with redirections; `{out}` is a directory, `{users}` a list of one."""
    users = tmp_path / "users.txt"
    users.write_text("564332013\n")
    line = line.format(out=tmp_path / "out", users=users)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{shlex.join(COMMAND)} {line}"],
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        (f"{TARGETS} <&- 2>&-", 0, ""),
        (f"{TARGETS} >&-", 1, "error: cannot write to stdout: Bad file descriptor\n"),
        ("targets 1 --sandbox 2>&-", 3, ""),
        ("--help >/dev/full", 1, "error: cannot write to stdout: No space left on device\n"),
        (f"{TARGETS} >/dev/full 2>/dev/full", 1, ""),
        ("--help | true", 1, ""),
    ],
)
def test_a_stream_that_cannot_be_used_is_one_line_at_most(
    tmp_path: Path, line: str, status: int, words: str
):
    ran = shell(line, tmp_path)
    assert ran.stderr == words
    assert ran.returncode == status
    if status == 0:
        assert json.loads(ran.stdout)["id"] == 2579


@pytest.mark.parametrize(
    ("streams", "words"),
    [
        ("<&- >&- 2>&-", ""),
        (">/dev/full", "warning: cannot write to stdout: No space left on device; see {out}/"),
    ],
)
def test_a_sweep_is_done_whatever_becomes_of_the_streams(tmp_path: Path, streams: str, words: str):
    ran = shell(f"{SWEEP} {streams}", tmp_path)
    assert ran.returncode == 0
    assert ran.stderr.startswith(words.format(out=tmp_path / "out"))
    assert ran.stderr.count("\n") == bool(words)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["users"], summary["finished"]) == (1, True)


def test_stdout_is_utf_8_whatever_the_locale():
    ascii_only = {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "LC_ALL": "C"}
    script = "from capillary_targets.cli import output; output.open_streams();"
    script += r"output.write('Zo\xeb \u6771\u4eac\n'); output.fail('\u0928\u092e')"
    ran = subprocess.run(
        [COMMAND[0], "-c", script],
        cwd=ROOT,
        env=environment(PYTHONCOERCECLOCALE="0", **ascii_only),
        capture_output=True,
        check=True,
    )
    assert ran.stdout.decode() == "Zoë 東京\n"
    assert ran.stderr.decode() == "error: नम\n"


def test_a_pipe_that_another_program_made_non_blocking(tmp_path: Path):
    """The flag is the pipe's, not the program's: a full pipe must be waited for."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    script = "from capillary_targets.cli import output; output.open_streams();"
    script += "output.write('x' * 2_000_000)"
    with subprocess.Popen([COMMAND[0], "-c", script], cwd=ROOT, stdout=write) as process:
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            assert len(pipe.read()) == 2_000_000
        assert process.wait(20) == 0


def test_arguments_that_are_no_utf_8_are_shown_escaped(cli: Cli):
    ran = cli("targets", "1\udcff\x1b[31m", "--sandbox")
    assert ran.status == 2
    assert "\\udcff" in ran.err
    assert "\x1b" not in ran.err


@pytest.mark.parametrize(
    "tokens",
    [("sweep", "--sandbox", "--out", ""), ("report", ""), ("sweep", "", "--sandbox", "--out", "o")],
)
def test_an_empty_path_is_no_path(cli: Cli, tokens: tuple[str, ...]):
    ran = cli(*tokens)
    assert ran.status == 2
    assert "it must be a file or a directory, not" in ran.err
    assert ran.err.count("\n") == 1
