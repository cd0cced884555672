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
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from operator import itemgetter
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
            assert line, "the server ended"
            if b"Listening for client connections on " in line:
                address = line.decode().split()[-1]
        reading = asyncio.create_task(server.stderr.read())
        yield f"nats://{address}"
        server.kill()
        await reading


def example(module: str, environment: dict[str, str]) -> AbstractAsyncContextManager[Any]:
    """The receiver or the worker of `examples/worker`."""
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    command = (sys.executable, "-m", f"examples.worker.{module}")
    return process(*command, env=environment, cwd=ROOT, **quiet)


def pushing(sandbox: Sandbox, broker: str, scale: float) -> dict[str, str]:
    """Let the sandbox push to a free port; the environment of the receiver and the worker there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sandbox.settings.notify = f"http://127.0.0.1:{port}/capillary"
    sandbox.settings.notify_headers = {"X-Webhook-Secret": "s3cret"}
    sandbox.settings.notify_time_scale = scale
    return os.environ | {
        "CAPILLARY_BASE_URL": sandbox.url,
        "CAPILLARY_USERNAME": sandbox.settings.username,
        "CAPILLARY_PASSWORD": sandbox.settings.password,
        "NATS_URL": broker,
        "DOOR_PORT": str(port),
        "WEBHOOK_SECRET": "s3cret",
        "WORKER_ACK_WAIT": "1",
    }


async def killing(sandbox: Sandbox, environment: dict[str, str], every: int, until: Any) -> int:
    """Keep receiver and worker running until a task is done; how many times one was killed.

    Args:
        sandbox: whose pushes are counted.
        environment: of both.
        every: pushes from one kill to the next.
        until: the task.
    """
    kills = 0

    async def stay(module: str, turn: int) -> None:
        nonlocal kills
        delivered = sandbox.notifications.counts
        while not until.done():
            async with example(module, environment) as running:
                due = (delivered["delivered"] // every + turn + 1) * every
                while not until.done() and delivered["delivered"] < due:
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
        with suppress(NotFoundError):
            info = await js.consumer_info("MEMBERS", "settler")
            if not (info.num_pending or info.num_ack_pending):
                return
        await asyncio.sleep(0.05)


async def bodies(js: JetStreamContext, stream: str, subject: str) -> list[bytes]:
    """Every message of a subject."""
    try:
        found = await js.stream_info(stream, subjects_filter=subject)
    except NotFoundError:
        return []
    reading = await js.subscribe(subject, stream=stream, ordered_consumer=True)
    count = sum((found.state.subjects or {}).values())
    messages = [(await reading.next_msg(timeout=30)).data for _ in range(count)]
    await reading.unsubscribe()
    return messages


async def measure(
    changes: int, *, targets: int = 20, every: int = 500, ack_wait: int = 4
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
        world, settings, pushes = sandbox.world, sandbox.settings, sandbox.notifications
        pairs = [(user, rule.id) for user in world.user_ids() for rule in world.targets(user)]
        random.Random(7).shuffle(pairs)
        environment = pushing(sandbox, url, 0.1) | {"WORKER_ACK_WAIT": str(ack_wait)}
        settings.notify_duplicates = settings.notify_early = 0.1
        settings.notify_losses = 0.05

        async def change() -> set[tuple[int, int, int | None]]:
            made = set()
            for user, rule in pairs:
                made.add((user, rule, world.add_event(user, rule, value="0.01").event_log_id))
                if len(made) % BACKLOG == 0:
                    await pushes.drained()
            await settled(js, sandbox)
            return made

        changing = asyncio.create_task(change())
        kills = await killing(sandbox, environment, every, changing)
        truth = await changing
        seconds, requests = time.monotonic() - started, sandbox.counts["trackedTargetEvents"]

        told = set()
        for body in await bodies(js, "MEMBERS", "members.notified"):
            notification = parse(body)
            await store.begin(notification)
            told.add(notification.event_log_id)
        rows = map(msgspec.json.decode, await bodies(js, "EVENTS", "events.*"))
        published = Counter(map(itemgetter("customer_id", "target_rule_id", "event_log_id"), rows))
        announced = {one for one in truth if one[2] in told}
        summary = await run(client, world.user_ids(), directory / "swept", sweep)
        listed = {
            (row["user_id"], row["target_rule_id"], row["event_log_id"])
            for part in (directory / "swept" / "announcements").glob("part-*")
            for row in map(msgspec.json.decode, part.read_bytes().splitlines())
        }
        buried = await bodies(js, "MEMBERS", "members.dead")
    return {
        "changes": len(truth),
        "announced": len(announced),
        "never announced": pushes.counts["lost"],
        "pushes": pushes.counts["delivered"],
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


if __name__ == "__main__":
    found = asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
    print(msgspec.json.format(msgspec.json.encode(found)).decode())
