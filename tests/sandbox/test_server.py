import asyncio
import base64
import re
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from capillary_targets.sandbox import RecordedRequest, Sandbox
from capillary_targets.sandbox.faults import NAMED, named
from capillary_targets.sandbox.server import _check_local

from .conftest import Caller

USER = 564_332_013


async def test_the_wrong_password_or_none_is_refused_in_the_old_envelope(caller: Caller) -> None:
    async with Sandbox(users=1) as url:
        path = f"{url}/v3/users/1000001/enrolledTargets"
        none = await caller.get(path, Accept="*/*")
        plain = base64.b64encode(":".join(Sandbox().credentials).encode()).decode()
        unhashed = await caller.get(path, Authorization=f"Basic {plain}")
        right = await caller.get(path)
    assert none.status == unhashed.status == 401
    assert none.json["response"]["status"] == {
        "success": "true",
        "code": "401",
        "message": "Unauthorized",
    }
    assert right.status == 200


async def test_the_header_is_the_documented_one() -> None:
    # The API pages' own example, recomputed: user store.server, password server123.
    from capillary_targets.sandbox.auth import basic_header

    assert basic_header("store.server", "server123") == (
        "Basic c3RvcmUuc2VydmVyOjhhMTZhNmI3MDUwNWViMWYxZmY3Y2RjMGNkNTU1OWE3"
    )


async def test_every_answer_carries_a_request_id_of_its_own(caller: Caller) -> None:
    sandbox = Sandbox(users=1)
    async with sandbox as url:
        paths = ["/", "/nothing", "/sandbox/users.txt", "/v3/users/1/enrolledTargets"]
        answers = [await caller.get(url + path) for path in paths]
        sandbox.settings.request_id_headers = "X-CAP-REQUEST-ID"
        single = await caller.get(url)
        sandbox.settings.request_id_headers = "none"
        bare = await caller.get(url)
    ids = {answer.headers["X-Cap-Requestid"] for answer in answers}
    assert ids == {answer.headers["X-CAP-REQUEST-ID"] for answer in answers}
    assert len(ids) == len(paths)
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert "X-Cap-Requestid" not in single.headers
    assert single.headers["X-CAP-REQUEST-ID"]
    assert "X-CAP-REQUEST-ID" not in bare.headers


async def test_the_journal_notes_requests_codes_and_counts(caller: Caller) -> None:
    sandbox = Sandbox(users=1)
    async with sandbox as url:
        await caller.events(url, 564_332_013, 1986, limit=5)
        await caller.targets(url, 5)
        await caller.get(f"{url}/nothing")
    assert list(sandbox.requests) == [
        RecordedRequest(
            "GET", "/v3/users/564332013/trackedTargetEvents/1986", "limit=5", 200, None
        ),
        RecordedRequest("GET", "/v3/users/5/enrolledTargets", "", 400, 310011),
        RecordedRequest("GET", "/nothing", "", 404, None),
    ]
    assert sandbox.counts == {"trackedTargetEvents": 1, "enrolledTargets": 1, "unknown": 1}
    sandbox.world.add_event(564_332_013, 1986)
    sandbox.reset()
    assert not sandbox.requests
    assert sandbox.world.count(564_332_013, 1986) == 10


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "v3/users/1/enrolledTargets", {"Authorization": "Basic \udcff"}, None, 401),
        ("HEAD", "v3/users/1/enrolledTargets", {}, None, 405),
        ("PUT", "v3/users/1/enrolledTargets", {}, b"{}", 405),
        ("HEAD", "sandbox/users.txt", {}, None, 405),
        ("POST", "v3/oauth/token/generate", {}, DEEP, 400),
        ("POST", "sandbox/events", {}, DEEP, 400),
        ("POST", "sandbox/reset", {"Content-Encoding": "gzip"}, b"{}", 400),
    ],
)
async def test_odd_requests_are_refused_and_nothing_breaks(
    caller: Caller, method: str, path: str, headers: dict[str, str], body: Any, status: int
) -> None:
    async with Sandbox(users=1) as url:
        async with caller.session.request(
            method, f"{url}/{path}", headers=caller.authorization | headers, data=body
        ) as response:
            assert response.status == status
            assert (status == 405) == ("Allow" in response.headers)
        assert (await caller.get(f"{url}/sandbox/state")).status == 200


async def test_all_users_are_listed_one_a_line(caller: Caller) -> None:
    sandbox = Sandbox(users=25_000)
    async with sandbox as url:
        listed = (await caller.get(f"{url}/sandbox/users.txt")).body.decode().splitlines()
    assert [int(line) for line in listed] == list(sandbox.world.all_user_ids())


