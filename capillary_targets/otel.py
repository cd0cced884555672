"""OpenTelemetry as hooks: spans of walks, sweeps and attempts; metrics of all that a client does.

Needs the extra `otel`: OpenTelemetry's API alone. SDK and exporter are the application's choice.

```python
from capillary_targets.otel import metrics, tracing

TargetsClient("eu", auth, hooks=[metrics(), tracing()])
```
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, Final

from attrs import asdict, define, field, has
from yarl import URL

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import (
        CallbackOptions,
        MeterProvider,
        Observation,
        get_meter,
        get_meter_provider,
    )
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
except ImportError:
    raise ImportError(
        "metrics and traces need the extra: pip install 'capillary-targets[otel]'"
    ) from None

from .hooks import (
    Details,
    FailureDetails,
    Hook,
    LimiterState,
    RequestDetails,
    RetryDetails,
    Scope,
    ScopeDetails,
    SessionDetails,
    WaitDetails,
)
from .pagination import PagingReport

# Names of the semantic conventions, which are still moving, stand here and nowhere else.
_METHOD = "http.request.method"
_STATUS = "http.response.status_code"
_URL = "url.full"
_RESENDS = "http.request.resend_count"
_ERROR = "error.type"
_ADDRESS = "server.address"
_PORT = "server.port"
_TEMPLATE = "url.template"
_DURATION = "http.client.request.duration"
_ACTIVE = "http.client.active_requests"

_LANE = "capillary.lane"
_SHARED = "capillary.budget.shared"

_ID: Final = re.compile(r"(?<=/)-?\d+(?=/|$)")
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Buckets that the conventions advise for the duration of requests."""


def tracing(provider: TracerProvider | None = None) -> Hook:
    """A hook that traces, by the application's tracer provider or the one given.

    Spans are named `capillary walk`, `capillary sweep` and by the HTTP method. A request outside
    of walks and sweeps belongs to whatever span the caller has opened.
    """
    return _Tracing(trace.get_tracer("capillary_targets", tracer_provider=provider))


@define
class _Tracing:
    tracer: Tracer
    _open: dict[Scope | None, Span] = field(factory=dict)

    def __call__(self, details: Details) -> None:
        match details:
            case RequestDetails():
                self._request(details)
            case ScopeDetails(scope=scope, phase="begins"):
                within = self._within(scope.parent)
                span = self.tracer.start_span(f"capillary {scope.kind}", context=within)
                for name, value in scope.facts.items():
                    span.set_attribute(f"capillary.{name}", str(value))
                self._open[scope] = span
            case ScopeDetails(scope=scope, outcome=outcome):
                span = self._open.pop(scope)
                facts: Any = outcome if has(type(outcome)) else None
                for name, value in asdict(facts, recurse=False).items() if facts else ():
                    if isinstance(value, bool | int | float | str):
                        span.set_attribute(f"capillary.{name}", value)
                _end(span, details.error)

    def _within(self, scope: Scope | None) -> Context | None:
        span = self._open.get(scope)
        return None if span is None else trace.set_span_in_context(span)

    def _request(self, details: RequestDetails) -> None:
        ended = time.time_ns()
        known: dict[str, Any] = {
            _METHOD: details.method,
            _URL: details.url,
            _RESENDS: details.attempt - 1 or None,
            _STATUS: details.status,
            "capillary.request_id": details.request_id,
            _ERROR: details.error and type(details.error).__name__,
        }
        span = self.tracer.start_span(
            details.method,
            context=self._within(details.scope),
            kind=SpanKind.CLIENT,
            attributes={name: one for name, one in known.items() if one is not None},
            start_time=ended - int(details.seconds * 1e9),
        )
        _end(span, details.error, ended)


def _end(span: Span, error: BaseException | None, ended: int | None = None) -> None:
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))
    span.end(ended)


def metrics(provider: MeterProvider | None = None) -> Hook:
    """A hook that measures, by the application's meter provider or the one given.

    One hook serves any number of clients: their figures add up, by `server.address`. No attribute
    holds an id of a user. The names are in `docs/how-to/metrics.md`.
    """
    return _metrics(None if provider is get_meter_provider() else provider)


@lru_cache(256)
def _call(method: str, template: str) -> dict[str, str | int]:
    return {_METHOD: method, _TEMPLATE: URL(template, encoded=True).raw_path, **_server(template)}


