"""The drift watch: planted changes are told once, honest answers never."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import pytest

from capillary_targets import BasicAuth, CapillaryError, TargetsClient, UsageError
from capillary_targets.contract import DriftWatch, Finding
from capillary_targets.hooks import Details, DriftDetails
from capillary_targets.pagination import Dialect
from capillary_targets.sandbox import Fault, Sandbox
from tests.conftest import is_nightly

# Call, place, what stands before it or the old value, what is new, and what is seen of that.
PLANTED = r"""
missing key
  trackedTargetEvents  data[].eventName
  trackedTargetEvents  data[].customerId
  trackedTargetEvents  data[].eventDate
  trackedTargetEvents  data[].periodId
  trackedTargetEvents  data[].targetGroupId
  trackedTargetEvents  data[].targetRuleId
  trackedTargetEvents  data[].targetValue
  trackedTargetEvents  errors
  enrolledTargets  data[].id
  enrolledTargets  data[].name
  enrolledTargets  data[].targetType
  enrolledTargets  data[].targetEntity
  enrolledTargets  data[].targetGroupId
  enrolledTargets  data[].active
  targetPeriods  data[].startDate
  targetGroups  data.targetGroups[].targets[].targetRuleId
  targetGroups  data.targetGroups[].targets[].targetAchievedValue
  targetGroups  data.userId
  targetGroups  data.targetGroups[].targets
new key
  trackedTargetEvents  data[].storeId  eventName  "storeId":7  integer
  trackedTargetEvents  pagination.hasMore  limit  "hasMore":true  boolean
  trackedTargetEvents  meta  errors  "meta":{}  object
  trackedTargetEvents  data[].currency  uniqueId  "currency":"INR"  string
  trackedTargetEvents  data[].lines  uniqueId  "lines":[]  array
  enrolledTargets  data[].tags  targetType  "tags":["a"]  array
  enrolledTargets  data[].attribution.createdAt  createdOn  "createdAt":1  integer
  enrolledTargets  next  errors  "next":null  null
  targetGroups  data.targetGroups[].targets[].rank  periodId  "rank":1.5  number
  targetGroups  data.targetGroups[].v  trackingType  "v":{}  object
  targetPeriods  data[].holiday  refCode  "holiday":false  boolean
changed type
  trackedTargetEvents  data[].eventLogId  (\d+)  "\1"  string
  trackedTargetEvents  data[].eventLogId  (\d+)  \1.5  number
  trackedTargetEvents  data[].customerId  (\d+)  "\1"  string
  trackedTargetEvents  data[].customerId  \d+  null  null
  trackedTargetEvents  data[].targetValue  (-?[\d.]+)  "\1"  string
  trackedTargetEvents  data[].targetValue  (-?[\d.]+)  {"amount":\1}  object
  trackedTargetEvents  data[].uniqueId  "[^"]*"  7  integer
  trackedTargetEvents  data[].eventDate  "[^"]*"  1723193084000  integer
  trackedTargetEvents  data[].eventName  "[^"]*"  4  integer
  trackedTargetEvents  pagination.total  \d+  [1]  array
  trackedTargetEvents  errors  \[\]  false  boolean
  trackedTargetEvents  warnings  \[\]  "none"  string
  enrolledTargets  data[].active  true  "true"  string
  enrolledTargets  data[].active  true  1  integer
  enrolledTargets  data[].emfRuleSetId  (\d+)  "\1"  string
  enrolledTargets  data[].name  "[^"]*"  {"en":"x"}  object
  enrolledTargets  data[].targetGroupId  (\d+)  "\1"  string
  targetGroups  data.targetGroups[].targets[].targetAchievedValue  (-?[\d.]+)  "\1"  string
  targetGroups  data.targetGroups[].targets[].currentPeriod  true  "Y"  string
  targetPeriods  data[].id  (\d+)  "\1"  string
new value
  trackedTargetEvents  data[].eventName  "[^"]*"  "POINTS_EXPIRED"  POINTS_EXPIRED
  trackedTargetEvents  data[].eventName  "[^"]*"  "TransactionAdd"  another spelling
  enrolledTargets  data[].targetType  "[^"]*"  "NET_SALES"  NET_SALES
  enrolledTargets  data[].targetEntity  "[^"]*"  "BASKET"  BASKET
  enrolledTargets  data[].enrolmentMethod  "[^"]*"  "API"  API
  targetGroups  data.targetGroups[].trackingType  "[^"]*"  "SPIN"  SPIN
  targetPeriods  data[].periodStatus  "[^"]*"  "FROZEN"  FROZEN
