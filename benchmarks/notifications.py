"""Push and pull under kills: `python -m benchmarks.notifications [CHANGES]` (100,000).

A sandbox pushes each change to the example's receiver, which publishes on NATS JetStream; the
example's worker settles. 10 % of the pushes come twice, 10 % before the API shows the event, 5 % of
the changes are never announced; receiver and worker are killed in turns. Then an incremental sweep
compares its new events with what was announced. Prints the figures as JSON.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from capillary_targets import BasicAuth, TargetsClient
from capillary_targets.notifications import MemoryStore, parse
from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import SweepOptions, run
from tests.needs import program

ROOT = Path(__file__).parent.parent
TARGETS = 20
ACK_WAIT = 4
BACKLOG = 2_000
"""Pushes that wait at most."""


@asynccontextmanager
async def process(*command: str, **settings: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that is killed at the end."""
    started = await asyncio.create_subprocess_exec(*command, **settings)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


@asynccontextmanager
async def broker(directory: Path) -> AsyncIterator[str]:
    """A NATS server of its own; its address."""
    command = (program("nats-server"), "-js", "-a", "127.0.0.1", "-p", "-1", "-sd", str(directory))
    async with process(*command, stderr=asyncio.subprocess.PIPE) as server:
        assert server.stderr is not None
        address = ""
        while b"Server is ready" not in (line := await server.stderr.readline()):
            if b"Listening for client connections on " in line:
                address = line.decode().split()[-1]
        reading = asyncio.create_task(server.stderr.read())
        yield f"nats://{address}"
        server.kill()
        await reading


