"""The command as a process of its own: signals, broken pipes, and the sandbox in another one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

COMMAND = [sys.executable, "-m", "capillary_targets.cli"]


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CAPILLARY_")}
    return kept | settings


@contextmanager
def running(*tokens: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *tokens],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_sandbox_serves_until_a_signal(number: signal.Signals, status: int):
    with running("sandbox", "--port", "0") as served:
        assert served.stdout is not None
        shown = [served.stdout.readline().strip() for _ in range(6)]
        settings = dict(
            line.removeprefix("export ").split("=") for line in shown if line.startswith("export ")
        )
        assert set(settings) == {"CAPILLARY_BASE_URL", "CAPILLARY_USERNAME", "CAPILLARY_PASSWORD"}
        asked = subprocess.run(
            [*COMMAND, "events", "387544807", "79192"],
            env=environment(**settings),
            capture_output=True,
            text=True,
            check=True,
        )
        assert asked.stdout.count('"target_value":1.000') == 2
        served.send_signal(number)
        assert served.wait(20) == status
        assert served.stderr is not None
        assert served.stderr.read() == ""


def test_a_closed_pipe_ends_quietly():
    tokens = ["events", "564332013", "1986", "--sandbox", "--page-size", "1"]
    read, write = os.pipe()
    os.close(read)
    try:
        ran = subprocess.run(
            [*COMMAND, *tokens],
            env=environment(),
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)
    assert ran.stderr == ""
    assert ran.returncode == 141


def test_no_traceback_from_the_process():
    ran = subprocess.run(
        [*COMMAND, "targets"], env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1