changed form
  trackedTargetEvents  data[].eventDate  "[^"]*"  "2025-01-01T00:00:00Z"  no longer a server time
  trackedTargetEvents  data[].eventProcessedDate  "[^"]*"  "01/02/2025"  no longer a server time
  enrolledTargets  data[].attribution.createdOn  "[^"]*"  "Jan 1, 2025"  no longer a stamp
  targetPeriods  data[].endDate  "[^"]*"  "2025-01-01T00:00:00Z"  no longer a day
"""
PATHS = {"targetGroups": "targetGroups?", "targetPeriods": "targetGroups/"}


def planted() -> Iterator[tuple[str, tuple[str, str], str]]:
    """Where in paths to plant what, and the finding that it must be."""
    kind = ""
    for line in PLANTED.strip().splitlines():
        if not line.startswith(" "):
            kind = line
            continue
        call, place, *change = line.strip().split("  ")
        key = place.rpartition(".")[2]
        was, new, seen = change or ("", "", "")
        edit = f'"{key}":\\s*{was}', f'"{key}":{new}'
        if kind == "missing key":
            edit = f'"{key}":', f'"{key}New":'
        elif kind == "new key":
            edit = f'"{was}":', f'{new},"{was}":'
        yield PATHS.get(call, call), edit, f"{kind}: {call}: {place}{f' ({seen})' if seen else ''}"


@asynccontextmanager
async def opened(
    sandbox: Sandbox, **options: Any
) -> AsyncIterator[tuple[TargetsClient, list[Finding]]]:
    told: list[Finding] = []

    def hook(details: Details) -> None:
        if isinstance(details, DriftDetails):
            told.append(details.finding)

    async with (
        sandbox as url,
        TargetsClient(url, BasicAuth(*sandbox.credentials), hooks=hook, **options) as client,
    ):
        yield client, told


async def ask_everything(client: TargetsClient, users: int = 4) -> None:
    """Every call, of whoever there is; what is refused is refused."""
    for user in range(1_000_001, 1_000_001 + users):
        try:
            for target in await client.active_targets(user):
                await client.events(user, target.id, page_size=5).collect()
                await client.target_periods(target.target_group_id or 0)
            await client.target_groups(user, include_inactive=True)
        except CapillaryError:
            continue


async def swept(client: TargetsClient) -> None:
    async for outcome in client.sweep(range(1_000_001, 1_000_007)):
        assert outcome.complete


def test_there_are_sixty_of_them() -> None:
    assert len([*planted()]) >= 60


@cache
def honest_answers() -> list[tuple[str, int, Any, bytes]]:
    """Path, status, headers and body of every call's answers, made once."""
    seen: list[tuple[str, int, Any, bytes]] = []

    async def ask() -> None:
        sandbox = Sandbox(users=1, targets=4, events=3)
        async with opened(sandbox, observers=[lambda *answer: seen.append(answer)]) as (client, _):
            await ask_everything(client, users=1)

    asyncio.run(ask())
    return seen


@pytest.mark.parametrize(("path", "edit", "expected"), [*planted()])
def test_a_planted_change_is_told_once(path: str, edit: tuple[str, str], expected: str) -> None:
    told: list[Finding] = []
    watch = DriftWatch(told.append, every=1)
    for where, status, headers, body in honest_answers():
        was, new = (one.encode() for one in edit)
        changed = re.sub(was, new, body) if path in where else body
        watch(where, status, headers, changed)
    assert [str(one) for one in told].count(expected) == 1
    assert len({one.news for one in told}) == len(told)


HONEST: list[dict[str, Any]] = [
    {},
    {"iso": True, "rows_per_id": 2, "missing_ids": 0.3},
    {"missing_ids": 0.9, "missing_id_key": False},
    {"total_mode": "text", "offset_mode": "row"},
    {"total_mode": "float", "limit_mode": "capped-silent", "max_limit": 4},
    {"total_mode": "none", "past_end": "310149"},
    {"total_mode": "absent", "last_updated_on": False},
    {"total_mode": "zero", "past_end": "404"},
    {"recorded": 0.2, "achieved_log_id": False},
    {"signed_returns": False, "achieved_by": "count", "carry_over": -150},
    {"past_end": "error", "error_status": 200, "limit_mode": "refused", "max_limit": 4},
]