async def killing(sandbox: Sandbox, environment: dict[str, str], every: int, until: Any) -> int:
    """Keep receiver and worker running, and kill one of them after each `every` pushes.

    Args:
        sandbox: whose pushes are counted.
        environment: of both.
        every: pushes from one kill to the next.
        until: a task; when it is done, both are killed for good.

    Returns:
        How many times one was killed.
    """
    kills = 0

    async def stay(module: str, turn: int) -> None:
        """One of the two, started again as often as it is killed."""
        nonlocal kills
        while not until.done():
            command = (sys.executable, "-m", f"examples.worker.{module}")
            quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
            async with process(*command, env=environment, cwd=ROOT, **quiet) as running:
                due = (sandbox.notifications.counts["delivered"] // every + turn + 1) * every
                while not until.done() and sandbox.notifications.counts["delivered"] < due:
                    if running.returncode is not None:
                        raise RuntimeError(f"the {module} ended by itself: {running.returncode}")
                    await asyncio.sleep(0.05)
                running.kill()
                kills += not until.done()

    async with asyncio.TaskGroup() as group:
        group.create_task(stay("receiver", 0))
        group.create_task(stay("worker", 1))
    return kills


async def settled(js: JetStreamContext, sandbox: Sandbox) -> None:
    """Wait until every push is delivered, and every message acknowledged or buried."""
    await sandbox.notifications.drained()
    while True:
        try:
            info = await js.consumer_info("MEMBERS", "settler")
        except NotFoundError:
            info = None
        if info is not None and not (info.num_pending or info.num_ack_pending):
            return
        await asyncio.sleep(0.05)


async def bodies(js: JetStreamContext, stream: str, subject: str) -> AsyncGenerator[bytes, None]:
    """Every message of a subject."""
    try:
        found = await js.stream_info(stream, subjects_filter=subject)
    except NotFoundError:
        return
    reading = await js.subscribe(subject, stream=stream, ordered_consumer=True)
    for _ in range(sum((found.state.subjects or {}).values())):
        yield (await reading.next_msg(timeout=30)).data
    await reading.unsubscribe()


async def measure(
    changes: int, *, targets: int = TARGETS, every: int = 500, ack_wait: float = ACK_WAIT
) -> dict[str, Any]:
    """One change of each of so many pairs of a member and a target; the figures of all of it.

    Args:
        changes: how many; a multiple of `targets`.
        targets: of each member.
        every: pushes from one kill to the next.
        ack_wait: seconds after which the broker gives a killed worker's messages to the next.
    """
    async with AsyncExitStack() as stack:
        sandbox = Sandbox(users=changes // targets, targets=targets, events=0, exact_events=True)
        await stack.enter_async_context(sandbox)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = await stack.enter_async_context(broker(directory / "broker"))
        js = (await stack.enter_async_context(await nats.connect(url))).jetstream()
        client = TargetsClient(sandbox.url, BasicAuth(*sandbox.credentials), concurrency=8)
        await stack.enter_async_context(client)
        store = MemoryStore(size=4 * changes)
        sweep = SweepOptions(notifications=store, incremental=True)
        await run(client, sandbox.world.user_ids(), directory / "swept", sweep)  # the base line

        sandbox.counts.clear()
        started = time.monotonic()
        world, settings = sandbox.world, sandbox.settings
        pairs = [(user, rule.id) for user in world.user_ids() for rule in world.targets(user)]
        random.Random(7).shuffle(pairs)
        environment = _push_to_door(sandbox, url) | {"WORKER_ACK_WAIT": str(ack_wait)}
        settings.notify_duplicates = settings.notify_early = 0.1
        settings.notify_losses = 0.05

        async def change() -> list[tuple[int, int, int | None]]:
            made = []
            for user, rule in pairs:
                made.append((user, rule, world.add_event(user, rule, value="0.01").event_log_id))
                while len(sandbox.notifications) > BACKLOG or len(made) % 100 == 0:
                    await asyncio.sleep(0.01)
                    if len(sandbox.notifications) <= BACKLOG:
                        break
            await settled(js, sandbox)
            return made

        changing = asyncio.create_task(change())
        kills = await killing(sandbox, environment, every, changing)
        truth = {*await changing}
        seconds, requests = time.monotonic() - started, sandbox.counts["trackedTargetEvents"]

        told = set()
        async with aclosing(bodies(js, "MEMBERS", "members.notified")) as notified:
            async for body in notified:
                notification = parse(body)
                await store.begin(notification)
                told.add(notification.event_log_id)
        published: Counter[tuple[int, int, int | None]] = Counter()
        async with aclosing(bodies(js, "EVENTS", "events.*")) as events:
            async for body in events:
                row = msgspec.json.decode(body)
                published[row["customer_id"], row["target_rule_id"], row["event_log_id"]] += 1
        announced = {one for one in truth if one[2] in told}
        summary = await run(client, world.user_ids(), directory / "swept", sweep)
        listed = {
            (row["user_id"], row["target_rule_id"], row["event_log_id"])
            for part in (directory / "swept" / "announcements").glob("part-*")
            for row in map(msgspec.json.decode, part.read_bytes().splitlines())
        }
        buried = [one async for one in bodies(js, "MEMBERS", "members.dead")]
    return {
        "changes": len(truth),
        "announced": len(announced),
        "never announced": sandbox.notifications.counts["lost"],
        "pushes": sandbox.notifications.counts["delivered"],
        "kills": kills,
        "published once": sum(published[one] == 1 for one in announced),
        "published twice or more": sum(count > 1 for count in published.values()),
        "published, not announced": len(published.keys() - announced),
        "buried": len(buried),
        "requests for each announced pair": round(requests / max(1, len(announced)), 3),
        "found by the sweep": summary.unannounced_events,
        "found, and truly never announced": len(listed & (truth - announced)),
        "announced and not found by the sweep": summary.missing_events,
        "seconds": round(seconds, 1),
    }


def _push_to_door(sandbox: Sandbox, url: str) -> dict[str, str]:
    """Let the sandbox push to a free port; the environment of the receiver and the worker there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sandbox.settings.notify = f"http://127.0.0.1:{port}/capillary"
    sandbox.settings.notify_headers = {"X-Webhook-Secret": "s3cret"}
    sandbox.settings.notify_time_scale = 0.1
    return os.environ | {
        "CAPILLARY_BASE_URL": sandbox.url,
        "CAPILLARY_USERNAME": sandbox.settings.username,
        "CAPILLARY_PASSWORD": sandbox.settings.password,
        "NATS_URL": url,
        "DOOR_PORT": str(port),
        "WEBHOOK_SECRET": "s3cret",
    }


if __name__ == "__main__":
    found = asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
    print(msgspec.json.format(msgspec.json.encode(found)).decode())
