"""The Grafana dashboard and the alerts of the documents, against what Prometheus really gets."""

import asyncio
import json
import math
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from attrs import frozen

from capillary_targets import BasicAuth, CapillaryError, RateLimit, RetryPolicy, TargetsClient
from capillary_targets.otel import metrics
from capillary_targets.sandbox import Fault, Sandbox
from tests.docs.blocks import blocks_of
from tests.needs import program, required

required("opentelemetry.exporter.prometheus", "prometheus_client")

import prometheus_client
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client.parser import text_string_to_metric_families

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = DOCS / "how-to" / "metrics.md"
DASHBOARD = json.loads((DOCS / "grafana-dashboard.json").read_text("utf-8"))
(RULES,) = (block.code for block in blocks_of(PAGE) if block.language == "yaml")


def queries() -> list[str]:
    """The dashboard's queries, as Grafana sends them, and the alerts' without their thresholds."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    alerts = re.findall(r"expr: (.+) > [\d.]+\n", RULES)
    assert len(alerts) == RULES.count("alert:")
    asked = [query.replace("$server", ".*") for query in found + alerts]
    return [re.sub(r"\[(\$__rate_interval|\d+[mh])\]", "[1m]", query) for query in asked]


@frozen
class Application:
    """A process with clients: where it exposes its metrics, and what makes everything go wrong."""

    port: int
    work: Callable[[], Awaitable[None]]


@pytest.fixture
async def application(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Application]:
    servers: list[Any] = []
    start_http_server = prometheus_client.start_http_server
    monkeypatch.setattr(
        prometheus_client,
        "start_http_server",
        lambda _, addr: servers.append(start_http_server(0, addr=addr)),
    )
    providers: list[MeterProvider] = []
    monkeypatch.setattr("opentelemetry.metrics.set_meter_provider", providers.append)
    (setup,) = (block.code for block in blocks_of(PAGE) if "start_http_server(" in block.code)
    exec(setup, {})
    ((server, thread),), (provider,) = servers, providers
    async with AsyncExitStack() as stack:

        async def client(url: str, *, password: str = "", **settings: Any) -> TargetsClient:
            auth = BasicAuth(sandbox.credentials[0], password or sandbox.credentials[1])
            return await stack.enter_async_context(
                TargetsClient(url, auth, retry=RetryPolicy(wait_initial=1e-6), **settings)
            )

        sandbox, odd = Sandbox(users=3), Sandbox(users=1, offset_mode="ignored")
        url, odd_url = [await stack.enter_async_context(one) for one in (sandbox, odd)]
        user, *_ = users = sandbox.world.user_ids()
        shared = RateLimit(1000, shared=f"sqlite:///{tmp_path}/budget")
        swept = await client(url, rate=RateLimit(1000), hooks=[metrics(provider)])
        queued = await client(url, rate=shared, concurrency=1, hooks=[metrics(provider)])
        stranger = await client(url, password="wrong", hooks=[metrics(provider)])
        misled = await client(odd_url, page_size=2, hooks=[metrics(provider)])

        (member,) = odd.world.user_ids()
        rule = (await misled.active_targets(member))[0].id

        async def work() -> None:
            sandbox.faults.add(Fault.too_many_requests(), times=2)
            sandbox.faults.add(Fault.http(503), times=2)
            async for _ in swept.sweep(users):
                pass
            await asyncio.gather(*(queued.active_targets(user) for _ in range(5)))
            failing = stranger.active_targets(user), swept.active_targets(5)
            for call in (*failing, misled.events(member, rule).collect()):
                with suppress(CapillaryError):
                    await call

        await work()
        yield Application(server.server_port, work)
    provider.shutdown()  # takes its figures out of prometheus_client's registry
    server.shutdown()
    server.server_close()
    thread.join()


async def test_every_name_in_the_dashboard_and_the_alerts_is_exposed(
    application: Application,
) -> None:
    text = await _get(f"http://127.0.0.1:{application.port}/metrics")
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    ours = {name for name in labels if name.startswith(("http_client", "capillary_"))}
    asked: set[str] = set()
    for query in queries():
        names = set(re.findall(r"\b(?:http_client|capillary)_\w+(?=[{\[)])", query)) & labels.keys()
        assert names, query
        known = set().union(*(labels[name] for name in names))
        listed = ",".join(re.findall(r"by \(([^)]*)\)", query)).replace(" ", "").split(",")
        matched = re.findall(r"(\w+)(?:=|!=|=~)\"", query)
        assert known >= {*filter(None, listed), *matched}, query
        asked |= names
    families = {re.sub(r"_(bucket|count|sum|total|created)$", "", name) for name in ours}
    assert families == {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in asked}


async def test_prometheus_answers_every_query_with_a_number(
    application: Application, tmp_path: Path
) -> None:
    required(programs=("prometheus",))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "rules.yml").write_text(RULES)
    target = f"127.0.0.1:{application.port}"
    (tmp_path / "prometheus.yml").write_text(
        json.dumps(  # which is YAML, too
            {
                "global": {"scrape_interval": "400ms", "scrape_timeout": "400ms"},
                "rule_files": ["rules.yml"],
                "scrape_configs": [{"job_name": "app", "static_configs": [{"targets": [target]}]}],
            }
        )
    )
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    while b"Server is ready" not in (line := await process.stderr.readline()):
        assert line, "Prometheus ended"
    reading = asyncio.create_task(process.stderr.read())

    async def ask(query: str) -> list[float]:
        found = json.loads(await _get(f"http://127.0.0.1:{port}/api/v1/query", query=query))
        assert found["status"] == "success", found
        return [float(series["value"][1]) for series in found["data"]["result"]]

    async def scraped(times: int) -> None:
        async with asyncio.timeout(30):
            while sum(await ask("sum_over_time(up[1m])")) < times:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)

    try:
        await scraped(1)
        await application.work()
        await scraped(int(sum(await ask("sum_over_time(up[1m])"))) + 2)
        for query in queries():
            values = await ask(query)
            assert values, query
            assert all(map(math.isfinite, values)), query
            assert any(values) or "active_requests" in query or "queue_length" in query, query
    finally:
        process.terminate()
        await reading
        await process.wait()


async def _get(url: str, **query: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url, params=query) as response:
        return await response.text()
