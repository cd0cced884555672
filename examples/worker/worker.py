"""An event-driven worker: "this member changed" in, the member's new events out. NATS JetStream.

    nats-server -js &
    CAPILLARY_BASE_URL=eu CAPILLARY_USERNAME=till.id CAPILLARY_PASSWORD=... \
        python -m examples.worker.worker

`members.changed` takes {"userId": 564332013}, `members.notified` what receiver.py publishes: the
vendor's notification. `events.RULE` gets each new event once; a message that can never succeed goes
to `members.dead`. README.md says why a kill repeats nothing.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from hashlib import blake2b

import msgspec
from faststream import AckPolicy, FastStream
from faststream.nats import ConsumerConfig, JStream, NatsBroker, NatsMessage, PullSub

from capillary_targets import CapillaryError, RetryPolicy, TargetEvent, TargetsClient, from_env
from capillary_targets.notifications import BadNotification, parse

from .marks import Marks, Moved

# Seconds. The server drops a message id that it has seen within the window, so the window must be
# longer than any outage of the workers.
WINDOW = 24 * 3600
MEMBERS = JStream("MEMBERS", subjects=["members.*"], duplicate_window=WINDOW)
EVENTS = JStream("EVENTS", subjects=["events.*"], duplicate_window=WINDOW)
ACK_WAIT = float(os.environ.get("WORKER_ACK_WAIT", "30"))
WORKERS = 32  # notifications settled at a time; an early one waits for its event
DELIVERIES = 20  # of a notification whose event does not show up; then it is buried

broker = NatsBroker(os.environ.get("NATS_URL", "nats://localhost:4222"))
to_events = broker.publisher("events", stream=EVENTS)


class Missing(Exception):
    """The announced event is not there: the push was early, or it never comes."""


class Changed(msgspec.Struct):
    userId: int  # noqa: N815 - as the message has it


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    # Few attempts: the broker redelivers, and other members need not wait meanwhile.
    settings = from_env()
    async with TargetsClient(**settings, timeout=10, retry=RetryPolicy(attempts=2)) as client:
        app.context.set_global("client", client)
        yield


app = FastStream(broker, lifespan=lifespan)


@broker.subscriber(
    "members.changed",
    stream=MEMBERS,
    durable="worker",
    pull_sub=PullSub(batch_size=8),
    config=ConsumerConfig(ack_wait=ACK_WAIT),
    ack_policy=AckPolicy.MANUAL,
)
async def changed(message: NatsMessage) -> None:
    await answer(message, forward)


@broker.subscriber(
    "members.notified",
    stream=MEMBERS,
    durable="settler",
    pull_sub=PullSub(batch_size=WORKERS),
    max_workers=WORKERS,
    config=ConsumerConfig(ack_wait=ACK_WAIT),
    ack_policy=AckPolicy.MANUAL,
)
async def notified(message: NatsMessage) -> None:
    await answer(message, settle)


async def answer(
    message: NatsMessage, handle: Callable[[NatsMessage], Coroutine[None, None, None]]
) -> None:
    """Handle a message, and tell the broker what became of it."""
    try:
        await handle(message)
    except Moved:
        await message.nack()  # another worker was faster: start again from its mark
    except Missing as error:
        if message.raw_message.metadata.num_delivered < DELIVERIES:
            await message.nack(delay=ACK_WAIT)
        else:
            await bury(message, error)
    except (msgspec.MsgspecError, BadNotification) as error:
        await bury(message, error)
    except CapillaryError as error:
        if error.retryable:
            await message.nack(delay=error.retry_after or ACK_WAIT)
        elif error.scope in {"credentials", "client"}:
            raise  # no message is to blame: logged, and redelivered until somebody repairs it
        else:
            await bury(message, error)
    else:
        await message.ack()


async def settle(message: NatsMessage) -> None:
    """Publish what a notification announces, then move the marks behind it."""
    notification = parse(message.body)
    user_id = notification.user_id
    if user_id is None or not notification.rule_ids:
        return  # it is about no target of a member: there is nothing to fetch
    client: TargetsClient = app.context.get("client")
    marks = Marks(await broker.key_value("marks"))
    held = {rule_id: await marks.of(user_id, rule_id) for rule_id in notification.rule_ids}
    start = {rule_id: mark.checkpoint for rule_id, mark in held.items() if mark.checkpoint}
    found = await client.settle(notification, start=start, window=ACK_WAIT / 2)
    published: Counter[bytes] = Counter()
    for event in found.events:
        rule_id = event.target_rule_id or notification.rule_ids[0]
        await publish(user_id, rule_id, event, published)
    for rule_id, checkpoint in found.checkpoints.items():
        if checkpoint != held[rule_id].checkpoint:
            await marks.move(held[rule_id], checkpoint)
    if not found.settled:
        raise Missing("the announced event has not shown up")


async def forward(message: NatsMessage) -> None:
    """Publish a member's new events, then move the mark behind them."""
    user_id = msgspec.json.decode(message.body, type=Changed).userId
    client: TargetsClient = app.context.get("client")
    marks = Marks(await broker.key_value("marks"))
    for target in await client.active_targets(user_id):
        mark = await marks.of(user_id, target.id)
        pager = client.events(user_id, target.id, start=mark.checkpoint)
        published: Counter[bytes] = Counter()
        async for page in pager.pages():
            for event in page.events:
                await publish(user_id, target.id, event, published)
            await message.in_progress()  # a long history must not cause a redelivery
        if pager.checkpoint != mark.checkpoint:
            await marks.move(mark, pager.checkpoint)


async def publish(
    user_id: int, rule_id: int, event: TargetEvent, published: Counter[bytes]
) -> None:
    # The whole row identifies an event: its eventLogId may be missing or repeated.
    body = event.to_json().encode()
    published[body] += 1
    digest = blake2b(body, digest_size=16).hexdigest()
    await to_events.publish(
        body,
        f"events.{rule_id}",
        headers={"Nats-Msg-Id": f"{user_id}.{rule_id}.{digest}.{published[body]}"},
    )


async def bury(message: NatsMessage, error: Exception) -> None:
    """Publish to the dead letters first; only then terminate the message."""
    reason = {"error": type(error).__name__, "reason": str(error)}
    reason["message"] = message.body.decode("utf-8", "replace")
    number = message.raw_message.metadata.sequence.stream
    await broker.publish(
        msgspec.json.encode(reason),
        "members.dead",
        headers={"Nats-Msg-Id": f"dead.{number}"},
        stream="MEMBERS",
    )
    await message.reject()


if __name__ == "__main__":
    asyncio.run(app.run())
