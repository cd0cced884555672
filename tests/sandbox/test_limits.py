import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from capillary_targets.sandbox import Fault, Sandbox, SandboxSettings
from capillary_targets.sandbox.limits import CapacityLimit
from tests.conftest import turns_until

from .conftest import Answer, Caller

USER = 564_332_013


@asynccontextmanager
async def crowd(caller: Caller, url: str, size: int) -> AsyncIterator[list[asyncio.Task[Answer]]]:
    tasks = [asyncio.create_task(caller.events(url, USER, 1986)) for _ in range(size)]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_budget_refuses_what_exceeds_it_and_remembers_the_worst_window(
    caller: Caller,
) -> None:
    now = 50.0
    sandbox = Sandbox(users=1, rate_limit=(3, 10), clock=lambda: now)
    async with sandbox as url:
        got = []
        for step in (0, 4, 4, 1.5, 0.5, 0):
            now += step
            answer = await caller.targets(url, USER)
            got.append((answer.status, answer.headers.get("Retry-After")))
        assert (await caller.get(url)).status == 200
        async with caller.session.post(f"{url}/v3/oauth/token/generate") as token:
            assert token.status == 400  # bad input, but not counted
    assert got == [(200, None)] * 3 + [(429, "1"), (200, None), (429, "4")]
    assert sandbox.peak_window == 5
    sandbox.reset()
    assert sandbox.peak_window == 0


@pytest.mark.parametrize(("hint", "ending"), [("date", "GMT"), ("none", None)])
async def test_hints_of_a_budget(caller: Caller, hint: Any, ending: str | None) -> None:
    async with Sandbox(users=1, rate_limit=(1, 60), retry_hint=hint) as url:
        await caller.targets(url, USER)
        refused = await caller.targets(url, USER)
    assert refused.status == 429
    given = refused.headers.get("Retry-After")
    assert given == ending or (given is not None and given.endswith(str(ending)))


async def test_calls_above_the_capacity_stand_in_line(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1, capacity=2, latency=60, queue_limit=3)) as url:
        async with crowd(caller, url, 5) as tasks:
            await turns_until(lambda: sandbox.waiting == 3)
            assert sandbox.in_flight == 5
            turned_away = await caller.events(url, USER, 1986)
            assert turned_away.status == 503
            # One in the line leaves: the next may take its place there.
            tasks[4].cancel()
            await turns_until(lambda: sandbox.waiting == 2)
            sandbox.settings.queue_limit = None
            tasks.append(asyncio.create_task(caller.events(url, USER, 1986)))
            await turns_until(lambda: sandbox.waiting == 3)
            # Those being served leave: others get their places.
            tasks[0].cancel()
            tasks[1].cancel()
            await turns_until(lambda: sandbox.waiting == 1)
            # A wider capacity is noticed with the next call.
            sandbox.settings.capacity = None
            sandbox.settings.latency = 0.0
            assert (await caller.events(url, USER, 1986)).status == 200
            await turns_until(lambda: sandbox.waiting == 0)
        await turns_until(lambda: sandbox.in_flight == 0)
    assert sandbox.max_in_flight == 6


async def test_everyone_gets_through_a_narrow_place(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1, capacity=1, latency=0.001)) as url:
        async with crowd(caller, url, 12) as tasks:
            answers = await asyncio.gather(*tasks)
        assert [answer.status for answer in answers] == [200] * 12
        assert sandbox.in_flight == sandbox.waiting == 0
        assert sandbox.max_in_flight > 1
        sandbox.reset()
        assert sandbox.max_in_flight == 0


async def test_stopping_does_not_wait_for_the_line(caller: Caller) -> None:
    sandbox = Sandbox(users=1, capacity=1, latency=60)
    async with asyncio.timeout(5), sandbox as url, crowd(caller, url, 3):
        await turns_until(lambda: sandbox.waiting == 2)
        await sandbox.stop()
    assert sandbox.in_flight == sandbox.waiting == sandbox.connections == 0


async def test_connections_are_counted_as_long_as_they_are_open(caller: Caller) -> None:
    async with (sandbox := Sandbox(users=1)) as url:
        assert sandbox.connections == 0
        sandbox.faults.add(Fault.stall(), times=3)
        async with crowd(caller, url, 3):
            await turns_until(lambda: sandbox.faults.stalled == 3)
            assert sandbox.connections == 3
        await turns_until(lambda: sandbox.connections == 0)


async def test_a_call_that_leaves_just_as_its_turn_comes_passes_it_on() -> None:
    limit = CapacityLimit(SandboxSettings(capacity=1))

    async def pass_through() -> bool:
        async with limit.slot() as admitted:
            return admitted

    async with asyncio.timeout(5):
        async with limit.slot():
            first, second = (asyncio.create_task(pass_through()) for _ in range(2))
            await turns_until(lambda: limit.waiting == 2)
        first.cancel()  # its turn has come, but it has not run since
        assert await second
    assert first.cancelled()
    assert limit.waiting == 0


async def test_a_full_line_admits_nobody_and_says_so() -> None:
    limit = CapacityLimit(SandboxSettings(capacity=1, queue_limit=0))
    async with limit.slot() as first, limit.slot() as second:
        assert (first, second) == (True, False)
    async with limit.slot() as third:
        assert third
