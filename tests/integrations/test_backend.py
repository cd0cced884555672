"""The example backend under a real uvicorn, visited by aiohttp and by a real Chromium."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from capillary_targets import UserTarget
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.testing import no_waiting
from tests.conftest import client_of, turns_until
from tests.needs import required
from tests.sweep.browser import Page, browser

from .conftest import in_environment

required("fastapi", "uvicorn")

import uvicorn


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(users=3, targets=2, events=250, exact_events=True)
    async with sandbox:
        yield sandbox


@pytest.fixture
async def server(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[uvicorn.Server]:
    """The example under uvicorn."""
    from examples.backend.app import app  # only where FastAPI is there

    in_environment(monkeypatch, sandbox.url, sandbox.settings.username, sandbox.settings.password)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=3)
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await turns_until(lambda: server.started or serving.done())
        yield server
        server.should_exit = True
        await serving


@pytest.fixture
async def backend(server: uvicorn.Server) -> str:
    """Where the example listens."""
    host, port = server.servers[0].sockets[0].getsockname()
    return f"http://{host}:{port}"


@pytest.fixture
async def visitor(backend: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(backend) as visitor:
        yield visitor


Visitor = aiohttp.ClientSession


async def figures(sandbox: Sandbox, user: int) -> list[UserTarget]:
    """What the service says of a member's progress."""
    async with client_of(sandbox) as client:
        return [*(await client.target_groups(user)).targets()]


async def test_progress_is_the_services_own_figure(sandbox: Sandbox, visitor: Visitor) -> None:
    user = sandbox.world.user_ids()[0]
    async with visitor.get(f"/users/{user}/progress") as answer:
        found = await answer.json()
    expected = await figures(sandbox, user)
    assert len(expected) == 2
    assert found == [
        {
            "id": target.target_rule_id,
            "name": target.target_name,
            "achieved": str(target.target_achieved_value),
            "target": str(target.target_value),
        }
        for target in expected
    ]


async def test_stream_has_every_event_once_and_an_end(sandbox: Sandbox, visitor: Visitor) -> None:
    user = sandbox.world.user_ids()[0]
    async with visitor.get(f"/users/{user}/events") as answer:
        assert answer.content_type == "text/event-stream"
        *events, end, _ = (await answer.text()).split("\n\n")
    assert end.startswith("event: end")
    assert [json.loads(one.removeprefix("data: "))["event_log_id"] for one in events] == [
        event.event_log_id
        for rule in sandbox.world.targets(user)
        for event in sandbox.world.events(user, rule.id)
    ]


REFUSALS = [
    (None, "/users/999/progress", 404, "InvalidUser", None),
    (None, "/users/-1/events", 404, "InvalidUser", None),
    (None, f"/users/{10**30}/progress", 422, "UsageError", None),
    (Fault.too_many_requests(3600), "/users/1000001/progress", 503, "RateLimited", "3600"),
    (Fault.http(503), "/users/1000001/events", 503, "ServiceUnavailable", None),
    (Fault.api_code(401), "/users/1000001/progress", 502, "AuthError", None),
    (Fault.gateway_page(200), "/users/1000001/progress", 502, "BadResponse", None),
]


@pytest.mark.parametrize(("fault", "path", "status", "error", "retry_after"), REFUSALS)
async def test_errors_have_sensible_statuses(
    sandbox: Sandbox,
    visitor: Visitor,
    fault: Fault | None,
    path: str,
    status: int,
    error: str,
    retry_after: str | None,
) -> None:
    if fault is not None:
        sandbox.faults.add(fault, times=None)
    with no_waiting():
        async with visitor.get(path) as answer:
            said = await answer.json()
    assert (answer.status, said["error"]) == (status, error)
    assert answer.headers.get("Retry-After") == retry_after
    assert sandbox.url not in str(said)
    assert sandbox.settings.password not in str(said["message"]).split()


async def test_error_in_the_middle_is_said_in_the_stream(
    sandbox: Sandbox, visitor: Visitor
) -> None:
    user = sandbox.world.user_ids()[0]
    sandbox.faults.add(Fault.http(500), times=None, path_contains="offset=2")
    with no_waiting():
        async with visitor.get(f"/users/{user}/events") as answer:
            *events, last, _ = (await answer.text()).split("\n\n")
    assert answer.status == 200
    assert 100 <= len(events) <= 200  # two pages, which may overlap
    assert last.startswith('event: failed\ndata: {"error":"ServiceUnavailable"')


async def until(page: Page, holds: str) -> None:
    async with asyncio.timeout(30):
        while not await page.ask(holds):
            pass


async def all_quiet(sandbox: Sandbox) -> dict[str, int]:
    """The sandbox's request counts once nothing is under way."""
    await turns_until(lambda: not sandbox.in_flight)
    return dict(sandbox.counts)


