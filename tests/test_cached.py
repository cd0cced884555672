"""client.cached: one request for all who ask at once, stale answers in an outage."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from capillary_targets import (
    AuthError,
    ClientClosed,
    InvalidUser,
    ServiceUnavailable,
    TargetsClient,
    UsageError,
)
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.testing import no_waiting

from .conftest import Clock, client_of, turns_until

pytest.importorskip("cachetools")

from capillary_targets.cached import Cached, CachedClient


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[TargetsClient]:
    async with client_of(sandbox) as client:
        yield client


@pytest.fixture
def cached(client: TargetsClient, clock: Clock) -> CachedClient:
    return CachedClient(client.session, ttl=30, stale_if_error=300, clock=clock)


@pytest.fixture
def user(sandbox: Sandbox) -> int:
    return sandbox.world.user_ids()[0]


def callers(cached: CachedClient, user: int, number: int) -> list[asyncio.Task[Cached[object]]]:
    return [asyncio.create_task(cached.progress(user)) for _ in range(number)]


def flights() -> list[asyncio.Task[object]]:
    return [one for one in asyncio.all_tasks() if "CachedClient._fetch" in repr(one.get_coro())]


async def test_five_hundred_callers_make_one_request(
    sandbox: Sandbox, client: TargetsClient, cached: CachedClient, user: int
) -> None:
    found = await asyncio.gather(*callers(cached, user, 500))
    assert sandbox.counts == {"targetGroups": 1}
    assert found[0].value == await client.progress(user)
    assert {one.stale for one in found} == {False}
    assert abs((found[0].fetched_at - datetime.now(UTC)).total_seconds()) < 3600
    assert len({id(one.value) for one in found}) == 500  # each may change its own list
    assert flights() == []


async def test_each_call_member_and_argument_has_its_own(
    sandbox: Sandbox, cached: CachedClient, user: int
) -> None:
    rule, other = (target.id for target in sandbox.world.targets(user)[:2])
    for _ in range(2):
        await cached.active_targets(user)
        await cached.active_targets(user + 1)
        await cached.active_targets(user, target_rule_ids=[rule])
        found = await cached.active_targets(user, target_rule_ids=(one for one in [other]))
        assert [one.id for one in found.value] == [other]
        await cached.target_groups(user)
        await cached.progress(user)
        found.value.clear()
    assert sandbox.counts == {"enrolledTargets": 4, "targetGroups": 2}
    assert len(cached) == 6


async def test_an_answer_is_asked_for_again_after_its_time(
    sandbox: Sandbox, cached: CachedClient, clock: Clock, user: int
) -> None:
    await cached.progress(user)
    clock.now = 29.9
    await cached.progress(user)
    assert sandbox.counts["targetGroups"] == 1
    clock.now = 30
    assert not (await cached.progress(user)).stale
    assert sandbox.counts["targetGroups"] == 2


OUTAGES = [
    (Fault.http(503), ServiceUnavailable),
    (Fault.reset(), Exception),
    (Fault.too_many_requests(3600), Exception),
    (Fault.gateway_page(200), Exception),
    (Fault.api_code(401), AuthError),
    (Fault.truncated(), Exception),
]


@pytest.mark.parametrize(("fault", "kind"), OUTAGES)
async def test_known_members_are_answered_in_an_outage(
    sandbox: Sandbox,
    cached: CachedClient,
    clock: Clock,
    user: int,
    fault: Fault,
    kind: type[Exception],
) -> None:
    fresh = await cached.progress(user)
    sandbox.faults.add(fault, times=None)
    clock.now = 100
    with no_waiting():
        found = await asyncio.gather(*callers(cached, user, 9))
        assert {one.stale for one in found} == {True}
        assert {one.fetched_at for one in found} == {fresh.fetched_at}
        assert found[0].value == fresh.value
        assert isinstance(found[0].error, kind)
        asked = dict(sandbox.counts)
        clock.now = 129
        assert (await cached.progress(user)).stale  # the service is left alone for `ttl` seconds
        assert sandbox.counts == asked
        with pytest.raises(kind):  # unknown: there is nothing to answer with
            await cached.progress(user + 1)
        clock.now = 331
        with pytest.raises(kind):
            await cached.progress(user)
        sandbox.faults.clear()
        assert not (await cached.progress(user)).stale


async def test_an_outage_that_is_over_is_forgotten(
    sandbox: Sandbox, cached: CachedClient, clock: Clock, user: int
) -> None:
    await cached.progress(user)
    sandbox.faults.add(Fault.http(503), times=None)
    clock.now = 31
    with no_waiting():
        assert (await cached.progress(user)).stale
    sandbox.faults.clear()
    clock.now = 61
    assert not (await cached.progress(user)).stale


@pytest.mark.parametrize("fault", [Fault.api_code(310011), Fault.api_code(300004)])
async def test_an_answer_that_says_no_is_no_outage(
    sandbox: Sandbox, cached: CachedClient, clock: Clock, user: int, fault: Fault
) -> None:
    await cached.progress(user)
    sandbox.faults.add(fault, times=None)
    clock.now = 31
    with pytest.raises(Exception, match=r"\[3\d+\]"):
        await cached.progress(user)


async def test_an_error_is_everybodys_and_is_not_kept(
    sandbox: Sandbox, cached: CachedClient
) -> None:
    found = await asyncio.gather(*callers(cached, 999, 5), return_exceptions=True)
    assert {type(one) for one in found} == {InvalidUser}
    assert len({id(one) for one in found}) == 5
    assert sandbox.counts["targetGroups"] == 1
    with pytest.raises(InvalidUser):
        await cached.progress(999)
    assert sandbox.counts["targetGroups"] == 2


async def test_a_cancelled_caller_leaves_the_request_to_the_others(
    sandbox: Sandbox, cached: CachedClient, user: int
) -> None:
    sandbox.faults.add(Fault.stall(), times=1)
    first, *others = callers(cached, user, 4)
    await turns_until(lambda: sandbox.in_flight == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(flights()) == 1
    assert not [one for one in others if one.done()]
    late = asyncio.create_task(cached.progress(user))
    for one in others:
        one.cancel()
    await asyncio.wait(others)
    assert len(flights()) == 1
    late.cancel()
    await asyncio.wait([late])
    assert flights() == []  # the last one took it along
    await turns_until(lambda: not sandbox.in_flight)
    assert not (await cached.progress(user)).stale
    assert sandbox.counts["targetGroups"] == 2


async def test_what_is_kept_of_a_changed_member_expires(
    sandbox: Sandbox, cached: CachedClient, user: int
) -> None:
    await cached.progress(user)
    await cached.progress(user_id=user, all_periods=False)  # the same, however it is asked
    assert sandbox.counts["targetGroups"] == 1
    await cached.active_targets(user)
    await cached.progress(user + 1)
    cached.expire(user)
    sandbox.faults.add(Fault.http(503), times=None)
    with no_waiting():
        assert (await cached.progress(user)).stale  # an outage still finds it
    sandbox.faults.clear()
    cached.expire(user)
    assert not (await cached.progress(user)).stale
    await cached.active_targets(user)
    asked = dict(sandbox.counts)
    await cached.progress(user + 1)  # another member's stays
    assert sandbox.counts == asked
    assert asked["enrolledTargets"] == 2


async def test_an_answer_asked_for_before_the_change_is_not_kept(
    sandbox: Sandbox, cached: CachedClient, user: int
) -> None:
    sandbox.faults.add(Fault.stall(), times=1)
    (before,) = callers(cached, user, 1)
    await turns_until(lambda: sandbox.in_flight == 1)
    cached.expire(user)
    after = await cached.progress(user)
    sandbox.faults.release()
    assert (await before).fetched_at > after.fetched_at
    assert (await cached.progress(user)).fetched_at == after.fetched_at
    assert sandbox.counts == {"targetGroups": 2}


async def test_it_is_bounded(sandbox: Sandbox, client: TargetsClient) -> None:
    cached = client.cached(ttl=30, max_size=3)
    users = sandbox.world.user_ids()[:4]
    for user in users:
        await cached.progress(user)
    assert len(cached) == 3
    await cached.progress(users[-1])
    assert sandbox.counts["targetGroups"] == 4
    await cached.progress(users[0])
    assert sandbox.counts["targetGroups"] == 5


async def test_it_ends_with_its_client(sandbox: Sandbox, user: int) -> None:
    async with client_of(sandbox) as client:
        cached = client.cached(ttl=30, stale_if_error=30)
        await cached.progress(user)
    with pytest.raises(ClientClosed):
        await cached.progress(user)
    with pytest.raises(ClientClosed):
        client.cached(ttl=1)


@pytest.mark.parametrize(
    "wrong",
    [{"ttl": 0}, {"ttl": -1}, {"ttl": float("nan")}, {"stale_if_error": -1}, {"max_size": 0}],
)
async def test_wrong_settings(client: TargetsClient, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"ttl|max_size"):
        client.cached(**{"ttl": 30, **wrong})


async def test_wrong_ids_are_refused_before_anything_is_cached(cached: CachedClient) -> None:
    for wrong in ("x", [1], 10**30):
        with pytest.raises(UsageError):
            await cached.progress(wrong)
    assert len(cached) == 0
