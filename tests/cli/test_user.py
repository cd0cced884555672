"""`user`: who, which targets, how far along, and what to ask next."""

import json
from decimal import Decimal

import pytest

from capillary_targets.cli.queries import _bar
from capillary_targets.sandbox import Sandbox
from capillary_targets.sandbox.responses import identifiers
from capillary_targets.sandbox.world import total

from .conftest import Cli

USER = 1_000_001
KNOWN = identifiers(USER)
PERSONAL = [KNOWN["mobile"], KNOWN["email"], "Farah", "Sample1"]


@pytest.mark.parametrize(
    "who",
    [
        ("--mobile", KNOWN["mobile"]),
        ("--email", KNOWN["email"]),
        ("--external-id", KNOWN["externalId"]),
        ("--id", USER),
        ("--mobile", KNOWN["mobile"], "--source", "ALL"),
    ],
)
def test_every_identifier_leads_to_the_same_line_of_json(cli: Cli, who: tuple[object, ...]):
    ran = cli("user", *who, "--sandbox")
    assert (ran.status, ran.err) == (0, "")
    answer = json.loads(ran.out, parse_float=Decimal)
    assert answer["user_id"] == USER
    world = Sandbox().world
    shown = [one for group in answer["target_groups"] for one in group["targets"]]
    assert [one["target_rule_id"] for one in shown] == [rule.id for rule in world.targets(USER)]
    for one in shown:
        events = world.events(USER, one["target_rule_id"], one["period_id"])
        assert one["target_achieved_value"] == total(events)
        assert one["current_period"]
    assert not [word for word in PERSONAL if word in ran.out]
    assert "customer" not in answer


def test_the_profile_is_in_the_json_if_it_is_asked_for(cli: Cli):
    ran = cli("user", "--id", USER, "--show-profile", "--sandbox")
    (profile,) = json.loads(ran.out)["customer"]["profiles"]
    assert profile["first_name"] == "Farah"
    assert profile["comm_channels"][0]["value"] == KNOWN["mobile"]


def test_amounts_keep_their_digits(cli: Cli):
    assert (
        '"target_value":4000.500,"target_achieved_value":2045.000,'
        in cli("user", "--id", USER, "--sandbox").out
    )


def test_a_terminal_gets_a_table_and_what_to_ask_next(terminal: Cli):
    out = terminal("user", "--mobile", KNOWN["mobile"], "--sandbox").out
    assert out.startswith(f"User {USER}\n")
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("3")}
    assert list(rows) == ["3004", "3005", "3006"]
    assert " 2045.000   4000.500  █████░░░░░ 51%" in rows["3004"]
    assert "94638.808  14000      ██████████ 675%" in rows["3005"]
    assert "G605-12  2025-12-31      1.000      2.000  █████░░░░░ 50%" in rows["3006"]
    assert f"\n  capillary-targets events {USER} 3005 --period current --sandbox\n" in out
    assert not [word for word in PERSONAL if word in out]


def test_what_it_says_to_ask_next_can_be_asked(terminal: Cli):
    out = terminal("user", "--id", USER, "--sandbox").out
    commands = [line.split()[1:] for line in out.splitlines() if line.startswith("  capillary")]
    assert len(commands) == 3
    for command in commands:
        ran = terminal(*command, "--json")
        assert ran.status == 0
        assert all(json.loads(line)["period_id"] for line in ran.out.splitlines())


def test_the_profile_on_a_terminal(terminal: Cli):
    out = terminal("user", "--id", USER, "--show-profile", "--sandbox").out
    assert f"  Farah Sample1 (INSTORE), mobile {KNOWN['mobile']}, email {KNOWN['email']}\n" in out


def test_periods_that_are_over(terminal: Cli):
    out = terminal("user", "--id", 564332013, "--sandbox").out
    assert "--all-periods" in out
    out = terminal("user", "--id", 564332013, "--sandbox", "--all-periods").out
    assert "Targets: 1\n" in out
    assert "G1717-9888  2025-01-21  3999.540  5000.000  ███████░░░ 79%" in out
    assert out.endswith("  capillary-targets events 564332013 1986 --sandbox\n")


@pytest.mark.parametrize(
    ("progress", "bar"),
    [
        (None, ""),
        ("0", "░░░░░░░░░░ 0%"),
        ("0.999", "█████████░ 99%"),
        ("1", "██████████ 100%"),
        ("-0.1", "░░░░░░░░░░ -10%"),
        ("12", "██████████ 1200%"),
    ],
)
def test_the_bar_is_full_when_the_target_is_reached(progress: str | None, bar: str):
    assert _bar(None if progress is None else Decimal(progress)) == bar


@pytest.mark.parametrize(
    "flags", [(), ("--mobile", "1", "--id", "2"), ("--mobile", "1", "--email", "a@b.example")]
)
def test_one_identifier_and_only_one(cli: Cli, flags: tuple[str, ...]):
    ran = cli("user", *flags, "--sandbox")
    assert ran.status == 2
    assert ran.err == (
        "error: give one of --mobile, --email, --external-id and --id, and only one\n"
    )


def test_nobody_has_that_number(cli: Cli):
    ran = cli("user", "--mobile", "919000000005", "--sandbox")
    assert (ran.status, ran.out) == (3, "")
    assert "[8015]" in ran.err
    assert "919000000005" not in ran.err


@pytest.mark.parametrize("period", ["9889", "G1717-9889"])
def test_events_of_a_period_by_id_or_by_ref_code(cli: Cli, period: str):
    ran = cli("events", 564332013, 1986, "--period", period, "--sandbox")
    assert ran.status == 0
    assert {json.loads(line)["period_id"] for line in ran.out.splitlines()} == {9889}


def test_an_unknown_period_is_answered_with_those_there_are(cli: Cli):
    ran = cli("events", 564332013, 1986, "--period", "Cycle_9", "--sandbox")
    assert (ran.status, ran.out) == (1, "")
    assert "(G1717-9887, ENDED), " in ran.err


def test_no_period_may_be_running(cli: Cli):
    ran = cli("events", 564332013, 1986, "--period", "current", "--sandbox")
    assert (ran.status, ran.out) == (1, "")
    assert "target 1986 has no period running" in ran.err
