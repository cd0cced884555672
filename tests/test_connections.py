"""Kept-alive connections: closed while idle, spoken to while idle, and never past the deadline."""

import asyncio
import re
from typing import Any

import aiohttp
import pytest

from capillary_targets import (
    CapillaryError,
    ConnectionFailed,
    OAuth,
    RequestTimeout,
    RetryPolicy,
    TargetsClient,
)

from .conftest import turns_until
from .rawserver import Peer, RawServer, always, answer, answering, rows, token

ONCE = RetryPolicy(attempts=1)


def user_of(path: str) -> int:
    return int(re.search(r"/users/(\d+)/", path)[1])


async def echo(peer: Peer, path: str) -> None:
    """The user's own id as the only target."""
    await peer.send(rows(user_of(path)))


async def burst(client: TargetsClient, users: range) -> list[Any]:
    calls = [client.active_targets(user) for user in users]
    return list(await asyncio.gather(*calls, return_exceptions=True))


def right(outcomes: list[Any], users: range) -> bool:
    found = [[target.id for target in one] for one in outcomes if isinstance(one, list)]
    return found == [[user] for user in users]


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
@pytest.mark.parametrize("concurrency", [None, 64])
async def test_connections_closed_while_idle_cost_nothing(end, concurrency: int | None) -> None:
    async with answering(echo, retry=ONCE, concurrency=concurrency) as (server, client):
        limit = client.session.limiter.limit
        users = range(1, limit + 1)
        assert right(await burst(client, users), users)
        assert len(server.peers) > 1
        quota = client.session.quota.tokens
        for peer in server.peers:
            end(peer)  # before the loop turns, so that the client cannot have noticed
        assert right(await burst(client, users), users)
        assert client.counts.retries == 0
        assert client.session.quota.tokens >= quota
        assert client.session.limiter.limit >= limit


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
async def test_a_connection_closed_while_the_request_is_on_its_way_costs_nothing(end) -> None:
    async def respond(peer: Peer, path: str) -> None:
        if len(peer.asked) > 1:
            end(peer)
        else:
            await echo(peer, path)

    async with answering(respond, retry=ONCE, concurrency=8) as (server, client):
        for users in (range(1, 9), range(9, 17)):
            assert right(await burst(client, users), users)
        assert len(server.heads) == 24  # eight of them were closed on
        assert client.counts.requests == 16
        assert client.session.quota.tokens == client.session.quota.capacity


async def test_a_token_request_on_a_closed_connection_is_sent_again_too() -> None:
    async def respond(peer: Peer, path: str) -> None:
        await (peer.send(token()) if path.endswith("generate") else echo(peer, path))

    now = 0.0
    auth = OAuth("key", "secret", clock=lambda: now)
    async with answering(respond, retry=ONCE, concurrency=1, auth=auth) as (server, client):
        await client.active_targets(1)
        now = 200.0
        server.peers[0].close()
        (target,) = await client.active_targets(2)
        assert target.id == 2
        assert [path for peer in server.peers for path in peer.asked if "generate" in path] == [
            "/v3/oauth/token/generate"
        ] * 2


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_a_new_connection_that_breaks_is_an_attempt(before: bytes) -> None:
    async def respond(peer: Peer, path: str) -> None:
        if before:
            await peer.send(before)
        peer.close()

    async with answering(respond, retry=ONCE) as (server, client):
        with pytest.raises(ConnectionFailed):
            await client.active_targets(1)
        assert len(server.heads) == 1


@pytest.mark.parametrize("end", [-5, 20])
async def test_an_answer_that_breaks_off_on_a_used_connection_is_an_attempt(end: int) -> None:
    async def respond(peer: Peer, path: str) -> None:
        if len(peer.asked) > 1:
            await peer.send(rows(7)[:end])
            peer.close()
        else:
            await echo(peer, path)

    async with answering(respond, retry=ONCE) as (server, client):
        await client.active_targets(1)
        with pytest.raises(ConnectionFailed):
            await client.active_targets(2)
        assert len(server.heads) == 2


LATE = [
    rows(999),
    rows(999)[:20],
    rows(999)[:-3],
    answer({"data": [{"id": 999}]}, 500),
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    b"\x00garbage",
]


async def spoken_to_while_idle(
    server: RawServer, client: TargetsClient, late: bytes, *, read: bool
) -> None:
    await client.active_targets(1)
    (peer,) = server.peers
    connector = client.session.http.connector
    protocol: Any
    ((protocol, _),) = next(iter(connector._conns.values()))
    received = bytearray()
    receive = protocol.data_received

    def watched(data: bytes) -> None:
        received.extend(data)
        receive(data)

    protocol.data_received = watched
    await peer.send(late)
    if read:
        await turns_until(lambda: received == late)
    (target,) = await client.active_targets(2)
    assert target.id == 2
    assert len(server.peers) == 2  # on a connection of its own


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("read", [True, False])
async def test_a_connection_that_received_anything_while_idle_is_dropped(
    late: bytes, read: bool
) -> None:
    async with answering(echo, retry=ONCE, timeout=5) as (server, client):
        await spoken_to_while_idle(server, client, late, read=read)


async def test_no_user_gets_another_users_targets_however_many_answers_come_twice() -> None:
    async def twice(peer: Peer, path: str) -> None:
        await peer.send(rows(user_of(path)))
        if user_of(path) % 3 == 0:
            await asyncio.sleep(0)
            await peer.send(rows(999))

    async with answering(twice, concurrency=4) as (_, client):
        for users in (range(1, 30), range(30, 60)):
            for user, outcome in zip(users, await burst(client, users), strict=True):
                assert isinstance(outcome, CapillaryError) or [t.id for t in outcome] == [user]


@pytest.mark.parametrize("start", [b"", rows(1)[:15], rows(1)[:-2], b"HTTP/1.1 100 X\r\n\r\n"])
@pytest.mark.parametrize("own", [True, False])
async def test_the_deadline_holds_wherever_an_answer_stops(start: bytes, own: bool) -> None:
    async with aiohttp.ClientSession() as http:
        session = None if own else http
        async with answering(always(start), timeout=0.2, session=session) as (_, client):
            with pytest.raises(RequestTimeout, match="no whole answer"):
                async with asyncio.timeout(20):
                    await client.active_targets(1)


async def test_a_deadline_shorter_than_an_attempt_is_named() -> None:
    policy = RetryPolicy(attempt_timeout=60)
    async with answering(always(b""), timeout=0.1, retry=policy) as (_, client):
        with pytest.raises(RequestTimeout, match=r"deadline of 0\.1 s"):
            await client.active_targets(1)


async def test_the_deadline_holds_for_a_body_that_drips() -> None:
    async def respond(peer: Peer, path: str) -> None:
        await peer.send(b"HTTP/1.1 200 X\r\nContent-Length: 100000\r\n\r\n")
        while not peer.writer.is_closing():
            await peer.send(b" ")
            await asyncio.sleep(0)

    async with answering(respond, timeout=0.2, retry=ONCE) as (_, client):
        with pytest.raises(RequestTimeout):
            async with asyncio.timeout(20):
                await client.active_targets(1)
