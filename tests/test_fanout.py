"""Sweeps over real sockets: isolation, fewest requests, closing, stats."""

import asyncio
import time
from typing import Any

import pytest

from capillary_targets import (
    AuthError,
    EndpointGone,
    InvalidUser,
    NoRecordFound,
    RateLimit,
    RateLimited,
    RetryDetails,
    RetryPolicy,
    ServiceUnavailable,
    TargetPeriodNotFound,
    TargetRuleNotFound,
    TargetsClient,
    UsageError,
)
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.testing import no_waiting

from .conftest import client_of, turns_until

ONCE = RetryPolicy(attempts=1)


async def test_a_failing_user_disturbs_nobody_and_keeps_what_had_come() -> None:
    sandbox = Sandbox(users=30, targets=2, events=25, exact_events=True)
    victim = sandbox.world.user_ids()[7]
    first, second = (rule.id for rule in sandbox.world.targets(victim))
    async with sandbox, client_of(sandbox, page_size=10, retry=ONCE) as client:
        sandbox.faults.add(
            Fault.http(500), times=None, path_contains=f"{victim}/trackedTargetEvents/{second}"
        )
        outcomes = [outcome async for outcome in client.sweep(sandbox.world.user_ids())]
    assert len({outcome.user_id for outcome in outcomes}) == len(outcomes) == 30
    (failed,) = [outcome for outcome in outcomes if not outcome.complete]
    assert failed.user_id == victim
    assert isinstance(failed.error, ServiceUnavailable)
    assert [event.target_rule_id for event in failed.events] == [first] * 25
    assert failed.reports[first].complete
    assert not failed.reports[second].complete


@pytest.mark.parametrize(
    ("fault", "kind"), [(Fault.http(401), AuthError), (Fault.http(404), EndpointGone)]
)
async def test_what_nobody_would_survive_ends_the_sweep(fault: Fault, kind: type) -> None:
    sandbox = Sandbox(users=5000)
    async with sandbox, client_of(sandbox) as client:

        async def consume() -> None:
            async for _ in client.sweep(sandbox.world.user_ids()):
                if client.counts.requests > 100 and not len(sandbox.faults):
                    sandbox.faults.add(fault, times=None)

        with pytest.raises(kind):
            await consume()
        assert client.counts.requests < 1000
    await turns_until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_events_alone_cost_one_request_less_a_user(sandbox: Sandbox) -> None:
    users = sandbox.world.user_ids()
    rule = sandbox.world.targets(users[0])[0].id
    async with client_of(sandbox) as client:
        sweep = client.sweep(users, target_rule_ids=[rule], fetch_targets=False)
        outcomes = [outcome async for outcome in sweep]
    assert all(outcome.complete for outcome in outcomes)
    assert sandbox.counts["enrolledTargets"] == 0
    assert sandbox.counts["trackedTargetEvents"] == len(users) == sweep.stats.requests
    for outcome in outcomes:
        truth = sandbox.world.events(outcome.user_id, rule)
        assert [e.event_log_id for e in outcome.events] == [e.event_log_id for e in truth]


async def test_with_enrolment_only_the_named_targets_are_walked(sandbox: Sandbox) -> None:
    users = sandbox.world.user_ids()
    rule = sandbox.world.targets(users[0])[0].id
    async with client_of(sandbox) as client:
        outcomes = [o async for o in client.sweep(users, target_rule_ids=[rule])]
    for outcome in outcomes:
        assert [target.id for target in outcome.targets] in ([rule], [])
    assert sandbox.counts["trackedTargetEvents"] == sum(len(o.targets) for o in outcomes)


async def test_a_period_filters_the_sweep(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        (outcome,) = [o async for o in client.sweep([564332013], period=9889)]
    assert len(outcome.events) == 2


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"target_rule_ids": [5]}, TargetRuleNotFound),
        ({"target_rule_ids": [1986], "period": 5}, TargetPeriodNotFound),
    ],
)
async def test_a_rule_or_period_that_does_not_exist_ends_the_sweep(
    sandbox: Sandbox, asked: dict, kind: type
) -> None:
    async with client_of(sandbox) as client:
        with pytest.raises(kind):
            async for _ in client.sweep([564332013], fetch_targets=False, **asked):
                pass


async def test_a_user_under_way_is_not_fetched_twice(sandbox: Sandbox) -> None:
    user = sandbox.world.user_ids()[0]
    async with client_of(sandbox) as client:
        outcomes = [outcome async for outcome in client.sweep([user] * 50)]
    assert len(outcomes) < 50
    assert sandbox.counts["enrolledTargets"] == len(outcomes)


@pytest.mark.parametrize("bad", [None, 2**70, "5", [5], 1.5], ids=str)
async def test_an_id_that_is_none_fails_alone(sandbox: Sandbox, bad: Any) -> None:
    good, other = sandbox.world.user_ids()[:2]
    async with client_of(sandbox) as client:
        outcomes = [o async for o in client.sweep([bad, good, 5, other], ordered=True)]
    assert [o.user_id for o in outcomes] == [bad, good, 5, other]
    assert isinstance(outcomes[0].error, UsageError)
    assert isinstance(outcomes[2].error, InvalidUser)
    assert outcomes[1].complete
    assert outcomes[3].complete


