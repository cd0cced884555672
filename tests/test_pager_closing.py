"""However a loop ends, nothing is left in flight: no task, and no connection that is not free."""

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from capillary_targets import (
    BasicAuth,
    Dialect,
    EventPager,
    RetryPolicy,
    ScopeDetails,
    ServiceUnavailable,
    TargetsClient,
    UsageError,
)
from capillary_targets.sandbox import Sandbox

from .conftest import client_of, turns_until

ROWS = 1000


class Held:
    """Serves page 0 at once and holds all others until they are let go; counts what is in hand."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.waiting: set[int] = set()
        self.dropped: set[int] = set()
        self.full = asyncio.Event()
        self.asked: list[int] = []
        self.expected = 4
        self.fail_at: int | None = None

    async def answer(self, request: web.Request) -> web.Response:
        limit, number = int(request.query["limit"]), int(request.query["offset"])
        first = number * limit
        self.asked.append(first)
        if first:
            self.waiting.add(first)
            if len(self.waiting) == self.expected:
                self.full.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.dropped.add(first)
                raise
        if self.fail_at is not None and first <= self.fail_at < first + limit:
            return web.Response(status=503)
        rows = [
            {"eventLogId": row, "eventDate": "2031-02-03 04:05:06.0"}
            for row in range(first, min(ROWS, first + limit))
        ]
        pagination = {"limit": limit, "offset": number, "total": ROWS}
        return web.json_response({"data": rows, "errors": [], "pagination": pagination})


@asynccontextmanager
async def serving(held: Held, **options) -> AsyncIterator[TargetsClient]:
    app = web.Application()
    app.router.add_get("/v3/users/1/trackedTargetEvents/2", held.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        retry = RetryPolicy(attempts=1)
        async with TargetsClient(url, BasicAuth("t", "p"), retry=retry, **options) as client:
            client.session.dialect = Dialect(offset="page", total="rows")
            yield client
    finally:
        await runner.cleanup()


@pytest.fixture
async def held() -> Held:
    return Held()


@pytest.fixture
async def client(held: Held) -> AsyncIterator[TargetsClient]:
    async with serving(held) as client:
        yield client


def tasks_of_pagers() -> list[asyncio.Task]:
    return [
        task for task in asyncio.all_tasks() if "coroutine object _fetch" in repr(task.get_coro())
    ]


def in_use(client: TargetsClient) -> int:
    """Connections in somebody's hand."""
    return len(client.session.http.connector._acquired)


async def nothing_left(client: TargetsClient, held: Held) -> None:
    """What was in flight is gone, on both sides of the wire."""
    await turns_until(lambda: not tasks_of_pagers())
    assert in_use(client) == 0
    await turns_until(lambda: held.dropped == held.waiting)


async def all_in_flight(held: Held) -> None:
    async with asyncio.timeout(10):
        await held.full.wait()


async def test_the_next_pages_are_asked_for_while_one_is_consumed(client, held) -> None:
    pager = client.events(1, 2)
    async for event in pager:
        if event.event_log_id == 0:
            await all_in_flight(held)
            assert sorted(held.asked) == [0, 99, 196, 291, 384]
            assert len(tasks_of_pagers()) == 4
            held.go.set()
    assert pager.report.events == ROWS
    assert pager.report.requests == len(held.asked) == 11
    assert not tasks_of_pagers()


@pytest.mark.parametrize("what", ["events", "pages"])
async def test_break_cancels_what_is_in_flight(client, held, what: str) -> None:
    pager = client.events(1, 2)
    async for _ in pager if what == "events" else pager.pages():
        await all_in_flight(held)
        break
    assert all(task.cancelling() for task in tasks_of_pagers())  # before the loop had a turn
    await nothing_left(client, held)


@pytest.mark.parametrize("what", ["events", "pages"])
async def test_aclose_returns_when_nothing_is_left(client, held, what: str) -> None:
    pager = client.events(1, 2)
    loop = aiter(pager if what == "events" else pager.pages())
    await anext(loop)
    await all_in_flight(held)
    await loop.aclose()
    assert not tasks_of_pagers()
    await nothing_left(client, held)
    with pytest.raises(StopAsyncIteration):
        await anext(loop)
    assert not tasks_of_pagers()


async def test_aclose_ends_an_anext_of_another_task(client, held) -> None:
    pages = client.events(1, 2).pages()
    await anext(pages)
    await all_in_flight(held)
    waiting = asyncio.create_task(anext(pages, None))
    await asyncio.sleep(0)
    await pages.aclose()
    assert await waiting is None
    await nothing_left(client, held)


async def test_a_stream_closed_while_another_task_waits_for_it_is_over(client, held) -> None:
    pages = client.events(1, 2).stream()
    waiting = asyncio.create_task(anext(pages, None))
    await turns_until(lambda: held.asked)
    await pages.aclose()
    assert await waiting is None
    assert await anext(pages, None) is None
    await nothing_left(client, held)


async def test_what_an_interrupted_stream_waited_for_is_requested_again(client, held) -> None:
    pages = client.events(1, 2, prefetch=0).stream()
    got = [*(await anext(pages)).events]
    waiting = asyncio.create_task(anext(pages))
    await turns_until(lambda: held.waiting)
    waiting.cancel()
    await asyncio.wait((waiting,))
    held.go.set()
    got += [event async for page in pages for event in page.events]
    assert [event.event_log_id for event in got] == list(range(ROWS))
    assert len(held.asked) == 12


