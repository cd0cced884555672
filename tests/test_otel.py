"""Traces and metrics, read back from OpenTelemetry's own SDK."""

import asyncio
import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the group `dev` brings OpenTelemetry's SDK")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from capillary_targets import (
    CapillaryError,
    InvalidUser,
    PaginationError,
    RateLimit,
    RateLimited,
    RetryPolicy,
    ServiceUnavailable,
)
from capillary_targets.otel import metrics, tracing
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.testing import no_waiting

from .conftest import client_of, turns_until


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def children(spans: tuple[ReadableSpan, ...], parent: ReadableSpan) -> list[ReadableSpan]:
    return [s for s in spans if s.parent and s.parent.span_id == parent.context.span_id]


async def test_a_walk_has_a_child_for_each_attempt(
    sandbox: Sandbox, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    sandbox.faults.add(Fault.http(503))
    async with client_of(sandbox, hooks=[tracing(provider)]) as client:
        with no_waiting():
            await client.events(564332013, 1986, page_size=4).collect()
    spans = exporter.get_finished_spans()
    (walk,) = [span for span in spans if span.name == "capillary walk"]
    assert walk.attributes is not None
    assert walk.attributes["capillary.user_id"] == "564332013"
    assert walk.attributes["capillary.events"] == 10
    attempts = children(spans, walk)
    assert len(attempts) == walk.attributes["capillary.requests"] + 1  # the first one twice
    assert [a.attributes["http.response.status_code"] for a in attempts][:2] == [503, 200]
    assert attempts[1].attributes["http.request.resend_count"] == 1
    assert attempts[0].status.status_code is StatusCode.ERROR
    assert all(a.attributes["capillary.request_id"] for a in attempts)


async def test_a_sweep_holds_its_walks_and_requests(
    sandbox: Sandbox, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async with client_of(sandbox, hooks=[tracing(provider)]) as client:
        async for _ in client.sweep(sandbox.world.user_ids()):
            pass
    spans = exporter.get_finished_spans()
    (sweep,) = [span for span in spans if span.name == "capillary sweep"]
    inside = children(spans, sweep)
    walks = [span for span in inside if span.name == "capillary walk"]
    assert len(walks) == 60
    assert len(inside) - len(walks) == 20  # who is in which targets
    assert all(children(spans, walk) for walk in walks)
    assert sweep.attributes is not None
    assert sweep.attributes["capillary.users_done"] == 20


async def test_a_single_call_belongs_to_the_callers_span(
    sandbox: Sandbox, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async with client_of(sandbox, hooks=[tracing(provider)]) as client:
        tracer = provider.get_tracer("app")
        with tracer.start_as_current_span("request"), pytest.raises(InvalidUser):
            await client.active_targets(5)
    spans = exporter.get_finished_spans()
    (request,) = [span for span in spans if span.name == "request"]
    (attempt,) = children(spans, request)
    assert attempt.attributes is not None
    assert attempt.attributes["error.type"] == "InvalidUser"


async def test_a_failed_or_broken_off_walk_ends_its_span(
    sandbox: Sandbox, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async with client_of(sandbox, hooks=[tracing(provider)]) as client:
        with pytest.raises(InvalidUser):
            await client.events(5, 1986).collect()
        pages = client.events(564332013, 1986, page_size=2).pages()
        await anext(pages)
        await pages.aclose()
    failed, broken_off = [s for s in exporter.get_finished_spans() if s.name == "capillary walk"]
    assert failed.status.status_code is StatusCode.ERROR
    assert broken_off.attributes is not None
    assert broken_off.attributes["capillary.complete"] is False


class Measured:
    """What a meter provider of the SDK's has measured, by name."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])

    def points(self, name: str) -> list[NumberDataPoint | HistogramDataPoint]:
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def by(self, name: str, *attributes: str) -> dict[object, float]:
        """Sums, or counts of a histogram, by the attributes named."""
        sums: dict[object, float] = {}
        for point in self.points(name):
            values = tuple(point.attributes.get(name) for name in attributes)
            key = values[0] if len(values) == 1 else values
            count = point.count if isinstance(point, HistogramDataPoint) else point.value
            sums[key] = sums.get(key, 0) + count
        return sums


@pytest.fixture
def measured() -> Measured:
    return Measured()


async def test_metrics_of_a_sweep_agree_with_its_own_figures(
    sandbox: Sandbox, measured: Measured
) -> None:
    sandbox.faults.add(Fault.http(503), times=3)
    sandbox.faults.add(Fault.too_many_requests(1), times=2)
    async with client_of(sandbox, hooks=[metrics(measured.provider)]) as client:
        sweep = client.sweep(sandbox.world.user_ids())
        with no_waiting():
            async for outcome in sweep:
                assert outcome.complete
    stats = sweep.stats
    duration = "http.client.request.duration"
    by_status = measured.by(duration, "http.response.status_code", "error.type")
    assert by_status.pop((503, "ServiceUnavailable")) == 3
    assert by_status.pop((429, "RateLimited")) == 2
    assert sum(by_status.values()) == stats.requests - 5
    assert measured.by("capillary.retries", "error.type") == {
        "ServiceUnavailable": 3,
        "RateLimited": 2,
    }
    assert measured.by("capillary.walks", "capillary.complete", "error.type") == {(True, None): 60}
    assert measured.by("capillary.events") == {(): stats.events}
    assert measured.by("capillary.pages") == {(): stats.requests - 20 - 5}
    assert measured.by(duration, "server.address", "url.template").keys() == {
        ("127.0.0.1", "/v3/users/{id}/enrolledTargets"),
        ("127.0.0.1", "/v3/users/{id}/trackedTargetEvents/{id}"),
    }


async def test_failures_are_counted_once_by_class_and_scope(
    sandbox: Sandbox, measured: Measured
) -> None:
    user = sandbox.world.user_ids()[0]
    settings = {"hooks": [metrics(measured.provider)], "retry": RetryPolicy(attempts=3)}
    async with client_of(sandbox, **settings, rate=RateLimit(4)) as client:
        sandbox.faults.add(Fault.http(503), times=3)
        with no_waiting(), pytest.raises(ServiceUnavailable):
            await client.active_targets(user)
        with pytest.raises(InvalidUser):
            await client.active_targets(5)
    async with client_of(sandbox, **settings, rate=RateLimit(1)) as client:
        await client.active_targets(user)
        with pytest.raises(RateLimited):
            await client.active_targets(user)  # never sent
    assert measured.by("capillary.errors", "error.type", "capillary.error.scope") == {
        ("ServiceUnavailable", "server"): 1,
        ("InvalidUser", "request"): 1,
        ("RateLimited", "server"): 1,
    }
    assert measured.by("capillary.retries", "error.type") == {"ServiceUnavailable": 2}


async def test_a_walk_that_is_not_complete_is_counted_with_its_error(
    measured: Measured,
) -> None:
    sandbox = Sandbox(users=1, offset_mode="ignored")
    user = sandbox.world.user_ids()[0]
    async with sandbox, client_of(sandbox, hooks=[metrics(measured.provider)]) as client:
        rule = (await client.active_targets(user))[0].id
        with pytest.raises(PaginationError):
            await client.events(user, rule, page_size=2).collect()
    walks = measured.by("capillary.walks", "capillary.complete", "error.type")
    assert walks == {(False, "PaginationError"): 1}


async def test_gauges_add_up_clients_and_end_with_them(
    sandbox: Sandbox, measured: Measured
) -> None:
    user, other = sandbox.world.user_ids()[0], Sandbox(users=1)
    hook = metrics(measured.provider)
    assert metrics(measured.provider) is hook  # made twice, an observable is observed once

    def gauge(name: str) -> list[float]:
        return sorted(measured.by(f"capillary.{name}", "server.port").values())

    first = client_of(sandbox, concurrency=3, rate=RateLimit(10), hooks=[hook])
    second = client_of(sandbox, concurrency=4, rate=RateLimit(30), hooks=hook)
    async with other, client_of(other, concurrency=7, hooks=[hook]):
        async with first as one, second as two:
            await one.active_targets(user)
            await two.active_targets(user)
            await two.active_targets(user)
            assert gauge("concurrency.limit") == [7, 7]
            assert gauge("budget.used") == [3]
            assert gauge("budget.limit") == [40]
        assert gauge("concurrency.limit") == [7]
        assert gauge("budget.used") == []
    assert gauge("concurrency.limit") == []


async def test_what_is_in_flight_and_queued_is_seen_while_it_is(
    sandbox: Sandbox, measured: Measured
) -> None:
    user = sandbox.world.user_ids()[0]
    gate = asyncio.Event()
    sandbox.faults.add(Fault.slow_body(gate=gate), times=1)
    async with client_of(sandbox, concurrency=1, hooks=[metrics(measured.provider)]) as client:
        calls = [asyncio.create_task(client.active_targets(user)) for _ in range(3)]
        await turns_until(lambda: sandbox.counts["enrolledTargets"] == 1)
        assert measured.by("http.client.active_requests") == {(): 1}
        queues = measured.by("capillary.queue.length", "capillary.lane")
        assert queues == {"foreground": 2, "background": 0}
        gate.set()
        await asyncio.gather(*calls)
        assert measured.by("http.client.active_requests") == {(): 0}
    waits = measured.by("capillary.wait.duration", "capillary.wait.reason", "capillary.lane")
    assert waits == {("slot", "foreground"): 2}


async def test_of_a_shared_budget_this_clients_part_is_measured(
    sandbox: Sandbox, measured: Measured, tmp_path: Path
) -> None:
    user = sandbox.world.user_ids()[0]
    rate = RateLimit(10, shared=f"sqlite:///{tmp_path}/budget")
    async with client_of(sandbox, rate=rate, hooks=[metrics(measured.provider)]) as client:
        await client.active_targets(user)
        async with client_of(sandbox, rate=rate) as unmeasured:
            await unmeasured.active_targets(user)
        assert measured.by("capillary.budget.used", "capillary.budget.shared") == {True: 1}
        assert measured.points("capillary.budget.limit") == []


async def test_no_attribute_holds_who_a_member_is(sandbox: Sandbox, measured: Measured) -> None:
    user = sandbox.world.user_ids()[0]
    async with client_of(sandbox, hooks=[metrics(measured.provider)]) as client:
        await client.progress(user)
        await client.active_targets(user, target_rule_ids=(1986,))
        for name, value in (
            ("mobile", "919812345678"),
            ("email", "a@b.example"),
            ("card", "../4/x"),
        ):
            with contextlib.suppress(CapillaryError):
                await client.find_customer(identifier_name=name, identifier_value=value)
    points = measured.points("http.client.request.duration")
    assert {point.attributes["url.template"] for point in points} == {
        "/v2/customers/lookup",
        "/v3/users/{id}/enrolledTargets",
        "/v3/users/{id}/targetGroups",
    }
    assert not {str(user), "919812345678", "a@b.example"} & set(re.findall(r"[\w@.]+", str(points)))


ANY_ORDER = """
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from capillary_targets.hooks import LimiterState, SessionDetails
from capillary_targets.otel import metrics

hook, reader = metrics(), InMemoryMetricReader()
provider = MeterProvider([reader])
set_meter_provider(provider)
assert metrics() is metrics(provider) is hook
state = lambda: LimiterState(in_flight=3, limit=8, foreground_queue=0, background_queue=0)
hook(SessionDetails(phase="opens", url="https://eu.example.com/base", state=state))
(resource,) = reader.get_metrics_data().resource_metrics
for metric in resource.scope_metrics[0].metrics:
    if metric.name == "http.client.active_requests":
        (point,) = metric.data.data_points
        print(point.value, dict(point.attributes)["server.address"])
"""


def test_a_meter_provider_may_be_set_before_or_after() -> None:
    printed = subprocess.check_output([sys.executable, "-c", ANY_ORDER], text=True)
    assert printed == "3 eu.example.com\n"
