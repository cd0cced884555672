"""The doctor: on every kind of server the right verdict, or none, in at most 15 requests."""

import math
import tomllib
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from capillary_targets import BasicAuth, OAuth, RetryPolicy, TargetsClient, UsageError
from capillary_targets.contract import Finding, contract
from capillary_targets.doctor import (
    QUESTIONS,
    Diagnosis,
    Verdict,
    _rules,
    diagnose,
    load_known,
)
from capillary_targets.pagination import Dialect
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.verdicts import Answers, Look, judge
from tests.conftest import is_nightly

USER = 1_000_001


async def examined(sandbox: Sandbox, *, oauth: bool = False, **member: Any) -> Diagnosis:
    auth = (
        OAuth(sandbox.settings.client_key, sandbox.settings.client_secret)
        if oauth
        else BasicAuth(*sandbox.credentials)
    )
    async with (
        sandbox as url,
        TargetsClient(url, auth, retry=RetryPolicy(attempts=2)) as client,
    ):
        diagnosis = await diagnose(client.session, **(member or {"user_id": USER}))
    asked = sum(sandbox.counts.values())
    assert diagnosis.requests == asked <= 15
    assert tuple(one.question for one in diagnosis.verdicts) == QUESTIONS
    return diagnosis


def told(diagnosis: Diagnosis) -> dict[str, str | None]:
    return {one.question: one.answer for one in diagnosis.verdicts}


def test_every_contradiction_that_can_be_told_has_a_question() -> None:
    asked = {one["question"] for one in contract().contradictions if "question" in one}
    assert asked == set(QUESTIONS)


OFFSETS = {"page": "page", "row": "row", "ignored": "ignored", "clamped": "page"}
TOTALS = {
    "rows": "rows",
    "pages": "pages",
    "absent": "absent",
    "zero": "zero",
    "text": "rows",
    "float": "rows",
    "wrong": "wrong",
    "wrong-high": "wrong",
    "none": "absent",
}
LIMITS = {
    (1000, "capped"): None,
    (100, "capped"): "capped at 100",
    (20, "capped-silent"): "capped at 20 without a word",
    (100, "refused"): "refused above a maximum of 100 or more",
}
ENDS = {
    "empty": "empty page",
    "310149": "refused with 310149",
    "error": "refused with 11003",
    "404": "HTTP 404",
    "endless": "it never ends",
}
EVERY = 1 if is_nightly() else 31
SERVERS = [
    {
        "offset_mode": offset,
        "total_mode": total,
        "max_limit": limit[0],
        "limit_mode": limit[1],
        "past_end": end,
    }
    for offset, total, limit, end in product(OFFSETS, TOTALS, LIMITS, ENDS)
][::EVERY]


@pytest.mark.nightly
@pytest.mark.parametrize("dialect", SERVERS, ids=lambda one: "-".join(map(str, one.values())))
async def test_a_verdict_on_a_dialect_is_right_or_none(dialect: dict[str, Any]) -> None:
    verdicts = told(await examined(Sandbox(users=1, events=30, **dialect)))
    offset = dialect["offset_mode"]
    assert verdicts["offset"] == OFFSETS[offset]
    assert verdicts["total"] in {None, TOTALS[dialect["total_mode"]]}
    past_end = {"ignored": {"the first page"}, "clamped": {"the last page again"}}
    assert verdicts["past_end"] in {None} | past_end.get(offset, {ENDS[dialect["past_end"]]})
    limit = LIMITS[dialect["max_limit"], dialect["limit_mode"]]
    said = (verdicts["limit"] or "").replace("default 10", "").removeprefix(", ")
    if dialect["total_mode"] == "none" and limit == "capped at 100":
        limit = "capped at 100 without a word"  # nothing is echoed where there is no `pagination`
    assert said in {"", "at least 1000", limit}