@pytest.mark.nightly
@pytest.mark.parametrize("given", HONEST, ids=str)
async def test_honest_answers_are_no_findings(given: dict[str, Any]) -> None:
    """Every call of a user; in the night a hundred thousand answers."""
    users = 1_000 if is_nightly() else 1
    sandbox = Sandbox(users=users, targets=8, events=8, **given)
    async with opened(sandbox, drift=1, dialect=Dialect()) as (client, told):
        await ask_everything(client, users=users)
        await client.find_customer(identifier_name="mobile", identifier_value="919001000001")
    assert [one for one in told if one.kind != "dialect"] == []
    assert sum(sandbox.counts.values()) > 2 * users


async def test_signs_of_removal_are_told(caplog: pytest.LogCaptureFixture) -> None:
    sandbox = Sandbox(users=4)
    leaving = Fault.edited("x^", "", headers={"Deprecation": "@1767225600"})
    sandbox.faults.add(leaving, times=3, path_contains="enrolledTargets")
    async with opened(sandbox, drift=1) as (client, told):
        with caplog.at_level(logging.WARNING):
            await ask_everything(client)
    assert [str(one) for one in told] == [
        "phase-out: enrolledTargets: header Deprecation (the call is to be removed)"
    ]
    assert len(caplog.records) == 1


async def test_a_call_that_is_gone_is_told_whenever_it_goes() -> None:
    sandbox = Sandbox(users=4)
    async with opened(sandbox, drift=1000) as (client, told):
        await ask_everything(client, users=1)
        sandbox.faults.add(Fault.http(404), times=None, path_contains="trackedTargetEvents")
        await ask_everything(client, users=2)
    assert [(one.kind, one.place) for one in told] == [("phase-out", "HTTP 404")]


async def test_a_change_of_dialect_is_told() -> None:
    async with opened(Sandbox(), drift=1, dialect=Dialect(offset="page")) as (client, told):
        client.session.dialect = Dialect(offset="page", total="rows")
        assert not told
        client.session.dialect = Dialect(offset="row", total="rows")
        client.session.dialect = Dialect(offset="row")
    assert [str(one) for one in told] == ["dialect: offset (page, now row)"]


async def test_sweeps_watch_by_themselves_and_calls_do_not() -> None:
    sandbox = Sandbox(users=6, targets=1, events=2)
    edit = Fault.edited('"eventName":', '"storeId":7,"eventName":')
    sandbox.faults.add(edit, times=None, path_contains="trackedTargetEvents")
    async with opened(sandbox) as (client, told):
        await ask_everything(client)
        assert not told
        await swept(client)
    assert [one.place for one in told] == ["data[].storeId"]
    async with opened(sandbox, drift=0) as (client, told):
        await swept(client)
    assert not told


def test_one_answer_in_so_many_is_looked_at() -> None:
    told: list[Finding] = []
    watch = DriftWatch(told.append, every=10)
    path, body = "/v3/users/1/enrolledTargets", b'{"data": [], "errors": null}'
    changed = b'{"data": [], "errors": null, "next": 1}'
    watch(path, 200, {}, body)
    for _ in range(9):
        watch(path, 200, {}, changed)
    assert not told
    watch(path, 200, {}, changed)
    assert [one.place for one in told] == ["next"]


def test_each_call_has_answers_of_its_own() -> None:
    told: list[Finding] = []
    watch = DriftWatch(told.append, every=10)
    for user in range(5):
        watch(f"/v3/users/{user}/targetGroups", 200, {}, b'{"data": null}')
    watch("/v3/users/1/enrolledTargets", 200, {}, b'{"data": [], "errors": [], "next": 1}')
    assert [str(one) for one in told] == ["new key: enrolledTargets: next (integer)"]


def test_what_is_known_is_no_news_and_news_are_bounded() -> None:
    told: list[Finding] = []
    known = Finding("new key", "enrolledTargets", "next", "null")
    watch = DriftWatch(told.append, every=1)
    watch.know([known])
    path = "/v3/users/1/enrolledTargets"
    watch(path, 200, {}, b'{"data": [], "errors": null, "next": 1}')
    assert not told
    for number in range(2000):
        keys = {f"key{number}": 1, "data": [], "errors": None}
        watch(path, 200, {}, json.dumps(keys).encode())
    assert len(told) == 999


@pytest.mark.parametrize("wrong", [1.5, -1, True])
def test_drift_must_be_a_number_of_answers(wrong: Any) -> None:
    with pytest.raises(UsageError, match="drift"):
        TargetsClient("eu", BasicAuth("a", "b"), drift=wrong)
