"""Settling fetches what a notification announces, in few requests, and proves that it arrived."""

import asyncio
import json
from decimal import Decimal

import pytest

from capillary_targets import PaginationError, UsageError
from capillary_targets.notifications import parse
from capillary_targets.sandbox import Sandbox
from capillary_targets.testing import no_waiting
from tests.conftest import client_of, turns_until

RULE_INDEX = 0


def announce(event, **changes):
    """The vendor's notification of a sandbox's event."""
    data = {
        "customerIdentifiers": {"customerId": event.customer_id},
        "targetDetails": {"id": event.target_rule_id},
        **changes.pop("data", {}),
    }
    body = {
        "eventName": "targetAchievedValueUpdated",
        "eventId": f"n{event.event_log_id}",
        "loyaltyEventId": str(event.event_log_id),
        "data": data,
        **changes,
    }
    return parse(json.dumps(body))


@pytest.fixture
async def world():
    sandbox = Sandbox(users=3, targets=2, events=6, exact_events=True)
    async with sandbox:
        yield sandbox


@pytest.fixture
def pair(world):
    user = world.world.user_ids()[0]
    return user, world.world.targets(user)[RULE_INDEX].id


def events_calls(sandbox):
    return sandbox.counts["trackedTargetEvents"]


async def test_the_announced_event_and_the_checkpoint_behind_it(world, pair):
    async with client_of(world) as client:
        first = world.world.add_event(*pair)
        found = await client.settle(announce(first))
        assert (found.proof, found.settled, found.rewound) == ("event", True, False)
        assert len(found.events) == 7
        second = world.world.add_event(*pair)
        before = events_calls(world)
        again = await client.settle(announce(second), start=found.checkpoints)
        assert [event.event_log_id for event in again.events] == [second.event_log_id]
        assert (again.requests, events_calls(world) - before) == (1, 1)


async def test_a_repeated_notification_costs_nothing_once_the_checkpoint_is_behind_it(world, pair):
    async with client_of(world) as client:
        event = world.world.add_event(*pair)
        found = await client.settle(announce(event))
        before = events_calls(world)
        again = await client.settle(announce(event), start=found.checkpoints)
        assert (again.events, again.proof, again.requests) == ((), "event", 0)
        assert events_calls(world) == before
        # But whoever has not moved the checkpoint gets the events again: nothing is lost.
        assert len((await client.settle(announce(event))).events) == 7


async def test_a_burst_about_one_member_is_two_fetches_at_most(world, pair):
    async with client_of(world) as client:
        events = [world.world.add_event(*pair) for _ in range(10)]
        start = (await client.settle(announce(events[0]))).checkpoints
        more = [world.world.add_event(*pair) for _ in range(10)]
        before = events_calls(world)
        found = await asyncio.gather(*[client.settle(announce(e), start=start) for e in more])
        assert {one.proof for one in found} == {"event"}
        assert all(len(one.events) == 10 for one in found)
        assert events_calls(world) - before <= 2


async def test_an_early_push_is_awaited(world, pair):
    user, rule = pair

    async with client_of(world) as client:
        start = (await client.settle(announce(world.world.add_event(*pair)))).checkpoints
        late = world.world.add_event(*pair)
        world.world.delete_events(user, rule, -1)
        asked = events_calls(world)

        def arrive(_world, number):
            if number == asked + 2:
                world.world.history(user, rule)
                world.world._changed(user, rule).insert(7, late)

        world.settings.between_requests = arrive
        with no_waiting():
            found = await client.settle(announce(late), start=start)
        assert found.proof == "event"
        assert [event.event_log_id for event in found.events] == [late.event_log_id]


async def test_what_never_shows_up_is_a_finding(world, pair):
    async with client_of(world) as client:
        event = world.world.add_event(*pair)
        known = announce(event)
        never = announce(event, loyaltyEventId="424242")
        start = (await client.settle(known)).checkpoints
        with no_waiting():
            found = await client.settle(never, start=start, window=3)
        assert (found.proof, found.settled) == ("missing", False)
        assert found.events == ()