async def test_no_record_is_no_failure(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        (outcome,) = [o async for o in client.sweep([42381788])]
    assert outcome.complete
    assert outcome.reports[2579].no_record
    assert not isinstance(outcome.error, NoRecordFound)


@pytest.mark.parametrize("what", ["outcomes", "events"])
@pytest.mark.parametrize("how", ["break", "raise", "cancel", "aclose"])
async def test_however_it_ends_nothing_is_left(how: str, what: str) -> None:
    sandbox = Sandbox(users=100)
    async with sandbox, client_of(sandbox) as client:
        users = sandbox.world.user_ids()
        sandbox.faults.add(Fault.stall(), times=None, path_contains=str(users[60]))
        sweep = client.sweep(users)

        async def consume() -> None:
            found = aiter(sweep) if what == "outcomes" else sweep.events()
            async for _ in found:
                if not sandbox.faults.stalled:
                    continue
                if how == "break":
                    break
                if how == "aclose":
                    await found.aclose()
                    break
                del found  # the traceback would hold it
                if how == "raise":
                    raise ZeroDivisionError
                await asyncio.Event().wait()

        task = asyncio.create_task(consume())
        if how == "cancel":
            await turns_until(lambda: sandbox.faults.stalled > 0)
            task.cancel()
        await asyncio.wait([task])
        if how in {"raise", "cancel"}:
            assert task.cancelled() or isinstance(task.exception(), ZeroDivisionError)
        await turns_until(lambda: client.session.limiter.in_flight == 0)
        assert client.session.http.connector._acquired == set()
    await turns_until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


@pytest.mark.parametrize("ordered", [False, True])
async def test_the_flat_stream_has_all_events_each_targets_in_order(ordered: bool) -> None:
    sandbox = Sandbox(users=12, targets=3, events=25, exact_events=True)
    async with sandbox, client_of(sandbox, page_size=10) as client:
        users = sandbox.world.user_ids()
        sweep = client.sweep(users, ordered=ordered)
        found: dict[tuple[int, int], list[int]] = {}
        async for event in sweep.events():
            found.setdefault((event.customer_id, event.target_rule_id), []).append(
                event.event_log_id
            )
            assert sweep.stats.events >= sum(map(len, found.values()))
    truth = {
        (user, rule.id): [row.event_log_id for row in sandbox.world.events(user, rule.id)]
        for user in users
        for rule in sandbox.world.targets(user)
    }
    assert found == truth
    assert not ordered or list(found) == list(truth)
    stats = sweep.stats
    assert (stats.users_done, stats.users_failed, stats.events) == (12, 0, 900)


async def test_the_flat_stream_does_not_wait_for_a_users_last_page() -> None:
    sandbox = Sandbox(users=1, targets=1, events=250, exact_events=True)
    async with sandbox, client_of(sandbox, page_size=10, concurrency=1) as client:
        (user,) = sandbox.world.user_ids()
        sandbox.faults.add(Fault.stall(), times=None, path_contains="offset=20")
        stream = client.sweep([user]).events()
        async with asyncio.timeout(10):
            early = [await anext(stream) for _ in range(200)]
        assert len({event.event_log_id for event in early}) == 200
        await stream.aclose()


async def test_stats_tell_how_far_it_is(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.http(503), times=2)
    async with client_of(sandbox) as client:
        sweep = client.sweep([*sandbox.world.user_ids(), 5])
        with no_waiting():
            before = sweep.stats
            async for _ in sweep:
                assert before.users_done == 0  # a value of the moment it was read
                assert sweep.stats.users_done >= 1
                assert sweep.stats.limit >= 1
        stats = sweep.stats
        assert client.counts.requests == stats.requests
    assert (stats.users_done, stats.users_failed, stats.retries) == (21, 1, 2)
    assert stats.targets == 60
    assert stats.events == sum(
        sandbox.world.count(user, rule.id)
        for user in sandbox.world.user_ids()
        for rule in sandbox.world.targets(user)
    )


async def test_a_sweep_needs_to_know_what_to_ask_for(client: TargetsClient) -> None:
    with pytest.raises(UsageError, match="target_rule_ids"):
        client.sweep([1], fetch_targets=False)
    with pytest.raises(UsageError, match="target_rule_ids"):
        client.sweep([1], target_rule_ids=["x"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="page_size"):
        client.sweep([1], page_size=0)


async def test_waiting_for_the_budget_counts_towards_nobodys_deadline() -> None:
    """Ten users ask at once, one may go each 0.3 s: the last waits longer than the deadline."""
    sandbox = Sandbox(users=10, targets=1, events=5, exact_events=True)
    rule = sandbox.world.rules()[0].id
    budget = RateLimit(1, per=0.3)
    async with sandbox, client_of(sandbox, rate=budget, timeout=2, concurrency=10) as client:
        users = sandbox.world.user_ids()
        sweep = client.sweep(users, target_rule_ids=[rule], fetch_targets=False)
        outcomes = [outcome async for outcome in sweep]
    assert all(outcome.complete for outcome in outcomes)
    assert sweep.stats.requests == 10
    assert sweep.stats.waited_for_budget > 2


@pytest.mark.parametrize("hint", ["0", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", None])
async def test_a_refusal_without_a_pause_is_retried_after_a_backoff(hint: str | None) -> None:
    details: list[object] = []
    sandbox = Sandbox(users=10)
    sandbox.faults.add(Fault.http(429, retry_after=hint), times=10)
    retry = RetryPolicy(wait_initial=0.01)
    async with sandbox, client_of(sandbox, retry=retry, hooks=[details.append]) as client:
        assert all([outcome.complete async for outcome in client.sweep(sandbox.world.user_ids())])
    waits = [detail.wait for detail in details if isinstance(detail, RetryDetails)]
    assert len(waits) == 10
    assert all(0 < wait < 0.2 for wait in waits)


@pytest.mark.parametrize(("refusals", "attempts"), [(16, 17), (100, 17)])
async def test_a_user_of_a_sweep_is_refused_more_often_than_it_may_fail(
    refusals: int, attempts: int
) -> None:
    """Where three of ten requests are refused, five attempts would lose two users in a thousand."""
    sandbox = Sandbox(users=1, targets=1)
    sandbox.faults.add(Fault.http(429, retry_after="0.001"), times=refusals)
    async with sandbox, client_of(sandbox, retry=RetryPolicy(attempts=5)) as client:
        (outcome,) = [one async for one in client.sweep(sandbox.world.user_ids())]
        assert outcome.complete is (refusals < attempts)
        if outcome.error is not None:
            assert outcome.error.attempts == attempts
            with pytest.raises(RateLimited) as caught:  # a person would rather know
                await client.active_targets(outcome.user_id)
            assert caught.value.attempts == 5


@pytest.mark.parametrize("outcome", ["429", "503"])
async def test_a_sweep_does_not_wait_for_a_pause_of_an_hour(outcome: str) -> None:
    sandbox = Sandbox(users=5)
    sandbox.faults.add(Fault.http(int(outcome), retry_after=3600))
    async with sandbox, client_of(sandbox) as client:
        with pytest.raises((RateLimited, ServiceUnavailable)) as caught:
            assert [one async for one in client.sweep(sandbox.world.user_ids())]
    assert caught.value.retry_after == pytest.approx(3600, abs=10)


async def test_a_target_that_comes_twice_is_walked_once(sandbox: Sandbox) -> None:
    user = sandbox.world.user_ids()[0]
    rule = sandbox.world.targets(user)[0].id
    async with client_of(sandbox) as client:
        for fetch_targets in (True, False):
            sweep = client.sweep([user], target_rule_ids=[rule] * 2, fetch_targets=fetch_targets)
            (outcome,) = [outcome async for outcome in sweep]
            truth = sandbox.world.events(user, rule)
            assert [e.event_log_id for e in outcome.events] == [e.event_log_id for e in truth]
        answer = [*outcome.targets, *(await client.active_targets(user))] * 2

        async def twice(*_: object, **__: object) -> list[object]:
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("capillary_targets.fanout.active_targets", twice)
            (outcome,) = [outcome async for outcome in client.sweep([user])]
    assert len(outcome.targets) == len(outcome.reports) == len(answer) // 2
    assert len(outcome.events) == sum(
        sandbox.world.count(user, rule.id) for rule in sandbox.world.targets(user)
    )


async def test_a_period_by_name(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        by_id = [o async for o in client.sweep([564332013], period=9889)]
        by_name = [o async for o in client.sweep([564332013], period="G1717-9889")]
        with pytest.raises(UsageError, match="period"):
            client.sweep([1], period=" ")
    assert by_id[0].events
    assert by_name[0].events == by_id[0].events


@pytest.mark.parametrize("what", ["outcomes", "events", "targets"])
async def test_time_asleep_is_no_time_out(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop stands still, as in a stopped process, while requests are in flight."""
    monkeypatch.setattr("capillary_targets.session._ASLEEP", 0.3)
    sandbox = Sandbox(users=3, targets=1, events=25, exact_events=True)
    where = "enrolledTargets" if what == "targets" else "offset=1"
    async with sandbox, client_of(sandbox, page_size=10, timeout=1) as client:
        users = sandbox.world.user_ids()
        sandbox.faults.add(Fault.stall(), times=3, path_contains=where)
        sweep = client.sweep(users)
        found = 0

        async def consume() -> None:
            nonlocal found
            if what == "events":
                async for _ in sweep.events():
                    found += 1
            else:
                async for outcome in sweep:
                    assert outcome.complete, outcome.error
                    assert [r.events for r in outcome.reports.values()] == [25]
                    found += len(outcome.events)

        task = asyncio.create_task(consume())
        # On a machine that stood still just then, they were cut off, and sent again.
        await turns_until(lambda: sandbox.faults.stalled > 0 or task.done())
        time.sleep(2)  # noqa: ASYNC251 - the process is stopped, and no timer runs
        await task
    assert found == 75
