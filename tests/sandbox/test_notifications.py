"""What the sandbox pushes, and how: over real sockets, without the package's own parser."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from capillary_targets.sandbox import Event, Rule, Sandbox, World
from tests.conftest import turns_until

from .conftest import Caller


class Receiver:
    """Answers with the statuses it was given, then 200."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.statuses: list[int] = []
        self.gate: asyncio.Event | None = None
        self.seen: Any = lambda: None
        self.url = ""

    async def receive(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.headers.append(request.headers)
        self.seen()
        if self.gate is not None:
            await self.gate.wait()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)

    @property
    def log_ids(self) -> list[str]:
        return [body["loyaltyEventId"] for body in self.bodies]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/door", receiver.receive)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/door"
    yield receiver
    await runner.cleanup()


def pushing(receiver: Receiver, **settings: Any) -> Sandbox:
    settings = {"users": 1, "targets": 4, "events": 25, "notify_time_scale": 0.0} | settings
    return Sandbox(notify=receiver.url, exact_events=True, **settings)


@asynccontextmanager
async def pushed(receiver: Receiver, **settings: Any) -> AsyncIterator[Sandbox]:
    """One that runs until all is delivered."""
    async with (sandbox := pushing(receiver, **settings)):
        yield sandbox
        await sandbox.notifications.drained()


def rule_of(sandbox: Sandbox, *, behavioural: bool) -> int:
    rules = sandbox.world.targets(1_000_001)
    return next(rule.id for rule in rules if rule.behavioural is behavioural)


def add(sandbox: Sandbox, *, behavioural: bool = False, **fields: Any) -> Event:
    return sandbox.world.add_event(
        1_000_001, rule_of(sandbox, behavioural=behavioural), **({"value": "0.01"} | fields)
    )


async def test_a_written_event_is_announced_in_the_vendors_words(receiver: Receiver) -> None:
    headers = {"X-Webhook-Secret": "s3cret"}
    async with pushed(receiver, notify_headers=headers) as sandbox:
        event = add(sandbox, value="14")
    rule = sandbox.world.rule(event.target_rule_id)
    (body,), (sent,) = receiver.bodies, receiver.headers
    assert sent["X-Webhook-Secret"] == "s3cret"
    assert sent["Content-Type"] == "application/json"
    assert body["eventName"] == "targetAchievedValueUpdated"
    assert body["loyaltyEventId"] == str(event.event_log_id)
    data = body["data"]
    assert data["customerIdentifiers"] == {"customerId": 1_000_001}
    assert data["targetDetails"]["id"] == rule.id
    assert data["targetDetails"]["targetPeriodId"] == event.period_id
    assert data["currentEventTargetValue"] == "14.000"
    assert data["definedTargetValue"] == f"{rule.target_value:.3f}"
    period = sandbox.world.events(1_000_001, rule.id, event.period_id)
    achieved = sum(
        -abs(row.target_value) if row.event_name == "RETURN_BILL" else row.target_value
        for row in period
        if row.target_value is not None
    )
    assert Decimal(data["achievedTargetValue"]) == achieved
    assert data["transactionId"] == int(event.unique_id)
    keys = {one["key"]: one["value"] for one in data["triggeringActivity"]["identifiers"]}
    assert keys == {"transactionId": event.unique_id, "eventLogId": str(event.event_log_id)}


@pytest.mark.parametrize("value", ["25.5", "-25.5"])
async def test_a_return_is_unsigned_and_decreases_the_sum(receiver: Receiver, value: str) -> None:
    async with pushed(receiver) as sandbox:
        add(sandbox, value="100")
        add(sandbox, value=value, event_name="RETURN_BILL", unique_id="77")
    before, data = (body["data"] for body in receiver.bodies)
    assert data["currentEventTargetValue"] == "25.500"
    assert data["returnId"] == 77
    assert "transactionId" not in data
    after = Decimal(before["achievedTargetValue"]) - Decimal("25.5")
    assert Decimal(data["achievedTargetValue"]) == after


async def test_a_behavioural_event_names_no_transaction(receiver: Receiver) -> None:
    async with pushed(receiver) as sandbox:
        add(sandbox, behavioural=True)
    (body,) = receiver.bodies
    assert not {"transactionId", "returnId"} & set(body["data"])