async def test_it_can_be_stopped_and_started_again(caller: Caller) -> None:
    sandbox = Sandbox(users=1)
    first = await sandbox.start()
    assert sandbox.url == first
    with pytest.raises(RuntimeError, match="already"):
        await sandbox.start()
    await sandbox.stop()
    await sandbox.stop()
    with pytest.raises(RuntimeError, match="not running"):
        _ = sandbox.url
    with pytest.raises(aiohttp.ClientConnectionError):
        await caller.get(first)
    async with sandbox as again:
        assert (await caller.get(again)).status == 200


async def test_stopping_closes_idle_connections_at_once(caller: Caller) -> None:
    sandbox = Sandbox(users=1)
    async with asyncio.timeout(5):
        async with sandbox as url:
            host, port = url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            await caller.get(url)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_taken_port_is_reported_and_leaves_nothing_running() -> None:
    async with Sandbox(users=1) as url:
        second = Sandbox(users=1, port=int(url.rsplit(":", 1)[1]))
        with pytest.raises(OSError, match="address already in use"):
            await second.start()
        await second.stop()


async def post(caller: Caller, url: str, body: Any = None) -> tuple[int, Any]:
    async with caller.session.post(url, json=body) as response:
        return response.status, await response.json()


async def test_faults_can_be_ordered_from_elsewhere(caller: Caller) -> None:
    async with Sandbox(users=1) as url:
        order = {"fault": "http", "arguments": {"status": 503}, "times": 2}
        assert await post(caller, f"{url}/sandbox/faults", order) == (200, {"scheduled": 1})
        forever = {
            "fault": "http",
            "arguments": {"status": 404},
            "times": None,
            "path_contains": "limit=3",
        }
        assert await post(caller, f"{url}/sandbox/faults", forever) == (200, {"scheduled": 2})
        got = [(await caller.targets(url, USER)).status for _ in range(3)]
        assert got == [503, 503, 200]
        assert (await caller.events(url, USER, 1986, limit=3)).status == 404
        assert await post(caller, f"{url}/sandbox/reset") == (200, {"reset": True})
        assert (await caller.events(url, USER, 1986, limit=3)).status == 200


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {"times": 2},
        {"fault": "earthquake"},
        {"fault": "http"},
        {"fault": "http", "arguments": {"status": 503, "colour": "red"}},
        {"fault": "authorisation", "arguments": {"code": 1}},
        {"fault": "http", "arguments": {"status": "503"}},
        {"fault": "http", "arguments": {"status": 503, "body": 5}},
        {"fault": "redirect", "arguments": {"location": 5}},
        {"fault": "slow_body", "arguments": {"interval": "slow"}},
        {"fault": "huge", "arguments": {"megabytes": "many"}},
        {"fault": "reset", "times": "twice"},
        {"fault": "reset", "times": 0},
        {"fault": "reset", "probability": 2},
        {"fault": "odd_body", "arguments": {"name": "mojibake"}},
        {"fault": "edited", "arguments": {"pattern": "(", "replacement": ""}},
        {"fault": "edited", "arguments": {"pattern": "a", "replacement": r"\1"}},
        {"fault": "reset", "path_contains": 5},
        {"fault": "reset", "when": "now"},
    ],
)
async def test_orders_that_make_no_sense(caller: Caller, body: Any) -> None:
    async with (sandbox := Sandbox(users=1)) as url:
        status, answer = await post(caller, f"{url}/sandbox/faults", body)
    assert status == 400
    assert answer["error"]
    assert len(sandbox.faults) == 0


async def test_the_state_tells_what_happened(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1, rate_limit=(9, 60))) as url:
        await caller.targets(url, USER)
        await caller.targets(url, USER)
        sandbox.faults.add(NAMED["reset"]())
        state = (await caller.get(f"{url}/sandbox/state")).json
    assert state["counts"] == {"enrolledTargets": 2, "state": 1}
    assert state["peak_window"] == 2
    assert state["max_in_flight"] == 1
    assert state["in_flight"] == state["waiting"] == 0
    assert state["connections"] == 1
    assert state["faults"] == {"scheduled": 1, "injected": 0, "stalled": 0}


@pytest.mark.parametrize(
    ("remote", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("192.168.1.5", False),
        ("fe80::1%eth0", False),
    ],
)
def test_only_this_machine_gives_orders(remote: str, allowed: bool) -> None:
    request = make_mocked_request("POST", "/sandbox/reset").clone(remote=remote)
    if allowed:
        _check_local(request)
    else:
        with pytest.raises(aiohttp.web.HTTPForbidden):
            _check_local(request)


def test_every_named_fault_can_be_made_without_arguments_but_one() -> None:
    needs = {
        "http": b'{"status": 500}',
        "api_code": b'{"code": 461}',
        "odd_body": b'{"name": "bom"}',
        "edited": b'{"pattern": "a", "replacement": "b"}',
    }
    assert all(named(name, needs.get(name, b"{}")) for name in NAMED)
