from typing import Any

import pytest

from capillary_targets.sandbox import Fault, Sandbox

from .conftest import Answer, Caller

KEYS = {"key": "sandbox-key", "secret": "sandbox-secret"}
HEADER = "X-CAP-API-OAUTH-TOKEN"


async def generate(caller: Caller, url: str, **body: Any) -> Answer:
    path = f"{url}/v3/oauth/token/generate"
    async with caller.session.post(path, json=body or KEYS) as response:
        return Answer(response.status, await response.read(), dict(response.headers))


async def ask(caller: Caller, url: str, token: str) -> Answer:
    return await caller.get(f"{url}/v3/users/1000001/enrolledTargets", **{HEADER: token})


async def test_each_call_gives_a_new_token_and_all_work(caller: Caller) -> None:
    async with Sandbox(users=1, ttl_seconds=300) as url:
        answers = [await generate(caller, url) for _ in range(3)]
        tokens = [answer.json["data"]["accessToken"] for answer in answers]
        assert len(set(tokens)) == 3
        assert answers[0].json == {
            "data": {"accessToken": tokens[0], "ttlSeconds": 300},
            "errors": None,
            "warnings": None,
        }
        assert all(token.count(".") == 2 for token in tokens)
        assert [(await ask(caller, url, token)).status for token in tokens] == [200] * 3


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"key": "x", "secret": "y"}, 320001),
        ({"key": "sandbox-key", "secret": 5}, 320001),
        ({"client_id": "x"}, 300004),
    ],
)
async def test_wrong_keys(caller: Caller, body: dict[str, Any], code: int) -> None:
    async with Sandbox(users=1) as url:
        answer = await generate(caller, url, **body)
        assert (answer.status, answer.code) == (400, code)
        async with caller.session.post(f"{url}/v3/oauth/token/generate", data=b"[1]") as response:
            assert (await response.json())["errors"][0]["code"] == 300004


async def test_tokens_live_by_the_clock(caller: Caller) -> None:
    now = 1000.0
    sandbox = Sandbox(users=1, ttl_seconds=60, clock=lambda: now)
    async with sandbox as url:
        token = (await generate(caller, url)).json["data"]["accessToken"]
        now += 59.5
        assert (await ask(caller, url, token)).status == 200
        now += 0.5
        assert (await ask(caller, url, token)).status == 401
        later = (await generate(caller, url)).json["data"]["accessToken"]
        assert (await ask(caller, url, later)).status == 200
        sandbox.expire_tokens()
        assert (await ask(caller, url, later)).status == 401


@pytest.mark.parametrize(
    ("rejection", "status", "code"),
    [
        ("401", 401, "401"),
        ("498", 498, "498"),
        ("body-401", 200, "401"),
        ("body-498", 200, "498"),
    ],
)
async def test_looks_of_a_rejected_token(
    caller: Caller, rejection: Any, status: int, code: str
) -> None:
    async with (sandbox := Sandbox(users=1, token_rejection=rejection)) as url:
        answer = await ask(caller, url, "made.up.token")
    legacy = answer.json["response"]["status"]
    assert (answer.status, legacy["code"], legacy["success"]) == (status, code, "true")
    assert sandbox.requests[-1].code == int(code)


async def test_a_fault_meets_the_token_call_only_if_it_is_meant(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1)) as url:
        sandbox.faults.add(Fault.http(503))
        assert (await generate(caller, url)).status == 200
        sandbox.faults.clear()
        sandbox.faults.add(Fault.http(503), path_contains="/oauth/")
        assert (await caller.targets(url, 1_000_001)).status == 200
        assert (await generate(caller, url)).status == 503
        assert (await generate(caller, url)).status == 200
    assert sandbox.counts["token"] == 3


async def test_a_new_token_is_unknown_to_every_second_node_for_a_while(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1, token_lag=2)) as url:
        token = (await generate(caller, url)).json["data"]["accessToken"]
        first = [(await ask(caller, url, token)).status for _ in range(6)]
        other = (await generate(caller, url)).json["data"]["accessToken"]
        assert (await ask(caller, url, other)).status == 401
        assert (await ask(caller, url, token)).status == 200
    assert first == [401, 200, 401, 200, 200, 200]
    assert sandbox.counts["token"] == 2
