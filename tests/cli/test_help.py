"""`-h`: it fits 80 columns, names every setting, and its examples can be run as printed."""

import shlex
import subprocess
from pathlib import Path

import pytest

from .conftest import VARIABLES, Cli

NAMES = ("user", "targets", "events", "sweep", "report", "sandbox")


@pytest.fixture
def helped(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COLUMNS", "80")
    return cli


def examples(text: str) -> list[list[str]]:
    """The commands in a help text: its lines that begin with the program's name."""
    return [
        shlex.split(line)[1:]
        for line in map(str.strip, text.splitlines())
        if line.startswith("capillary-targets ")
    ]


@pytest.mark.usefixtures("small_sandboxes")
@pytest.mark.parametrize("name", NAMES)
def test_every_example_runs(
    helped: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    text = helped(name, "-h").out
    found = examples(text)
    assert found
    assert all(tokens[0] == name for tokens in found[-1:])
    monkeypatch.chdir(tmp_path)
    for tokens in found:
        if tokens[0] == "sandbox":  # it serves until a signal: see test_process.py
            assert tokens == ["sandbox", "--port", "0"]
            continue
        ran = helped(*tokens)
        assert ran.status == 0, ran.err
        assert ran.out
        assert ran.err == ""


def test_the_first_example_of_all(helped: Cli):
    assert helped("--version").out.startswith("capillary-targets 0.")
    text = helped("-h").out
    assert helped().out == text
    (tokens,) = examples(text)
    assert helped(*tokens).status == 0
    for name in (*VARIABLES, "PASSWORD_FILE", "TIMEZONE"):
        assert f"CAPILLARY_{name}" in text or name.endswith("_FILE")
    assert "3 it is finished" in " ".join(text.split())


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_fits_the_terminal(helped: Cli, name: str):
    lines = helped(*filter(None, [name]), "--help").out.splitlines()
    assert max(map(len, lines)) <= 80
    if name in {"user", "targets", "events", "sweep"}:
        text = "\n".join(lines)
        for flag in ("--sandbox", "--timeout", "--timezone", "--verbose -v", "--quiet -q"):
            assert flag in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_for_the_shell(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str
):
    monkeypatch.setenv("HOME", str(tmp_path))
    ran = cli("--install-completion", "--shell", shell)
    scripts = [path for path in tmp_path.rglob("*capillary-targets*") if path.is_file()]
    (script,) = [path for path in scripts if shell in str(path)]
    assert str(script) in ran.out.replace("\n", "")
    text = script.read_text()
    for word in ("sweep", "--sandbox", "--timezone"):
        assert word.lstrip("-") in text
    if shell == "bash":
        line = "COMP_WORDS=(capillary-targets sw); COMP_CWORD=1; _capillary_targets; "
        line += "printf '%s\\n' \"${COMPREPLY[@]}\""
        done = subprocess.run(
            ["bash", "-c", f". {script}; {line}"], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["sweep"]
