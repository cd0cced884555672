"""The example backend under a real uvicorn, visited by aiohttp and by a real Chromium."""

import asyncio
import importlib
import inspect
import json
import os
import shutil
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import capillary_targets
from capillary_targets import CapillaryError, UserProgress
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.testing import no_waiting
from tests.conftest import client_of, in_environment, turns_until
from tests.docs.blocks import blocks_of
from tests.needs import required
from tests.sweep.browser import Page, tab

required("fastapi", "litestar", "uvicorn")

import uvicorn

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(users=3, targets=2, events=250, exact_events=True)
    async with sandbox:
        yield sandbox


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[uvicorn.Server]:
    """An application under uvicorn."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=3)
        )
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await turns_until(lambda: server.started or running.done())
        try:
            yield server
        finally:
            server.should_exit = True
            await running


def address(server: uvicorn.Server) -> str:
    host, port = server.servers[0].sockets[0].getsockname()
    return f"http://{host}:{port}"


@pytest.fixture
async def server(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[uvicorn.Server]:
    """The example under uvicorn."""
    from examples.backend.app import app  # only where FastAPI is there

    in_environment(monkeypatch, sandbox)
    async with serving(app) as server:
        yield server


@pytest.fixture
async def backend(server: uvicorn.Server) -> str:
    """Where the example listens."""
    return address(server)


@pytest.fixture
async def visitor(backend: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(backend) as visitor:
        yield visitor


Visitor = aiohttp.ClientSession


async def figures(sandbox: Sandbox, user: int) -> UserProgress:
    """What the service says of a member's progress."""
    async with client_of(sandbox) as client:
        return await client.progress(user)


async def test_progress_is_the_services_own_figure(sandbox: Sandbox, visitor: Visitor) -> None:
    user = sandbox.world.user_ids()[0]
    async with visitor.get(f"/users/{user}/progress") as answer:
        found = json.loads(await answer.text(), parse_float=str)
    async with visitor.get("/openapi.json") as answer:
        schemas = (await answer.json())["components"]["schemas"]
    assert found.pop("fetched_at")
    targets = found.pop("targets")
    assert found == {"user_id": user, "stale": False}
    assert len(targets) == 2
    for target, expected in zip(targets, await figures(sandbox, user), strict=True):
        assert target.keys() == schemas["Progress"]["properties"].keys()
        sent = json.loads(expected.to_json(), parse_float=str)  # to the last digit, as a number
        assert target == {name: sent[name] for name in target}
    assert schemas["Progress"]["properties"]["target_value"]["anyOf"][0] == {"type": "number"}
    assert schemas["Problem"]["required"] == [*schemas["Problem"]["properties"]]


async def test_many_visitors_make_one_request(sandbox: Sandbox, backend: str) -> None:
    async def visit(visitor: Visitor) -> str:
        async with visitor.get(f"/users/{sandbox.world.user_ids()[0]}/progress") as answer:
            return await answer.text()

    async with Visitor(backend, connector=aiohttp.TCPConnector(limit=0)) as visitor:
        sandbox.faults.add(Fault.stall(), times=1)
        visits = [asyncio.create_task(visit(visitor)) for _ in range(50)]
        await turns_until(lambda: sandbox.in_flight == 1)
        sandbox.faults.release()
        assert len({*await asyncio.gather(*visits)}) == 1
    assert sandbox.counts == {"targetGroups": 1}


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


def test_every_error_has_a_status_and_words_for_people() -> None:
    from examples.backend.errors import PROBLEMS, problem

    kinds = {
        kind
        for name in capillary_targets.__all__
        if inspect.isclass(kind := getattr(capillary_targets, name))
        and issubclass(kind, CapillaryError)
    }
    assert PROBLEMS.keys() == kinds
    for kind in kinds:
        body, status, headers = problem(kind("said", retry_after=2.1))
        assert status == 422 or 404 <= status <= 504
        assert (status >= 500) or not kind.retryable
        assert headers["Retry-After"] == "3"
        assert kind.__name__ not in body.title


