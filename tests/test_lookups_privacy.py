"""Who was looked up stays between the caller and the server."""

import logging
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aioresponses import aioresponses

from capillary_targets import BadResponse, BasicAuth, CapillaryError, RetryPolicy, TargetsClient
from capillary_targets.sandbox import Sandbox
from capillary_targets.sandbox.faults import Fault

from .conftest import BASE, client_of
from .test_lookups import GROUPS, GROUPS_ANSWER

IDENTIFIERS = [
    ("mobile", "919001000001", "9001000001"),
    ("email", "Asha.S+x@example.com", "sha."),
]
"""The name, the value, and what of it must not be seen in any spelling."""
PERSONAL = ["919111122111", "918111255499", "Ash", "1990-01-01", "gender", "2400.50"]


def _told(error: BaseException | None) -> Iterator[str]:
    """All that an error and its causes tell."""
    while error is not None:
        yield from (repr(error), str(error), repr(vars(error)))
        error = error.__cause__ or error.__context__


FAULTS: list[Callable[[str], Fault]] = [
    lambda value: Fault.http(400),
    lambda value: Fault.http(503),
    lambda value: Fault.reset(),
    lambda value: Fault.truncated(),
    lambda value: Fault.odd_body("malformed"),
    lambda value: Fault.http(400, f"<html>nobody at /v2?identifierValue={quote(value, safe='')}"),
    lambda value: Fault.api_code(8015, f"nobody has {value}"),
    lambda value: Fault.api_code(99, f"neither +{value} nor {value.lower()} nor {quote(value)}"),
    lambda value: Fault.http(200, f'{{"entity": "x{value}"}}'),
    lambda value: Fault.http(200, f"[{value}"),
]


@pytest.mark.parametrize(("name", "value", "telling"), IDENTIFIERS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_no_error_log_line_or_hook_shows_an_identifier(
    fault: Callable[[str], Fault],
    name: str,
    value: str,
    telling: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown: list[str] = []
    sandbox = Sandbox(users=1)
    with caplog.at_level(logging.DEBUG):
        async with sandbox:
            sandbox.faults.add(fault(value), times=None)
            async with client_of(
                sandbox,
                retry=RetryPolicy(attempts=2, wait_initial=1e-6),
                hooks=[lambda details: shown.append(f"{details!r} {details}")],
            ) as client:
                with pytest.raises(CapillaryError) as caught:
                    await client.find_customer(identifier_name=name, identifier_value=value)
    assert caught.value.url.endswith(f"identifierName={name}&identifierValue=[hidden]")
    assert shown
    shown += _told(caught.value)
    # The sandbox's own log of what it was asked is not the client's.
    shown += [line.getMessage() for line in caplog.records if line.name != "aiohttp.access"]
    assert not [text for text in shown if telling in text.lower()]


async def test_the_address_on_the_wire_is_percent_encoded() -> None:
    raw: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        raw.append(request.raw_path)
        return web.json_response({"entity": 7, "warnings": []})

    app = web.Application()
    app.router.add_get("/v2/customers/lookup", answer)
    async with (
        TestServer(app) as server,
        TargetsClient(server.make_url("/"), BasicAuth("till", "secret")) as client,
    ):
        await client.find_customer(identifier_name="email", identifier_value="a b+c@ex&=#%é.in")
    begins = "/v2/customers/lookup?source=INSTORE&identifierName=email&identifierValue="
    assert raw == [f"{begins}a%20b%2Bc%40ex%26%3D%23%25%C3%A9.in"]


async def test_a_refused_identifier_is_not_repeated(client: TargetsClient) -> None:
    for name, value in [("919001000001", "mobile"), ("mobile", "919001000001\n")]:
        with pytest.raises(CapillaryError) as caught:
            await client.find_customer(identifier_name=name, identifier_value=value)
        assert "919001000001" not in str(caught.value)


async def test_the_profile_is_read_and_not_shown(
    mocked: aioresponses, client: TargetsClient
) -> None:
    mocked.get(GROUPS, body=GROUPS_ANSWER)
    found = await client.target_groups(347)
    profile = found.customer.profiles[0]
    assert profile.comm_channels[0].value == "918111255499"
    things = [found, found.customer, profile, *profile.comm_channels, found.customer.loyalty_info]
    for thing in things:
        for word in PERSONAL:
            assert word not in f"{thing!r} {thing}"


BROKEN = [
    GROUPS_ANSWER[:400],
    GROUPS_ANSWER.replace(b'"verified": true', b'"verified": "918111255499"'),
    GROUPS_ANSWER.replace(b'"firstName": "919111122111"', b'"firstName": ["919111122111"]'),
    GROUPS_ANSWER.replace(b'"profiles": [', b'"profiles": {"919111122111": ').replace(
        b"-1}]", b"-1}}"
    ),
    GROUPS_ANSWER.replace(b'{"data"', b'{"918111255499"'),
    b'"918111255499"',
]


@pytest.mark.parametrize("body", BROKEN)
async def test_an_answer_that_cannot_be_read_does_not_show_the_profile(
    mocked: aioresponses, client: TargetsClient, body: bytes
) -> None:
    mocked.get(f"{BASE}/v3/users/347/targetGroups", body=body)
    with pytest.raises(BadResponse) as caught:
        await client.target_groups(347)
    assert caught.value.excerpt == ""
    for text in _told(caught.value):
        for word in PERSONAL:
            assert word not in text
