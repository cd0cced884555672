from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from capillary_targets.sandbox import Sandbox
from capillary_targets.sandbox.lookups import identifiers

from .conftest import Caller


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
