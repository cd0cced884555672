from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from capillary_targets.sandbox import Sandbox
from capillary_targets.sandbox.desk import _local
from capillary_targets.sandbox.faults import NAMED, named

from .conftest import Caller

USER = 564_332_013


async def post(caller: Caller, url: str, body: Any = None) -> tuple[int, Any]:
    async with caller.session.post(url, json=body) as response:
        return response.status, await response.json()


async def test_faults_can_be_ordered_from_elsewhere(caller: Caller) -> None:
    async with Sandbox(users=1) as url:
        order = {"fault": "http", "arguments": {"status": 503}, "times": 2}
        assert await post(caller, f"{url}/sandbox/faults", order) == (200, {"ordered": 1})
        forever = {"fault": "not_found", "times": None, "path_contains": "limit=3"}
        assert await post(caller, f"{url}/sandbox/faults", forever) == (200, {"ordered": 2})
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
    assert state["faults"] == {"ordered": 1, "injected": 0, "stalled": 0}


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
        _local(request)
    else:
        with pytest.raises(aiohttp.web.HTTPForbidden):
            _local(request)


def test_every_named_fault_can_be_made_without_arguments_but_one() -> None:
    needs = {"http": {"status": 500}, "api_code": {"code": 461}}
    assert all(named(name, needs.get(name, {})) for name in NAMED)
