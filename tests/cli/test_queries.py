"""`targets` and `events`: the vendor's printed answers come out with every field right."""

import json
from importlib.resources import files

import pytest

from capillary_targets.sandbox import Fault, Sandbox
from tests.conftest import in_environment, in_thread

from .conftest import Cli


def printed(name: str) -> list[dict]:
    """The rows of a printed answer; numbers as the text they are spelled with."""
    text = (files("capillary_targets.sandbox") / "samples" / f"{name}.json").read_text()
    found: list[dict] = json.loads(text, parse_float=str, parse_int=str)["data"]
    return found


def rows(out: str) -> list[dict]:
    return [json.loads(line, parse_float=str, parse_int=str) for line in out.splitlines()]


def as_shown(sent: dict) -> dict:
    """A printed event as the command line has to show it."""
    shown = {
        "event_log_id": sent["eventLogId"],
        "event_name": sent["eventName"],
        "customer_id": sent["customerId"],
        "event_display_name": sent["eventDisplayName"],
        "unique_id": sent["uniqueId"],
        "period_id": sent["periodId"],
        "target_group_id": sent["targetGroupId"],
        "target_rule_id": sent["targetRuleId"],
        "target_value": sent["targetValue"],
        "event_date_iso": None,
        "event_processed_date_iso": None,
        "extra": {},
    }
    for ours, theirs in {
        "event_date": "eventDate",
        "event_processed_date": "eventProcessedDate",
    }.items():
        shown[ours] = sent[theirs].replace(" ", "T").removesuffix(".0")
    return shown


def test_transactional_events(cli: Cli):
    ran = cli("events", 564332013, 1986, "--sandbox")
    assert ran.status == 0
    assert ran.err == ""
    assert rows(ran.out) == [as_shown(row) for row in printed("target_events_transactional")]
    assert '"target_value":2000.46,' in ran.out


def test_json_lines_come_page_by_page(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    with in_thread(Sandbox(users=1, targets=1, events=95, exact_events=True)) as sandbox:
        in_environment(monkeypatch, sandbox)
        (user,) = sandbox.world.user_ids()
        (target,) = sandbox.world.targets(user)
        sandbox.faults.add(Fault.http(403), times=None, path_contains="offset=3")
        ran = cli("events", user, target.id, "--page-size", 20)
    assert rows(ran.out)
    assert ran.status == 1
    assert ran.err.startswith("error: ")


def test_behavioural_events_keep_the_amounts_spelling(cli: Cli):
    ran = cli("events", 387544807, 79192, "--sandbox", "--json")
    first, second = rows(ran.out)
    assert first == as_shown(printed("target_events_behavioral")[0])
    assert first["target_value"] == second["target_value"] == "1.000"


@pytest.mark.parametrize(
    ("user", "sample"),
    [(42381788, "active_targets_import"), (42381789, "active_targets_transaction")],
)
def test_targets(cli: Cli, user: int, sample: str):
    ran = cli("targets", user, "--sandbox")
    assert ran.status == 0
    (shown,) = rows(ran.out)
    (sent,) = printed(sample)

    def actor(given: dict) -> dict:
        return {name: given[name] for name in ("id", "code", "description", "name", "type")}

    made = sent["attribution"]
    moment = made["createdOn"].removesuffix(".000+0000") + "Z"
    assert shown == {
        "id": sent["id"],
        "name": sent["name"],
        "target_type": sent["targetType"],
        "target_entity": sent["targetEntity"],
        "target_group_id": sent["targetGroupId"],
        "active": sent["active"],
        "expression": sent["expression"],
        "expression_json": sent["expressionJson"],
        "filters": [
            {"entity_type": one["entityType"], "entity_ids": one["entityIds"]}
            for one in sent["filters"]
        ],
        "enrolment_method": sent["enrolmentMethod"],
        "attribution": {
            "created_on": moment,
            "last_updated_on": moment,
            "created_by": actor(made["createdBy"]),
            "last_updated_by": actor(made["lastUpdatedBy"]),
            "created_on_iso": None,
            "last_updated_on_iso": None,
        },
        "description": None,
        "event_name": None,
        "emf_rule_set_id": sent["emfRuleSetId"],
        "emf_unrolled_ruleset_id": sent["emfUnrolledRulesetId"],
        "target_period_default_values_map": {},
        "default_values": [],
        "extended_field_info": None,
        "target_milestone_triggers": [],
        "target_audience_filter": [],
        "extra": {},
    }


def test_the_printed_query_of_active_targets(cli: Cli):
    ran = cli(
        *("targets", 42381788, "--sandbox", "--rule", 2577, "--rule", 2579),
        *("--enrollment-type", "IMPORT", "--only-user-created"),
        *("--tracking-date", "2024-08-09T08:44:44+00:00"),
    )
    assert [row["id"] for row in rows(ran.out)] == ["2579"]


def test_a_terminal_gets_tables(terminal: Cli):
    events = terminal("events", 387544807, 79192, "--sandbox").out
    assert "Events of user 387544807 towards target 79192: 2" in events
    assert "1.000" in events
    assert "2024-12-05 00:00:00" in events
    targets = terminal("targets", 42381788, "--sandbox").out
    assert "Custom Enroll" in targets
    assert json.loads(terminal("targets", 42381788, "--sandbox", "--json").out)["id"] == 2579


def test_max_items_is_the_number_in_all(cli: Cli):
    ran = cli("events", 564332013, 1986, "--sandbox", "--page-size", 3, "--max-items", 4)
    assert ran.status == 0
    assert len(rows(ran.out)) == 4


def test_explain_says_what_makes_the_services_value(cli: Cli):
    ran = cli("explain", 564332013, 1986, "--sandbox")
    assert (ran.status, ran.err) == (0, "")
    found = rows(ran.out)
    assert [one["period"] for one in found] == ["G1717-9887", "G1717-9888", "G1717-9889"]
    assert sum(int(one["events"]) for one in found) == 10
    assert {tuple(one["explanations"]) for one in found} == {("plain sum",)}
    (one,) = rows(cli("explain", 564332013, 1986, "--period", "G1717-9889", "--sandbox").out)
    assert one == found[2]


def test_explain_on_a_terminal_is_a_table(terminal: Cli):
    ran = terminal("explain", 564332013, 1986, "--sandbox")
    assert "service says" in ran.out
    assert "9000.920" in ran.out
    assert ran.out.count("plain sum") == 3


def test_explain_where_there_is_nothing(cli: Cli):
    ran = cli("explain", 564332013, 3001, "--sandbox")
    assert (ran.status, ran.out) == (0, "")
    assert ran.err == "user 564332013 is not in target 3001; `targets 564332013` shows theirs\n"
    refused = cli("explain", 5, 3001, "--sandbox")
    assert (refused.status, refused.err.count("\n")) == (3, 1)
    unknown = cli("explain", 564332013, 1986, "--period", "never", "--sandbox")
    assert unknown.status == 1
    assert "G1717-9887" in unknown.err
