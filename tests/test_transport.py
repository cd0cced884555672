from __future__ import annotations

import pytest
from aiohttp import ClientConnectionError
from aioresponses import aioresponses

from capillary_targets import (
    BadResponse,
    BasicAuth,
    CapillaryError,
    ConnectionFailed,
    RateLimited,
    RetryPolicy,
    ServiceUnavailable,
    TargetsClient,
)
from capillary_targets.testing import no_waiting

from .conftest import BASE

URL = f"{BASE}/v3/users/1/enrolledTargets"
OK = b'{"data": [], "errors": null}'
QUICK = RetryPolicy(wait_initial=1e-6)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429},
        {"status": 503},
        {"exception": ClientConnectionError("reset")},
        {"body": "{"},
    ],
)
async def test_a_passing_fault_is_retried(
    mocked: aioresponses, auth: BasicAuth, fault: dict
) -> None:
    mocked.get(URL, **fault)
    mocked.get(URL, **fault)
    mocked.get(URL, body=OK)
    async with TargetsClient(BASE, auth, retry=QUICK) as client:
        with no_waiting():
            assert await client.active_targets(1) == []
        assert (client.counts.requests, client.counts.retries) == (3, 2)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 429}, RateLimited),
        ({"status": 502}, ServiceUnavailable),
        ({"exception": ClientConnectionError("reset")}, ConnectionFailed),
        ({"body": "<html>"}, BadResponse),
    ],
)
async def test_after_the_last_attempt_the_error_says_how_many(
    mocked: aioresponses, auth: BasicAuth, fault: dict, kind: type[CapillaryError]
) -> None:
    mocked.get(URL, repeat=True, **fault)
    async with TargetsClient(BASE, auth, retry=QUICK) as client:
        with no_waiting(), pytest.raises(kind) as caught:
            await client.active_targets(1)
    assert caught.value.attempts == 5
    assert caught.value.url == URL


async def test_a_refusal_is_not_retried(mocked: aioresponses, auth: BasicAuth) -> None:
    mocked.get(URL, status=404)
    async with TargetsClient(BASE, auth, retry=QUICK) as client:
        with pytest.raises(Exception, match="base URL"):
            await client.active_targets(1)
        assert client.counts.requests == 1


async def test_the_deadline_covers_the_waits(mocked: aioresponses, auth: BasicAuth) -> None:
    mocked.get(URL, status=503, repeat=True)
    policy = RetryPolicy(wait_initial=1000, wait_max=1000)
    async with TargetsClient(BASE, auth, timeout=0.05, retry=policy) as client:
        with pytest.raises(ServiceUnavailable) as caught:
            await client.active_targets(1)
    assert "deadline" in caught.value.__notes__[0]
