"""The contract as data, and that models, error classes and sandbox agree with it."""

import json
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import attrs
import pytest

from capillary_targets import errors, members, models
from capillary_targets.contract import Finding, Node, compare, contract, findings
from capillary_targets.models import wire_name
from capillary_targets.sandbox.responses import MESSAGES

from .conftest import SAMPLES

CALLS = contract().calls
OURS = {"raw", "extra"}
TOP = {
    models.TargetEvent: CALLS["trackedTargetEvents"].answer.children["data"].items,
    models.Pagination: CALLS["trackedTargetEvents"].answer.children["pagination"],
    models.Target: CALLS["enrolledTargets"].answer.children["data"].items,
    members.TargetPeriod: CALLS["targetPeriods"].answer.children["data"].items,
    members.Customer: CALLS["targetGroups"].answer.children["data"].children["customer"],
    members.TargetGroup: CALLS["targetGroups"]
    .answer.children["data"]
    .children["targetGroups"]
    .items,
}


def pairs(kind: type, node: Node) -> Iterator[tuple[type, Node]]:
    """A model and the place it is read from, then those below it."""
    yield kind, node
    for name, hint in get_type_hints(kind).items():
        inner = [one for one in (hint, *get_args(hint)) if attrs.has(one)]
        below = node.children.get(wire_name(name))
        if inner and below is not None:
            yield from pairs(inner[0], below.items or below)


@pytest.mark.parametrize(
    ("kind", "node"),
    [pytest.param(*pair, id=pair[0].__name__) for top in TOP.items() for pair in pairs(*top)],
)
def test_a_model_has_the_fields_of_the_contract(kind: type, node: Node) -> None:
    named = {wire_name(one.name) for one in attrs.fields(kind) if one.name not in OURS}
    if "extra" in {one.name for one in attrs.fields(kind)}:
        assert named <= node.children.keys()  # what a model has no field for is in `extra`
    else:
        assert named == node.children.keys()


def test_every_code_has_the_exception_that_the_contract_names() -> None:
    for code, facts in contract().codes.items():
        assert type(errors.api_error(code, "text")).__name__ == facts["error"], code
    assert errors._BY_CODE.keys() <= contract().codes.keys()
    assert contract().codes.keys() >= {code for code in errors._TO_CHECK if code}


def test_the_sandbox_sends_the_codes_of_the_contract_and_their_words() -> None:
    for code, message in MESSAGES.items():
        said = contract().codes[code]["message"]
        assert said in {message, "(wording unknown)"}, code


@pytest.mark.parametrize("name", sorted(one.name for one in SAMPLES.glob("*.json")))
def test_the_printed_samples_hold_nothing_else(name: str) -> None:
    call = (
        "enrolledTargets" if name.startswith(("active", "error_310130")) else "trackedTargetEvents"
    )
    if not name.startswith("notification"):
        assert not list(findings(call, "", 200, {}, (SAMPLES / name).read_bytes()))


def test_places_are_found_by_path() -> None:
    at = contract().call_at
    for call in CALLS.values():
        path = call.path.replace("{userId}", "7").replace("{targetRuleId}", "8")
        path = path.replace("{targetGroupId}", "9")
        assert at(f"/api_gateway/intouch{path}?a=b") is call
        assert at(f"{path}/more") is None
    assert at("/v3/oauth/token/generate") is None


def event(**changed: Any) -> dict[str, Any]:
    body = json.loads((SAMPLES / "target_events_transactional.json").read_bytes())
    row = {**body["data"][0], **changed}
    return {**body, "data": [{name: one for name, one in row.items() if one != "gone"}]}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (event(targetRuleId=None), "changed type: data[].targetRuleId (null)"),
        (event(eventName="asha@example.com"), "new value: data[].eventName (another spelling)"),
        (event(**{"919812345678 x": 1}), "new key: data[].a key that is no name (integer)"),
        ({"data": {}, "errors": []}, "changed type: data (object)"),
        ({"errors": []}, "missing key: data"),
        ({"errors": [{"code": 310999, "message": "?"}]}, "new value: errors[].code (310999)"),
    ],
)
def test_what_is_not_in_the_contract_is_named_once(document: dict[str, Any], expected: str) -> None:
    found = findings("trackedTargetEvents", "", 200, {}, json.dumps(document).encode())
    assert [str(one).replace("trackedTargetEvents: ", "") for one in found] == [expected]


def test_one_odd_row_misses_nothing_but_half_of_them_do() -> None:
    node = Node(children={"a": Node(frozenset({"integer"}), always=True)})
    rows = Node(frozenset({"array"}), items=node)
    assert not list(compare(rows, [{"a": 1}, {"a": 1}, {}]))
    assert list(compare(rows, [{"a": 1}, {}], "c", "data")) == [
        Finding("missing key", "c", "data[].a")
    ]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"nul", b"[" * 100_000, b"\xff"])
def test_any_bytes_are_looked_at(body: bytes) -> None:
    assert list(findings("enrolledTargets", "", 502, {}, body)) == []
    assert len(list(findings("enrolledTargets", "", 410, {"Sunset": "x"}, body))) == 2


def test_a_failure_is_not_held_against_the_fields() -> None:
    assert not list(findings("enrolledTargets", "", 503, {}, b'{"message": "busy"}'))
    assert not list(findings("enrolledTargets", "", 200, {}, b'{"response": {"status": {}}}'))


def test_a_page_behind_the_last_row_is_no_sign_of_removal() -> None:
    def look(path: str) -> list[Finding]:
        return list(findings("trackedTargetEvents", path, 404, {}, b""))

    assert not look("/v3/users/1/trackedTargetEvents/2?limit=10&offset=3")
    assert look("/v3/users/1/trackedTargetEvents/2?limit=10&offset=0")
