"""Settings of the environment and flags: secrets in files, time zone, deadline, proxy, log."""

import json
import os
import re
import threading
from pathlib import Path

import pytest

from capillary_targets import UsageError
from capillary_targets.auth import Auth, BasicAuth, OAuth
from capillary_targets.cli.app import _parsed
from capillary_targets.sandbox import Sandbox
from capillary_targets.settings import from_env
from tests.conftest import in_thread

from .conftest import Cli

TILL = {"CAPILLARY_USERNAME": "till", "CAPILLARY_PASSWORD": "x"}
CLIENT = {"CAPILLARY_CLIENT_KEY": "key", "CAPILLARY_CLIENT_SECRET": "secret"}
EVERY = {
    "PASSWORD": {"CAPILLARY_USERNAME": "till"},
    "PASSWORD_MD5": {"CAPILLARY_USERNAME": "till"},
    "USERNAME": {"CAPILLARY_PASSWORD": "x"},
    "CLIENT_SECRET": {"CAPILLARY_CLIENT_KEY": "key"},
    "CLIENT_KEY": {"CAPILLARY_CLIENT_SECRET": "secret"},
}


def auth_of(environment: dict[str, str]) -> Auth:
    return from_env({"CAPILLARY_BASE_URL": "eu"} | environment)["auth"]


def test_a_till_or_an_oauth_client():
    assert isinstance(auth_of(TILL), BasicAuth)
    assert isinstance(auth_of(CLIENT), OAuth)
    assert isinstance(auth_of(CLIENT | {"CAPILLARY_USERNAME": ""}), OAuth)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (TILL | CLIENT, "CAPILLARY_USERNAME and CAPILLARY_CLIENT_KEY are both set"),
        ({"CAPILLARY_CLIENT_KEY": "key"}, "CAPILLARY_CLIENT_SECRET is not set"),
        ({"CAPILLARY_CLIENT_SECRET": "s"}, "CAPILLARY_CLIENT_KEY is not set"),
        ({}, "CAPILLARY_USERNAME is not set"),
        ({"CAPILLARY_PASSWORD": "x"}, "CAPILLARY_USERNAME is not set"),
        ({"CAPILLARY_USERNAME": "till"}, "CAPILLARY_PASSWORD is not set"),
        (TILL | {"CAPILLARY_PASSWORD_MD5": "0" * 32}, "and CAPILLARY_PASSWORD_MD5 are both set"),
        (TILL | {"CAPILLARY_PASSWORD_FILE": "/f"}, "and CAPILLARY_PASSWORD_FILE are both set"),
    ],
)
def test_settings_that_are_half_given(environment: dict[str, str], words: str):
    with pytest.raises(UsageError, match=words):
        auth_of(environment)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_every_value_may_come_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, end: str
):
    for kind in ("BasicAuth", "OAuth"):
        monkeypatch.setattr(f"capillary_targets.settings.{kind}", lambda *a, **k: (a, k))
    path = tmp_path / "value"
    path.write_bytes(f" a\u00e9 b {end}".encode())
    from_file = auth_of(EVERY[name] | {f"CAPILLARY_{name}_FILE": str(path)})
    assert from_file == auth_of(EVERY[name] | {f"CAPILLARY_{name}": " a\u00e9 b "})
    assert " a\u00e9 b " in str(from_file)


def test_a_secret_from_a_process_substitution(tmp_path: Path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("secret\n",))
    writer.start()
    environment = {"CAPILLARY_USERNAME": "till", "CAPILLARY_PASSWORD_FILE": str(path)}
    assert isinstance(auth_of(environment), BasicAuth)
    writer.join()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"", "must hold one line"),
        (b"\n", "must hold one line"),
        (b"hunter2\nhunter3\n", "must hold one line"),
        (b"\xff\xfe", "cannot be read: it is no UTF-8 text"),
    ],
)
def test_a_secrets_file_that_is_none(tmp_path: Path, content: bytes | None, words: str):
    path = tmp_path / "value"
    if content is not None:
        path.write_bytes(content)
    environment = {"CAPILLARY_USERNAME": "till", "CAPILLARY_PASSWORD_FILE": str(path)}
    with pytest.raises(UsageError, match=words) as caught:
        auth_of(environment)
    assert f"CAPILLARY_PASSWORD_FILE: {path}" in str(caught.value)
    assert "hunter" not in str(caught.value)


def test_a_secrets_file_that_is_a_directory(tmp_path: Path):
    environment = {"CAPILLARY_USERNAME": "till", "CAPILLARY_PASSWORD_FILE": str(tmp_path)}
    with pytest.raises(UsageError, match="Is a directory"):
        auth_of(environment)


