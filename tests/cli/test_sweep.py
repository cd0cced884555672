"""`sweep` from the command line: files, summary, status."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from capillary_targets.sandbox import World

from .conftest import Cli


def lines(path: Path) -> list[dict]:
    return [json.loads(line, parse_float=Decimal) for line in path.read_text().splitlines()]


def spelled(amount: Decimal | int | None) -> str | None:
    return None if amount is None else str(amount)


@pytest.mark.usefixtures("small_sandboxes")
def test_the_whole_sandbox_lands_in_files(cli: Cli, tmp_path: Path):
    ran = cli("sweep", "--sandbox", "--out", tmp_path)
    assert ran.status == 0, ran.err
    world = World()
    truth = {
        (user, rule.id): world.events(user, rule.id)
        for user in world.all_user_ids()
        for rule in world.targets(user)
    }
    targets = lines(tmp_path / "targets" / "part-00000.jsonl")
    assert sorted((row["user_id"], row["id"]) for row in targets) == sorted(truth)
    events = lines(tmp_path / "events" / "part-00000.jsonl")
    assert {
        (row["user_id"], row["target_rule_id"], row["event_log_id"], spelled(row["target_value"]))
        for row in events
    } == {
        (user, rule, event.event_log_id, spelled(event.target_value))
        for (user, rule), history in truth.items()
        for event in history
    }
    assert len(events) == sum(map(len, truth.values()))
    total = sum(Decimal(event.target_value or 0) for log in truth.values() for event in log)
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_float=Decimal)
    assert summary["users"] == summary["complete"] == 16
    assert summary["events"] == len(events)
    assert summary["value_sum"] == total
    assert (tmp_path / "failures.jsonl").read_text() == ""
    shown = dict(line.split(": ") for line in ran.out.splitlines())
    assert list(shown) == [
        *("users", "targets", "events", "sum of values", "requests", "retries"),
        *("seconds", "failures", "files"),
    ]
    assert shown["users"] == "16"
    assert Decimal(shown["sum of values"]) == total
    assert shown["failures"] == "0"


def test_a_plan_says_what_a_sweep_would_cost_and_leaves_it(cli: Cli, tmp_path: Path):
    out = tmp_path / "night"
    groups = ("--detect", "groups", "--rate", "1000/60")
    ran = cli("sweep", "--sandbox", "--out", out, "--plan", *groups)
    assert (ran.status, ran.err) == (0, "")
    lines = dict(line.split(": ", 1) for line in ran.out.splitlines())
    assert list(lines) == ["users", "requests", "size", "hours", "in brackets"]
    assert lines["users"].startswith("204 (100 of them")
    assert not out.exists()
    for wrong in (["--retry-failed"], ["--engine", "ray"]):
        refused = cli("sweep", "--sandbox", "--out", out, "--plan", *wrong)
        assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert not out.exists()


def test_groups_say_how_the_rest_is_known(cli: Cli, tmp_path: Path):
    users = tmp_path / "users.txt"
    users.write_text("".join(f"{user}\n" for user in range(1_000_001, 1_000_011)))
    line = ("sweep", users, "--sandbox", "--out", tmp_path / "night", "--detect", "groups")
    assert cli(*line).status == 0
    ran = cli(*line, "--incremental")
    assert ran.status == 0
    assert "(0 proven by events, 30 by last update, 0 by value, 0 without a record)" in ran.out
    assert "oldest full proof: 20" in ran.out
    for wrong in (["--detect", "all"], ["--full-every", "0"]):
        refused = cli(*line, *wrong)
        assert (refused.status, refused.err.count("\n")) == (2, 1)
