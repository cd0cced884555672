"""A certificate that nobody vouches for is refused, once, and nothing is sent."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from capillary_targets import BasicAuth, ConnectionFailed, TargetsClient

DATA = Path(__file__).parent / "data"
CERTIFICATE = DATA / "self_signed.crt"


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A server with a certificate of its own making, and the requests that reached it."""
    reached: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        reached.append(request)
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE, DATA / "self_signed.key")
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}", reached
    await runner.cleanup()


async def test_an_unknown_certificate_is_refused_and_not_retried(
    server: tuple[str, list[web.Request]],
) -> None:
    url, reached = server
    async with TargetsClient(url, BasicAuth("till", "secret")) as client:
        with pytest.raises(ConnectionFailed, match="certificate") as caught:
            await client.active_targets(1)
    place = url.removeprefix("https://")
    assert f"the certificate of {place} is not trusted (self-signed cert" in str(caught.value)
    assert "set SSL_CERT_FILE" in str(caught.value)
    assert not caught.value.retryable
    assert caught.value.attempts == 1
    assert not reached


async def test_a_session_that_trusts_it_gets_through(
    server: tuple[str, list[web.Request]],
) -> None:
    url, reached = server
    trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=CERTIFICATE))
    async with (
        aiohttp.ClientSession(connector=trusting) as http,
        TargetsClient(url, BasicAuth("till", "secret"), session=http) as client,
    ):
        assert await client.active_targets(1) == []
    assert len(reached) == 1


TRUSTING = """
import asyncio, sys, capillary_targets as c
async def main():
    async with c.TargetsClient(sys.argv[1], c.BasicAuth("till", "secret")) as client:
        print(list(await client.active_targets(1)))
asyncio.run(main())
"""


async def test_a_companys_certificate_authority_is_trusted_by_the_environment(
    server: tuple[str, list[web.Request]],
) -> None:
    """OpenSSL reads SSL_CERT_FILE, as every tool built on it does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TRUSTING, server[0]),
        env=os.environ | {"SSL_CERT_FILE": str(CERTIFICATE)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"[]\n")