async def test_page_shows_progress_and_draws_events(sandbox: Sandbox, backend: str) -> None:
    user = sandbox.world.user_ids()[0]
    async with browser() as page:
        await page.open(f"{backend}/members/{user}", width=390)
        await until(page, "document.getElementById('state').textContent === 'up to date'")
        drawn = await page.ask(
            "[...document.querySelectorAll('section')].map(one => ["
            "  one.querySelector('h2').textContent, one.querySelector('output').textContent,"
            "  one.querySelector('small').textContent,"
            "  one.querySelector('path').getAttribute('d').split('M').length - 1])"
        )
        fits = await page.ask("document.documentElement.scrollWidth <= window.innerWidth")
    assert drawn == [
        [
            target.target_name,
            f"{target.target_achieved_value} of {target.target_value}",
            "250 events",
            250,
        ]
        for target in await figures(sandbox, user)
    ]
    assert fits
    assert page.complaints == []
    assert {url.split("/")[2] for url in page.requested if "://" in url} == {backend[7:]}


FIGURES = """[...document.querySelectorAll("section")].map(one =>
    [one.querySelector("output").textContent, one.querySelector("small").textContent])"""


async def test_page_updates_live_and_connects_again(
    sandbox: Sandbox, backend: str, server: uvicorn.Server
) -> None:
    from examples.backend.live import open_pages

    world, pushes = sandbox.world, sandbox.notifications
    user = world.user_ids()[0]
    first, second = (rule.id for rule in world.targets(user))
    sandbox.settings.notify = f"{backend}/capillary"
    sandbox.settings.notify_early = 1.0  # the API shows the event after the push

    async def shows(page: Page, *counts: int) -> None:
        expected = [
            [f"{one.target_achieved_value} of {one.target_value}", f"{count} events"]
            for one, count in zip(await figures(sandbox, user), counts, strict=True)
        ]
        found = None
        async with asyncio.timeout(20):
            while found != expected:
                found = await page.ask(FIGURES)

    async with browser() as page:
        await page.open(f"{backend}/members/{user}", width=390)
        await shows(page, 250, 250)
        world.add_event(user, first, value="12.340")
        await pushes.drained()
        await shows(page, 251, 250)
        for task in {*server.server_state.tasks}:  # only the page's own stream is open
            task.cancel()
        await turns_until(lambda: user not in open_pages)
        sandbox.settings.notify = None  # nobody hears of this one
        world.add_event(user, second, value="5.000")
        await shows(page, 251, 251)
        assert pushes.counts == {"delivered": 1}
        # Left, it may stay in memory to go back to.
        await page.ask("dispatchEvent(new Event('pagehide'))")
        await turns_until(lambda: user not in open_pages)
        await page.ask("dispatchEvent(new Event('pageshow'))")
        await turns_until(lambda: user in open_pages)
    await turns_until(lambda: not server.server_state.tasks)
    assert not open_pages


async def test_an_open_page_ends_with_the_server(server: uvicorn.Server, visitor: Visitor) -> None:
    from examples.backend.live import open_pages

    async with visitor.get("/users/1000001/changes") as answer:
        assert await answer.content.readuntil(b"\n\n")
        assert [*open_pages] == [1_000_001]
        server.config.timeout_graceful_shutdown = 0
        server.should_exit = True
        await turns_until(lambda: not open_pages)


async def test_page_says_who_is_unknown(backend: str) -> None:
    async with browser() as page:
        await page.open(f"{backend}/members/999", width=1000)
        await until(page, "document.getElementById('state').textContent.includes('InvalidUser')")


COUNTING = """
    window.heard = 0;
    new EventSource("/users/%d/events").onmessage = () => { heard += 1; };
    true
"""


async def test_nothing_is_fetched_once_the_browser_is_gone(
    sandbox: Sandbox, backend: str, server: uvicorn.Server
) -> None:
    user = sandbox.world.user_ids()[0]
    sandbox.faults.add(Fault.stall(), times=None, path_contains="offset=1")
    async with browser() as page:
        await page.open(f"{backend}/members/999", width=1000)  # a page of that origin, at rest
        await page.ask(COUNTING % user)
        await until(page, "heard === 100")
        # The second page stalls, the third and last one is fetched ahead.
        await turns_until(lambda: sandbox.counts["trackedTargetEvents"] == 3)
        assert sandbox.in_flight > 0

        await page.call("Page.navigate", url="about:blank")
        await turns_until(lambda: not server.server_state.tasks)
        before = await all_quiet(sandbox)
    sandbox.faults.clear()
    # A walk that was still alive would go on now, with more pages and the second target.
    async with (
        aiohttp.ClientSession(backend) as other,
        other.get(f"/users/{user + 1}/progress") as answer,
    ):
        assert answer.status == 200
    asked_by_other = {"targetGroups": 1}
    assert await all_quiet(sandbox) == {
        name: count + asked_by_other.get(name, 0) for name, count in before.items()
    }
    second = sandbox.world.targets(user)[1].id
    assert not [
        one for one in sandbox.requests if f"{user}/trackedTargetEvents/{second}" in one.path
    ]
