"""The look-ups' requests and answers, without a socket."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from urllib.parse import parse_qsl

import pytest
from aioresponses import aioresponses
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from capillary_targets import (
    ApiWarning,
    BadResponse,
    TargetsClient,
    UsageError,
)
from capillary_targets.lookups import _lookup

from .conftest import BASE

LOOKUP = f"{BASE}/v2/customers/lookup"
GROUPS = f"{BASE}/v3/users/347/targetGroups"
PERIODS = f"{BASE}/v3/targetGroups/601/targetPeriods"
MOBILE = {"identifier_name": "mobile", "identifier_value": "919001000001"}


def _only_url(mocked: aioresponses) -> URL:
    ((method, url),) = mocked.requests
    assert method == "GET"
    return url


async def test_source_and_account_are_sent_and_several_identifiers_may_be(
    mocked: aioresponses, client: TargetsClient
) -> None:
    query = {
        "source": "WECHAT",
        "accountId": "acc 1",
        "identifierName": "email,mobile",
        "identifierValue": "a+b@example.com,919001000001",
    }
    mocked.get(URL(LOOKUP).with_query(query), body=b'{"entity": 7}')
    found = await client.find_customer(
        identifier_name="email,mobile",
        identifier_value="a+b@example.com,919001000001",
        source="WECHAT",
        account_id="acc 1",
    )
    assert found == 7
    assert dict(_only_url(mocked).query) == query


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_identifier_survives_the_address(value: str) -> None:
    _, _, raw = _lookup({"source": "ALL"}, value).path.partition("?")
    assert parse_qsl(raw, keep_blank_values=True) == [
        ("source", "ALL"),
        ("identifierValue", value),
    ]
    assert raw.isascii()
    assert not set(raw.partition("identifierValue=")[2]) & set(" +&=#?/@")


@pytest.mark.parametrize("entity", ['"entity": null', '"entity": true', '"entity": {}', '"x": 1'])
async def test_no_id_is_no_answer(mocked: aioresponses, client: TargetsClient, entity: str) -> None:
    mocked.get(URL(LOOKUP).with_query(_query()), body=f"{{{entity}}}".encode())
    with pytest.raises(BadResponse) as caught:
        await client.find_customer(**MOBILE)
    assert caught.value.where == "entity"


def _query() -> dict[str, str]:
    return {
        "source": "INSTORE",
        "identifierName": "mobile",
        "identifierValue": "919001000001",
    }


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: c.find_customer(**MOBILE | {"identifier_name": ""}), "identifier_name"),
        (lambda c: c.find_customer(**MOBILE | {"identifier_name": "a@b.example"}), "externalId"),
        (lambda c: c.find_customer(**MOBILE | {"identifier_value": " "}), "not empty"),
        (lambda c: c.find_customer(**MOBILE | {"identifier_value": 919001000001}), "text"),
        (lambda c: c.find_customer(**MOBILE | {"identifier_value": "9\n1"}), "printed"),
        (lambda c: c.find_customer(**MOBILE | {"identifier_value": "9\ud800"}), "printed"),
        (lambda c: c.find_customer(**MOBILE, source="IN STORE"), "source"),
        (lambda c: c.find_customer(**MOBILE, account_id=""), "account_id"),
        (lambda c: c.target_groups("347"), "user_id"),
        (lambda c: c.target_groups(347, target_rule_id="1"), "target_rule_id"),
        (lambda c: c.target_periods("../2"), "target_group_id"),
    ],
)
async def test_what_cannot_be_asked_is_refused_before_the_network(
    mocked: aioresponses, client: TargetsClient, call, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        await call(client)
    assert not mocked.requests


GROUPS_ANSWER = b"""{"data": {"userId": 347,
 "customer": {"id": 347, "birthday": "1990-01-01",
  "profiles": [{"firstName": "919111122111", "lastName": null, "nick": "Ash",
    "commChannels": [{"type": "mobile", "accountId": null, "value": "918111255499",
      "primary": false, "verified": true, "subscribed": null, "attributes": {"a": 1}}],
    "source": "instore", "accountId": "", "userId": 347, "orgSourceId": -1}],
  "loyaltyInfo": {"loyaltyType": "loyalty", "lifetimePurchases": 2400.50,
    "attribution": {"createdOn": "2024-08-27T09:35:24.000+0000"}},
  "customFields": {"gender": "F"}},
 "targetGroups": [
  {"id": 601, "name": "Spend", "orgId": 50363, "preferredTillId": 751552970000, "mystery": [1],
   "targetEvaluationType": "FIXED_CALENDAR_WINDOW", "trackingType": "STREAKS",
   "targets": [
    {"targetId": null, "periodId": 53292, "periodRefCode": "Cycle_1",
     "periodStartDate": "2024-07-01", "periodEndDate": "2024-07-05",
     "targetValue": 1000.000, "targetAchievedValue": 250.125, "targetName": "ten",
     "targetType": "GROSS_SALES", "targetEntity": "TRANSACTION", "targetRuleId": 90988,
     "enrolledOn": "2024-08-30T09:21:43.741+0000", "eventName": "TransactionAdd",
     "periodStartDateWithTimeStamp": "2024-07-01T00:00:00.000Z",
     "periodEndDateWithTimeStamp": "2024-07-05T23:59:59.000Z",
     "targetAchievedDateTime": null, "currentPeriod": true, "unEnrolled": false,
     "targetAchievedEventLogId": 31748166, "programId": 5, "fresh": "key",
     "milestones": [{"id": 1, "triggerName": "half", "triggerValue": 500.0, "isAchieved": false}]},
    {"targetRuleId": 90988, "milestones": null, "targetValue": 0, "targetAchievedValue": 3}],
   "streaks": [{"userStreakId": null, "streakId": 5731, "streakName": "s", "status": "NOT_STARTED",
     "currentCount": 0, "totalTargetCountOfSequence": 3, "streakAchievedDateTime": null}]},
  {"id": 602, "targets": null}]},
 "errors": null, "warnings": [{"code": 1, "message": "slow"}]}"""


async def test_groups_are_read_whole(mocked: aioresponses, client: TargetsClient) -> None:
    query = "includeInactive=true&targetRuleId=90988&includeInactiveTargets=false"
    mocked.get(f"{GROUPS}?{query}", body=GROUPS_ANSWER, headers={"X-Cap-Requestid": "r1"})
    found = await client.target_groups(
        347, include_inactive=True, target_rule_id=90988, include_inactive_targets=False
    )
    assert (found.user_id, found.request_id) == (347, "r1")
    assert found.warnings == (ApiWarning(1, "slow"),)
    group, empty = found.target_groups
    assert (group.id, group.name, group.org_id) == (601, "Spend", 50363)
    assert (group.preferred_till_id, group.tracking_type) == (751552970000, "STREAKS")
    assert group.extra == {"mystery": [1]}
    assert (empty.id, empty.targets, empty.streaks) == (602, (), ())

    first, second = found.targets()
    assert (first.target_rule_id, first.target_id, first.period_id) == (90988, None, 53292)
    assert (first.period_ref_code, first.current_period) == ("Cycle_1", True)
    assert (first.period_start_date, first.period_end_date) == (date(2024, 7, 1), date(2024, 7, 5))
    assert first.period_end_date_with_time_stamp == datetime(2024, 7, 5, 23, 59, 59, tzinfo=UTC)
    assert str(first.target_value) == "1000.000"
    assert str(first.target_achieved_value) == "250.125"
    assert (first.un_enrolled, first.program_id) == (False, 5)
    assert first.target_achieved_event_log_id == 31748166
    assert first.enrolled_on.microsecond == 741000
    assert first.extra == {"fresh": "key"}
    (milestone,) = first.milestones
    assert (milestone.trigger_name, milestone.is_achieved) == ("half", False)
    assert (second.milestones, second.period_id) == ((), None)

    (streak,) = group.streaks
    assert (streak.streak_id, streak.status) == (5731, "NOT_STARTED")
    assert (streak.current_count, streak.total_target_count_of_sequence) == (0, 3)

    customer = found.customer
    assert (customer.id, customer.custom_fields) == (347, {"gender": "F"})
    assert customer.loyalty_info.lifetime_purchases == Decimal("2400.50")
    assert customer.extra == {"birthday": "1990-01-01"}
    (profile,) = customer.profiles
    assert (profile.first_name, profile.last_name) == ("919111122111", None)
    assert (profile.org_source_id, profile.extra) == (-1, {"nick": "Ash"})
    (channel,) = profile.comm_channels
    assert (channel.value, channel.verified, channel.attributes) == ("918111255499", True, {"a": 1})


async def test_the_newer_iso_fields_win(mocked: aioresponses, client: TargetsClient) -> None:
    target = {
        "targetRuleId": 1,
        "targetAchievedDateTime": "2026-01-05 10:18:48.0",
        "targetAchievedDateTimeISO": "2026-01-05T04:48:48Z",
    }
    data = {"userId": 347, "targetGroups": [{"id": 1, "targets": [target]}]}
    mocked.get(GROUPS, body=json.dumps({"data": data}).encode())
    (read,) = (await client.target_groups(347)).targets()
    assert read.target_achieved_date_time == datetime(2026, 1, 5, 4, 48, 48, tzinfo=UTC)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ("null", "data"),
        ("[]", "data"),
        ('{"userId": 1, "targetGroups": [{"name": "x"}]}', "data.targetGroups[0].id"),
        (
            '{"userId": 1, "targetGroups": [{"id": 1, "targets": [{"targetId": 1}]}]}',
            "data.targetGroups[0].targets[0].targetRuleId",
        ),
    ],
)
async def test_a_wrong_shape_says_where(
    mocked: aioresponses, client: TargetsClient, data: str, where: str
) -> None:
    mocked.get(GROUPS, body=f'{{"data": {data}, "errors": null}}'.encode())
    with pytest.raises(BadResponse) as caught:
        await client.target_groups(347)
    assert caught.value.where == where


async def test_periods_are_read_whole(mocked: aioresponses, client: TargetsClient) -> None:
    body = b"""{"data": [{"id": 19336, "startDate": "2025-05-22", "endDate": "2025-05-22",
     "refCode": "Cycle_1", "periodStatus": "ENDED", "targetGroupId": 601, "description": "",
     "active": true, "frequency": "DAILY", "attribution": {
       "createdOn": "2025-05-22T09:13:09.000+0530", "createdOnISO": "2025-05-22T03:43:09Z"}},
     {"id": "19337", "startDate": null}], "errors": null, "warnings": null}"""
    mocked.get(PERIODS, body=body)
    first, second = await client.target_periods(601)
    assert (first.id, first.ref_code, first.period_status) == (19336, "Cycle_1", "ENDED")
    assert first.start_date == first.end_date == date(2025, 5, 22)
    assert (first.target_group_id, first.active) == (601, True)
    assert first.attribution.created_on == datetime(2025, 5, 22, 3, 43, 9, tzinfo=UTC)
    assert first.extra == {"frequency": "DAILY"}
    assert (second.id, second.start_date) == (19337, None)


@pytest.mark.parametrize("start", ["2025-13-01", "yesterday", 20250522, "0000-00-01"])
async def test_a_day_is_a_day(mocked: aioresponses, client: TargetsClient, start: object) -> None:
    body = json.dumps({"data": [{"id": 1, "startDate": start}]}).encode()
    mocked.get(PERIODS, body=body)
    with pytest.raises(BadResponse) as caught:
        await client.target_periods(601)
    assert caught.value.where == "data[0].startDate"


@pytest.mark.parametrize("start", ["2025-05-22", "2025-05-22 00:00:00.0", "2025-05-22T23:59:59Z"])
async def test_a_time_of_day_behind_a_day_is_left_off(
    mocked: aioresponses, client: TargetsClient, start: str
) -> None:
    mocked.get(PERIODS, body=json.dumps({"data": [{"id": 1, "startDate": start}]}).encode())
    (period,) = await client.target_periods(601)
    assert period.start_date == date(2025, 5, 22)


async def test_groups_of_another_user_are_noted(
    mocked: aioresponses, client: TargetsClient
) -> None:
    mocked.get(GROUPS, body=b'{"data": {"userId": 348, "targetGroups": []}, "errors": null}')
    found = await client.target_groups(347)
    assert found.user_id == 348
    assert found.warnings == (ApiWarning(None, "the answer names another user than 347: 348"),)


@pytest.mark.parametrize(("groups", "ours"), [((7,), False), ((7, 601), True), ((None,), True)])
async def test_periods_of_another_group_only_are_another_calls_answer(
    mocked: aioresponses, client: TargetsClient, groups: tuple[int | None, ...], ours: bool
) -> None:
    rows = [{"id": 1, "targetGroupId": group} for group in groups]
    mocked.get(PERIODS, body=json.dumps({"data": rows, "errors": None}).encode())
    if ours:
        assert len(await client.target_periods(601)) == len(groups)
    else:
        with pytest.raises(BadResponse, match="no period is of target group 601") as caught:
            await client.target_periods(601)
        assert caught.value.retryable


@pytest.mark.parametrize("kind", ["milestones", "streaks"])
async def test_unknown_keys_below_a_group_are_kept(
    mocked: aioresponses, client: TargetsClient, kind: str
) -> None:
    odd = {"achievedDate": 1723193084000, "points": "5.50", "none": None}
    target = {"targetRuleId": 1, "milestones": [{"id": 1, **odd}]}
    group = {"id": 1, "targets": [target], "streaks": [{"streakId": 1, **odd}]}
    body = {"data": {"userId": 347, "targetGroups": [group]}, "errors": None}
    mocked.get(GROUPS, body=json.dumps(body).encode())
    (found,) = (await client.target_groups(347)).target_groups
    row = found.streaks[0] if kind == "streaks" else found.targets[0].milestones[0]
    assert row.extra == {"achievedDate": 1723193084000, "points": "5.50"}
