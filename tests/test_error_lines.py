"""What goes wrong in a first hour is one line that names the place and says what to check."""

from typing import Unpack

import pytest

from capillary_targets import (
    AuthError,
    BadResponse,
    BasicAuth,
    CapillaryError,
    ConnectionFailed,
    EndpointGone,
    OAuth,
    RetryPolicy,
    TargetsClient,
)
from capillary_targets.auth import Auth
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.settings import Options

from .rawserver import Peer, raw_server

NO_PORT = "http://127.0.0.1:1"
TILL = BasicAuth("till", "secret")


async def line_of(
    kind: type[CapillaryError], url: str, auth: Auth = TILL, **more: Unpack[Options]
) -> str:
    """The text of the error, of this class, that a first call meets."""
    once = RetryPolicy(attempts=1)
    async with TargetsClient(url, auth, retry=once, **more) as client:
        with pytest.raises(kind) as caught:
            await client.active_targets(1_000_001)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 320
    return text


async def test_a_closed_port() -> None:
    text = await line_of(ConnectionFailed, NO_PORT)
    assert text.startswith("no connection to 127.0.0.1:1 (Connection refused): check the base URL")
    assert "HTTPS_PROXY" in text
    assert "trust_env" in text


async def test_a_host_that_nobody_knows() -> None:
    text = await line_of(ConnectionFailed, "https://no-such-host.invalid")
    assert text.startswith("no connection to no-such-host.invalid:443 (")
    assert "check the base URL" in text


async def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", NO_PORT)
    text = await line_of(ConnectionFailed, "https://eu.example", trust_env=True)
    assert "no connection to the proxy 127.0.0.1:1 (Connection refused): check HTTPS_PROXY" in text


async def test_https_where_http_is_spoken(sandbox: Sandbox) -> None:
    text = await line_of(ConnectionFailed, sandbox.url.replace("http:", "https:"))
    assert "check that it speaks https" in text


async def test_http_to_a_port_of_https() -> None:
    async def respond(peer: Peer, path: str) -> None:
        await peer.send(b"\x15\x03\x03\x00\x02\x02\x46")
        peer.close()

    async with raw_server(respond) as server:
        text = await line_of(ConnectionFailed, server.url)
    assert "the server speaks TLS, check that the base URL is https" in text


@pytest.mark.parametrize(
    ("auth", "words"),
    [
        (BasicAuth("till.sandbox", "wrong"), "Unauthorized: check user name, password (or MD5)"),
        (BasicAuth("nobody", "sandbox"), "Unauthorized: check user name, password (or MD5)"),
        (OAuth("key", "wrong"), "Invalid client key and secret: check client key, client secret"),
    ],
)
async def test_wrong_credentials(sandbox: Sandbox, auth: Auth, words: str) -> None:
    text = await line_of(AuthError, sandbox.url, auth)
    assert text.startswith(f"{words} and cluster (")


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault.http(401), AuthError, "check user name, password (or MD5) and cluster"),
        (Fault.http(403), AuthError, "the access group of these credentials has to allow this"),
        (Fault.authorisation(4000), AuthError, "the access group of these credentials has to"),
        (Fault.http(404), EndpointGone, "check the base URL (without /v3)"),
        (Fault.gateway_page(200), BadResponse, "an HTML page: check the base URL, and that no pro"),
        (Fault.redirect(), BadResponse, "check the base URL"),
    ],
)
async def test_an_answer_from_the_wrong_place(
    sandbox: Sandbox, fault: Fault, kind: type[CapillaryError], words: str
) -> None:
    sandbox.faults.add(fault, times=None)
    text = await line_of(kind, sandbox.url, BasicAuth(*sandbox.credentials))
    assert words in text
    assert f"GET {sandbox.url}/v3/users/1000001/enrolledTargets" in text
