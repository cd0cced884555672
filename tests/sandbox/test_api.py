import re
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest

from capillary_targets.sandbox import Event, Sandbox, SandboxSettings, World, samples
from capillary_targets.sandbox.responses import identifiers
from capillary_targets.sandbox.world import total

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
        ({"identifierName": "cardnumber"}, 8015),
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


async def groups_of(caller: Caller, sandbox: Sandbox, user: int) -> list[dict[str, Any]]:
    path = f"{sandbox.url}/v3/users/{user}/targetGroups"
    answer = await caller.get(path, {"includeInactive": "true"})
    return list(answer.json["data"]["targetGroups"])


async def cycles(
    caller: Caller, sandbox: Sandbox
) -> AsyncIterator[tuple[dict[str, Any], list[Event]]]:
    """Each cycle of each seeded user's targets, and its true rows."""
    for user in sandbox.world.user_ids():
        for group in await groups_of(caller, sandbox, user):
            for target in group["targets"]:
                yield target, sandbox.world.events(user, target["targetRuleId"], target["periodId"])


async def test_no_target_id_means_no_record_of_events(caller: Caller) -> None:
    seen = set()
    async with (sandbox := Sandbox(users=40)) as url:
        for user in sandbox.world.all_user_ids():
            for group in await groups_of(caller, sandbox, user):
                for rule in {target["targetRuleId"] for target in group["targets"]}:
                    cycles = [one for one in group["targets"] if one["targetRuleId"] == rule]
                    answer = await caller.events(url, user, rule)
                    recorded = any(one["targetId"] is not None for one in cycles)
                    assert recorded == (answer.code != 310149)
                    seen.add(recorded)
                    for one in cycles:
                        rows = sandbox.world.events(user, rule, one["periodId"])
                        assert (one["targetId"] is None) == (not rows)
    assert seen == {True, False}


async def test_a_target_that_the_user_is_not_in_may_be_310126_with_500(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1, not_enrolled_code=310126, error_status=200)) as url:
        user = sandbox.world.user_ids()[0]
        rule = sandbox.world.targets(user)[0].id
        foreign = await caller.events(url, user, 50)
        sandbox.world.delete_events(user, rule, slice(0, None))
        empty = await caller.events(url, user, rule)
        sandbox.world.unenrol(user, rule)
        left = await caller.events(url, user, rule)
    assert (foreign.status, foreign.code) == (left.status, left.code) == (500, 310126)
    assert (empty.status, empty.code) == (200, 310149)


async def test_last_updated_on_moves_with_every_change(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1)):
        world = sandbox.world
        user = world.user_ids()[0]
        rule = world.targets(user)[0].id

        async def updated() -> set[str]:
            groups = await groups_of(caller, sandbox, user)
            return {
                target["lastUpdatedOn"]
                for target in targets({"data": {"targetGroups": groups}})
                if target["targetRuleId"] == rule and target["lastUpdatedOn"]
            }

        last = world.events(user, rule)[-1].event_date[:19]
        moments = [max(await updated())]
        assert moments == [f"{last.replace(' ', 'T')}.000+0000"]
        for change in (
            world.add_event,
            world.insert_late,
            world.delete_events,
            lambda *a: world.add_event(*a, date="2025-06-01 00:00:00.0"),
        ):
            change(user, rule)
            moments.append(max(await updated()))
        assert moments == sorted(set(moments))
        sandbox.settings.last_updated_on = False
        groups = await groups_of(caller, sandbox, user)
        keys = set(targets({"data": {"targetGroups": groups}})[0])
        assert not keys & {"lastUpdatedOn", "targetAchievedEventLogId", "unEnrolled"}
        sandbox.settings.last_updated_on, sandbox.settings.achieved_log_id = True, False
        groups = await groups_of(caller, sandbox, user)
        keys = set(targets({"data": {"targetGroups": groups}})[0])
        assert "lastUpdatedOn" in keys
        assert "targetAchievedEventLogId" not in keys


async def test_a_purchase_and_its_return_leave_the_value_and_move_last_updated_on(
    caller: Caller,
) -> None:
    async with (sandbox := Sandbox(users=1)):
        world = sandbox.world
        user = world.user_ids()[0]
        rule = next(one.id for one in world.targets(user) if not one.behavioural)

        async def seen() -> dict[str, tuple[Any, Any]]:
            groups = await groups_of(caller, sandbox, user)
            return {
                target["periodId"]: (target["targetAchievedValue"], target["lastUpdatedOn"])
                for target in targets({"data": {"targetGroups": groups}})
                if target["targetRuleId"] == rule
            }

        before = await seen()
        world.add_event(user, rule, value="19.990")
        world.add_event(user, rule, value="-19.990", event_name="RETURN_BILL")
        after = await seen()
    assert {period: value for period, (value, _) in after.items()} == {
        period: value for period, (value, _) in before.items()
    }
    assert max(str(moment) for _, moment in after.values()) > max(
        str(moment) for _, moment in before.values() if moment
    )