async def test_a_cancelled_loop_takes_its_requests_with_it(client, held) -> None:
    async def body() -> None:
        async for event in client.events(1, 2):
            if event.event_log_id == 99:
                started.set()

    started = asyncio.Event()
    task = asyncio.create_task(body())
    async with asyncio.timeout(10):
        await started.wait()
    await all_in_flight(held)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not tasks_of_pagers()
    await nothing_left(client, held)


async def test_a_loop_that_is_dropped_unfinished_leaves_nothing(client, held) -> None:
    loop = aiter(client.events(1, 2))
    await anext(loop)
    await all_in_flight(held)
    del loop
    gc.collect()
    await nothing_left(client, held)


async def test_a_loop_that_never_began_leaves_nothing(client, held) -> None:
    aiter(client.events(1, 2))
    await aiter(client.events(1, 2)).aclose()
    assert held.asked == []


async def test_closing_the_client_ends_what_a_broken_loop_left(held) -> None:
    async with serving(held) as client:
        async for _ in client.events(1, 2):
            await all_in_flight(held)
            break
    assert not tasks_of_pagers()


async def test_an_error_comes_after_the_events_before_it_and_ends_the_rest(client, held) -> None:
    held.fail_at = 200
    held.go.set()
    pager = client.events(1, 2)
    got = []

    async def body() -> None:
        async for event in pager:
            got.append(event.event_log_id)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(ServiceUnavailable) as caught:
        await body()
    assert got == list(range(len(got)))
    assert caught.value.checkpoint == pager.checkpoint
    assert caught.value.checkpoint.row == len(got) > 100
    assert not tasks_of_pagers()
    held.fail_at = None
    rest = await client.events(1, 2, start=caught.value.checkpoint).collect()
    assert [event.event_log_id for event in rest] == list(range(len(got), ROWS))


@pytest.mark.parametrize(("prefetch", "most"), [(0, 1), (1, 1), (2, 2), (3, 3)])
async def test_prefetch_bounds_what_is_in_flight(client, held, prefetch: int, most: int) -> None:
    held.expected = most
    async for event in client.events(1, 2, prefetch=prefetch):
        if event.event_log_id == 0 and prefetch:
            await all_in_flight(held)
            assert len(held.asked) == 1 + most
        elif event.event_log_id == 0:
            assert held.asked == [0]
            held.go.set()
        if event.event_log_id == 99:
            held.go.set()
    assert len(held.asked) == 11


async def test_two_loops_over_one_pager_do_not_meet(client, held) -> None:
    held.go.set()
    pager: EventPager = client.events(1, 2, page_size=300)
    one, two = aiter(pager), aiter(pager)
    first = [(await anext(one)).event_log_id for _ in range(500)]
    second = [event.event_log_id async for event in two]
    first += [event.event_log_id async for event in one]
    assert first == second == list(range(ROWS))


async def test_a_cancelled_walk_is_over_and_has_not_failed(held) -> None:
    told: list[ScopeDetails] = []

    def hook(details: object) -> None:
        if isinstance(details, ScopeDetails):
            told.append(details)

    async with serving(held, hooks=[hook]) as client:
        task = asyncio.create_task(client.events(1, 2).collect())
        await all_in_flight(held)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [(details.phase, details.error) for details in told] == [
        ("begins", None),
        ("over", None),
    ]


@pytest.fixture
def collector_off() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.usefixtures("collector_off")
async def test_a_page_goes_as_soon_as_it_is_dropped() -> None:
    sandbox = Sandbox(users=1, targets=1, events=25, exact_events=True)
    async with sandbox, client_of(sandbox) as client:
        (user,) = sandbox.world.user_ids()
        rule = sandbox.world.targets(user)[0].id
        pager = client.events(user, rule, page_size=10, prefetch=0)
        pages = pager.pages()
        page = await anext(pages)
        assert sys.getrefcount(page) == 2  # the variable, and the argument
        while await anext(pages, None):
            pass
        walk = weakref.ref(pager._latest[0])
        del pager, pages
        assert walk() is None


@pytest.mark.parametrize("what", ["events", "pages"])
async def test_a_cancelled_anext_loses_nothing(client, held, what: str) -> None:
    """As `asyncio.wait_for` in a loop does, to send heartbeats between events."""
    pager = client.events(1, 2)
    iterator = aiter(pager if what == "events" else pager.pages())
    got: list[Any] = []
    beats = 0
    while True:
        waiting = asyncio.ensure_future(anext(iterator, None))
        while not waiting.done():
            await asyncio.sleep(0)
            if held.full.is_set() and not held.go.is_set() and not waiting.done():
                waiting.cancel()
                await asyncio.wait((waiting,))
                beats += 1
                if beats == 3:
                    held.go.set()
                break
        if waiting.cancelled():
            continue
        item = waiting.result()
        if item is None:
            break
        got += [item] if what == "events" else item.events
    assert beats == 3
    assert [event.event_log_id for event in got] == list(range(ROWS))
    assert pager.report.complete
    assert len(held.asked) == 11  # no request was made again


async def test_a_second_consumer_is_refused(client, held) -> None:
    pages = client.events(1, 2).pages()
    await anext(pages)
    await all_in_flight(held)
    first = asyncio.create_task(anext(pages))
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="another task is waiting"):
        await anext(pages)
    held.go.set()
    assert (await first).events
    await pages.aclose()


async def test_an_error_is_raised_again(client, held) -> None:
    held.fail_at, events = 0, aiter(client.events(1, 2))
    for _ in range(3):
        with pytest.raises(ServiceUnavailable):
            await anext(events)
    assert held.asked == [0]


async def test_the_first_event_of_an_iterator_that_nobody_keeps(client, held) -> None:
    assert (await anext(aiter(client.events(1, 2)))).event_log_id == 0
    held.go.set()
    await nothing_left(client, held)
