"""A period by name: from the fewest answers that know it, or an error that names the others."""

import json
from typing import Any

import pytest
from aioresponses import aioresponses
from yarl import URL

from capillary_targets import Checkpoint, InvalidUser, TargetsClient, UnknownPeriod, UsageError
from capillary_targets.lookups import resolve_period
from capillary_targets.sandbox import Sandbox

from .conftest import BASE, client_of

USER, RULE = 7, 3001


def _groups(mocked: aioresponses, groups: dict[int, list[dict[str, Any]]]) -> None:
    data = {"userId": USER, "targetGroups": [{"id": i, "targets": t} for i, t in groups.items()]}
    query = {
        "includeInactive": "true",
        "targetRuleId": str(RULE),
        "includeInactiveTargets": "true",
    }
    url = URL(f"{BASE}/v3/users/{USER}/targetGroups").with_query(query)
    mocked.get(url, body=json.dumps({"data": data}).encode())


def _periods(mocked: aioresponses, group: int, periods: list[dict[str, Any]]) -> None:
    url = f"{BASE}/v3/targetGroups/{group}/targetPeriods"
    mocked.get(url, body=json.dumps({"data": periods}).encode())


def _target(period: int | None, code: str | None, current: bool | None, rule: int = RULE) -> dict:
    return {
        "targetRuleId": rule,
        "periodId": period,
        "periodRefCode": code,
        "currentPeriod": current,
    }


def _period(id_: int, code: str | None, status: str | None) -> dict[str, Any]:
    return {"id": id_, "refCode": code, "periodStatus": status}


async def _resolve(client: TargetsClient, name: str) -> int:
    return await resolve_period(client.session, USER, RULE, name)


CYCLES = [_target(10, "Cycle_1", False), _target(11, "Cycle_2", True)]


@pytest.mark.parametrize(("name", "id_"), [("current", 11), ("Cycle_1", 10), ("Cycle_2", 11)])
async def test_one_answer_is_enough_where_it_knows(
    mocked: aioresponses, client: TargetsClient, name: str, id_: int
) -> None:
    # A server that does not heed targetRuleId may add other targets.
    other = _target(12, name, True, rule=RULE + 1)
    _groups(mocked, {600: [other], 601: [*CYCLES, other]})
    assert await _resolve(client, name) == id_
    assert len(mocked.requests) == 1


@pytest.mark.parametrize("marks", [False, None])
@pytest.mark.parametrize("status", ["RUNNING", "LIVE"])
async def test_the_groups_periods_say_what_the_targets_do_not(
    mocked: aioresponses, client: TargetsClient, marks: bool | None, status: str
) -> None:
    _groups(mocked, {601: [_target(10, "Cycle_1", marks), _target(None, None, True)]})
    _periods(mocked, 601, [_period(10, "Cycle_1", "ENDED"), _period(11, "Cycle_2", status)])
    assert await _resolve(client, "current") == 11


async def test_a_period_in_which_the_user_did_nothing_yet(
    mocked: aioresponses, client: TargetsClient
) -> None:
    _groups(mocked, {601: CYCLES})
    _periods(mocked, 601, [_period(12, "Cycle_3", "NOT_STARTED")])
    assert await _resolve(client, "Cycle_3") == 12


async def test_an_unknown_name_is_answered_with_those_there_are(
    mocked: aioresponses, client: TargetsClient
) -> None:
    _groups(mocked, {601: CYCLES})
    _periods(
        mocked,
        601,
        [_period(10, "Cycle_1", "ENDED"), _period(11, "Cycle_2", None), _period(12, None, "ENDED")],
    )
    with pytest.raises(UnknownPeriod) as caught:
        await _resolve(client, "cycle_1")
    assert caught.value.known == ("Cycle_1", "Cycle_2")
    assert str(caught.value) == (
        "target 3001 has no period with the refCode 'cycle_1'; "
        "there are: 10 (Cycle_1, ENDED), 11 (Cycle_2), 12 (ENDED)"
    )
    assert not caught.value.retryable


async def test_none_may_be_running(mocked: aioresponses, client: TargetsClient) -> None:
    _groups(mocked, {601: [_target(10, "Cycle_1", False)]})
    _periods(mocked, 601, [])
    with pytest.raises(UnknownPeriod, match=r"target 3001 has no period running; .* none at all"):
        await _resolve(client, "current")


async def test_two_of_one_name_are_not_chosen_from(
    mocked: aioresponses, client: TargetsClient
) -> None:
    _groups(mocked, {601: [_target(10, "A", True), _target(11, None, True)]})
    with pytest.raises(
        UnknownPeriod, match=r"give the id of one: 10 \(A, RUNNING\), 11 \(RUNNING\)$"
    ) as caught:
        await _resolve(client, "current")
    assert caught.value.known == ("A",)


async def test_a_target_that_the_user_is_not_in(
    mocked: aioresponses, client: TargetsClient
) -> None:
    _groups(mocked, {601: [_target(10, "A", True, rule=RULE + 1)]})
    with pytest.raises(UnknownPeriod, match="user 7 is not in target 3001"):
        await _resolve(client, "A")


@pytest.mark.parametrize(
    "wrong",
    [
        {"period": ""},
        {"period": " "},
        {"period": True},
        {"period": 1.5},
        {"period": "current", "start": Checkpoint()},
    ],
)
async def test_what_names_no_period_is_refused_at_once(
    client: TargetsClient, wrong: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="period"):
        client.events(USER, RULE, **wrong)


async def test_events_of_a_period_by_name(sandbox: Sandbox) -> None:
    user = sandbox.world.user_ids()[1]
    rule = sandbox.world.targets(user)[0]
    async with client_of(sandbox, page_size=3) as client:
        for period in rule.group.periods:
            by_id = [event.event_log_id for event in sandbox.world.events(user, rule.id, period.id)]
            for name in (period.id, period.ref_code):
                pager = client.events(user, rule.id, period=name)
                assert [event.event_log_id async for event in pager] == by_id


async def test_nothing_is_asked_before_the_loop_and_each_loop_asks_anew(sandbox: Sandbox) -> None:
    user = sandbox.world.user_ids()[1]
    rule = sandbox.world.targets(user)[0]
    async with client_of(sandbox) as client:
        pager = client.events(user, rule.id, period="current")
        assert client.counts.requests == 0
        first = await pager.collect()
        assert await pager.collect() == first
        assert pager.report.events == len(first)
    asked = [entry for entry in sandbox.requests if entry.path.endswith("/targetGroups")]
    assert len(asked) == 2


async def test_errors_come_when_the_loop_starts(sandbox: Sandbox) -> None:
    user = sandbox.world.user_ids()[1]
    rule = sandbox.world.targets(user)[0]
    async with client_of(sandbox) as client:
        with pytest.raises(UnknownPeriod) as caught:
            await client.events(user, rule.id, period="Cycle_99").collect()
        assert caught.value.known == tuple(period.ref_code for period in rule.group.periods)
        with pytest.raises(InvalidUser):
            await client.events(5, rule.id, period="current").collect()