USER = 1_000_001


def tracked(world: World, tracking_type: str) -> Rule:
    """A rule of such a group, in which the user is enrolled; the group's only one of theirs."""
    rule = next(one for one in world.rules() if one.group.tracking_type == tracking_type)
    for other in world.targets(USER):
        world.unenrol(USER, other.id)
    world.enrol(USER, rule.id)
    return rule


def streak(world: World, rule: Rule) -> Iterator[str]:
    """A streak of the first period on, made and lost; before each step, what it announces."""
    months = [f"{period.start} 12:00:00.0" for period in rule.group.periods]
    reached, turned = (
        "targetAchievedValueUpdated targetValueAchieved",
        "targetPeriodCompleted targetPeriodStarted",
    )
    world.add_event(USER, rule.id, date=months[0], value=rule.target_value)
    yield f"{reached} streakStart"
    world.add_event(USER, rule.id, date=months[1], value=rule.target_value)
    yield f"{turned} {reached} streakLevelAchieved"
    world.add_event(USER, rule.id, date=months[1], value="0.001", event_name="RETURN_BILL")
    yield "targetAchievedValueUpdated streakLevelUnAchieved"
    world.add_event(USER, rule.id, date=months[1], value="0.001")
    yield f"{reached} streakLevelAchieved"
    world.add_event(USER, rule.id, date=months[2], value="0.001")
    yield f"{turned} targetAchievedValueUpdated"
    world.add_event(USER, rule.id, date=months[3], value="0.001")
    yield "targetPeriodCompleted streakEnd targetPeriodStarted targetAchievedValueUpdated"
    world.add_event(USER, rule.id, date=months[2], value="0.001")  # late: no period begins
    yield "targetAchievedValueUpdated"
    world.unenrol(USER, rule.id)
    yield "streakCustomerUnEnrolment"
    world.unenrol(USER, rule.id)
    yield ""
    world.enrol(USER, rule.id)
    yield "targetCustomerEnrolment streakCustomerEnrolment"


def missed_month(world: World, rule: Rule) -> Iterator[str]:
    """A streak that ends because nothing happened in a period."""
    months = [f"{period.start} 12:00:00.0" for period in rule.group.periods]
    world.add_event(USER, rule.id, date=months[0], value=rule.target_value)
    yield "targetAchievedValueUpdated targetValueAchieved streakStart"
    world.add_event(USER, rule.id, date=months[2], value="0.001")
    yield "targetPeriodCompleted streakEnd targetPeriodStarted targetAchievedValueUpdated"


def unified(world: World, rule: Rule) -> Iterator[str]:
    """A group of targets, by one of them."""
    world.add_event(USER, rule.id, value=rule.target_value - 1)
    yield "targetAchievedValueUpdated"
    world.add_event(USER, rule.id, value="1")
    yield "targetAchievedValueUpdated targetValueAchieved unifiedTargetsAchieved"
    world.add_event(USER, rule.id, value="1")
    yield "targetAchievedValueUpdated"
    world.add_event(USER, rule.id, value="2", event_name="RETURN_BILL")
    yield "targetAchievedValueUpdated unifiedTargetsUnAchieved"


def own_value(world: World, rule: Rule) -> Iterator[str]:
    """A member with a value of their own to reach."""
    world.set_target_value(USER, rule.id, "7")
    yield "targetValueUpdated"
    world.set_target_value(USER, rule.id, "7.00")
    yield ""
    world.add_event(USER, rule.id, value="7")
    yield "targetAchievedValueUpdated targetValueAchieved"


@pytest.mark.parametrize(
    ("story", "tracking_type"),
    [(streak, "STREAKS"), (missed_month, "STREAKS"), (unified, "UNIFIED"), (own_value, "DEFAULT")],
)
async def test_what_each_change_announces(
    receiver: Receiver, story: Callable[[World, Rule], Iterator[str]], tracking_type: str
) -> None:
    sandbox = pushing(receiver, events=0)
    rule = tracked(sandbox.world, tracking_type)
    async with sandbox:
        await sandbox.notifications.drained()
        sandbox.notifications.clear()
        receiver.bodies.clear()
        steps = story(sandbox.world, rule)
        for announced in steps:
            await sandbox.notifications.drained()
            assert [body["eventName"] for body in receiver.bodies] == announced.split()
            receiver.bodies.clear()