@pytest.mark.parametrize(
    ("given", "question", "answer"),
    [
        ({"default_limit": 30}, "limit", "default 30"),
        ({"error_status": 200}, "error_status", "HTTP 200"),
        ({"error_status": 500}, "error_status", "HTTP 500"),
        ({"iso": True}, "iso", "sent"),
        ({}, "iso", "not sent"),
        ({"rows_per_id": 3}, "log_ids", "repeated"),
        ({"missing_ids": 0.4}, "log_ids", "missing"),
        ({"missing_ids": 0.4, "rows_per_id": 2}, "log_ids", "repeated and missing"),
        ({}, "log_ids", "one each"),
        ({}, "returns", "negative"),
        ({"signed_returns": False}, "returns", "unsigned"),
        ({"last_updated_on": False}, "last_updated", "neither"),
        ({"achieved_log_id": False}, "last_updated", "lastUpdatedOn"),
        ({"iso": True}, "zone", "+00:00"),
        ({"request_id_headers": "X-CAP-REQUEST-ID"}, "request_id", "X-CAP-REQUEST-ID"),
        ({"request_id_headers": "none"}, "request_id", "none"),
        ({}, "auth", "Basic accepted"),
        ({}, "phase_out", "no sign"),
        ({}, "fields", "as in the contract"),
    ],
    ids=str,
)
async def test_other_questions(given: dict[str, Any], question: str, answer: str) -> None:
    sandbox = Sandbox(users=1, **given)
    assert told(await examined(sandbox))[question] == answer


async def test_a_target_without_a_record_is_asked_for() -> None:
    diagnosis = await examined(Sandbox(users=2, recorded=0.0), user_id=USER + 1)
    assert told(diagnosis)["no_record"] == "310149"


def test_an_event_later_than_the_answer_bounds_the_zone() -> None:
    row = {"eventLogId": 1, "eventDate": "2026-11-27 07:31:00.0"}
    headers = {"Date": "Fri, 27 Nov 2026 02:00:30 GMT"}
    looks = {
        "nobody": Look("/v3/users/1/enrolledTargets", 400),
        "targets": Look("/v3/users/1/enrolledTargets", 200),
        "full": Look("/v3/users/1/trackedTargetEvents/2?limit=9", 200, headers, {"data": [row]}),
    }
    verdicts = judge(Answers("Basic", "h", looks))
    (zone,) = (one for one in verdicts if one.question == "zone")
    assert zone.answer is None
    assert "at least 330 minutes ahead" in zone.evidence


ODD = [None, True, [1], {"a": 1}, "x", "12", math.inf, -1, 10**30, "0001-01-01T00:00:00+14:00"]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_odd_values_are_judged_or_not_and_nothing_escapes(odd: Any) -> None:
    row: dict[str, Any] = {"eventLogId": 1, "targetValue": -1}
    row |= {"eventDate": "2025-01-01 00:00:00.0"}
    row |= {"eventName": "RETURN_BILL", "eventDateISO": "2025-01-01T00:00:00Z"}
    target: dict[str, Any] = {"targetRuleId": 3, "targetId": 5, "targetAchievedValue": 1}
    target |= {"targetAchievedEventLogId": 1, "targetAchievedDateTime": "2025-01-01T00:00:00Z"}
    made = {"id": 3, "attribution": {"createdOn": "2025-01-01T00:00:00+0530"}}
    page = {"limit": 9, "offset": 0, "total": 1}
    path = "/v3/users/1/trackedTargetEvents/3?limit=9"

    def judged(given: list[Any]) -> None:
        row, target, made, page = given
        events = {"pagination": page, "data": [row] * 4}
        looks = {
            "nobody": Look("/v3/users/2/enrolledTargets", 400),
            "targets": Look("/v3/users/1/enrolledTargets", 200, document={"data": [made]}),
            "groups": Look(
                "/v3/users/1/targetGroups",
                200,
                document={"data": {"targetGroups": [{"targets": [target]}]}},
            ),
            **{name: Look(path, 200, {}, events) for name in ("full", "second", "next", "last")},
        }
        verdicts = judge(Answers("Basic", "h", looks))
        assert tuple(one.question for one in verdicts) == QUESTIONS
        assert all(isinstance(one, int) for rules in _rules(looks["groups"]) for one in rules)

    right: list[Any] = [row, target, made, page]
    for index, one in enumerate(right):
        judged([*right[:index], odd, *right[index + 1 :]])
        for key in one:
            judged([*right[:index], one | {key: odd}, *right[index + 1 :]])


