"""The handler calls each function once for an event, and its answer never loses one."""

import asyncio

import pytest
from attrs import evolve

from capillary_targets import InvalidUser, ServiceUnavailable, UsageError
from capillary_targets.notifications import (
    MemoryStore,
    Notification,
    NotificationHandler,
    SQLiteStore,
    StoreUnavailable,
    StreakNotification,
    TargetAchievedValueUpdated,
    parse,
)

from .samples import ACHIEVED_RAW, ALL, ENROLMENT, STREAK_START, announced_by


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path, clock):
    if request.param == "memory":
        return MemoryStore(lease=60, clock=clock)
    return SQLiteStore(tmp_path / "notifications.db", lease=60, clock=clock)


async def test_routes_to_the_nearest_class(store):
    seen: list = []
    handler = NotificationHandler(store)

    @handler.on(TargetAchievedValueUpdated)
    async def value(notification):
        seen.append(("value", notification.user_id))

    @handler.on(StreakNotification)
    async def streak(notification):
        seen.append(("streak", notification.user_id))

    @handler.on(Notification)
    async def other(notification):
        seen.append(("other", notification.user_id))

    for body in (ACHIEVED_RAW, STREAK_START, ENROLMENT):
        assert (await handler.handle(body)).status == 200
    assert seen == [("value", 564332013), ("streak", 387544807), ("other", 564332013)]


async def test_a_duplicate_is_answered_and_not_handled(store):
    seen: list = []
    handler = NotificationHandler(store)
    handler.on(Notification)(lambda n: _note(seen, n))
    replies = [await handler.handle(ACHIEVED_RAW) for _ in range(3)]
    assert [r.result for r in replies] == ["done", "duplicate", "duplicate"]
    assert {r.status for r in replies} == {200}
    assert len(seen) == 1


async def _note(seen, notification):
    seen.append(notification)


async def test_duplicates_at_the_same_time_are_handled_once(store):
    handler, started, go = NotificationHandler(store), asyncio.Event(), asyncio.Event()

    @handler.on(Notification)
    async def slow(notification):
        started.set()
        await go.wait()

    first = asyncio.create_task(handler.handle(ACHIEVED_RAW))
    await started.wait()
    second = await handler.handle(ACHIEVED_RAW)
    go.set()
    assert (second.result, second.status) == ("busy", 429)
    assert (await first).result == "done"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ServiceUnavailable("away")])
async def test_a_failure_asks_for_the_event_again(store, error):
    handler, fail = NotificationHandler(store), [True]

    @handler.on(Notification)
    async def flaky(notification):
        if fail:
            fail.pop()
            raise error

    assert (await handler.handle(ACHIEVED_RAW)).status == 429
    assert (await handler.handle(ACHIEVED_RAW)).result == "done"


async def test_a_log_line_stays_one_line_whatever_the_sender_says(store, caplog):
    handler = NotificationHandler(store)

    @handler.on(Notification)
    async def fail(notification):
        raise RuntimeError("a bug")

    body = b'{"eventName": "x\\nERROR:root:forged", "eventId": "a\\r\\nb"}'
    assert (await handler.handle(body)).status == 429
    (record,) = caplog.records
    assert record.getMessage().splitlines() == [record.getMessage()]


async def test_what_can_never_succeed_does_not_block_the_queue():
    store = MemoryStore()
    handler = NotificationHandler(store)

    @handler.on(Notification)
    async def refused(notification):
        raise InvalidUser("Invalid userId", code=310011)

    assert (await handler.handle(ACHIEVED_RAW)).result == "set aside"
    assert store.aside[0][0] == ACHIEVED_RAW
    assert (await handler.handle(ACHIEVED_RAW)).result == "duplicate"


async def test_an_unreadable_body_is_kept_and_never_answered_400():
    seen: list = []
    store = MemoryStore()
    reply = await NotificationHandler(store, hook=seen.append).handle(b"<html>")
    assert reply.status == 200
    assert store.aside[0][0] == b"<html>"
    assert [(d.result, d.notification) for d in seen] == [("set aside", None)]


async def test_cancellation_gives_the_lease_back(store):
    handler, started = NotificationHandler(store), asyncio.Event()

    @handler.on(Notification)
    async def slow(notification):
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(handler.handle(ACHIEVED_RAW))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    calm = NotificationHandler(store)
    assert (await calm.handle(ACHIEVED_RAW)).result == "done"


async def test_a_killed_process_lease_runs_out(store, clock):
    from capillary_targets.notifications import parse

    assert await store.begin(parse(ACHIEVED_RAW)) == "new"
    assert (await NotificationHandler(store).handle(ACHIEVED_RAW)).status == 429
    clock.now += 61
    assert (await NotificationHandler(store).handle(ACHIEVED_RAW)).result == "done"


async def test_done_outlives_the_process(tmp_path):
    path = tmp_path / "notifications.db"
    assert (await NotificationHandler(SQLiteStore(path)).handle(ACHIEVED_RAW)).result == "done"
    assert (await NotificationHandler(SQLiteStore(path)).handle(ACHIEVED_RAW)).result == "duplicate"


async def test_a_store_that_fails_is_answered_429(tmp_path):
    handler = NotificationHandler(SQLiteStore(tmp_path / "nowhere" / "notifications.db"))
    for body in (*ALL, b"nonsense"):
        assert (await handler.handle(body)).status == 429
    with pytest.raises(StoreUnavailable):
        await SQLiteStore(tmp_path).finish("x")  # a directory


async def test_a_store_that_fails_at_the_end_asks_for_the_event_again():
    class Failing(MemoryStore):
        async def finish(self, event_id):
            raise StoreUnavailable("away")

    assert (await NotificationHandler(Failing()).handle(ACHIEVED_RAW)).status == 429


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-webhook-secret": "one"}, 200),
        ({"X-Webhook-Secret": "two"}, 200),
        ({"X-Webhook-Secret": "on"}, 401),
        ({"X-Webhook-Secret": "three"}, 401),
        ({"X-Webhook-Secret": "\udcff"}, 401),
        ({}, 401),
        (None, 401),
    ],
)
async def test_secret(headers, status, caplog):
    handler = NotificationHandler(secrets=["one", "two"])
    assert (await handler.handle(ACHIEVED_RAW, headers)).status == status
    assert "three" not in caplog.text


def test_wrong_use_is_told_at_once():
    with pytest.raises(UsageError, match="list"):
        NotificationHandler(secrets="secret")
    with pytest.raises(UsageError, match="empty"):
        NotificationHandler(secrets=[""])
    with pytest.raises(UsageError, match="classes"):
        NotificationHandler().on()
    with pytest.raises(UsageError, match="classes"):
        NotificationHandler().on(dict)  # type: ignore[type-var]


async def test_a_failing_hook_decides_nothing():
    def hook(details):
        raise RuntimeError("broken gauge")

    assert (await NotificationHandler(hook=hook).handle(ACHIEVED_RAW)).status == 200


async def test_what_was_announced_is_read_in_the_order_of_arrival(store):
    await announced_by(store)


async def test_memory_is_bounded():
    store = MemoryStore(size=2)
    handler = NotificationHandler(store)
    for body in ALL:
        await handler.handle(body)
        await handler.handle(b"junk")
    assert len(store.aside) == 2


async def test_memory_lets_go_of_the_oldest_announcements_alone():
    store, of_one = MemoryStore(size=2), parse(ACHIEVED_RAW)
    for number in range(3):
        await store.begin(evolve(of_one, event_id=f"n{number}"))
    kept = await store.announced(of_one.user_id)
    assert [one.event_id for one in kept] == ["n1", "n2"]
