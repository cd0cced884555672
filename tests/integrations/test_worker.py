"""The example worker, a process of its own that is killed, on a real NATS server."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from capillary_targets.sandbox import Fault, Sandbox
from tests.needs import required

required("faststream", "nats", programs=("nats-server",))

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from benchmarks.notifications import bodies, example, measure, pushing
from benchmarks.notifications import broker as nats_server

USERS = 6


@pytest.fixture
async def nats_url(tmp_path: Path) -> AsyncIterator[str]:
    async with nats_server(tmp_path) as url:
        yield url


@pytest.fixture
async def broker(nats_url: str) -> AsyncIterator[Client]:
    connection = await nats.connect(nats_url)
    yield connection
    await connection.close()


@pytest.fixture
async def js(broker: Client) -> JetStreamContext:
    return broker.jetstream()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(users=USERS, targets=2, events=230, exact_events=True)
    async with sandbox:
        yield sandbox


Worker = Callable[[], Any]


@pytest.fixture
def environment(nats_url: str, sandbox: Sandbox) -> dict[str, str]:
    return pushing(sandbox, nats_url, 0.01)


@pytest.fixture
def worker(environment: dict[str, str]) -> Worker:
    """Starts workers; what still runs at the end of the block is killed."""
    return partial(example, "worker", environment)


@pytest.fixture
def receiver(environment: dict[str, str]) -> Worker:
    """Starts the receiver, always on the same port, where the sandbox pushes to."""
    return partial(example, "receiver", environment)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask the broker again until the condition holds; give up, failing, after a minute."""
    async with asyncio.timeout(60):
        while True:
            try:
                if await condition():
                    return
            except NotFoundError:
                pass  # the worker has not come so far yet
            await asyncio.sleep(0.01)  # leaves the processor to the worker


async def stored(js: JetStreamContext, stream: str) -> int:
    return int((await js.stream_info(stream)).state.messages)


async def all_done(js: JetStreamContext, consumer: str = "worker") -> None:
    """Every message is acknowledged, or buried."""

    async def done() -> bool:
        info = await js.consumer_info("MEMBERS", consumer)
        assert info.ack_floor is not None
        return info.ack_floor.consumer_seq > 0 and not (info.num_pending or info.num_ack_pending)

    await until(done)


async def messages(js: JetStreamContext, stream: str, subject: str) -> list[dict[str, Any]]:
    return [json.loads(one, parse_float=Decimal) for one in await bodies(js, stream, subject)]


async def events(js: JetStreamContext) -> Counter[tuple[Any, ...]]:
    return Counter(
        (one["customer_id"], one["target_rule_id"], one["event_log_id"], text(one["target_value"]))
        for one in await messages(js, "EVENTS", "events.*")
    )


def text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def truth(sandbox: Sandbox) -> Counter[tuple[Any, ...]]:
    return Counter(
        (user, rule.id, event.event_log_id, text(event.target_value))
        for user in sandbox.world.user_ids()
        for rule in sandbox.world.targets(user)
        for event in sandbox.world.events(user, rule.id)
    )


async def send(js: JetStreamContext, *bodies: bytes) -> None:
    for body in bodies:
        await js.publish("members.changed", body)


def about(user: int) -> bytes:
    return json.dumps({"userId": user}).encode()


async def all_members(js: JetStreamContext, sandbox: Sandbox) -> None:
    await js.add_stream(name="MEMBERS", subjects=["members.*"])
    await send(js, *map(about, sandbox.world.user_ids()))


async def test_each_new_event_comes_out_once(
    js: JetStreamContext, sandbox: Sandbox, worker: Worker
) -> None:
    await all_members(js, sandbox)
    async with worker():
        await all_done(js)
        assert await events(js) == truth(sandbox)

        user = sandbox.world.user_ids()[0]
        _, second = sandbox.world.targets(user)
        sandbox.world.add_event(user, second.id, value="12.340")
        await send(js, about(user))
        await until(lambda: at_least(js, truth(sandbox).total()))
        await all_done(js)
    assert await events(js) == truth(sandbox)
    # The mark has moved on: the next message about this member asks for what follows.
    mark = await (await js.key_value("marks")).get(f"{user}.{second.id}")
    assert json.loads(mark.value or b"")["row"] == 231


async def at_least(js: JetStreamContext, count: int) -> bool:
    return await stored(js, "EVENTS") >= count


async def test_killed_between_publishing_and_the_mark(
    js: JetStreamContext, sandbox: Sandbox, worker: Worker
) -> None:
    user = sandbox.world.user_ids()[0]
    await js.add_stream(name="MEMBERS", subjects=["members.*"])
    sandbox.faults.add(Fault.stall(), times=None, path_contains="offset=2")
    await send(js, about(user))
    async with worker():
        await until(lambda: at_least(js, 190))
    sandbox.faults.clear()
    before = sandbox.counts["trackedTargetEvents"]
    async with worker():
        await all_done(js)
    assert await stored(js, "EVENTS") == 2 * 230
    assert sandbox.counts["trackedTargetEvents"] - before == 6  # from the start: no mark yet
    assert all(count == 1 for count in (await events(js)).values())