async def test_a_unified_group_is_told_with_all_its_targets(receiver: Receiver) -> None:
    async with pushed(receiver, events=0) as sandbox:
        world = sandbox.world
        first = tracked(world, "UNIFIED")
        second = next(one for one in world.rules() if one.group == first.group and one != first)
        world.enrol(USER, second.id)
        world.add_event(USER, first.id, value="1.5")
        world.add_event(USER, second.id, value=first.target_value - 1)
    (body,) = [one for one in receiver.bodies if one["eventName"] == "unifiedTargetsAchieved"]
    data = body["data"]
    assert [
        (one["targetId"], one["achievedTargetValue"], one["definedTargetValue"])
        for one in data["targetData"]
    ] == [
        (first.id, "1.500", f"{first.target_value:.3f}"),
        (second.id, f"{first.target_value - 1:.3f}", f"{second.target_value:.3f}"),
    ]
    assert data["unifiedTargetGroupDetails"]["targetGroupId"] == first.group.id
    assert "targetDetails" not in data
    assert data["transactionId"]


async def test_a_members_own_value_is_what_the_api_says(receiver: Receiver, caller: Caller) -> None:
    async with (sandbox := pushing(receiver)) as url:
        rule = sandbox.world.targets(USER)[0]
        sandbox.world.set_target_value(USER, rule.id, "7")
        answer = await caller.get(f"{url}/v3/users/{USER}/targetGroups")
    values = {
        target["targetRuleId"]: target["targetValue"]
        for group in answer.json["data"]["targetGroups"]
        for target in group["targets"]
    }
    assert values[rule.id] == 7
    assert len(set(values.values())) > 1


async def test_the_same_seed_pushes_the_same_bytes(receiver: Receiver) -> None:
    for _ in range(2):
        async with pushed(receiver) as sandbox:
            add(sandbox)
    first, second = receiver.bodies
    assert first == second


@pytest.mark.parametrize("status", [400, 401, 404, 302])
async def test_a_refusal_is_final(receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    async with pushed(receiver) as sandbox:
        add(sandbox)
    assert len(receiver.bodies) == 1
    assert sandbox.notifications.counts == {"refused": 1}
    assert [one.status for one in sandbox.notifications.attempts] == [status]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_is_repeated_holds_the_queue_up(receiver: Receiver, status: int) -> None:
    receiver.statuses = [status, status, 200]
    async with pushed(receiver) as sandbox:
        first, second = add(sandbox), add(sandbox)
    assert receiver.log_ids == [str(first.event_log_id)] * 3 + [str(second.event_log_id)]
    assert len({body["eventId"] for body in receiver.bodies[:3]}) == 1
    assert sandbox.notifications.counts == {"delivered": 2}


async def test_a_time_out_and_a_lost_connection_are_repeated(receiver: Receiver) -> None:
    receiver.gate = asyncio.Event()
    async with pushed(receiver, notify_timeout=0.05) as sandbox:
        add(sandbox)
        await turns_until(lambda: len(sandbox.notifications.attempts) >= 2)
        assert {one.status for one in sandbox.notifications.attempts} == {None}
        receiver.gate.set()
        sandbox.settings.notify_timeout = 10
    assert sandbox.notifications.counts == {"delivered": 1}
    assert len(receiver.bodies) >= 3


async def test_the_back_off_doubles_up_to_an_hour_for_seven_days(
    receiver: Receiver, slept: list[float]
) -> None:
    receiver.statuses = [503] * 1000
    async with pushed(receiver, notify_time_scale=1.0) as sandbox:
        add(sandbox)
    backoffs = [one for one in slept if one >= 1]
    assert backoffs[:13] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600]
    assert set(backoffs[13:]) == {3600}
    assert 7 * 86_400 <= sum(backoffs) < 7 * 86_400 + 3600
    assert sandbox.notifications.counts == {"given up": 1}

    slept.clear()
    settings = {"notify_time_scale": 1.0, "notify_backoff": 300, "notify_give_up": 900}
    async with pushed(receiver, **settings) as sandbox:
        add(sandbox)
    assert [one for one in slept if one >= 1] == [300, 600]