async def test_without_a_member_it_says_what_to_add() -> None:
    evidence = {
        one.question: one.evidence for one in (await examined(Sandbox(), user_id=None)).verdicts
    }
    for question in ("offset", "total", "iso", "zone", "groups", "last_updated", "no_record"):
        assert evidence[question] == "no member was given: add --user ID"


def test_a_second_page_that_did_not_come_tells_nothing_of_the_total() -> None:
    path = "/v3/users/1/trackedTargetEvents/3?limit="
    rows = [{"eventLogId": number} for number in range(4)]
    page = {"pagination": {"limit": 9, "offset": 0, "total": 4}, "data": rows}
    looks = {
        "targets": Look("/v3/users/1/enrolledTargets", 200, document={"data": [{"id": 3}]}),
        "full": Look(f"{path}9", 200, {}, page),
        "second": Look(f"{path}2&offset=1", 503, failure="ServiceUnavailable"),
    }
    told = {one.question: one for one in judge(Answers("Basic", "h", looks))}
    assert (told["total"].answer, told["total"].sandbox) == (None, {})
    assert told["total"].evidence == "no answer to limit=2&offset=1"


def test_two_statuses_of_errors_are_told() -> None:
    looks = {
        "nobody": Look("/v3/users/1/enrolledTargets", 400, code=310011, failure="InvalidUser"),
        "no rule": Look("/v3/users/1/trackedTargetEvents/2", 500, code=310018, failure="X"),
    }
    (told, same) = (
        next(
            one.evidence
            for one in judge(Answers("Basic", "h", given))
            if one.question == "error_status"
        )
        for given in (looks, {**looks, "no rule": evolve(looks["no rule"], status=400)})
    )
    assert told.endswith("a target that nobody has: code 310018, HTTP 500")
    assert "target" not in same


@pytest.mark.parametrize(("status", "complete"), [(503, None), (0, None), (404, True)])
def test_a_next_page_that_did_not_come_proves_nothing(status: int, complete: bool | None) -> None:
    path = "/v3/users/1/trackedTargetEvents/2?limit=9"
    full = Look(path, 200, {}, {"data": [{"a": 1}] * 4})
    answers = Answers("Basic", "h", {"full": full, "next": Look(path, status, failure="X")})
    assert answers.complete is complete


async def test_oauth_is_one_of_the_requests() -> None:
    assert told(await examined(Sandbox(users=1), oauth=True))["auth"] == "OAuth accepted"


@pytest.mark.parametrize(
    "member", [{"user_id": None}, {"user_id": 7}, {"user_id": USER, "target_rule_id": 1}]
)
async def test_what_cannot_be_told_says_why(member: dict[str, Any]) -> None:
    diagnosis = await examined(Sandbox(users=1), **member)
    unknown = [one for one in diagnosis.verdicts if one.answer is None]
    assert {"offset", "total", "returns"} <= {one.question for one in unknown}
    assert all(one.evidence for one in unknown)


async def test_faults_leave_verdicts_right_or_none() -> None:
    sandbox = Sandbox(users=1)
    for path in ("enrolledTargets", "offset=1", "targetGroups"):
        sandbox.faults.add(Fault.http(503), times=2, path_contains=path)
    verdicts = told(await examined(sandbox))
    assert verdicts["offset"] is None
    assert verdicts["groups"] is None
    assert verdicts["past_end"] == "empty page"


async def test_a_refused_call_is_a_verdict() -> None:
    sandbox = Sandbox(users=1)
    sandbox.faults.add(Fault.authorisation(4000), times=None, path_contains="targetGroups")
    verdicts = told(await examined(sandbox))
    assert (verdicts["groups"], verdicts["offset"]) == ("refused", "page")


async def test_planted_changes_are_among_the_verdicts() -> None:
    sandbox = Sandbox(users=1)
    sandbox.faults.add(
        Fault.edited('"eventName":', '"storeId":7,"eventName":'),
        times=None,
        path_contains="trackedTargetEvents",
    )
    diagnosis = await examined(sandbox)
    assert told(diagnosis)["fields"] == "1 not in the contract"
    assert [one.place for one in diagnosis.findings] == ["data[].storeId"]