def _server(url: str) -> dict[str, str | int]:
    parsed = URL(url, encoded=True)
    return {_ADDRESS: parsed.host or "", _PORT: parsed.port or 0}


_GAUGES: Final = {
    _ACTIVE: "Requests in flight.",
    "capillary.concurrency.limit": "Requests allowed in flight.",
    "capillary.queue.length": "Requests that wait to be sent.",
    "capillary.budget.used": "Places taken in the rate budget.",
    "capillary.budget.limit": "Places in the rate budgets that are not shared.",
}


def _gauges(now: LimiterState) -> tuple[tuple[str, int | None, dict[str, str | int]], ...]:
    """What the gauges show of a session: values with their attributes."""
    return (
        (_ACTIVE, now.in_flight, {}),
        ("capillary.concurrency.limit", now.limit, {}),
        ("capillary.queue.length", now.foreground_queue, {_LANE: "foreground"}),
        ("capillary.queue.length", now.background_queue, {_LANE: "background"}),
        ("capillary.budget.used", now.budget_used, {_SHARED: now.budget_limit is None}),
        ("capillary.budget.limit", now.budget_limit, {}),
    )


class _Metrics:
    """The instruments of one meter provider, and the sessions that its gauges read."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = get_meter("capillary_targets", meter_provider=provider)
        self._sessions: dict[Callable[[], LimiterState], dict[str, str | int]] = {}
        self._duration = meter.create_histogram(
            _DURATION,
            "s",
            "Attempts at requests, from sending to the last byte.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._waits = meter.create_histogram(
            "capillary.wait.duration",
            "s",
            "Waits of requests before they were sent.",
            explicit_bucket_boundaries_advisory=(*_SECONDS, 30, 60, 300, 900),
        )
        counter = meter.create_counter
        self._errors = counter("capillary.errors", "{error}", "Calls that failed in the end.")
        self._retries = counter("capillary.retries", "{retry}", "Attempts after a failed one.")
        self._walks = counter("capillary.walks", "{walk}", "Walks that are over.")
        self._pages = counter("capillary.pages", "{page}", "Pages that walks read.")
        self._events = counter("capillary.events", "{event}", "Events of walks.")
        for name, description in _GAUGES.items():
            observe = partial(self._observe, name)
            meter.create_observable_up_down_counter(name, [observe], "{request}", description)

    def _observe(self, gauge: str, _: CallbackOptions) -> list[Observation]:
        """Sums over the open sessions. Called by the exporter's thread."""
        sums: Counter[frozenset[tuple[str, str | int]]] = Counter()
        for state, server in list(self._sessions.items()):
            for name, value, attributes in _gauges(state()):
                if name == gauge and value is not None:
                    sums[frozenset((server | attributes).items())] += value
        return [Observation(value, dict(attributes)) for attributes, value in sums.items()]

    def __call__(self, details: Details) -> None:
        match details:
            case RequestDetails():
                template = _ID.sub("{id}", details.url.partition("?")[0])
                attributes = dict(_call(details.method, template))
                if details.status is not None:
                    attributes[_STATUS] = details.status
                if details.error is not None:
                    attributes[_ERROR] = type(details.error).__name__
                self._duration.record(details.seconds, attributes)
            case WaitDetails():
                attributes = {
                    "capillary.wait.reason": details.reason,
                    _LANE: "background" if details.background else "foreground",
                }
                self._waits.record(details.seconds, attributes)
            case RetryDetails(error=error):
                self._retries.add(1, {_ERROR: type(error).__name__, **_server(error.url or "")})
            case FailureDetails(error=error):
                attributes = {_ERROR: type(error).__name__, "capillary.error.scope": error.scope}
                self._errors.add(1, attributes | _server(error.url or ""))
            case ScopeDetails(outcome=PagingReport() as report):
                attributes = {"capillary.complete": report.complete}
                if details.error is not None:
                    attributes[_ERROR] = type(details.error).__name__
                self._walks.add(1, attributes)
                self._pages.add(report.requests)
                self._events.add(report.events)
            case SessionDetails(phase="opens"):
                self._sessions[details.state] = _server(details.url)
            case SessionDetails():
                self._sessions.pop(details.state, None)


_metrics: Final = cache(_Metrics)
"""One for each provider: an observable instrument made twice is observed once."""