REFUSALS = [
    (None, "/users/999/progress", 404, "InvalidUser", None),
    (None, "/users/-1/events", 404, "InvalidUser", None),
    (None, f"/users/{10**30}/progress", 422, "UsageError", None),
    (None, "/users/abc/progress", 422, "UsageError", None),
    (None, "/users/abc/changes", 422, "UsageError", None),
    (Fault.too_many_requests(60), "/users/1000001/events", 503, "RateLimited", "60"),
    (Fault.gateway_page(200), "/users/1000001/events", 502, "BadResponse", None),
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
        first_page = "offset=0" if "events" in path else ""
        sandbox.faults.add(fault, times=None, path_contains=first_page)
    with no_waiting():
        async with visitor.get(path) as answer:
            assert answer.content_type == "application/problem+json"
            said = json.loads(await answer.text())
    assert (answer.status, said["status"], said["error"]) == (status, status, error)
    assert answer.headers.get("Retry-After") == retry_after
    assert sandbox.url not in str(said)
    assert sandbox.settings.password not in said["detail"].split()


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
    assert last.startswith("event: failed\ndata: ")
    assert json.loads(last.partition("data: ")[2])["error"] == "ServiceUnavailable"


PASTED = [
    block.code
    for block in blocks_of(ROOT / "docs" / "how-to" / "backend.md")
    if "test_backend.py" in block.skipped
]


@pytest.mark.parametrize("code", PASTED, ids=lambda code: code.split("app = ")[1].split("(")[0])
async def test_what_the_how_to_says_to_paste_works(
    code: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.py").write_text(code)
    shutil.copy(ROOT / "examples" / "backend" / "errors.py", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("app", "errors"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    in_environment(monkeypatch, sandbox)
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)  # Litestar sets up logging
    user = sandbox.world.user_ids()[0]
    app = importlib.import_module("app").app
    async with serving(app) as server, aiohttp.ClientSession(address(server)) as visitor:
        async with visitor.get(f"/users/{user}/progress") as answer:
            found = json.loads(await answer.text(), parse_float=str)
        (target, *_) = await figures(sandbox, user)
        assert found["targets"][0]["achieved_value"] == str(target.achieved_value)
        assert (found["stale"], found.keys()) == (False, {"targets", "fetched_at", "stale"})
        async with visitor.get("/users/999/progress") as answer:
            assert answer.status == 404
            assert answer.content_type == "application/problem+json"
            assert json.loads(await answer.text())["title"] == "There is no such member."
        litestar = "litestar" in code
        async with visitor.get(f"/{'schema/' * litestar}openapi.json") as answer:
            schemas = json.loads(await answer.text())["components"]["schemas"]
        shown = schemas["TargetProgress" if litestar else "Progress"]["properties"]
        assert shown.keys() == found["targets"][0].keys()
        assert {"type": "number"} in next(iter(shown["target_value"].values()))
        if not litestar:
            return
        events = f"/users/{user}/targets/{target.target_rule_id}/events"
        async with visitor.get(events) as answer:
            rows = (await answer.text()).splitlines()
        assert [json.loads(row)["event_log_id"] for row in rows] == [
            event.event_log_id for event in sandbox.world.events(user, target.target_rule_id)
        ]
        with no_waiting():
            for page, status in [("offset=0", 503), ("offset=2", 200)]:
                sandbox.faults.add(Fault.http(500), times=None, path_contains=page)
                async with visitor.get(events) as answer:
                    *rows, last = (await answer.text()).splitlines()
                assert (answer.status, bool(rows)) == (status, status == 200)
                assert json.loads(last)["error"] == "ServiceUnavailable"
                sandbox.faults.clear()


async def test_what_the_readme_says_to_paste_works() -> None:
    (block,) = blocks_of(ROOT / "examples" / "backend" / "README.md")
    install, *lines = block.code.splitlines()
    assert "pip install" in install
    code = "\n".join(lines).replace(".venv/bin/", "")
    with socket.socket() as one, socket.socket() as two:  # two ports that are free
        for listener, port in [(one, "8080"), (two, "8000")]:
            listener.bind(("127.0.0.1", 0))
            backend = listener.getsockname()[1]
            code = code.replace(port, str(backend))
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"{code} --port {backend}"),
        cwd=ROOT,
        env=os.environ | {"PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as visitor:
            status = None
            while status != 200 and shell.returncode is None:
                with suppress(aiohttp.ClientError):
                    url = f"http://127.0.0.1:{backend}/users/1000001/progress"
                    async with visitor.get(url) as answer:
                        status = answer.status
                await asyncio.sleep(0.02)  # leaves the processor to the backend
        assert status == 200
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        await shell.wait()


async def until(page: Page, holds: str) -> None:
    async with asyncio.timeout(30):
        while not await page.ask(holds):  # noqa: ASYNC110 - it holds in another process
            await asyncio.sleep(0.02)  # leaves the processor to the browser


async def all_quiet(sandbox: Sandbox) -> dict[str, int]:
    """The sandbox's request counts once nothing is under way."""
    await turns_until(lambda: not sandbox.in_flight)
    return dict(sandbox.counts)


FIGURES = """[...document.querySelectorAll("section")].map(one =>
    ["h2", "output", ".period", "small"].map(part =>
        one.querySelector(part)?.textContent.replace(/\\s*\\u2013\\s*/g, " - ")))"""
UNITS = {"VISIT": "visits", "GROSS_SALES": "of gross sales"}


async def cards(sandbox: Sandbox, user: int) -> list[list[str | None]]:
    """What the page has to show of each target, to an American."""

    def amount(value: Decimal | None) -> str:
        return f"{value:,.3f}".rstrip("0").rstrip(".")

    shown = list[list[str | None]]()
    for one in await figures(sandbox, user):
        events = sandbox.world.events(user, one.target_rule_id)
        latest = datetime.fromisoformat(events[-1].event_date[:19])
        goal = f"{amount(one.achieved_value)} of {amount(one.target_value)}"
        left = "" if one.is_achieved else f" · {amount(one.remaining)} to go"
        period = f"{one.period_start:%b} 1 - {one.period_end:%b %d, %Y}"
        if one.period_start.month == one.period_end.month:
            period = f"{one.period_start:%b} 1 - {one.period_end:%d, %Y}"
        shown.append(
            [
                one.target_name,
                f"{goal} {UNITS[one.target_type]}",
                f"{period}{left}",
                f"{len(events)} events, the latest on {latest:%b} {latest.day}, {latest.year}",
            ]
        )
    return shown


def later(server: uvicorn.Server, seconds: float) -> None:
    """Let time pass for the cache."""
    server.config.app.state.members._clock = lambda: time.monotonic() + seconds


async def test_page_shows_progress_and_draws_events(
    chromium: str, sandbox: Sandbox, backend: str
) -> None:
    user = sandbox.world.user_ids()[0]
    async with tab(chromium) as page:
        await page.open(backend, width=360)
        await page.ask("document.querySelector('input').value = 'abc'")
        assert not await page.ask("document.querySelector('form').checkValidity()")
        await page.ask(f"document.querySelector('input').value = '{user}'")
        await page.ask("document.querySelector('button').click(); true")
        await until(page, "document.getElementById('state')?.textContent === 'Up to date.'")
        assert await page.ask("location.pathname") == f"/members/{user}"
        drawn = await page.ask(FIGURES)
        bars = await page.ask(
            "[...document.querySelectorAll('path')].map(one =>"
            "  one.getAttribute('d').split('M').length - 1)"
        )
        fits = await page.ask("document.documentElement.scrollWidth <= window.innerWidth")
    assert drawn == await cards(sandbox, user)
    assert bars == [250, 250]
    assert fits
    assert page.complaints == []
    assert {url.split("/")[2] for url in page.requested if "://" in url} == {backend[7:]}


async def test_page_shows_what_was_last_known_in_an_outage(
    chromium: str, sandbox: Sandbox, backend: str, server: uvicorn.Server
) -> None:
    user = sandbox.world.user_ids()[0]
    async with tab(chromium) as page:
        await page.open(f"{backend}/members/{user}", width=360)
        await until(page, "document.getElementById('state')?.textContent === 'Up to date.'")
        later(server, 31)
        sandbox.faults.add(Fault.http(503), times=None)
        with no_waiting():
            await page.open(f"{backend}/members/{user}", width=360)
            await until(page, "document.getElementById('state')?.textContent.includes('cannot')")
            said = await page.ask("document.getElementById('stale').innerText")
            shown = await page.ask(FIGURES)
            await page.open(f"{backend}/members/{user + 1}", width=360)  # nothing is known
            await until(page, "document.querySelector('main h2') !== null")
            title = await page.ask("document.querySelector('main h2').textContent")
            sandbox.faults.clear()
            await page.ask("document.querySelector('main button').click(); true")
            await until(page, "document.getElementById('state')?.textContent === 'Up to date.'")
    assert said.startswith("Last known, as of ")
    assert [one[:3] for one in shown] == [one[:3] for one in await cards(sandbox, user)]
    assert title == "The loyalty service cannot be reached. Please try again later."


async def test_page_updates_live_and_connects_again(
    chromium: str, sandbox: Sandbox, backend: str, server: uvicorn.Server
) -> None:
    from examples.backend.live import open_pages

    world, pushes = sandbox.world, sandbox.notifications
    user = world.user_ids()[0]
    first, second = (rule.id for rule in world.targets(user))
    sandbox.settings.notify = f"{backend}/capillary"
    sandbox.settings.notify_early = 1.0  # the API shows the event after the push

    async def shows(page: Page, *counts: int) -> None:
        expected = await cards(sandbox, user)
        assert [one[3].split()[0] for one in expected] == [*map(str, counts)]
        found = None
        async with asyncio.timeout(20):
            while found != expected:
                found = await page.ask(FIGURES)

    async with tab(chromium) as page:
        await page.open(f"{backend}/members/{user}", width=390)
        await shows(page, 250, 250)
        world.add_event(user, first, value="12.340")
        await pushes.drained()
        await shows(page, 251, 250)
        for task in {*server.server_state.tasks}:  # only the page's own stream is open
            task.cancel()
        await turns_until(lambda: user not in open_pages)
        sandbox.settings.notify = None  # nobody hears of this one
        later(server, 31)
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


async def test_page_says_what_is_wrong_in_words(chromium: str, backend: str) -> None:
    async with tab(chromium) as page:
        for member, words in [
            ("999", "There is no such member."),
            ("abc", "digits only"),
            ("42381788", "This member is in no target now."),
        ]:
            await page.open(f"{backend}/members/{member}", width=1000)
            await until(page, f"document.querySelector('main').textContent.includes('{words}')")


COUNTING = """
    window.heard = 0;
    new EventSource("/users/%d/events").onmessage = () => { heard += 1; };
    true
"""


async def test_nothing_is_fetched_once_the_browser_is_gone(
    chromium: str, sandbox: Sandbox, backend: str, server: uvicorn.Server
) -> None:
    user = sandbox.world.user_ids()[0]
    sandbox.faults.add(Fault.stall(), times=None, path_contains="offset=1")
    async with tab(chromium) as page:
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