def dates(out: str) -> list[str]:
    return [json.loads(line)["event_date"] for line in out.splitlines()]


EVENTS = ("events", 387544807, 79192, "--sandbox")


def test_the_time_zone_is_the_flags_or_the_environments(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPILLARY_TIMEZONE", raising=False)
    assert dates(cli(*EVENTS).out)[0] == "2024-12-05T00:00:00"
    monkeypatch.setenv("CAPILLARY_TIMEZONE", "Asia/Kolkata")
    assert dates(cli(*EVENTS).out)[0] == "2024-12-05T00:00:00+05:30"
    assert dates(cli(*EVENTS, "--timezone", "UTC").out)[0] == "2024-12-05T00:00:00Z"
    monkeypatch.setenv("CAPILLARY_TIMEZONE", "")
    assert dates(cli(*EVENTS).out)[0] == "2024-12-05T00:00:00"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--timezone", "Mars/Base"), "there is no time zone 'Mars/Base'"),
        (("--timezone", "Asia"), "there is no time zone 'Asia'"),
        (("--timezone", ""), "there is no time zone ''"),
        (("--timeout", "0"), "timeout must be a positive number"),
        (("--timeout", "nan"), "timeout must be a positive number"),
        (("--timeout", "soon"), "--timeout"),
    ],
)
def test_a_wrong_setting_is_one_line(cli: Cli, flags: tuple[str, ...], words: str):
    ran = cli(*EVENTS, *flags)
    assert (ran.status, ran.out) == (2, "")
    assert words in ran.err
    assert ran.err.count("\n") == 1


def test_verbose_logs_each_request_with_its_time_and_quiet_nothing(cli: Cli):
    ran = cli(*EVENTS, "-v")
    assert ran.status == 0
    line = (
        r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ GET http://127\.0\.0\.1:\d+/\S+: HTTP 200, \d\.\d+ s\n"
    )
    assert re.fullmatch(f"({line})+", ran.err)
    assert cli(*EVENTS, "--quiet").err == ""


def test_the_proxy_variables_are_kept_to(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """A proxy in the environment is what a command asks; a sandbox of its own is asked directly."""
    for name in [name for name in os.environ if "proxy" in name.lower()]:
        monkeypatch.delenv(name)
    with in_thread(Sandbox(users=1)) as proxy:
        variables = {"HTTPS_PROXY": proxy.url, "HTTP_PROXY": proxy.url}
        for name, value in (TILL | variables).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CAPILLARY_BASE_URL", "https://cluster.example")
        ran = cli("targets", 1, "--timeout", 5)
        assert ran.status == 1
        assert ran.err.count("\n") == 1
        assert {request.method for request in proxy.requests} == {"CONNECT"}
        proxy.requests.clear()
        assert cli(*EVENTS).status == 0
        assert not proxy.requests


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "no connection to 127.0.0.1:1 (Connection refused): check"),
        (None, "Unauthorized: check user name, password (or MD5) and cluster"),
    ],
)
def test_a_first_command_that_fails_says_what_to_check(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, url: str | None, words: str
):
    with in_thread(Sandbox(users=1)) as sandbox:
        for name, value in TILL.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CAPILLARY_BASE_URL", url or sandbox.url)
        ran = cli("targets", 1, "--timeout", 1)
    assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith(f"error: {words}")


@pytest.mark.parametrize(
    ("text", "limit"), [("0", 0), ("100", 100), ("5%", 0.05), ("0.05", 0.05), ("12.5%", 0.125)]
)
def test_max_failures_is_a_number_or_a_share(text: str, limit: float):
    _, bound, _ = _parsed(("sweep", "--out", "x", "--max-failures", text))
    found = bound.arguments["max_failures"]
    assert (found, type(found)) == (limit, type(limit))


@pytest.mark.parametrize("text", ["", "-1", "many", "100%", "1.5", "%", ".", "\u00b2", "1e3"])
def test_max_failures_that_are_neither(text: str):
    with pytest.raises(UsageError, match="Invalid value for --max-failures: it must be a number"):
        _parsed(("sweep", "--out", "x", "--max-failures", text))


@pytest.mark.parametrize("period", [9889, "current", "\u00b2", "1.5", "0x10", "1_0", "9" * 5000])
def test_a_period_is_an_id_or_a_name(period: int | str):
    _, bound, _ = _parsed(("events", "1", "2", "--period", str(period)))
    assert bound.arguments["period"] == period
