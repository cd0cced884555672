"""No secret is shown: not by a repr, a log line, an error, or a traceback with local variables."""

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import capillary_targets
from capillary_targets import (
    BadResponse,
    BasicAuth,
    CapillaryError,
    OAuth,
    RetryPolicy,
    TargetsClient,
)
from capillary_targets.auth import Auth
from capillary_targets.sandbox import Sandbox
from capillary_targets.sandbox.faults import Fault

from .rawserver import Peer, answer, answering

OURS = str(Path(capillary_targets.__file__).parent)
SANDBOX = str(Path(capillary_targets.__file__).parent / "sandbox")
USER = 42381788


def _frames_of_ours(error: BaseException | None) -> Iterator[str]:
    """Every frame of ours in the error and its causes, local variables included."""
    while error is not None:
        summary = traceback.StackSummary.extract(
            traceback.walk_tb(error.__traceback__), capture_locals=True
        )
        for frame in summary:
            if frame.filename.startswith(OURS) and not frame.filename.startswith(SANDBOX):
                yield f"{frame.name}: {frame.locals}"
        yield from (repr(error), str(error), repr(vars(error)))
        error = error.__cause__ or error.__context__


FAULTS: list[Callable[[Auth], Fault]] = [
    lambda auth: Fault.http(401),
    lambda auth: Fault.http(400),
    lambda auth: Fault.reset(),
    lambda auth: Fault.truncated(),
    lambda auth: Fault.odd_body("malformed"),
    lambda auth: Fault.http(503),
    lambda auth: Fault.http(200, f"you sent {' '.join(auth.secrets)}"),
    lambda auth: Fault.api_code(99, f"you sent {' '.join(auth.secrets)}"),
    lambda auth: Fault.http(200, f'{{"data": [{{"id": "{" ".join(auth.secrets)}"}}]}}'),
    lambda auth: Fault.http(200, "HTTP/1.1 is not\r\n\r\nwhat comes"),
]


