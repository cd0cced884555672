from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest

from capillary_targets.sandbox import Sandbox, samples
from capillary_targets.sandbox.responses import identifiers

from .conftest import Caller

PRINTED = [
    (564_332_013, 1986, {}, samples.TRANSACTIONAL),
    (564_332_013, 1986, {"limit": 10, "offset": 0}, samples.TRANSACTIONAL),
    (564_332_013, 1986, {"periodId": 9889}, samples.ONE_PERIOD),
    (564_332_013, 1986, {"periodId": 9889, "limit": 30}, samples.ONE_PERIOD),
    (387_544_807, 79192, {}, samples.BEHAVIOURAL),
    (387_544_807, 79192, {"limit": 1, "offset": 0}, samples.BEHAVIOURAL),
]


@pytest.mark.parametrize(("user", "rule", "params", "body"), PRINTED)
async def test_printed_events_answer_byte_for_byte(
    caller: Caller, user: int, rule: int, params: dict[str, object], body: bytes
) -> None:
    async with Sandbox(users=1) as url:
        answer = await caller.events(url, user, rule, **params)
    assert (answer.status, answer.body) == (200, body)


async def test_printed_rows_are_cut_into_pages_with_their_spelling(caller: Caller) -> None:
    async with Sandbox(users=1) as url:
        pages = [
            await caller.events(url, 564_332_013, 1986, limit=4, offset=number)
            for number in range(4)
        ]
    rows = [row for page in pages for row in page.json["data"]]
    assert [len(page.json["data"]) for page in pages] == [4, 4, 2, 0]
    assert rows == pages[0].json["data"] + [row for page in pages[1:] for row in page.json["data"]]
    assert [str(row["targetValue"]) for row in rows] == re.findall(
        r'"targetValue": ([\d.]+)', samples.TRANSACTIONAL.decode()
    )
    assert pages[2].json["pagination"] == {"limit": 4, "offset": 2, "total": 10}


async def test_a_printed_history_that_changed_answers_its_rows(caller: Caller) -> None:
    sandbox = Sandbox(users=1)
    async with sandbox as url:
        added = sandbox.world.add_event(564_332_013, 1986)
        answer = await caller.events(url, 564_332_013, 1986, offset=1)
    assert [row["eventLogId"] for row in answer.json["data"]] == [added.event_log_id]


async def test_printed_targets_answer_byte_for_byte_unless_a_filter_excludes_them(
    caller: Caller,
) -> None:
    async with Sandbox(users=1) as url:
        imported = await caller.targets(
            url,
            42_381_788,
            targetRuleIds="2577,2579",
            enrollmentType="IMPORT",
            trackingDate=1_723_193_084_000,
            includeOnlyUserCreated="true",
        )
        transaction = await caller.targets(url, 42_381_789)
        excluded = await caller.targets(url, 42_381_789, enrollmentType="IMPORT")
        earlier = await caller.targets(url, 42_381_788, trackingDate=1_700_000_000_000)
    assert imported.body == samples.IMPORT_TARGETS
    assert transaction.body == samples.TRANSACTION_TARGETS
    assert excluded.json == {"data": [], "errors": None, "warnings": None}
    assert earlier.json["data"] == []


@pytest.mark.parametrize("user", [1, "abc", "99999999999999999999999", "-5"])
async def test_an_unknown_user_gets_the_printed_error(caller: Caller, user: object) -> None:
    async with Sandbox(users=1) as url:
        answer = await caller.targets(url, user)
    assert (answer.status, answer.body) == (400, samples.ERRORS[310011])