async def test_cycles_start_from_what_is_carried_over(caller: Caller) -> None:
    started = 0
    async with (sandbox := Sandbox(users=2, carry_over=Decimal("-150.25"))):
        async for target, rows in cycles(caller, sandbox):
            if target["targetId"] is None:
                assert (rows, target["targetAchievedValue"]) == ([], 0)
                continue
            assert target["targetAchievedValue"] == total(rows) - Decimal("150.25")
            started += not rows
    assert started


@pytest.mark.parametrize(
    ("by", "made_of"),
    [
        ("gross", lambda rows: sum(r.target_value for r in rows if not is_return(r))),
        ("count", lambda rows: sum(not is_return(r) for r in rows)),
        ("capped", total),
    ],
)
async def test_what_is_achieved_may_be_no_sum(
    caller: Caller, by: Any, made_of: Callable[[list[Any]], Any]
) -> None:
    differs = 0
    async with (sandbox := Sandbox(users=10, achieved_by=by, signed_returns=False)):
        async for target, rows in cycles(caller, sandbox):
            valued = [row for row in rows if row.target_value is not None]
            value = made_of(valued)
            if by == "capped":
                value = min(value, Decimal(str(target["targetValue"])))
            assert target["targetAchievedValue"] == value
            differs += value != total(valued)
    assert differs


def is_return(row: Any) -> bool:
    return bool(row.event_name == "RETURN_BILL")


async def test_a_share_of_the_enrolments_has_no_record() -> None:
    world = World(SandboxSettings(users=400, recorded=0.3, exact_events=True))
    pairs = [(user, rule.id) for user in world.user_ids()[1:] for rule in world.targets(user)]
    share = sum(world.count(*pair) > 0 for pair in pairs) / len(pairs)
    assert 0.25 < share < 0.35


async def test_a_target_is_achieved_by_the_row_that_reached_its_value(caller: Caller) -> None:
    reached = 0
    async with (sandbox := Sandbox(users=10)):
        async for target, rows in cycles(caller, sandbox):
            ids = [row.event_log_id for row in rows]
            if target["targetAchievedEventLogId"] is None:
                assert target["targetAchievedDateTime"] is None
                assert target["targetAchievedValue"] < target["targetValue"]
                continue
            index = ids.index(target["targetAchievedEventLogId"])
            assert total(rows[: index + 1]) >= target["targetValue"] > total(rows[:index])
            reached += 1
    assert reached


async def test_groups_show_what_the_description_leaves_open(caller: Caller) -> None:
    statuses, evaluations, codes = set[str](), set[str](), list[str]()
    milestones = list[dict[str, Any]]()
    async with (sandbox := Sandbox(users=60)):
        for user in sandbox.world.user_ids():
            for group in await groups_of(caller, sandbox, user):
                assert ("streaks" in group) == (group["trackingType"] == "STREAKS")
                statuses |= {streak["status"] for streak in group.get("streaks", ())}
                evaluations.add(group["targetEvaluationType"])
                codes += [target["periodRefCode"] for target in group["targets"]]
                for target in group["targets"]:
                    milestones += target["milestones"] or []
    assert statuses == {"NOT_STARTED", "INPROGRESS", "ACHIEVED", "DROPPED"}
    assert evaluations == {"FIXED_CALENDAR_WINDOW", "CALENDAR_CYCLIC_WINDOW"}
    assert {"achievedDate", "triggerType", "triggerValueType", "points"} <= set(milestones[0])
    assert {one["isAchieved"] for one in milestones} == {True, False}
    assert {code != code.strip() for code in codes} == {True, False}


async def test_rows_without_an_id_have_a_null_or_no_key(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1, missing_ids=0.5)) as url:
        user = sandbox.world.user_ids()[0]
        rule = sandbox.world.targets(user)[0].id
        true = [row.event_log_id for row in sandbox.world.events(user, rule)]
        null = (await caller.events(url, user, rule, limit=100)).json["data"]
        sandbox.settings.missing_id_key = False
        bare = (await caller.events(url, user, rule, limit=100)).json["data"]
    assert [row["eventLogId"] for row in null] == true
    assert [row.get("eventLogId", 0) for row in bare] == [one or 0 for one in true]
    assert None in true
    assert set(true) != {None}
