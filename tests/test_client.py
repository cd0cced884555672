import aiohttp
import pytest

from capillary_targets import (
    BasicAuth,
    ClientClosed,
    InvalidUser,
    TargetsClient,
    UsageError,
)
from capillary_targets.sandbox import Sandbox

from .conftest import client_of

AUTH = BasicAuth("till", "secret")


@pytest.mark.parametrize(
    ("base_url", "settings", "says"),
    [
        ("europe", {}, "apac, apac2, eu, us"),
        ("", {}, "https://HOST"),
        ("ftp://h", {}, "https://HOST"),
        ("https://u:p@h", {}, "credentials"),
        ("https://h/?a=1", {}, "query"),
        ("http://eu.api.capillarytech.com", {}, "in clear"),
        ("eu", {"timeout": 0}, "timeout"),
        ("eu", {"concurrency": 0}, "concurrency"),
        ("eu", {"page_size": 0}, "page_size"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(
    base_url: str, settings: dict, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        TargetsClient(base_url, AUTH, **settings)


@pytest.mark.parametrize(
    "base_url", ["eu", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1/prefix/"]
)
def test_settings_that_can_work_are_taken(base_url: str) -> None:
    TargetsClient(base_url, AUTH)


def test_plain_http_is_possible_if_said() -> None:
    TargetsClient("http://inside.example", AUTH, allow_insecure=True)


async def test_a_closed_client_says_so(sandbox: Sandbox) -> None:
    client = TargetsClient(sandbox.url, BasicAuth(*sandbox.credentials))
    with pytest.raises(ClientClosed, match="async with"):
        await client.active_targets(1)
    async with client:
        session = client.session
        pager = client.events(564332013, 1986)
    for call in (client.active_targets(1), pager.collect()):
        with pytest.raises(ClientClosed, match="closed"):
            await call
    with pytest.raises(ClientClosed):
        await client.__aenter__()
    assert session.http.closed


async def test_a_callers_session_is_used_and_never_closed(sandbox: Sandbox) -> None:
    async with aiohttp.ClientSession(raise_for_status=True) as http:
        async with client_of(sandbox, session=http) as client:
            assert client.session.http is http
            with pytest.raises(InvalidUser):
                await client.active_targets(5)
            assert await client.active_targets(42381788)
        assert not http.closed


async def test_one_connection_serves_many_calls(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        for _ in range(5):
            await client.active_targets(42381788)
        connector = client.session.http.connector
        assert sum(len(pool) for pool in connector._conns.values()) == 1


async def test_a_sweep_as_a_flat_stream_raises_what_failed(sandbox: Sandbox) -> None:
    user = sandbox.world.user_ids()[0]
    truth = sum(sandbox.world.count(user, rule.id) for rule in sandbox.world.targets(user))
    async with client_of(sandbox) as client:
        assert len([event async for event in client.sweep([user]).events()]) == truth
        with pytest.raises(InvalidUser):
            async for _ in client.sweep([user, 5]).events():
                pass
