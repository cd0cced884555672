"""The command as a process of its own: signals, broken pipes, and the sandbox in another one."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import urlopen

import attrs
import pytest

from capillary_targets.cli.sandbox import Pushes, sandbox
from capillary_targets.errors import UsageError
from capillary_targets.sandbox import SandboxSettings

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


def test_the_sandbox_pushes_notifications():
    bodies: list[dict[str, Any]] = []
    secrets: list[str | None] = []
    received = threading.Event()

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            secrets.append(self.headers["X-Secret"])
            self.send_response(200)
            self.end_headers()
            received.set()

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as door:
        threading.Thread(target=door.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{door.server_port}/"
        flags = ["--port", "0", "--notify", address, "--notify-header", "X-Secret: s3cret"]
        flags += ["--notify-envelope", "enriched", "--notify-log-id", "loyaltyEventId"]
        with running("sandbox", *flags) as served:
            assert served.stdout is not None
            url = re.search(r"http://\S+", served.stdout.readline())[0]
            order = json.dumps({"user": 564332013, "rule": 1986, "value": "12.34"}).encode()
            with urlopen(f"{url}/sandbox/events", order) as answer:
                event = json.load(answer)
            assert received.wait(20)
        door.shutdown()
    attributes = bodies[0]["attributes"]
    assert attributes["loyaltyEventId"] == str(event["eventLogId"])
    assert attributes["data"]["currentEventTargetValue"] == "12.340"
    assert len(attributes["data"]["triggeringActivity"]["identifiers"]) == 1
    assert secrets == ["s3cret"] * len(bodies)


def test_the_flags_of_notifications_are_the_settings_of_a_sandbox():
    flags, settings = Pushes().settings(), attrs.asdict(SandboxSettings())
    assert flags == {name: value for name, value in settings.items() if "notify" in name}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"notify": "localhost"}, "notify must be like http://127.0.0.1:8000/path"),
        ({"notify_header": "s3cret"}, "--notify-header takes NAME: VALUE"),
        ({"notify_header": "a b: c"}, "notify_headers must be names and printable values"),
        ({"notify_losses": 5.0}, "notify_losses must be between 0 and 1"),
    ],
)
async def test_a_push_that_cannot_be_is_refused(flags: dict[str, Any], says: str):
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        await sandbox(port=0, pushes=Pushes(**flags))
    assert "\n" not in str(caught.value)


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
