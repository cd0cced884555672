import asyncio
import json
import re
import zlib
from typing import Any

import aiohttp
import pytest

from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.sandbox.auth import basic_header
from capillary_targets.sandbox.faults import ODD_BODIES, TRANSIENT
from tests.conftest import turns_until

from .conftest import Answer, Caller

USER = 564_332_013


async def meet(caller: Caller, sandbox: Sandbox, fault: Fault) -> Answer:
    """The answer that the fault gives; the next one has to be right again."""
    sandbox.faults.add(fault)
    answer = await caller.events(sandbox.url, USER, 1986)
    assert (await caller.events(sandbox.url, USER, 1986)).status == 200
    return answer


async def test_a_dripping_body_arrives_whole_once_the_gate_opens(caller: Caller) -> None:
    gate = asyncio.Event()
    async with (sandbox := Sandbox(users=1)) as url:
        sandbox.faults.add(Fault.slow_body(gate=gate))
        path = f"{url}/v3/users/{USER}/trackedTargetEvents/1986?limit=1&offset=3"
        async with caller.session.get(path, headers=caller.authorization) as response:
            assert await response.content.readany() == b"{"
            gate.set()
            rest = await response.read()
        assert rest.endswith(b"]}")
        sandbox.faults.add(Fault.slow_body(interval=0))
        assert (await caller.events(url, USER, 1986, limit=1, offset=3)).body == b"{" + rest


async def test_a_stalled_call_waits_for_its_release(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1)) as url:
        sandbox.faults.add(Fault.stall())
        waiting = asyncio.create_task(caller.events(url, USER, 1986))
        await turns_until(lambda: sandbox.faults.stalled)
        assert sandbox.in_flight == 1
        sandbox.faults.release()
        assert (await waiting).status == 200
        assert sandbox.in_flight == sandbox.faults.stalled == 0


async def test_a_client_that_leaves_a_stalled_call_frees_it(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1)) as url, asyncio.timeout(5):
        sandbox.faults.add(Fault.stall())
        waiting = asyncio.create_task(caller.events(url, USER, 1986))
        await turns_until(lambda: sandbox.faults.stalled)
        waiting.cancel()
        await turns_until(lambda: not sandbox.in_flight and not sandbox.connections)
        assert sandbox.faults.stalled == 0
        assert sandbox.requests[-1].status is None


async def test_stopping_does_not_wait_for_stalled_and_dripping_calls(caller: Caller) -> None:
    async with asyncio.timeout(5):
        async with (sandbox := Sandbox(users=1)) as url:
            sandbox.faults.add(Fault.stall(), times=2)
            sandbox.faults.add(Fault.slow_body(gate=asyncio.Event()))
            waiting = [asyncio.create_task(caller.events(url, USER, 1986)) for _ in range(3)]
            await turns_until(lambda: sandbox.in_flight == 3 and sandbox.faults.stalled == 2)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, aiohttp.ClientError) for outcome in outcomes)
    assert sandbox.in_flight == sandbox.faults.stalled == 0


async def test_a_bomb_is_small_on_the_wire() -> None:
    async with (sandbox := Sandbox(users=1)) as url:
        sandbox.faults.add(Fault.huge(8, gzip=True))
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.get(f"{url}/v3/users/{USER}/enrolledTargets") as response,
        ):
            packed = await response.read()
    assert len(packed) < 64 << 10
    assert len(zlib.decompress(packed, zlib.MAX_WBITS | 16)) > 8 << 20


async def test_a_client_may_leave_a_flood(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1)) as url, asyncio.timeout(5):
        sandbox.faults.add(Fault.huge())
        path = f"{url}/v3/users/{USER}/enrolledTargets"
        async with caller.session.get(path, headers=caller.authorization) as response:
            await response.content.readexactly(1 << 16)
            response.close()
        await turns_until(lambda: not sandbox.in_flight)
        assert (await caller.events(url, USER, 1986)).status == 200


async def test_orders_fit_by_path_and_run_out(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1)) as url:
        sandbox.faults.add(Fault.http(500), times=2, path_contains="offset=1")
        sandbox.faults.add(Fault.http(503), path_contains="enrolled")
        sandbox.faults.add(Fault.http(599), times=None, path_contains="limit=7")
        got = [
            (await caller.events(url, USER, 1986, limit=5, offset=offset)).status
            for offset in (0, 1, 1, 1)
        ]
        assert got == [200, 500, 500, 200]
        assert (await caller.targets(url, USER)).status == 503
        for _ in range(3):
            assert (await caller.events(url, USER, 1986, limit=7)).status == 599
        assert len(sandbox.faults) == 1
        assert sandbox.faults.injected == 6
        sandbox.reset()
        assert (await caller.events(url, USER, 1986, limit=7)).status == 200


async def test_faults_keep_away_from_the_sandbox_own_pages(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1, random_faults=1.0)) as url:
        sandbox.faults.add(Fault.http(500), times=None)
        assert (await caller.get(url)).status == 200
        assert (await caller.get(f"{url}/sandbox/users.txt")).status == 200