async def test_it_holds_nothing_of_a_member() -> None:
    sandbox = Sandbox(users=1, iso=True)
    text = (await examined(sandbox)).to_toml()
    members = [str(USER), "till.sandbox", "sandbox-", "Sample", "@", "9190"]
    assert not [one for one in members if one in text]
    for rule in sandbox.world.targets(USER):
        assert str(rule.id) not in text


SHAPED = {
    "offset_mode": "row",
    "total_mode": "pages",
    "max_limit": 50,
    "past_end": "error",
    "error_status": 500,
    "iso": True,
    "default_limit": 20,
    "signed_returns": False,
    "rows_per_id": 2,
}


async def test_a_sandbox_like_a_cluster_gets_the_same_verdicts(tmp_path: Path) -> None:
    first = await examined(Sandbox(users=1, events=40, seed=2, **SHAPED))
    file = tmp_path / "cluster.toml"
    file.write_text(first.to_toml())
    like = Sandbox.like(file, users=1, events=40, seed=2)
    for name, value in SHAPED.items():
        assert getattr(like.settings, name) == value, name
    again = await examined(like)
    assert told(again) == told(first)
    assert again.changes(*load_known(file)) == []
    other = await examined(
        Sandbox(users=1, events=40, seed=2, **(SHAPED | {"offset_mode": "page"}))
    )
    assert other.changes(*load_known(file)) == [("offset", "row", "page")]


async def test_a_client_that_knows_the_dialect_learns_nothing(tmp_path: Path) -> None:
    sandbox = Sandbox(users=1, targets=1, events=250, exact_events=True, offset_mode="row")
    file = tmp_path / "cluster.toml"
    file.write_text((await examined(sandbox)).to_toml())
    assert tomllib.loads(file.read_text())["dialect"]["offset"] == "row"
    (rule,) = sandbox.world.targets(USER)
    async with (
        sandbox as url,
        TargetsClient(url, BasicAuth(*sandbox.credentials), dialect=Dialect.load(file)) as client,
    ):
        sandbox.counts.clear()
        assert len(await client.events(USER, rule.id).collect()) == 250
    assert sandbox.counts["trackedTargetEvents"] == 3


@pytest.mark.parametrize(
    "text", ["", "[dialect]\noffset = 'sideways'", "\x00", "[verdicts]\na = 1"]
)
def test_another_file_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.toml"
    file.write_text(text)
    if text != "[verdicts]\na = 1":
        with pytest.raises(UsageError, match=r"is no cluster\.toml"):
            Dialect.load(file)
    with pytest.raises(ValueError, match=r"is no cluster\.toml"):
        Sandbox.like(file)
    if "offset" not in text:
        with pytest.raises(UsageError, match=r"is no cluster\.toml"):
            load_known(file)
    with pytest.raises(UsageError, match="cannot be read"):
        Dialect.load(tmp_path / "absent")


def test_what_could_not_be_told_is_no_change() -> None:
    verdicts = (
        Verdict("offset", None, ""),
        Verdict("total", "rows", ""),
        Verdict("iso", "sent", ""),
    )
    now = Diagnosis("h", None, 1, verdicts, ())
    before = {"offset": "page", "total": "cannot tell", "iso": "not sent"}
    assert now.changes(before) == [("iso", "not sent", "sent")]


def test_a_sign_of_removal_is_a_change_of_its_question_alone() -> None:
    sign = Finding("phase-out", "enrolledTargets", "header Deprecation")
    now = Diagnosis("h", None, 1, (Verdict("phase_out", "announced", ""),), (sign,))
    changes = now.changes({"phase_out": "no sign"})
    assert changes == [("phase_out", "no sign", "announced")]


async def test_a_new_finding_is_a_change_and_a_known_one_is_not(tmp_path: Path) -> None:
    def with_key(name: str) -> Sandbox:
        sandbox = Sandbox(users=1)
        edit = Fault.edited('"eventName":', f'"{name}":7,"eventName":')
        sandbox.faults.add(edit, times=None, path_contains="trackedTargetEvents")
        return sandbox

    file = tmp_path / "cluster.toml"
    file.write_text((await examined(with_key("storeId"))).to_toml())
    known = load_known(file)
    assert (await examined(with_key("storeId"))).changes(*known) == []
    ((question, _, now),) = (await examined(with_key("tillId"))).changes(*known)
    assert (question, "data[].tillId" in now) == ("fields", True)