async def test_the_delay_is_scaled(receiver: Receiver, slept: list[float]) -> None:
    async with pushed(receiver, notify_delay=86_400, notify_time_scale=0.5) as sandbox:
        add(sandbox)
    assert 43_100 < slept[0] <= 43_200


async def test_duplicates_have_the_same_id(receiver: Receiver) -> None:
    async with pushed(receiver, notify_duplicates=0.5) as sandbox:
        for _ in range(40):
            add(sandbox)
    times = Counter(body["eventId"] for body in receiver.bodies)
    assert len(times) == 40
    assert set(times.values()) == {1, 2}


async def test_lost_ones_are_never_sent(receiver: Receiver) -> None:
    async with pushed(receiver, notify_losses=0.5) as sandbox:
        events = [add(sandbox) for _ in range(40)]
    counts = sandbox.notifications.counts
    assert counts["lost"] + counts["delivered"] == 40
    assert 5 < counts["lost"] < 35
    assert set(receiver.log_ids) < {str(event.event_log_id) for event in events}


async def test_shuffled_ones_all_come(receiver: Receiver) -> None:
    async with pushed(receiver, notify_shuffled=True) as sandbox:
        written = [str(add(sandbox).event_log_id) for _ in range(40)]
    assert receiver.log_ids != written
    assert sorted(receiver.log_ids) == sorted(written)


@pytest.mark.parametrize("misses", [0, 2])
async def test_an_early_push_comes_before_the_event_shows(
    receiver: Receiver, caller: Caller, misses: int
) -> None:
    settings = {"notify_early": 1.0, "notify_early_requests": misses}
    async with (sandbox := pushing(receiver, **settings)) as url:
        user, rule = 1_000_001, rule_of(sandbox, behavioural=False)

        async def shown() -> int:
            answer = await caller.events(url, user, rule, limit=100)
            return len(answer.json["data"])

        totals: list[int] = []
        receiver.seen = lambda: totals.append(sandbox.world.count(user, rule))
        receiver.statuses = [503]
        event = add(sandbox, value="5")
        for _ in range(3):
            sandbox.world.count_request(user, rule)  # before the push: does not count
        assert sandbox.world.count(user, rule) == 25
        await sandbox.notifications.drained()
        assert totals == [25, 25]  # both attempts
        assert [await shown() for _ in range(misses + 1)] == [25] * misses + [26]
        assert sandbox.world.events(user, rule)[-1] == event
        # The announced sum has it already, and so does the next one's.
        sandbox.settings.notify_early = 0.0
        add(sandbox, value="2")
        await sandbox.notifications.drained()
    sums = [Decimal(body["data"]["achievedTargetValue"]) for body in receiver.bodies]
    assert sums[-1] - sums[0] == 2


async def test_nothing_is_pushed_unless_an_address_is_set(receiver: Receiver) -> None:
    async with (sandbox := Sandbox(users=1, exact_events=True, notify_early=1.0)):
        rule = sandbox.world.targets(1_000_001)[0].id
        sandbox.world.add_event(1_000_001, rule)
        assert (len(sandbox.notifications), sandbox.world.count(1_000_001, rule)) == (0, 26)
        sandbox.settings.notify = receiver.url
        sandbox.world.insert_late(1_000_001, rule)
        await sandbox.notifications.drained()
    assert len(receiver.bodies) == 1


async def test_the_pusher_ends_with_the_server_and_goes_on_with_it(receiver: Receiver) -> None:
    receiver.gate = asyncio.Event()
    sandbox = pushing(receiver)
    tasks = asyncio.all_tasks()
    await sandbox.start()
    add(sandbox)
    await turns_until(lambda: receiver.bodies)
    draining = asyncio.create_task(sandbox.notifications.drained())
    await sandbox.stop()
    with pytest.raises(RuntimeError, match="not running"):
        await draining
    receiver.gate.set()
    await turns_until(
        lambda: not [one for one in asyncio.all_tasks() - tasks if "sandbox" in one.get_name()]
    )
    assert len(sandbox.notifications) == 1
    async with sandbox:
        await sandbox.notifications.drained()
    assert receiver.bodies[0] == receiver.bodies[-1]
    assert sandbox.notifications.counts == {"delivered": 1}


