"""The command as a process of its own: signals, broken pipes, and the sandbox in another one."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any
from urllib.request import urlopen

import attrs
import pytest

from capillary_targets.cli.app import _parsed
from capillary_targets.sandbox import SandboxSettings

from .conftest import Cli
from .terminal import COMMAND, environment


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


class Door(BaseHTTPRequestHandler):
    """A webhook: keeps the bodies that are posted to it, and the secret that came with each."""

    received: Queue[tuple[str | None, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.put((self.headers["X-Secret"], body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not to stderr."""


@pytest.fixture
def door() -> Iterator[str]:
    Door.received = Queue()
    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_sandbox_serves_and_pushes_until_a_signal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, door: str
):
    flags = ["--port", "0", "--notify", door, "--notify-header", "X-Secret: s3cret"]
    flags += ["--notify-envelope", "enriched", "--notify-log-id", "loyaltyEventId"]
    with running("sandbox", *flags) as served:
        assert served.stdout is not None
        shown = [served.stdout.readline().strip() for _ in range(6)]
        settings = dict(
            line.removeprefix("export ").split("=") for line in shown if line.startswith("export ")
        )
        assert set(settings) == {"CAPILLARY_BASE_URL", "CAPILLARY_USERNAME", "CAPILLARY_PASSWORD"}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        assert cli("events", 387544807, 79192).out.count('"target_value":1.000') == 2
        order = json.dumps({"user": 564332013, "rule": 1986, "value": "12.34"}).encode()
        with urlopen(f"{settings['CAPILLARY_BASE_URL']}/sandbox/events", order) as answer:
            event = json.load(answer)
        secret, body = Door.received.get(timeout=20)
        served.send_signal(signal.SIGTERM)
        assert served.wait(20) == 143
        assert served.stderr is not None
        assert served.stderr.read() == ""
    attributes = body["attributes"]
    assert attributes["loyaltyEventId"] == str(event["eventLogId"])
    assert attributes["data"]["currentEventTargetValue"] == "12.340"
    assert "mobile" in attributes["data"]["customerIdentifiers"]
    assert len(attributes["data"]["triggeringActivity"]["identifiers"]) == 1
    assert secret == "s3cret"


def test_every_setting_of_the_sandbox_has_its_flag(cli: Cli):
    shown = cli("sandbox", "--help").out
    for name in attrs.fields_dict(SandboxSettings).keys() - {"clock", "between_requests"}:
        assert f"--{name.removesuffix('s' * (name == 'notify_headers')).replace('_', '-')}" in shown
    tokens = [
        "--users",
        "5",
        "--total-mode",
        "pages",
        "--no-signed-returns",
        "--carry-over",
        "-1.5",
    ]
    _, bound, _ = _parsed(["sandbox", *tokens, "--capacity", "3", "--notify-losses", "0.5"])
    assert attrs.asdict(bound.kwargs["settings"]) == attrs.asdict(
        SandboxSettings(
            users=5,
            total_mode="pages",
            signed_returns=False,
            carry_over=Decimal("-1.5"),
            capacity=3,
            notify_losses=0.5,
        )
    )


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["--events", -1], "events must be `int` >= 0, not -1"),
        (["--port", 99999], "port must be `int` <= 65535"),
        (["--rate-limit", "fast"], "--rate-limit: it must be REQUESTS/SECONDS"),
        (["--total-mode", "many"], "--total-mode"),
        (["--clock", 5], "--clock"),
        (["--notify-header", "s3cret"], "--notify-header takes NAME: VALUE"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(cli: Cli, tokens: list[Any], says: str):
    ran = cli("sandbox", *tokens)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert says in ran.err


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