async def test_a_bad_enrolment_type_gets_the_printed_error(caller: Caller) -> None:
    async with Sandbox(users=1, error_status=200) as url:
        answer = await caller.targets(url, 1_000_001, enrollmentType="import")
    assert (answer.status, answer.body) == (200, samples.ERRORS[310130])


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("5/trackedTargetEvents/1986", {}, 310011),
        ("564332013/trackedTargetEvents/5", {}, 310018),
        ("564332013/trackedTargetEvents/x", {}, 310018),
        ("564332013/trackedTargetEvents/1986", {"periodId": 5}, 310019),
        ("564332013/trackedTargetEvents/1986", {"periodId": 77865}, 310019),
        ("564332013/trackedTargetEvents/50", {}, 310149),
        ("42381788/trackedTargetEvents/2579", {}, 310149),
        ("42381789/trackedTargetEvents/50", {}, 310149),
        ("564332013/trackedTargetEvents/1986", {"limit": 0}, 300004),
        ("564332013/trackedTargetEvents/1986", {"limit": "ten"}, 300004),
        ("564332013/trackedTargetEvents/1986", {"offset": -1}, 300004),
        ("564332013/enrolledTargets", {"targetRuleIds": "1,x"}, 300004),
        ("564332013/enrolledTargets", {"trackingDate": "2024-01-01"}, 300004),
        ("564332013/enrolledTargets", {"includeOnlyUserCreated": "True"}, 300004),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 500])
async def test_each_code_on_each_carrier(
    caller: Caller, path: str, params: dict[str, object], code: int, status: int
) -> None:
    async with Sandbox(users=1, error_status=status) as url:
        answer = await caller.get(f"{url}/v3/users/{path}", params)
    assert (answer.status, answer.code) == (status, code)
    assert answer.json["data"] is None


@pytest.mark.parametrize("limit", [1, 7, 25, 26, 1000])
async def test_pages_add_up_to_the_true_rows(caller: Caller, limit: int) -> None:
    sandbox = Sandbox(users=1, exact_events=True, iso=True)
    async with sandbox as url:
        (user,) = sandbox.world.user_ids()
        rule = sandbox.world.targets(user)[0].id
        rows, number = [], 0
        while (page := (await caller.events(url, user, rule, limit=limit, offset=number)).json)[
            "data"
        ]:
            assert page["pagination"] == {"limit": limit, "offset": number, "total": 25}
            rows += page["data"]
            number += 1
    true = sandbox.world.events(user, rule)
    assert [row["eventLogId"] for row in rows] == [row.event_log_id for row in true]
    assert rows[0]["eventDateISO"] == true[0].event_date[:19].replace(" ", "T") + "Z"


async def test_limits_default_to_ten_and_end_at_the_maximum(caller: Caller) -> None:
    sandbox = Sandbox(users=1, exact_events=True, max_limit=20)
    async with sandbox as url:
        (user,) = sandbox.world.user_ids()
        rule = sandbox.world.targets(user)[0].id
        usual = await caller.events(url, user, rule)
        most = await caller.events(url, user, rule, limit=21)
    assert usual.json["pagination"] == {"limit": 10, "offset": 0, "total": 25}
    assert most.json["pagination"]["limit"] == len(most.json["data"]) == 20


async def test_targets_list_what_the_user_holds_and_filters_cut_them_down(caller: Caller) -> None:
    sandbox = Sandbox(users=8)
    async with sandbox as url:
        for user in sandbox.world.user_ids():
            held = sandbox.world.targets(user)
            every = await caller.targets(url, user)
            assert [row["id"] for row in every.json["data"]] == [rule.id for rule in held]
            one = await caller.targets(url, user, targetRuleIds=f"{held[0].id},1")
            assert [row["id"] for row in one.json["data"]] == [held[0].id]
            ours = await caller.targets(url, user, includeOnlyUserCreated="true")
            assert [row["id"] for row in ours.json["data"]] == [
                rule.id for rule in held if rule.user_created
            ]
            imported = await caller.targets(url, user, enrollmentType="IMPORT")
            assert all(row["enrolmentMethod"] == "IMPORT" for row in imported.json["data"])


