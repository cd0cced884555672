"""From a written event to a settled one: the sandbox pushes to a handler behind a real socket."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from capillary_targets import TargetsClient
from capillary_targets.notifications import (
    Notification,
    NotificationHandler,
    Settlement,
    StreakNotification,
    TargetAchievedValueUpdated,
)
from capillary_targets.notifications.models import CLASSES
from capillary_targets.sandbox import Sandbox
from capillary_targets.testing import no_waiting
from tests.conftest import client_of

SECRET = "s3cret"


@asynccontextmanager
async def door(handler: NotificationHandler, sandbox: Sandbox) -> AsyncIterator[None]:
    """The handler in an aiohttp server; the sandbox pushes there."""

    async def receive(request: web.Request) -> web.Response:
        with no_waiting():
            reply = await handler.handle(await request.read(), request.headers)
        return web.Response(status=reply.status)

    app = web.Application()
    app.router.add_post("/", receive)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        sandbox.settings.notify = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield
    finally:
        await runner.cleanup()


def pushing(**settings: object) -> Sandbox:
    headers = {"X-Webhook-Secret": SECRET}
    fixed = {"users": 4, "targets": 2, "events": 6, "exact_events": True, "notify_time_scale": 0.0}
    return Sandbox(**(fixed | {"notify_headers": headers} | settings))


def settling(client: TargetsClient, found: dict[str, Settlement]) -> NotificationHandler:
    """A handler that settles, each member's rule from its last checkpoint."""
    handler = NotificationHandler(secrets=[SECRET])
    starts: dict[tuple[int | None, int], object] = {}

    @handler.on(Notification)
    async def settle(notification: Notification) -> None:
        user, (rule,) = notification.user_id, notification.rule_ids
        start = {rule: starts[user, rule]} if (user, rule) in starts else None
        settlement = await client.settle(notification, start=start, window=30)
        starts[user, rule] = settlement.checkpoints[rule]
        found[notification.event_id] = settlement

    return handler


@pytest.mark.parametrize(
    ("settings", "proofs"),
    [
        ({}, {"event"}),
        ({"notify_envelope": "enriched"}, {"event"}),
        ({"notify_log_id": "loyaltyEventId"}, {"event"}),
        ({"notify_log_id": "eventLogId"}, {"event"}),
        ({"notify_log_id": "none"}, {"transaction", "value"}),
        ({"notify_early": 0.5, "notify_early_requests": 3}, {"event"}),
        ({"notify_shuffled": True, "notify_duplicates": 0.5}, {"event"}),
        ({"notify_delay": 3600, "iso": True, "max_limit": 4}, {"event"}),
        ({"offset_mode": "row"}, {"event"}),
    ],
)
async def test_each_written_event_is_settled(settings, proofs):
    found: dict[str, Settlement] = {}
    sandbox = pushing(**settings)
    async with sandbox, client_of(sandbox) as client, door(settling(client, found), sandbox):
        world = sandbox.world
        pairs = [(user, rule.id) for user in world.user_ids() for rule in world.targets(user)]
        written = []
        for _ in range(3):
            # One at a time where only the member's sum vouches: a later event would move it.
            for pair in pairs:
                written.append(world.add_event(*pair, value="0.01"))
                if settings.get("notify_log_id") == "none":
                    await sandbox.notifications.drained()
        await sandbox.notifications.drained()
    assert len(found) == len(written) == 24
    assert {one.proof for one in found.values()} <= proofs
    came = Counter(event.event_log_id for one in found.values() for event in one.events)
    assert set(came) >= {event.event_log_id for event in written}
    assert not sandbox.notifications.counts.keys() - {"delivered"}


async def test_a_door_that_is_busy_or_wrong_about_the_secret():
    sandbox = pushing()
    handler = NotificationHandler(secrets=[SECRET])
    failures = [OSError("the database is away")] * 2
    done: list[str] = []

    @handler.on(TargetAchievedValueUpdated)
    async def work(notification):
        if failures:
            raise failures.pop()
        done.append(notification.event_id)

    async with sandbox, door(handler, sandbox):
        user = sandbox.world.user_ids()[0]
        rule = sandbox.world.targets(user)[0].id
        sandbox.world.add_event(user, rule, value="0.01")
        await sandbox.notifications.drained()
        assert [one.status for one in sandbox.notifications.attempts] == [429, 429, 200]
        sandbox.settings.notify_headers = {"X-Webhook-Secret": "old"}
        sandbox.world.add_event(user, rule, value="0.01")
        await sandbox.notifications.drained()
    assert sandbox.notifications.attempts[-1].status == 401
    assert len(done) == 1


@pytest.mark.parametrize("envelope", ["raw", "enriched"])
@pytest.mark.parametrize("stray_blanks", [0.0, 0.3])
async def test_all_fourteen_are_pushed_and_read(envelope, stray_blanks):
    sandbox = pushing(users=1, events=0, notify_envelope=envelope, notify_stray_blanks=stray_blanks)
    came: list[Notification] = []
    handler = NotificationHandler(secrets=[SECRET])

    @handler.on(Notification)
    async def keep(notification):
        came.append(notification)

    world = sandbox.world
    user = world.user_ids()[0]
    async with sandbox, door(handler, sandbox):
        for tracking_type in ("STREAKS", "UNIFIED"):
            rule = next(one for one in world.rules() if one.group.tracking_type == tracking_type)
            world.unenrol(user, rule.id)
            world.enrol(user, rule.id)
            world.set_target_value(user, rule.id, "5")
            dates = [f"{period.start} 12:00:00.0" for period in rule.group.periods]
            world.add_event(user, rule.id, date=dates[0], value="5")
            world.add_event(user, rule.id, date=dates[1], value="5")
            world.add_event(
                user, rule.id, date=dates[1], value="1", event_name="RETURN_BILL", unique_id="77"
            )
            world.add_event(user, rule.id, date=dates[3], value="5")
            world.unenrol(user, rule.id)
        await sandbox.notifications.drained()
    assert {one.name for one in came} == {*CLASSES}
    assert {type(one) for one in came} == {*CLASSES.values()}
    for one in came:
        assert one.user_id == user
        assert one.rule_ids
        assert one.targets[0].period_id
        assert one.targets[0].group_id
        assert one.created_at is not None
        assert not isinstance(one, StreakNotification) or one.streaks[0].name
    moved = [one for one in came if isinstance(one, TargetAchievedValueUpdated)]
    assert [one.current_value for one in moved] == [5, 5, 1, 5] * 2
    assert [one.return_id for one in moved] == [None, None, 77, None] * 2
    assert all(one.event_log_id for one in moved)
