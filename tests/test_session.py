"""A session's life: opened whole or not at all, in one event loop, closed for good."""

import asyncio
import math
from typing import Any

import aiohttp
import pytest

from capillary_targets import (
    BadResponse,
    CapillaryError,
    ClientClosed,
    OAuth,
    RateLimit,
    RetryPolicy,
    TargetsClient,
    UsageError,
    open_session,
)
from capillary_targets.endpoints import active_targets, target_events
from capillary_targets.sandbox import Sandbox
from capillary_targets.session import AttemptTimer

from .rawserver import AUTH, Peer, always, answer, answering, raw_server, rows, token
from .simulated import clock, simulate


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": RateLimit(1, per=1, shared="nowhere://x")},
        {"rate": RateLimit(1, per=1, shared="sqlite:////proc/none/budget.db")},
    ],
)
async def test_what_fails_to_open_leaves_nothing_open(
    wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[aiohttp.ClientSession] = []
    init = aiohttp.ClientSession.__init__

    def count(self: aiohttp.ClientSession, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", count)
    with pytest.raises(UsageError):
        async with TargetsClient("eu", AUTH, **wrong):
            raise AssertionError
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(UsageError, match="proxy"):
        async with open_session("eu", AUTH, trust_env=True):
            raise AssertionError
    assert all(session.closed for session in made)


@pytest.mark.parametrize(
    "token",
    [
        {"accessToken": "a\r\nX: 1", "ttlSeconds": 300},
        {"accessToken": "", "ttlSeconds": 300},
        {"accessToken": "  ", "ttlSeconds": 300},
        {"accessToken": "t\u00e9", "ttlSeconds": 300},
        {"accessToken": "t\x00", "ttlSeconds": 300},
        {"accessToken": None, "ttlSeconds": 300},
        {"accessToken": "t", "ttlSeconds": 0},
        {"accessToken": "t", "ttlSeconds": -5},
    ],
)
async def test_a_token_that_cannot_be_sent_is_a_bad_response(token: dict[str, Any]) -> None:
    respond = always(answer({"data": token, "errors": None}))
    async with answering(respond, OAuth("key", "secret")) as (_, client):
        with pytest.raises(BadResponse, match=r"data\.|token given") as caught:
            await client.active_targets(1)
    assert not caught.value.excerpt
    assert token["accessToken"] in {None, "", "  ", "t"} or token["accessToken"] not in str(
        vars(caught.value)
    )


def test_a_client_in_another_event_loop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    client = TargetsClient("http://127.0.0.1:1", AUTH)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        first.run_until_complete(client.__aenter__())
        with pytest.raises(UsageError, match="in another event loop: open one") as told:
            second.run_until_complete(client.active_targets(1))
        assert told.value.scope == "client"
        with pytest.raises(UsageError, match="another event loop"):
            second.run_until_complete(client.events(1, 2).collect())
    finally:
        first.run_until_complete(client.aclose())
        first.close()
        second.close()


async def test_a_callers_session_that_was_closed_is_refused() -> None:
    http = aiohttp.ClientSession()
    async with TargetsClient("http://127.0.0.1:1", AUTH, session=http) as client:
        await http.close()
        with pytest.raises(ClientClosed, match="session given to this client has been closed"):
            await client.active_targets(1)


def test_a_callers_session_of_another_loop_is_refused() -> None:
    async def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    async def use(http: aiohttp.ClientSession) -> None:
        async with TargetsClient("http://127.0.0.1:1", AUTH, session=http) as client:
            with pytest.raises((UsageError, ClientClosed)):
                await client.active_targets(1)

    first = asyncio.new_event_loop()
    http = first.run_until_complete(make())
    try:
        asyncio.run(use(http))
    finally:
        first.run_until_complete(http.close())
        first.close()


def test_each_loop_has_a_client_of_its_own_and_may_share_the_token() -> None:
    async def serve_and_ask(auth: OAuth) -> int:
        sandbox = Sandbox(users=1)
        async with sandbox:
            async with TargetsClient(sandbox.url, auth) as client:
                await client.active_targets(42381788)
            return sum("token" in entry.path for entry in sandbox.requests)

    shared = OAuth("sandbox-key", "sandbox-secret")
    # Each sandbox signs its own tokens: the second rejects the first one's, which is renewed.
    assert [asyncio.run(serve_and_ask(shared)) for _ in range(2)] == [1, 1]


async def test_one_oauth_serves_threads() -> None:
    sandbox = Sandbox(users=1)
    async with sandbox:
        shared = OAuth("sandbox-key", "sandbox-secret")

        async def ask() -> int:
            async with TargetsClient(sandbox.url, shared) as client:
                return len(await client.active_targets(42381788))

        found = await asyncio.gather(*(asyncio.to_thread(asyncio.run, ask()) for _ in range(6)))
        assert len(set(found)) == 1
        tokens = sum("token" in entry.path for entry in sandbox.requests)
        assert 1 <= tokens <= 6


async def test_a_copy_for_sweeps_shares_all_but_its_counts() -> None:
    async with raw_server(always(rows(1))) as server, open_session(server.url, AUTH) as session:
        copy = session.with_options(wait_for_limits=True)
        assert (copy.wait_for_limits, session.wait_for_limits) == (True, False)
        await active_targets(copy, 1)
        await active_targets(session, 1)
        assert (copy.counts.requests, session.counts.requests) == (1, 2)
        assert copy.limiter is session.limiter
        assert copy.quota is session.quota
    for closed in (copy, session):
        with pytest.raises(ClientClosed):
            await active_targets(closed, 1)


# --- what the credentials go through ---


async def test_a_token_that_some_nodes_do_not_know_yet_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One node of four learns of a token only 0.3 s after the others."""
    now, issued = 0.0, dict[str, float]()

    async def sleep(seconds: float, _sleep: Any = asyncio.sleep) -> None:
        nonlocal now
        now += seconds
        await _sleep(0)

    count = 0

    async def respond(peer: Peer, path: str) -> None:
        nonlocal count
        if path.endswith("generate"):
            issued[f"t{len(issued)}"] = now
            await peer.send(token([*issued][-1]))
            return
        count += 1
        head = server.heads[-1].lower()
        at = next(at for name, at in issued.items() if f"oauth-token: {name}\r" in head)
        known = now - at >= (0.3 if count % 4 == 0 else 0.0) and (now < 200 or at >= 200)
        await peer.send(rows(1) if known else answer({}, 401))

    monkeypatch.setattr("capillary_targets.transport.asyncio.sleep", sleep)
    auth = OAuth("key", "secret", clock=lambda: now)
    async with answering(respond, auth, concurrency=1) as (server, client):
        for user in range(1, 20):
            assert len(await client.active_targets(user)) == 1
        before = len(issued)
        now = 200.0  # every token so far has ended, and a new one is not known everywhere
        for user in range(1, 20):
            assert len(await client.active_targets(user)) == 1
        assert (before, len(issued)) == (1, 2)


async def test_an_old_token_that_is_rejected_is_renewed_without_a_wait(slept: list[float]) -> None:
    now, ended = 0.0, set[str]()

    async def respond(peer: Peer, path: str) -> None:
        if path.endswith("generate"):
            await peer.send(token(f"t{len(server.heads)}"))
        else:
            used = next(line for line in server.heads[-1].splitlines() if "OAUTH" in line.upper())
            await peer.send(answer({}, 498) if used in ended else rows(1))
            ended.add(used)  # each token serves one request

    auth = OAuth("key", "secret", clock=lambda: now)
    async with answering(respond, auth, retry=RetryPolicy(attempts=1)) as (server, client):
        for _ in range(5):
            assert len(await client.active_targets(1)) == 1
            now += 1.0
        assert (client.counts.retries, slept) == (0, [])


@pytest.mark.usefixtures("slept")
@pytest.mark.parametrize("worked", [True, False])
async def test_tokens_that_are_always_rejected_end_in_an_auth_error(worked: bool) -> None:
    reject = not worked

    async def respond(peer: Peer, path: str) -> None:
        if path.endswith("generate"):
            await peer.send(token(f"t{len(server.heads)}"))
        else:
            await peer.send(answer({}, 401) if reject else rows(1))

    async with answering(respond, OAuth("key", "secret"), concurrency=1) as (server, client):
        if worked:
            await client.active_targets(1)
            reject = True
        with pytest.raises(Exception, match="token rejected") as caught:
            await client.active_targets(1)
    error: Any = caught.value
    assert (error.scope, error.retryable) == ("credentials", worked)
    assert error.attempts == (5 if worked else 3)


async def test_a_token_endpoint_that_is_down_is_asked_with_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked = 0.0, []

    async def sleep(seconds: float, _sleep: Any = asyncio.sleep) -> None:
        nonlocal now
        until = now + seconds
        for _ in range(200):  # everybody gets as far as they can before time goes on
            await _sleep(0)
        now = max(now, until)

    async def respond(peer: Peer, path: str) -> None:
        if path.endswith("generate"):
            asked.append(now)
            await peer.send(token() if now >= 1.5 else answer({}, 503))
        else:
            await peer.send(rows(1))

    monkeypatch.setattr("capillary_targets.transport.asyncio.sleep", sleep)
    monkeypatch.setattr("capillary_targets.transport.random.random", lambda: 1.0)
    auth = OAuth("key", "secret", clock=lambda: now)
    async with answering(respond, auth) as (_, client):
        found = await asyncio.gather(*(client.active_targets(user) for user in range(1, 101)))
        assert all(len(one) == 1 for one in found)
        assert len(asked) <= 6  # not one for each of the 100 calls at each attempt
        assert client.counts.requests == len(asked) + 100


async def test_an_error_of_the_token_endpoint_counts_its_attempts() -> None:
    policy, auth = RetryPolicy(attempts=3, wait_initial=1e-6), OAuth("key", "secret")
    async with answering(always(answer({}, 503)), auth, retry=policy) as (server, client):
        with pytest.raises(Exception, match="service failed") as caught:
            await client.active_targets(1)
        assert vars(caught.value)["attempts"] == 3
        assert len(server.heads) == 3
        assert client.counts.retries == 2


@pytest.mark.parametrize("status", [461, 429, 503, 403])
async def test_a_sweep_waits_as_long_as_the_server_asks_a_visitor_does_not(
    status: int, slept: list[float]
) -> None:
    busy = {"errors": [{"code": 4001, "message": "unavailable"}]} if status == 403 else {}
    refused: set[str] = set()

    async def respond(peer: Peer, path: str) -> None:
        if path in refused:
            await peer.send(rows())
        else:
            refused.add(path)
            await peer.send(answer(busy, status, Retry_After="2"))

    async with answering(respond, timeout=1.5) as (_, client):
        (outcome,) = [one async for one in client.sweep([1])]
        assert outcome.complete, outcome.error
        assert (slept == [2.0]) is (status == 461)  # else the limiter pauses everybody
        with pytest.raises(CapillaryError) as caught:
            await client.active_targets(2)
        assert caught.value.retry_after == pytest.approx(2.0, abs=0.5)


# --- null in place of rows ---

NULL = answer({"data": None, "errors": None, "warnings": None})


async def test_a_null_now_and_then_is_asked_again() -> None:
    count = 0

    async def respond(peer: Peer, path: str) -> None:
        nonlocal count
        count += 1
        await peer.send(NULL if count % 10 in {0, 1} else rows(7))

    policy = RetryPolicy(wait_initial=1e-6)
    async with answering(respond, retry=policy, concurrency=4) as (_, client):
        tokens = client.session.quota.tokens
        found = await asyncio.gather(*(client.active_targets(user) for user in range(1, 101)))
        assert [[target.id for target in one] for one in found] == [[7]] * 100
        assert not any(one.warnings for one in found)
        assert client.counts.retries > 10
        assert client.session.quota.tokens == tokens  # it is no outage


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_null_that_stays_is_none_and_noted(attempts: int) -> None:
    policy = RetryPolicy(attempts=attempts, wait_initial=1e-6)
    async with answering(always(NULL), retry=policy) as (_, client):
        found = await client.active_targets(1)
        assert (found, client.counts.requests) == ([], attempts)
        (note,) = found.warnings
        assert note.message == (
            f"the server answered `data: null` without an error, {attempts} times; read as no rows"
        )
        with pytest.raises(BadResponse, match="null") as caught:  # events say how many there are
            await target_events(client.session, 1, 2)
        assert caught.value.retryable


async def test_a_null_for_which_no_time_is_left_is_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("capillary_targets.transport.random.random", lambda: 0.5)
    policy = RetryPolicy(wait_initial=1000, wait_max=1000)
    async with answering(always(NULL), retry=policy, timeout=5) as (_, client):
        with pytest.raises(BadResponse, match="null") as caught:
            await client.active_targets(1)
        assert caught.value.attempts == 1


async def attempt(timer: AttemptTimer, seconds: float, takes: float) -> str:
    """How an attempt ends that takes so long, and when."""
    attempt = timer.start(seconds)
    outcome = "done"
    try:
        await asyncio.sleep(takes)
    except asyncio.CancelledError:
        outcome = "cancelled"
    finally:
        if timer.stop(attempt):
            outcome = "cut off"
    return f"{outcome} at {clock():g}"


def test_each_attempt_is_cut_off_when_it_is_due() -> None:
    async def main() -> list[str]:
        timer = AttemptTimer(asyncio.get_running_loop())
        lengths = [(9.0, 20.0), (3.0, 20.0), (9.0, 2.0), (5.0, 20.0), (5.0, 4.0), (30.0, 29.0)]
        return await asyncio.gather(*(attempt(timer, *one) for one in lengths))

    assert simulate(main()) == [
        "cut off at 9",
        "cut off at 3",
        "done at 2",
        "cut off at 5",
        "done at 4",
        "done at 29",
    ]


def test_attempts_one_after_the_other_share_a_timer_that_ends_with_them() -> None:
    async def main() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        timer = AttemptTimer(loop)
        for _ in range(100):
            await attempt(timer, 5.0, 0.01)
        timers = len(loop._scheduled)  # type: ignore[attr-defined]
        await asyncio.sleep(30)
        return timers, math.inf if timer._handle is None else timer._handle.when()

    timers, next_due = simulate(main())
    assert timers < 50
    assert next_due == math.inf


@pytest.mark.parametrize("before", [True, False])
def test_who_cancels_the_task_is_obeyed(before: bool) -> None:
    """Cancelled at the same moment: that comes first. Cancelled long before: an attempt of the
    clean-up has a time limit like any other."""

    async def clean_up(timer: AttemptTimer) -> str:
        try:
            await asyncio.sleep(1.0)
        except asyncio.CancelledError:
            return await attempt(timer, 5.0, 20.0)
        raise AssertionError

    async def main() -> str:
        loop = asyncio.get_running_loop()
        timer = AttemptTimer(loop)
        if before:
            task = loop.create_task(clean_up(timer))
            loop.call_later(0.5, task.cancel)
        else:
            task = loop.create_task(attempt(timer, 5.0, 20.0))
            loop.call_later(5.0, task.cancel)
        return await task

    assert simulate(main()) == ("cut off at 5.5" if before else "cancelled at 5")
