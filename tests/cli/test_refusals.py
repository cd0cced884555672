"""Whatever is wrong gets one clear line on stderr and its status, never a traceback."""

from pathlib import Path

import pytest

from .conftest import Cli, Ran

ENVIRONMENT = {
    "CAPILLARY_BASE_URL": "eu",
    "CAPILLARY_USERNAME": "till.id",
    "CAPILLARY_PASSWORD": "secret",
}


def refused(ran: Ran, *words: str) -> None:
    """One line, beginning with `error:`, with these words in it."""
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("error: ")
    for word in words:
        assert word in ran.err


@pytest.mark.parametrize("missing", ENVIRONMENT)
def test_a_missing_setting_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, missing: str):
    for name, value in ENVIRONMENT.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    for tokens in (["targets", 1], ["events", 1, 2], ["sweep", "users.txt", "--out", "x"]):
        ran = cli(*tokens)
        assert ran.status == 2
        refused(ran, f"{missing} is not set: set it to", "--sandbox")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["targets"], ["USER", "capillary-targets targets --help"]),
        (["targets", "abc"], ["USER", "abc"]),
        (["targets", "1000001.6"], ["USER", "1000001.6"]),
        (["targets", "1000001", "--rule", "0x10"], ["--rule", "0x10"]),
        (["user", "--id", "1_000_001"], ["--id", "1_000_001"]),
        (["sandbox", "--users", "2.5"], ["--users", "2.5"]),
        (["targets", 1, "--bogus"], ["--bogus"]),
        (["targest", 1], ["targest", "capillary-targets --help"]),
        (["targets", 2**63, "--sandbox"], ["user_id", "64 bits"]),
        (
            ["targets", 1, "--sandbox", "--tracking-date", "2024-08-09"],
            ["tracking_date", "time zone"],
        ),
        (["events", 1, 2, "--sandbox", "--page-size", 0], ["page_size", "at least 1"]),
        (["events", 1, 2, "--sandbox", "--max-items", -1], ["max_items"]),
        (["sweep", "--sandbox"], ["--out"]),
        (["sweep", "users.txt", "--sandbox", "--out", "x", "--concurrency", 0], ["concurrency"]),
    ],
)
def test_a_wrong_flag_is_named(cli: Cli, tokens: list[object], words: list[str]):
    ran = cli(*tokens)
    assert ran.status == 2
    refused(ran, *words)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["targets", 1], ["Invalid userId", "310011", "/v3/users/1/enrolledTargets", "request id"]),
        (["events", 564332013, 1], ["310018"]),
        (["events", 564332013, 1986, "--period", 1], ["310019"]),
        (["targets", 42381788, "--enrollment-type", "SALE"], ["310130"]),
    ],
)
def test_the_services_refusal_is_one_line(cli: Cli, tokens: list[object], words: list[str]):
    ran = cli(*tokens, "--sandbox")
    assert ran.status == 3
    refused(ran, *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["cannot be read", "No such file"]),
        ("", ["it is empty", "one id on each line"]),
        ("\n# nobody\n\n", ["it is empty"]),
        ("user_id\nalice\n", ["line 2 is 'alice'"]),
        ("alice\n" * 2000, ["line 2 is 'alice'"]),
        (f"{2**63}\n", ["line 1"]),
    ],
)
def test_a_bad_users_file_is_refused(
    cli: Cli, tmp_path: Path, content: str | None, words: list[str]
):
    users = tmp_path / "users.txt"
    if content is not None:
        users.write_text(content)
    ran = cli("sweep", users, "--out", tmp_path / "out", "--sandbox")
    assert ran.status == 2
    refused(ran, str(users), *words)


def test_a_users_file_must_be_named(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    ran = cli("sweep", "--out", tmp_path)
    assert ran.status == 2
    refused(ran, "USERS_FILE is missing")


def test_an_out_that_is_a_file_is_refused(cli: Cli, tmp_path: Path):
    (tmp_path / "out").write_text("")
    ran = cli("sweep", "--sandbox", "--out", tmp_path / "out")
    assert ran.status == 2
    refused(ran, str(tmp_path / "out"), "name another directory")
