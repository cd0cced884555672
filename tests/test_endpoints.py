"""The shape of each request, without a socket."""

from datetime import datetime, timedelta, timezone
from http import HTTPStatus

import pytest
from aioresponses import aioresponses
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from capillary_targets import (
    BasicAuth,
    NoRecordFound,
    TargetsClient,
    UsageError,
    endpoints,
    open_session,
)
from capillary_targets.endpoints import checked_id

from .conftest import BASE, sample

TARGETS = f"{BASE}/v3/users/42381788/enrolledTargets"
EVENTS = f"{BASE}/v3/users/564332013/trackedTargetEvents/1986"


def _only_request(mocked: aioresponses) -> tuple[str, URL, dict]:
    ((method, url), (call,)) = next(iter(mocked.requests.items()))
    assert len(mocked.requests) == 1
    return method, url, call.kwargs


async def test_active_targets_asks_as_the_documented_example(
    mocked: aioresponses, client: TargetsClient
) -> None:
    query = (
        "targetRuleIds=2577%2C2579&enrollmentType=IMPORT"
        "&trackingDate=1723193084000&includeOnlyUserCreated=true"
    )
    mocked.get(URL(f"{TARGETS}?{query}", encoded=True), body=sample("active_targets_import"))
    targets = await client.active_targets(
        42381788,
        target_rule_ids=(2577, 2579),
        enrollment_type="IMPORT",
        tracking_date=datetime(2024, 8, 9, 14, 14, 44, tzinfo=timezone(timedelta(hours=5.5))),
        only_user_created=True,
    )
    assert [target.id for target in targets] == [2579]
    method, _, kwargs = _only_request(mocked)
    assert method == "GET"
    assert kwargs["headers"]["Authorization"].startswith("Basic ")
    assert kwargs["headers"]["Accept"] == kwargs["headers"]["Content-Type"] == "application/json"
    assert kwargs["allow_redirects"] is False


async def test_without_parameters_nothing_is_asked_for(
    mocked: aioresponses, client: TargetsClient
) -> None:
    mocked.get(TARGETS, body=b'{"data": [], "errors": null}')
    assert await client.active_targets(42381788) == []
    assert _only_request(mocked)[1].query_string == ""


async def test_target_events_sends_every_parameter(mocked: aioresponses, auth: BasicAuth) -> None:
    mocked.get(f"{EVENTS}?periodId=9889&limit=5&offset=0", body=sample("target_events_one_period"))
    async with open_session("eu", auth) as session:
        page = await endpoints.target_events(
            session, 564332013, 1986, period_id=9889, limit=5, offset=0
        )
    assert (len(page.events), page.pagination.offset, page.total) == (2, 0, 2)


async def test_the_single_page_coroutine_raises_310149(
    mocked: aioresponses, auth: BasicAuth
) -> None:
    body = b'{"data": null, "errors": [{"code": 310149, "message": "No record found"}]}'
    mocked.get(EVENTS, body=body, headers={"X-Cap-Requestid": "abc"})
    async with open_session("eu", auth) as session:
        with pytest.raises(NoRecordFound) as caught:
            await endpoints.target_events(session, 564332013, 1986)
    assert (caught.value.code, caught.value.request_id) == (310149, "abc")
    assert (caught.value.method, caught.value.url) == ("GET", EVENTS)


async def test_a_gateways_path_prefix_is_kept(mocked: aioresponses, auth: BasicAuth) -> None:
    mocked.get("https://gw.example/intouch/v3/users/1/enrolledTargets", body=b'{"data": []}')
    async with TargetsClient("https://gw.example/intouch/", auth) as client:
        assert await client.active_targets(1) == []


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: c.active_targets("1"), "user_id"),
        (lambda c: c.active_targets(True), "user_id"),
        (lambda c: c.active_targets(2**63), "64 bits"),
        (lambda c: c.active_targets(1, target_rule_ids=["1,2"]), "target_rule_ids"),
        (lambda c: c.active_targets(1, tracking_date=datetime(2024, 1, 1)), "time zone"),  # noqa: DTZ001
        (lambda c: endpoints.target_events(c.session, 1, "../2"), "target_rule_id"),
        (lambda c: endpoints.target_events(c.session, 1, 2, limit=0), "limit"),
        (lambda c: endpoints.target_events(c.session, 1, 2, offset=-1), "offset"),
        (lambda c: endpoints.target_events(c.session, 1, 2, period_id=1.5), "period_id"),
    ],
)
async def test_what_cannot_be_asked_is_refused_before_the_network(
    mocked: aioresponses, client: TargetsClient, call, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        await call(client)
    assert not mocked.requests


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_long_is_an_id(value: int) -> None:
    assert checked_id("user_id", value) == value


class Whole:
    """An integer of another library, such as numpy's."""

    def __index__(self) -> int:
        return 7


class Array:
    """numpy's arrays have the method, too, and refuse."""

    def __index__(self) -> int:
        raise TypeError


def test_integers_of_other_kinds_are_ids() -> None:
    assert checked_id("user_id", Whole()) == 7
    assert type(checked_id("user_id", HTTPStatus.OK)) is int
    with pytest.raises(UsageError, match="64 bits"):
        checked_id("user_id", Array())
