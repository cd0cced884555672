"""What the flags of `sweep` and `report` do, and which go together."""

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from capillary_targets.notifications import NotificationHandler, SQLiteStore

from .conftest import Cli


def rows(out: Path, kind: str) -> list[dict]:
    return [
        json.loads(line)
        for part in sorted((out / kind).iterdir())
        for line in part.read_text().splitlines()
    ]


def users(path: Path, text: str = "564332013\n387544807\n42381788\n") -> Path:
    path.write_text(text)
    return path


def test_events_are_compared_with_the_store_of_notifications(cli: Cli, tmp_path: Path):
    store = SQLiteStore(tmp_path / "notifications.db")
    body = {
        "eventName": "targetAchievedValueUpdated",
        "eventId": "e1",
        "loyaltyEventId": "5",
        "data": {"customerIdentifiers": {"customerId": 564332013}, "targetId": 1986},
    }
    asyncio.run(NotificationHandler(store).handle(json.dumps(body).encode()))
    swept = ("sweep", "--sandbox", "--out", tmp_path / "out", "--rule", 1986)
    ran = cli(*swept, "--notifications", store.path)
    assert ran.status == 0
    assert "1 announced ones are not there" in " ".join(ran.out.split())
    (row,) = rows(tmp_path / "out", "announcements")
    assert (row["finding"], row["event_log_id"]) == ("never showed up", 5)
    ran = cli(*swept, "--notifications", tmp_path / "nothing.db")
    assert ran.status == 2
    assert "nothing.db" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--concurrency", "many"], ["--concurrency", "'many'", "auto"]),
        (["--concurrency", "-1"], ["--concurrency"]),
        (["--rate", "1000"], ["--rate", "1000/60"]),
        (["--rate", "0/60"], ["--rate"]),
        (["--rate", "10/0"], ["--rate"]),
        (["--format", "csv"], ["--format", "jsonl", "parquet"]),
        (["--part-rows", "0"], ["--part-rows", "1"]),
        (["--retry-failed"], ["--retry-failed", "leave out USERS_FILE"]),
        (["--events-only"], ["name the targets"]),
        (["--column", "x"], ["no column x"]),
    ],
)
def test_a_wrong_flag_is_named(cli: Cli, tmp_path: Path, flags: list[str], words: list[str]):
    ran = cli("sweep", users(tmp_path / "u.csv"), "--out", tmp_path / "out", "--sandbox", *flags)
    assert ran.status == 2
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    for word in words:
        assert word in ran.err


def test_incremental_and_retry_failed_exclude_each_other(cli: Cli, tmp_path: Path):
    ran = cli("sweep", "--out", tmp_path, "--sandbox", "--incremental", "--retry-failed")
    assert ran.status == 2
    assert "exclude each other" in ran.err


def test_a_csv_column_and_gzip(cli: Cli, tmp_path: Path):
    path = tmp_path / "members.csv.gz"
    path.write_bytes(gzip.compress(b"name,member\nann,564332013\nbob,x\n"))
    ran = cli("sweep", path, "--column", "member", "--out", tmp_path / "out", "--sandbox")
    assert ran.status == 3
    assert "failures: 1 (1 of them for good; listed in" in ran.out
    assert {row["user_id"] for row in rows(tmp_path / "out", "targets")} == {564332013}
    bad = json.loads((tmp_path / "out" / "failures.jsonl").read_text())
    assert bad == {"line": 3, "text": "bob,x", "error": "not a user id"}


def test_raw_rules_and_parts(cli: Cli, tmp_path: Path):
    ran = cli(
        *("sweep", users(tmp_path / "u.txt"), "--out", tmp_path / "out", "--sandbox", "--raw"),
        *("--rule", 1986, "--rule", 79192, "--part-rows", 1, "--concurrency", 1),
        *("--rate", "1000/0.5"),
    )
    assert ran.status == 0, ran.err
    events = rows(tmp_path / "out", "events")
    assert len(events) == 12
    assert {row["raw"]["targetRuleId"] for row in events} == {1986, 79192}
    assert len(list((tmp_path / "out" / "events").iterdir())) == 2
    only = cli(
        *("sweep", users(tmp_path / "u.txt"), "--out", tmp_path / "only", "--sandbox"),
        *("--rule", 1986, "--events-only"),
    )
    assert "targets: 0\nevents: 10\n" in only.out


def test_incremental_then_nothing_new(cli: Cli, tmp_path: Path):
    tokens = ("sweep", users(tmp_path / "u.txt"), "--out", tmp_path / "out", "--sandbox")
    assert "events: 12\n" in cli(*tokens).out
    again = cli(*tokens, "--incremental")
    assert again.status == 0
    assert "events: 0\n" in again.out
    assert "users: 3\n" in again.out


def test_retry_failed_without_a_users_file(cli: Cli, tmp_path: Path):
    path = users(tmp_path / "u.txt", "564332013\n7\n")
    assert cli("sweep", path, "--out", tmp_path / "out", "--sandbox").status == 3
    ran = cli("sweep", "--retry-failed", "--out", tmp_path / "out", "--sandbox")
    assert ran.status == 3
    assert "failures: 1 (" in ran.out
    assert len(rows(tmp_path / "out", "events")) == 10


def test_report_is_made_again(cli: Cli, tmp_path: Path):
    out = tmp_path / "out"
    cli("sweep", users(tmp_path / "u.txt"), "--out", out, "--sandbox")
    (out / "report.html").unlink()
    ran = cli("report", out)
    assert (ran.status, ran.out) == (0, f"{out / 'report.html'}\n")
    assert "Sweep of the sandbox" in (out / "report.html").read_text()
    ran = cli("report", tmp_path)
    assert ran.status == 2
    assert ran.err == f"error: {tmp_path} holds no sweep; name the directory of one\n"