@pytest.mark.parametrize("kind", ["basic", "oauth"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_no_error_log_or_frame_shows_a_secret(
    fault: Callable[[Auth], Fault], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    auth: Auth
    if kind == "basic":
        auth = BasicAuth("till.sandbox", "hunter2-hunter2")
    else:
        auth = OAuth("sandbox-key", "sandbox-secret")
    sandbox = Sandbox(users=1, password="hunter2-hunter2")
    sandbox.settings.client_key, sandbox.settings.client_secret = "sandbox-key", "sandbox-secret"
    with caplog.at_level(logging.DEBUG):
        async with sandbox:
            policy = RetryPolicy(attempts=2, wait_initial=1e-6)
            async with TargetsClient(sandbox.url, auth, retry=policy) as client:
                await client.active_targets(USER)  # there is a token now
                sandbox.faults.add(fault(auth), times=None)
                with pytest.raises(CapillaryError) as caught:
                    await client.active_targets(USER)
                shown = [repr(client), repr(client.session), repr(auth)]
    shown += _frames_of_ours(caught.value)
    shown += [record.getMessage() for record in caplog.records]
    assert len(shown) > 5
    for text in shown:
        for secret in auth.secrets:
            assert secret not in text


@pytest.mark.parametrize(
    "make",
    [
        lambda: BasicAuth("a:b", "hunter2"),
        lambda: BasicAuth("a", "hunter2", password_md5="hunter2"),
        lambda: BasicAuth("a", password_md5="hunter2"),
        lambda: OAuth("", "hunter2"),
        lambda: BasicAuth("a", "hunter2\n"),
    ],
)
def test_a_refused_setting_is_not_shown(make: Callable[[], object]) -> None:
    with pytest.raises(CapillaryError) as caught:
        make()
    frames = list(_frames_of_ours(caught.value))
    assert frames
    assert not [text for text in frames if "hunter2" in text]


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(CapillaryError) as caught:
        TargetsClient("https://u:hunter2@host", BasicAuth("a", "p"))
    assert "hunter2" not in str(caught.value)


async def test_the_token_requests_body_is_not_shown() -> None:
    sandbox = Sandbox(users=1)
    async with sandbox:
        auth, url = OAuth("sandbox-key", "sandbox-secret"), sandbox.url
        sandbox.faults.add(Fault.truncated(), times=None, path_contains="token")
        policy = RetryPolicy(attempts=1)
        async with TargetsClient(url, auth, retry=policy) as client:
            with pytest.raises(CapillaryError) as caught:
                await client.active_targets(USER)
    for text in _frames_of_ours(caught.value):
        assert "sandbox-secret" not in text


LINES = "first\r\n2026-11-26 ERROR forged \x1b[31mred\x1b[0m \u2028 \u202e\x00"


@pytest.mark.parametrize("status", [200, 400, 503])
async def test_control_characters_of_the_server_are_escaped(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    bodies = [
        json.dumps({"errors": [{"code": 461, "message": LINES}]}).encode(),
        json.dumps({"message": LINES}).encode(),
        LINES.encode(),
        json.dumps({"data": [{"id": LINES}]}).encode(),
        f"errorMessage={LINES} errorCode=4001".encode(),
    ]

    async def respond(peer: Peer, path: str) -> None:
        body = bodies[int(path.split("/")[3])]
        await peer.send(answer(body, status, X_Cap_Requestid="id\x1b[31m"))

    policy = RetryPolicy(attempts=2, wait_initial=1e-6)
    with caplog.at_level(logging.DEBUG):
        async with answering(respond, retry=policy) as (_, client):
            for number in range(len(bodies)):
                with pytest.raises(CapillaryError) as caught:
                    await client.active_targets(number)
                error = caught.value
                shown = [str(error), error.message, *error.args, error.request_id or ""]
                shown += [getattr(error, "excerpt", "")]
                assert all(text.isprintable() for text in shown)
    assert caplog.records or status == 400
    assert all(record.getMessage().isprintable() for record in caplog.records)


@pytest.mark.parametrize("password", ["a", "e", "se", "2", "1"])
def test_a_short_password_is_not_given_away_by_blanks(password: str) -> None:
    auth = BasicAuth("till", password)
    message = "Cannot connect to host 127.0.0.1:12 in a second; base 1 2 se e"
    error = CapillaryError(message, url="https://eu.api.capillarytech.com/v3/users/12/se/a")
    url = error.url
    error.redact(auth.secrets)
    assert (error.message, error.url) == (message, url)
    for spelled in (f"password={password}", f"'{password}'", f'"password": "{password}"'):
        error = CapillaryError(f"you sent {spelled}, which is wrong")
        error.redact(auth.secrets)
        assert "[secret]" in error.message
        assert spelled not in error.message


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        ("hunter", "hunter was refused", "[secret] was refused"),
        ("hunter", "the hunters were refused", "the hunters were refused"),
        ("hunter2-hunter2", "xhunter2-hunter2x", "x[secret]x"),
        ("none", "Basic dGlsbDpzZWNyZXQ= refused", "Basic [secret] refused"),
        ("none", "authorization: bearer abc.def-123_456", "authorization: bearer [secret]"),
        ("none", "via http://me:pass@proxy:8080/", "via http://[secret]@proxy:8080/"),
        ("none", "basic authentication", "basic authentication"),
        ("$&(", "what $&( is", "what $&( is"),
    ],
)
def test_secrets_are_redacted_as_whole_tokens(secret: str, text: str, shown: str) -> None:
    error = BadResponse(text, excerpt=text)
    error.redact([secret])
    assert (error.message, error.excerpt) == (shown, shown)


@pytest.mark.parametrize("secret", ["a", "4711", "hunter2-hunter2"])
async def test_a_request_with_any_password_keeps_its_address(secret: str) -> None:
    sandbox = Sandbox(users=1, password=secret)
    async with sandbox, TargetsClient(sandbox.url, BasicAuth("till.sandbox", secret)) as client:
        sandbox.faults.add(Fault.http(404), times=None)
        with pytest.raises(CapillaryError) as caught:
            await client.active_targets(4711)
        assert caught.value.url == f"{sandbox.url}/v3/users/4711/enrolledTargets"
