import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets.fanout import FanOut, UserQuery


@frozen
class Found:
    user: int
    number: int | None = None
    error: None = None


def fan_of(
    users: Any, visit: Callable[..., Any], size: Callable[[], int], *, ordered: bool = False
) -> FanOut[Found]:
    """A fan-out with a limit of the test's."""

    class Limiter:
        limit = property(lambda _: size())

    session: Any = SimpleNamespace(limiter=Limiter())

    async def fetch(user: int, fan: FanOut[Found]) -> Found:
        await visit(user, fan.emit)
        return Found(user)

    return FanOut(session, users, UserQuery(), fetch, ordered)


@given(st.integers(0, 40), st.integers(1, 8), st.booleans(), st.randoms())
async def test_every_item_is_visited_once_within_the_bound(
    items: int, size: int, ordered: bool, chance: random.Random
) -> None:
    taken = consumed = busy = most = 0

    async def source() -> AsyncIterator[int]:
        nonlocal taken
        for item in range(items):
            taken += 1
            assert taken - consumed <= 2 * size
            yield item

    async def visit(item: int, _: object) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        busy -= 1

    results = []
    async for result in fan_of(source(), visit, lambda: size, ordered=ordered).results():
        consumed += 1
        results.append(result.user)
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    assert sorted(results) == list(range(items))
    assert not ordered or results == sorted(results)
    assert most <= size


async def test_the_pool_follows_its_size() -> None:
    size = busy = most = 0

    async def visit(item: int, _: object) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        for _ in range(5):
            await asyncio.sleep(0)
        busy -= 1

    results = fan_of(range(1000), visit, lambda: size).results()
    for size, drained in [(1, 0), (20, 0), (3, 60)]:
        for _ in range(drained):
            await anext(results)
        most = 0
        for _ in range(150):
            await anext(results)
        assert most == size
    await results.aclose()


async def test_a_worker_goes_on_with_the_next_user() -> None:
    """No task for each user: all would begin in another step than the last ones ended in."""
    tasks: set[asyncio.Task[Any] | None] = set()

    async def visit(item: int, _: object) -> None:
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0)

    results = [one.user async for one in fan_of(range(100), visit, lambda: 4).results()]
    assert sorted(results) == list(range(100))
    assert len(tasks) == 4


@pytest.mark.parametrize("broken", ["visit", "source"])
async def test_an_exception_ends_the_stream_and_leaves_no_task(broken: str) -> None:
    async def source() -> AsyncIterator[int]:
        for item in range(100):
            if broken == "source" and item == 10:
                raise ZeroDivisionError
            yield item

    async def visit(item: int, _: object) -> None:
        if broken == "visit" and item == 10:
            raise ZeroDivisionError
        await asyncio.sleep(0)

    results = []

    async def consume() -> None:
        async for result in fan_of(source(), visit, lambda: 4).results():
            results.append(result)  # noqa: PERF401 - what came before it counts

    with pytest.raises(ZeroDivisionError):
        await consume()
    assert len(results) >= 5
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_one_slow_item_does_not_hold_the_others_up() -> None:
    release = asyncio.Event()

    async def visit(item: int, _: object) -> None:
        if item == 0:
            await release.wait()

    results = fan_of(range(50), visit, lambda: 4).results()
    assert [(await anext(results)).user for _ in range(49)] == list(range(1, 50))
    release.set()
    assert (await anext(results)).user == 0
    await results.aclose()


@given(st.lists(st.integers(0, 12), max_size=12), st.integers(1, 4), st.randoms())
async def test_what_a_visit_gives_comes_in_order_and_before_what_it_returns(
    counts: list[int], size: int, chance: random.Random
) -> None:
    given_out = consumed = 0

    async def visit(item: int, emit: Callable[[Found], Awaitable[None]]) -> None:
        nonlocal given_out
        for number in range(counts[item]):
            await emit(Found(item, number))
            given_out += 1
            # At most twice the size waits, and what each of the others had in its hand.
            assert given_out - consumed <= 2 * size + 1
            if chance.random() < 0.5:
                await asyncio.sleep(0)

    found: dict[int, list[int | None]] = {}
    async for one in fan_of(range(len(counts)), visit, lambda: size).results():
        consumed += one.number is not None
        found.setdefault(one.user, []).append(one.number)
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    assert found == {item: [*range(count), None] for item, count in enumerate(counts)}


async def test_a_visit_that_waits_to_give_is_ended_with_the_stream() -> None:
    async def visit(item: int, emit: Callable[[Found], Awaitable[None]]) -> None:
        while True:
            await emit(Found(item))

    results = fan_of(range(3), visit, lambda: 2).results()
    assert (await anext(results)).user == 0
    await results.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_not_even_what_is_no_exception_is_lost() -> None:
    class Stop(BaseException):
        pass

    async def visit(item: int, _: object) -> None:
        if item == 3:
            raise Stop

    results = fan_of(range(9), visit, lambda: 1).results()
    with pytest.raises(Stop):
        [result async for result in results]
