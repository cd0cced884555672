"""The Redis store, against a real server."""

import asyncio
import subprocess

import pytest

from capillary_targets.notifications import NotificationHandler, RedisStore, StoreUnavailable, parse
from tests.needs import required

from .samples import ACHIEVED_RAW, announced_by

required("redis", programs=("redis-server",))

import redis.asyncio  # noqa: E402 - after the check that it is there


@pytest.fixture
def socket(tmp_path):
    path = tmp_path / "redis.sock"
    settings = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
    with subprocess.Popen(["redis-server", *settings], stdout=subprocess.PIPE) as server:
        assert any(b"ready to accept connections" in line.lower() for line in server.stdout)
        yield str(path)
        server.terminate()


@pytest.fixture
async def client(socket):
    async with redis.asyncio.Redis(unix_socket_path=socket) as client:
        yield client


async def test_two_machines_handle_an_event_once(client):
    one, other = (NotificationHandler(RedisStore(client)) for _ in range(2))
    replies = await asyncio.gather(one.handle(ACHIEVED_RAW), other.handle(ACHIEVED_RAW))
    assert sorted(reply.result for reply in replies) in (["busy", "done"], ["done", "duplicate"])
    assert (await other.handle(ACHIEVED_RAW)).result == "duplicate"


async def test_a_lease_ends_by_release_and_by_time(client):
    store, notification = RedisStore(client, lease=7.5), parse(ACHIEVED_RAW)
    assert await store.begin(notification) == "new"
    assert 0 < await client.pttl("capillary-notifications:" + notification.event_id) <= 7500
    await store.release(notification.event_id)
    assert await store.begin(notification) == "new"
    assert await store.begin(notification) == "busy"
    await store.release(notification.event_id)
    assert await store.begin(notification) == "new"


async def test_what_was_announced_is_read_in_the_order_of_arrival(client):
    await announced_by(RedisStore(client))
    assert 0 < await client.pttl("capillary-notifications:member:564332013") <= 10 * 86_400_000


async def test_what_is_set_aside_is_kept(client):
    assert (await NotificationHandler(RedisStore(client)).handle(b"junk")).status == 200
    assert (await client.lrange("capillary-notifications:aside", 0, -1))[0] == b"junk"


async def test_a_redis_that_is_away_is_answered_429(tmp_path):
    settings = {"unix_socket_path": str(tmp_path / "nothing"), "retry": None}
    away = redis.asyncio.Redis(**settings)
    assert (await NotificationHandler(RedisStore(away)).handle(ACHIEVED_RAW)).status == 429
    with pytest.raises(StoreUnavailable):
        await RedisStore(away).finish("x")
    await away.aclose()