async def test_an_event_before_the_checkpoint_is_found_after_a_restart(world, pair):
    event = world.world.add_event(*pair)
    async with client_of(world) as client:
        start = (await client.settle(announce(event))).checkpoints
    async with client_of(world) as client:  # remembers nothing
        with no_waiting():
            found = await client.settle(announce(event), start=start, window=1)
        assert found.proof == "event"


async def test_a_late_event_before_the_checkpoint_rewinds(world, pair):
    async with client_of(world) as client:
        start = (await client.settle(announce(world.world.add_event(*pair)))).checkpoints
        late = world.world.insert_late(*pair, at=1)
        found = await client.settle(announce(late), start=start)
        assert (found.proof, found.rewound) == ("event", True)
        assert len(found.events) == 8


async def test_a_transaction_id_serves_where_there_is_no_event_id(world, pair):
    async with client_of(world) as client:
        event = world.world.add_event(*pair, unique_id="881101809")
        for key in ("transactionId", "returnId"):
            notification = announce(event, loyaltyEventId="", data={key: 881101809})
            assert (await client.settle(notification)).proof == "transaction"


async def test_an_achieved_value_serves_where_there_is_no_id(world, pair):
    user, rule = pair
    async with client_of(world) as client:
        event = world.world.add_event(*pair)
        groups = (await client.target_groups(user, include_inactive=True)).target_groups
        (value,) = [
            target.target_achieved_value
            for group in groups
            for target in group.targets
            if target.target_rule_id == rule and target.period_id == event.period_id
        ]
        right = announce(event, loyaltyEventId="", data={"achievedTargetValue": str(value)})
        assert (await client.settle(right)).proof == "value"
        named = {"id": rule, "targetPeriodId": event.period_id}
        right = announce(
            event,
            loyaltyEventId="",
            data={"targetDetails": named, "achievedTargetValue": str(value)},
        )
        assert (await client.settle(right)).proof == "value"
        wrong = announce(
            event, loyaltyEventId="", data={"achievedTargetValue": str(value + Decimal("0.001"))}
        )
        with no_waiting():
            assert (await client.settle(wrong, window=1)).proof == "missing"


async def test_a_notification_that_announces_no_event_fetches_what_is_new(world, pair):
    async with client_of(world) as client:
        event = world.world.add_event(*pair)
        started = announce(event, loyaltyEventId="", eventName="targetPeriodStarted")
        found = await client.settle(started)
        assert (found.proof, len(found.events)) == ("nothing announced", 7)


async def test_a_window_must_be_seconds(world):
    async with client_of(world) as client:
        with pytest.raises(UsageError, match="window"):
            await client.settle(parse(b'{"eventName": "streakEnd"}'), window=-1)


async def test_a_cancelled_settling_leaves_nothing_behind(world, pair):
    async with client_of(world) as client:
        event = world.world.add_event(*pair)
        world.settings.latency = 60
        tasks = [asyncio.create_task(client.settle(announce(event))) for _ in range(3)]
        await turns_until(lambda: world.in_flight > 0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        world.settings.latency = 0
        assert (await client.settle(announce(event))).settled
        assert not any(one.callers or one.latest for one in client._settler._pairs.values())


async def test_a_failed_fetch_is_the_callers_to_see(world, pair):
    world.settings.past_end = "endless"
    world.settings.offset_mode = "ignored"
    async with client_of(world) as client:
        with pytest.raises(PaginationError):
            await client.settle(announce(world.world.add_event(*pair)), window=0)


@pytest.mark.parametrize(
    "without", [{"customerIdentifiers": {}}, {"targetDetails": {}}], ids=["no member", "no target"]
)
async def test_without_a_member_or_a_target_there_is_nothing_to_settle(world, pair, without):
    notification = announce(world.world.add_event(*pair), data=without)
    async with client_of(world) as client:
        with pytest.raises(UsageError, match="nothing to settle"):
            await client.settle(notification)
    assert not events_calls(world)