async def test_retryable_errors_come_again_after_the_servers_word(
    broker: Client, js: JetStreamContext, sandbox: Sandbox, worker: Worker
) -> None:
    user = sandbox.world.user_ids()[0]
    await js.add_stream(name="MEMBERS", subjects=["members.*"])
    verdicts = await broker.subscribe("$JS.ACK.MEMBERS.>")  # what the worker says of messages
    sandbox.faults.add(Fault.too_many_requests(3600))
    await send(js, about(user))
    async with worker():
        verdict = await verdicts.next_msg(timeout=60)
    word, delay = verdict.data.split(b" ", 1)
    assert (word, json.loads(delay)) == (b"-NAK", {"delay": 3600 * 10**9})


async def test_what_can_never_succeed_goes_to_the_dead_letters(
    js: JetStreamContext, sandbox: Sandbox, worker: Worker
) -> None:
    await js.add_stream(name="MEMBERS", subjects=["members.*"])
    await send(js, about(999), b"no json", b'{"userId": "me"}', b'{"user": 1}')
    async with worker():
        await until(lambda: letters(js, 4))
        await all_done(js)
    dead = await messages(js, "MEMBERS", "members.dead")
    assert Counter(one["error"] for one in dead) == {
        "InvalidUser": 1,
        "DecodeError": 1,
        "ValidationError": 2,
    }
    (refused,) = [one for one in dead if one["error"] == "InvalidUser"]
    assert json.loads(refused["message"]) == {"userId": 999}
    assert "request id" in refused["reason"]
    assert sandbox.settings.password not in str(refused).split()


async def test_a_rotated_password_buries_no_message(
    js: JetStreamContext, sandbox: Sandbox, worker: Worker
) -> None:
    user = sandbox.world.user_ids()[0]
    await js.add_stream(name="MEMBERS", subjects=["members.*"])
    password, sandbox.settings.password = sandbox.settings.password, "rotated"

    async def refused_twice() -> bool:
        return [one.status for one in sandbox.requests].count(401) >= 2

    await send(js, about(user))
    async with worker():
        await until(refused_twice)
        assert await stored(js, "MEMBERS") == 1  # no dead letter
        sandbox.settings.password = password
        await until(lambda: at_least(js, 2 * 230))
        await all_done(js)
    assert await stored(js, "MEMBERS") == 1


async def letters(js: JetStreamContext, count: int) -> bool:
    return await stored(js, "MEMBERS") >= 4 + count


async def test_what_the_vendor_pushes_comes_out_once_whatever_is_killed() -> None:
    """The benchmark in small: early, repeated and lost pushes, both processes killed in turns."""
    found = await measure(96, targets=8, every=40, ack_wait=1)
    assert found["changes"] == 96
    assert found["kills"] >= 2
    assert 0 < found["never announced"] == found["changes"] - found["announced"]
    assert found["published once"] == found["announced"]
    assert found["published twice or more"] == found["published, not announced"] == 0
    assert found["buried"] == 0
    assert found["found by the sweep"] == found["never announced"]
    assert found["found, and truly never announced"] == found["never announced"]
    assert found["announced and not found by the sweep"] == 0


async def test_the_door_answers_only_for_what_the_broker_has(
    js: JetStreamContext, sandbox: Sandbox, receiver: Worker
) -> None:
    statuses = []
    good = json.dumps({"eventName": "targetValueAchieved", "eventId": "e 1"}).encode()

    async def open_() -> bool:
        try:
            async with session.get(url) as response:
                return response.status == 405
        except aiohttp.ClientConnectionError:
            return False

    url = sandbox.settings.notify or ""
    secret = {"X-Webhook-Secret": "s3cret"}
    async with receiver(), aiohttp.ClientSession() as session:
        await until(open_)
        huge = good[:-1] + b', "x": "' + 900_000 * b"\xff" + b'"}'
        sent: tuple[tuple[bytes, dict[str, str]], ...] = (
            (good, {}),
            (good, secret),
            (good, secret),
            (b"\xff", secret),
            (huge, secret),
        )
        for body, headers in sent:
            async with session.post(url, data=body, headers=headers) as response:
                statuses.append(response.status)
        assert statuses == [401, 200, 200, 200, 200]
        assert len(await messages(js, "MEMBERS", "members.notified")) == 1
        dead = await messages(js, "MEMBERS", "members.dead")
        assert [one["error"] for one in dead] == ["BadNotification"] * 2
        await js.delete_stream("MEMBERS")  # nobody acknowledges
        async with session.post(url, data=good, headers=secret) as response:
            assert response.status == 429