async def test_a_reset_forgets_what_waits(receiver: Receiver) -> None:
    receiver.statuses = [503] * 1000
    async with (sandbox := pushing(receiver, notify_early=1.0, notify_time_scale=1.0)):
        for _ in range(3):
            add(sandbox)
        await turns_until(lambda: sandbox.notifications.attempts)
        sandbox.reset()
        assert len(sandbox.notifications) <= 1  # the one in delivery
        rule = rule_of(sandbox, behavioural=False)
        sandbox.world.count_request(1_000_001, rule)
        assert sandbox.world.count(1_000_001, rule) == 25


async def test_faults_and_targets_are_changed_from_another_process(receiver: Receiver) -> None:
    async with (sandbox := pushing(receiver)) as url, aiohttp.ClientSession(url) as session:

        async def ask(path: str, order: dict[str, Any]) -> Any:
            async with session.post(path, json=order) as response:
                assert response.status == 200
                return await response.json()

        faults = {"notify_duplicates": 1, "notify_log_id": "none", "rate_limit": [5, 1.5]}
        assert await ask("/sandbox/settings", faults) == {"changed": [*faults]}
        held = {rule.id for rule in sandbox.world.targets(USER)}
        free = next(rule.id for rule in sandbox.world.rules() if rule.id not in held)
        order = {"user": USER, "rule": free, "enrolled": True, "target_value": "7.5"}
        assert await ask("/sandbox/targets", order) == {"targets": sorted(held | {free})}
        order = {"user": USER, "rule": free, "enrolled": False}
        assert await ask("/sandbox/targets", order) == {"targets": sorted(held)}
        await sandbox.notifications.drained()
    assert sandbox.settings.rate_limit == (5, 1.5)
    assert [body["eventName"] for body in receiver.bodies] == [
        *("targetCustomerEnrolment", "targetCustomerEnrolment"),
        *("targetValueUpdated", "targetValueUpdated"),
    ]
    assert receiver.bodies[2]["data"]["definedTargetValue"] == "7.500"


EVENT = {"user": USER, "rule": 3004}


@pytest.mark.parametrize(
    ("path", "order", "says"),
    [
        (
            "settings",
            {"notify_losses": 0.5, "notify_early": 2},
            "notify_early must be `float` <= 1.0",
        ),
        ("settings", {"notify_losses": 0.5, "colour": "red"}, "there is no setting colour"),
        ("settings", {"notify_losses": 0.5, "clock": 5}, "clock must be `Callable`, not 5"),
        ("settings", {"notify_losses": 0.5, "users": 5}, "users is fixed"),
        ("settings", {"notify_losses": 0.5, "iso": "perhaps"}, "iso must be `bool`, not 'perhaps'"),
        ("settings", {"notify_losses": 0.5, "notify": "here"}, "notify must be like"),
        ("settings", ["notify_losses"], "object"),
        ("events", EVENT | {"user": 5}, "no user 5"),
        ("events", EVENT | {"rule": 5}, "no rule 5"),
        ("events", EVENT | {"value": "NaN"}, "value must be a number"),
        ("events", EVENT | {"value": "ten"}, "value"),
        ("events", EVENT | {"date": "2025-02-30 00:00:00.0"}, "day is out of range"),
        ("events", EVENT | {"date": "yesterday"}, "date"),
        ("events", EVENT | {"colour": "red"}, "colour"),
        ("events", EVENT | {"user": None}, "user"),
        ("targets", {"user": 5, "rule": 3001}, "no user 5"),
        ("targets", {"user": USER, "rule": 3001, "target_value": "NaN"}, "value must be a number"),
        ("targets", {"user": USER, "rule": 3001, "enrolled": "no"}, "enrolled"),
    ],
)
async def test_a_change_that_cannot_be_changes_nothing(path: str, order: Any, says: str) -> None:
    async with (
        (sandbox := Sandbox(users=1)) as url,
        aiohttp.ClientSession(url) as session,
        session.post(f"/sandbox/{path}", json=order) as response,
    ):
        message = (await response.json())["error"]
    assert response.status == 400
    assert says in message
    assert "\n" not in message
    assert sandbox.settings.notify_losses == 0
    assert sandbox.world.count(USER, 3004) == World().count(USER, 3004) > 0