async def fates(caller: Caller, sandbox: Sandbox, number: int) -> list[tuple[int | None, bytes]]:
    """What becomes of so many calls: status and the head of the body, or no status."""
    seen: list[tuple[int | None, bytes]] = []
    for _ in range(number):
        try:
            answer = await caller.events(sandbox.url, USER, 1986)
            seen.append((answer.status, answer.body[:40]))
        except aiohttp.ClientError as error:
            seen.append((None, type(error).__name__.encode()))
    return seen


async def test_random_faults_follow_the_seed(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1, random_faults=0.3, seed=11)):
        first = await fates(caller, sandbox, 60)
        assert 6 < sandbox.faults.injected < 30
        sandbox.reset()
        assert await fates(caller, sandbox, 60) == first
        sandbox.settings.random_faults = 0.0
        assert {status for status, _ in await fates(caller, sandbox, 5)} == {200}
    assert len(TRANSIENT) == len({repr(fault) for fault in TRANSIENT})


async def test_a_fault_by_chance_follows_the_seed_and_its_share(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1, seed=5)):
        for _ in range(2):
            sandbox.faults.add(Fault.too_many_requests(), times=None, probability=0.2)
            sandbox.faults.add(Fault.http(503, retry_after=1), times=3, probability=0.5)
            seen = [status for status, _ in await fates(caller, sandbox, 80)]
            assert 6 <= seen.count(429) <= 28
            assert seen.count(503) == 3
            assert seen.count(200) == 80 - seen.count(429) - 3
            sandbox.reset()
            first, seen = seen, []
        sandbox.faults.add(Fault.too_many_requests(), times=None, probability=0.2)
        sandbox.faults.add(Fault.http(503, retry_after=1), times=3, probability=0.5)
        assert [status for status, _ in await fates(caller, sandbox, 80)] == first


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"times": 0}, "times must be at least 1"),
        ({"times": -1}, "times must be at least 1"),
        ({"probability": 0}, "probability must be above 0"),
        ({"probability": 1.01}, "at most 1"),
    ],
)
def test_a_fault_that_can_never_come_is_refused(arguments: dict[str, Any], says: str) -> None:
    faults = Sandbox(users=1).faults
    with pytest.raises(ValueError, match=says):
        faults.add(Fault.reset(), **arguments)
    assert len(faults) == 0


LEGAL = {
    "null_data": lambda body: body["data"] is None,
    "other_rule": lambda body: {row["targetRuleId"] for row in body["data"]} == {999_999},
    "text_ids": lambda body: all(row["eventLogId"].isdigit() for row in body["data"]),
    "zero_dates": lambda body: body["data"][0]["eventDate"] == "0000-00-00 00:00:00.0",
    "far_dates": lambda body: body["data"][0]["eventDate"] == "10000-01-01 00:00:00.0",
    "huge_amounts": lambda body: body["data"][0]["targetValue"] > 10**39,
    "exponents": lambda body: body["data"][0]["targetValue"] == 1500,
    "escape_codes": lambda body: body["data"][0]["eventName"].startswith("\x1b[31m\x07"),
    "lone_surrogate": lambda body: body["data"][0]["eventName"].startswith("\ud83d"),
}


@pytest.mark.parametrize("name", ODD_BODIES)
async def test_odd_bodies_are_the_right_answer_but_for_one_thing(caller: Caller, name: str) -> None:
    async with (sandbox := Sandbox(users=1)) as url:
        right = await caller.events(url, USER, 1986)
        odd = await meet(caller, sandbox, Fault.odd_body(name))
        seeded = sandbox.world.user_ids()[0]
        sandbox.faults.add(Fault.odd_body(name))
        compact = await caller.targets(url, seeded)
        plain = await caller.targets(url, seeded)
    assert odd.status == compact.status == 200
    assert odd.body != right.body
    if name in LEGAL:
        assert LEGAL[name](odd.json)
        assert odd.json["pagination"] == right.json["pagination"]
    elif name == "bom":
        assert odd.body == compact.body[:3] + right.body
    else:
        with pytest.raises(ValueError, match=r"decode|Expecting"):
            _ = odd.json
    untouched = {"other_rule", "huge_amounts", "exponents"}  # targets hold none of these
    assert (compact.body == plain.body) == (name in untouched)


def test_an_unknown_odd_body_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no odd body named 'mojibake'; there are null_data"):
        Fault.odd_body("mojibake")


async def test_any_other_edit_is_a_regular_expression(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1)):
        fault = Fault.edited(r'"eventName": "(\w+)"', r'"eventName": "X\1"')
        answer = await meet(caller, sandbox, fault)
    assert {row["eventName"] for row in answer.json["data"]} == {"XADD_TRANSACTION"}


async def test_a_second_answer_follows_on_the_same_connection() -> None:
    async with (sandbox := Sandbox(users=1)) as url:
        sandbox.faults.add(Fault.second_answer(), path_contains="enrolled")
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        login = basic_header(*sandbox.credentials)
        path = f"/v3/users/{USER}/enrolledTargets"
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {login}\r\n\r\n"
        writer.write(head.encode())
        bodies = []
        for _ in range(2):
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", answer)
            assert length is not None
            bodies.append(json.loads(await reader.readexactly(int(length[1]))))
        assert bodies[0]["data"]
        assert bodies[1]["data"] is None
        writer.close()
        await writer.wait_closed()