@pytest.mark.parametrize("name", ["mobile", "email", "externalId"])
@pytest.mark.parametrize("user", [1_000_001, 564_332_013])
async def test_a_customer_is_found_by_each_identifier(caller: Caller, name: str, user: int) -> None:
    query: dict[str, object] = {
        "source": "INSTORE",
        "identifierName": name,
        "identifierValue": identifiers(user)[name],
    }
    async with Sandbox(users=1) as url:
        answer = await caller.get(f"{url}/v2/customers/lookup", query)
    assert (answer.status, answer.json) == (200, {"entity": user, "warnings": []})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"identifierValue": "919000000005"}, 8015),
        ({"identifierValue": "someone"}, 8015),
        ({"identifierValue": "9" * 5000}, 8015),
        ({"identifierValue": ""}, 8013),
        ({"identifierName": "shoeSize"}, 8013),
        ({"source": "MOON"}, 8013),
        ({"source": "WECHAT"}, 8045),
        ({"source": "WECHAT", "accountId": "other"}, 8011),
        ({"source": "WECHAT", "accountId": "sandbox"}, 8065),
    ],
)
async def test_customers_that_are_not_found(
    caller: Caller, changes: dict[str, object], code: int
) -> None:
    query = {"source": "ALL", "identifierName": "mobile", "identifierValue": "919001000001"}
    async with Sandbox(users=1) as url:
        answer = await caller.get(f"{url}/v2/customers/lookup", {**query, **changes})
    assert (answer.status, answer.code) == (400, code)
    assert answer.json["errors"][0]["status"] is False
    assert "data" not in answer.json


def targets(answer: Any) -> list[dict[str, Any]]:
    return [target for group in answer["data"]["targetGroups"] for target in group["targets"]]


async def test_achieved_values_are_the_sums_of_the_events(caller: Caller) -> None:
    sandbox = Sandbox(users=12)
    async with sandbox as url:
        for user in sandbox.world.all_user_ids():
            path = f"{url}/v3/users/{user}/targetGroups"
            every = (await caller.get(path, {"includeInactive": "true"})).json
            held = {rule.id for rule in sandbox.world.targets(user)}
            assert {target["targetRuleId"] for target in targets(every)} == held
            for target in targets(every):
                rows = sandbox.world.events(user, target["targetRuleId"], target["periodId"])
                true = sum((Decimal(row.target_value or 0) for row in rows), Decimal(0))
                assert target["targetAchievedValue"] == true
            assert every["data"]["customer"]["profiles"][0]["commChannels"]


async def test_only_the_running_cycle_unless_all_are_asked_for(caller: Caller) -> None:
    sandbox = Sandbox(users=1)
    async with sandbox as url:
        user = sandbox.world.user_ids()[0]
        rule = sandbox.world.targets(user)[0]
        path = f"{url}/v3/users/{user}/targetGroups"
        running = (await caller.get(path)).json
        one = (await caller.get(path, {"targetRuleId": rule.id})).json
        cycles = await caller.get(f"{url}/v3/targetGroups/{rule.group.id}/targetPeriods")
        unknown = await caller.get(f"{url}/v3/users/5/targetGroups")
    assert [target["currentPeriod"] for target in targets(running)] == [True] * 3
    assert [target["targetRuleId"] for target in targets(one)] == [rule.id]
    states = [period["periodStatus"] for period in cycles.json["data"]]
    assert states.count("RUNNING") == 1
    assert {"ENDED", "NOT_STARTED"} < set(states)
    assert [period["id"] for period in cycles.json["data"]] == [
        period.id for period in rule.group.periods
    ]
    assert {period["targetGroupId"] for period in cycles.json["data"]} == {rule.group.id}
    assert all(period["refCode"] for period in cycles.json["data"])
    assert unknown.code == 310011


@pytest.mark.parametrize("group", ["5", "x", "9" * 5000])
async def test_cycles_of_an_unknown_group(caller: Caller, group: str) -> None:
    async with Sandbox(users=1) as url:
        assert (await caller.get(f"{url}/v3/targetGroups/{group}/targetPeriods")).code == 310017


async def test_look_ups_want_a_login(caller: Caller) -> None:
    async with Sandbox(users=1) as url:
        for path in (
            "/v2/customers/lookup",
            "/v3/users/1000001/targetGroups",
            "/v3/targetGroups/601/targetPeriods",
        ):
            assert (await caller.get(url + path, Accept="*/*")).status == 401
