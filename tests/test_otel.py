"""Traces, read back from OpenTelemetry's own SDK."""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the group `dev` brings OpenTelemetry's SDK")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from capillary_targets import InvalidUser
from capillary_targets.otel import tracing
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.testing import no_waiting

from .conftest import client_of


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
