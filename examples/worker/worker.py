"""An event-driven worker: "this member changed" in, the member's new events out. NATS JetStream.

    nats-server -js &
    CAPILLARY_BASE_URL=eu CAPILLARY_USERNAME=till.id CAPILLARY_PASSWORD=... \
        python -m examples.worker.worker

`members.changed` takes {"userId": 564332013}; `events.RULE` gets each new event once; a message
that can never succeed goes to `members.dead`. README.md says why a kill repeats nothing.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b

import msgspec
from attrs import asdict
from faststream import AckPolicy, FastStream
from faststream.nats import ConsumerConfig, JStream, NatsBroker, NatsMessage, PullSub

from capillary_targets import BasicAuth, CapillaryError, RetryPolicy, TargetsClient

from .marks import Marks, Moved

# Seconds. The server drops a message id that it has seen within the window, so the window must be
# longer than any outage of the workers.
WINDOW = 24 * 3600
MEMBERS = JStream("MEMBERS", subjects=["members.*"], duplicate_window=WINDOW)
EVENTS = JStream("EVENTS", subjects=["events.*"], duplicate_window=WINDOW)
ACK_WAIT = float(os.environ.get("WORKER_ACK_WAIT", "30"))

broker = NatsBroker(os.environ.get("NATS_URL", "nats://localhost:4222"))
to_events = broker.publisher("events", stream=EVENTS)


class Changed(msgspec.Struct):
    userId: int  # noqa: N815 - as the message has it


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    auth = BasicAuth(os.environ["CAPILLARY_USERNAME"], os.environ["CAPILLARY_PASSWORD"])
    url = os.environ["CAPILLARY_BASE_URL"]
    # Few attempts: the broker redelivers, and other members need not wait meanwhile.
    async with TargetsClient(url, auth, timeout=10, retry=RetryPolicy(attempts=2)) as client:
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
    try:
        user_id = msgspec.json.decode(message.body, type=Changed).userId
        await forward(user_id, message)
    except Moved:
        await message.nack()  # another worker was faster: start again from its mark
    except CapillaryError as error:
        if error.retryable:
            await message.nack(delay=error.retry_after or ACK_WAIT)
        elif error.scope in {"credentials", "client"}:
            raise  # no message is to blame: logged, and redelivered until somebody repairs it
        else:
            await bury(message, error)
    except msgspec.MsgspecError as error:
        await bury(message, error)
    else:
        await message.ack()


async def forward(user_id: int, message: NatsMessage) -> None:
    """Publish a member's new events, then move the mark behind them."""
    client: TargetsClient = app.context.get("client")
    marks = Marks(await broker.key_value("marks"))
    for target in await client.active_targets(user_id):
        mark = await marks.of(user_id, target.id)
        pager = client.events(user_id, target.id, start=mark.checkpoint)
        published: Counter[bytes] = Counter()
        async for page in pager.pages():
            for event in page.events:
                # The whole row identifies an event: its eventLogId may be missing or repeated.
                body = msgspec.json.encode(asdict(event))
                published[body] += 1
                digest = blake2b(body, digest_size=16).hexdigest()
                await to_events.publish(
                    body,
                    f"events.{target.id}",
                    headers={"Nats-Msg-Id": f"{user_id}.{target.id}.{digest}.{published[body]}"},
                )
            await message.in_progress()  # a long history must not cause a redelivery
        if pager.checkpoint != mark.checkpoint:
            await marks.move(mark, pager.checkpoint)


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
