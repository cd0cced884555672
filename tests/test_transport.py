"""One request, made right: against a server that misbehaves over real sockets."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from capillary_targets import (
    ApiError,
    AuthError,
    BadResponse,
    CapillaryError,
    ClientClosed,
    ConnectionFailed,
    EndpointGone,
    FailureDetails,
    InvalidUser,
    OAuth,
    RateLimited,
    RequestDetails,
    RetryDetails,
    RetryPolicy,
    ServiceUnavailable,
    SessionDetails,
    TargetsClient,
)
from capillary_targets.sandbox import Sandbox
from capillary_targets.sandbox.faults import Fault
from capillary_targets.testing import no_waiting

from .conftest import client_of, turns_until

USER = 42381788
QUICK = RetryPolicy(wait_initial=1e-6)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(users=1)
    async with sandbox:
        yield sandbox
        await turns_until(lambda: sandbox.in_flight == 0)


def oauth_client(sandbox: Sandbox, secret: str = "sandbox-secret", **settings):
    settings.setdefault("retry", QUICK)
    auth = OAuth("sandbox-key", secret, clock=sandbox.settings.clock)
    return TargetsClient(sandbox.url, auth, **settings)


def tokens_asked(sandbox: Sandbox) -> int:
    return sum(entry.path.endswith("token/generate") for entry in sandbox.requests)


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault.http(status) for status in (408, 425, 429, 461, 500, 502, 503, 504, 520, 524)),
        Fault.too_many_requests(0),
        Fault.too_many_requests(-5, "date"),
        Fault.api_code(521, status=200),
        Fault.authorisation(4001),
        Fault.gateway_page(502),
        Fault.reset(),
        Fault.truncated(),
        Fault.odd_body("malformed"),
        Fault.http(200),
    ],
    ids=str,
)
async def test_a_passing_fault_is_retried(sandbox: Sandbox, fault: Fault) -> None:
    sandbox.faults.add(fault, times=2)
    async with client_of(sandbox, retry=QUICK) as client:
        with no_waiting():
            assert [target.id for target in await client.active_targets(USER)] == [2579]
        assert (client.counts.requests, client.counts.retries) == (3, 2)


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (Fault.http(400), ApiError, "HTTP 400"),
        (Fault.http(401), AuthError, "check user name"),
        (Fault.http(403), AuthError, "denied"),
        (Fault.authorisation(4000), AuthError, "Not authorized"),
        (Fault.http(404), EndpointGone, "base URL"),
        (Fault.redirect(), BadResponse, "redirect"),
        *(
            (Fault.api_code(310018, status=status), ApiError, "310018")
            for status in (200, 400, 404, 500)
        ),
    ],
    ids=str,
)
async def test_a_refusal_is_never_retried(
    sandbox: Sandbox, fault: Fault, kind: type[CapillaryError], says: str
) -> None:
    sandbox.faults.add(fault, times=None)
    async with client_of(sandbox, retry=QUICK) as client:
        with pytest.raises(kind, match=says) as caught:
            await client.active_targets(USER)
        assert client.counts.requests == 1
    assert not caught.value.retryable
    assert caught.value.attempts == 1
    assert caught.value.request_id is not None


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.http(429), RateLimited),
        (Fault.http(502), ServiceUnavailable),
        (Fault.reset(), ConnectionFailed),
        (Fault.odd_body("malformed"), BadResponse),
    ],
)
async def test_after_the_last_attempt_the_error_says_how_many(
    sandbox: Sandbox, fault: Fault, kind: type[CapillaryError]
) -> None:
    sandbox.faults.add(fault, times=None)
    async with client_of(sandbox, retry=QUICK) as client:
        with no_waiting(), pytest.raises(kind) as caught:
            await client.active_targets(USER)
    assert caught.value.attempts == 5
    assert caught.value.url == f"{sandbox.url}/v3/users/{USER}/enrolledTargets"


async def test_the_deadline_covers_the_waits(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.http(503), times=None)
    policy = RetryPolicy(wait_initial=1000, wait_max=1000)
    async with client_of(sandbox, timeout=5, retry=policy) as client:
        with pytest.raises(ServiceUnavailable) as caught:
            await client.active_targets(USER)
    assert "deadline" in caught.value.__notes__[0]


@pytest.mark.parametrize("header", ["X-Cap-Requestid", "X-CAP-REQUEST-ID"])
async def test_the_request_id_is_found_under_either_spelling(header: str) -> None:
    sandbox = Sandbox(users=1, request_id_headers=header)
    async with sandbox, client_of(sandbox) as client:
        with pytest.raises(CapillaryError) as caught:
            await client.active_targets(5)
    assert len(caught.value.request_id or "") == 32


async def test_retry_after_beyond_the_deadline_is_raised_at_once(sandbox: Sandbox) -> None:
    for hint in ("seconds", "date"):
        sandbox.faults.add(Fault.too_many_requests(3600, hint))
        async with client_of(sandbox) as client:
            with pytest.raises(RateLimited, match="try again at") as caught:
                await client.active_targets(USER)
            assert client.counts.requests == 1
        assert caught.value.retry_after == pytest.approx(3600, abs=5)
        assert (caught.value.retry_at - datetime.now(UTC)).total_seconds() > 3000


async def test_retry_after_within_the_deadline_is_a_floor() -> None:
    details: list[object] = []
    sandbox = Sandbox(users=1)
    sandbox.faults.add(Fault.too_many_requests(7))
    async with sandbox, client_of(sandbox, retry=QUICK, hooks=[details.append]) as client:
        with no_waiting():
            await client.active_targets(USER)
    (retry,) = [detail for detail in details if isinstance(detail, RetryDetails)]
    assert retry.wait == 7  # jitter of QUICK would be a microsecond


async def test_a_stalled_attempt_leaves_time_for_another(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.stall())
    policy = RetryPolicy(wait_initial=1e-6, attempt_timeout=0.1)
    async with client_of(sandbox, retry=policy) as client:
        assert await client.active_targets(USER)
        assert client.counts.retries == 1


async def test_the_time_out_of_a_caller_is_the_callers(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.stall(), times=None)
    async with client_of(sandbox) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.1):
                await client.active_targets(USER)
        assert not isinstance(caught.value, CapillaryError)
        assert client.session.http.connector._acquired == set()


async def test_an_outage_is_not_multiplied(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.http(503), times=None)
    policy = RetryPolicy(wait_initial=1e-6, quota=100)
    async with client_of(sandbox, retry=policy) as client:
        calls = 0
        while client.counts.retries < 20:  # 100 tokens, 5 each: then the quota is used up
            calls += 1
            with pytest.raises(ServiceUnavailable):
                await client.active_targets(USER)
        drained = client.counts.requests
        assert drained == calls + 20
        for _ in range(50):
            with pytest.raises(ServiceUnavailable) as caught:
                await client.active_targets(USER)
        assert client.counts.requests - drained == 50
        assert "quota" in caught.value.__notes__[0]
        sandbox.faults.clear()
        for _ in range(5):
            await client.active_targets(USER)
        sandbox.faults.add(Fault.http(503))
        assert await client.active_targets(USER)  # five successes have paid for a retry


@pytest.mark.parametrize("fault", [Fault.huge(4), Fault.huge(64, gzip=True)], ids=str)
async def test_a_body_over_the_limit_is_not_read(sandbox: Sandbox, fault: Fault) -> None:
    sandbox.faults.add(fault)
    async with client_of(sandbox, max_body=2**20) as client:
        with pytest.raises(BadResponse, match="limit of 1048576 bytes"):
            await client.active_targets(USER)
        assert await client.active_targets(USER)


async def test_no_redirect_is_followed(sandbox: Sandbox) -> None:
    other = Sandbox(users=1)
    async with other, client_of(sandbox) as client:
        sandbox.faults.add(Fault.redirect(f"{other.url}/v3/users/{USER}/enrolledTargets"))
        with pytest.raises(BadResponse):
            await client.active_targets(USER)
        assert not other.requests


async def test_oauth_from_first_call_to_expiry() -> None:
    now = 1000.0
    sandbox = Sandbox(users=1, ttl_seconds=300, clock=lambda: now)
    async with sandbox, oauth_client(sandbox) as client:
        await asyncio.gather(*(client.active_targets(USER) for _ in range(50)))
        assert tokens_asked(sandbox) == 1
        now += 269
        await client.active_targets(USER)
        assert tokens_asked(sandbox) == 1
        now += 2  # within the margin, a tenth of the token's life: renewed before it ends
        await client.active_targets(USER)
        assert tokens_asked(sandbox) == 2
    assert all(entry.status == 200 for entry in sandbox.requests)


@pytest.mark.parametrize("rejection", ["401", "498", "body-401", "body-498"])
async def test_a_token_rejected_early_is_renewed_once_for_all(
    sandbox: Sandbox, rejection: str
) -> None:
    sandbox.settings.token_rejection = rejection  # type: ignore[assignment]
    async with oauth_client(sandbox) as client:
        await client.active_targets(USER)
        sandbox.expire_tokens()
        answers = await asyncio.gather(*(client.active_targets(USER) for _ in range(50)))
        assert all(answers)
        assert tokens_asked(sandbox) == 2


async def test_a_wrong_secret_is_one_refusal_for_all(sandbox: Sandbox) -> None:
    async with oauth_client(sandbox, "wrong") as client:
        outcomes = await asyncio.gather(
            *(client.active_targets(USER) for _ in range(50)), return_exceptions=True
        )
    assert {type(outcome) for outcome in outcomes} == {AuthError}
    assert {getattr(outcome, "code", None) for outcome in outcomes} == {320001}
    assert tokens_asked(sandbox) == len(sandbox.requests) == 1
    assert getattr(outcomes[0], "method", None) == "POST"


async def test_being_denied_access_is_no_reason_for_a_new_token(sandbox: Sandbox) -> None:
    async with oauth_client(sandbox) as client:
        sandbox.faults.add(Fault.authorisation(4000), times=None)
        with pytest.raises(AuthError, match="Not authorized"):
            await client.active_targets(USER)
        assert tokens_asked(sandbox) == 1
        assert client.counts.requests == 2


async def test_a_cancelled_call_leaves_nothing(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.stall(), times=None)
    async with client_of(sandbox, concurrency=16) as client:
        calls = [asyncio.create_task(client.active_targets(USER)) for _ in range(40)]
        await turns_until(lambda: sandbox.faults.stalled == 16)  # all places are taken
        for call in calls:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
        assert client.session.http.connector._acquired == set()
        sandbox.faults.clear()
        assert await client.active_targets(USER)  # all places are free again
    await turns_until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_closing_a_client_ends_what_is_in_flight(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.stall(), times=None)
    async with client_of(sandbox, concurrency=2) as client:
        calls = [asyncio.create_task(client.active_targets(USER)) for _ in range(5)]
        await turns_until(lambda: sandbox.faults.stalled == 2)  # both places are taken
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ClientClosed}


async def test_a_retry_is_one_line_with_the_request_id(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.faults.add(Fault.http(503))
    with caplog.at_level(logging.DEBUG):
        async with client_of(sandbox, retry=QUICK) as client:
            await client.active_targets(USER)
    retries = [r for r in caplog.records if r.name == "capillary_targets"]
    (record,) = retries
    assert record.name == "capillary_targets"
    assert "HTTP 503, request id " in record.message


async def test_hooks_see_a_session_its_requests_retries_and_failures(sandbox: Sandbox) -> None:
    details: list[Any] = []

    def broken(_: object) -> None:
        raise ZeroDivisionError

    sandbox.faults.add(Fault.http(503))
    async with client_of(sandbox, retry=QUICK, hooks=[broken, details.append]) as client:
        await client.active_targets(USER)
        with pytest.raises(InvalidUser) as caught:
            await client.active_targets(5)
    kinds = [type(detail) for detail in details]
    attempts = [RequestDetails, RetryDetails, RequestDetails, RequestDetails]
    assert kinds == [SessionDetails, *attempts, FailureDetails, SessionDetails]
    assert [details[0].phase, details[-1].phase] == ["opens", "closed"]
    assert details[-2].error is caught.value
    first, second, _ = (detail for detail in details if isinstance(detail, RequestDetails))
    assert (first.status, first.attempt, second.status, second.attempt) == (503, 1, 200, 2)
    assert first.request_id
    assert second.seconds >= 0
    assert second.url.endswith("enrolledTargets")
