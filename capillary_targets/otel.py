"""OpenTelemetry tracing as a hook: a span for each walk and sweep, a child span for each attempt.

Needs the extra `otel`: OpenTelemetry's API alone. SDK and exporter are the application's choice.

```python
from capillary_targets.otel import tracing

TargetsClient("eu", auth, hooks=[tracing()])
```
"""

from __future__ import annotations

import time

from attrs import asdict, define, field, has
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from .hooks import Details, Hook, RequestDetails, Scope, ScopeDetails

__all__ = ["tracing"]

# Names of the semantic conventions, which are still moving, stand here and nowhere else.
_METHOD = "http.request.method"
_STATUS = "http.response.status_code"
_URL = "url.full"
_RESENDS = "http.request.resend_count"
_ERROR = "error.type"


def tracing(provider: TracerProvider | None = None) -> Hook:
    """A hook that traces, by the application's tracer provider or the one given.

    Spans are named `capillary walk`, `capillary sweep` and by the HTTP method. A request outside
    of walks and sweeps belongs to whatever span the caller has opened.
    """
    return _Tracing(trace.get_tracer("capillary_targets", tracer_provider=provider))


@define
class _Tracing:
    tracer: Tracer
    _open: dict[Scope, Span] = field(factory=dict)

    def __call__(self, details: Details) -> None:
        if isinstance(details, RequestDetails):
            self._request(details)
        elif isinstance(details, ScopeDetails):
            if details.phase == "begins":
                self._begin(details.scope)
            else:
                self._end(details)

    def _within(self, scope: Scope | None) -> Context | None:
        span = None if scope is None else self._open.get(scope)
        return None if span is None else trace.set_span_in_context(span)

    def _begin(self, scope: Scope) -> None:
        span = self.tracer.start_span(f"capillary {scope.kind}", context=self._within(scope.parent))
        for name, value in scope.facts.items():
            span.set_attribute(f"capillary.{name}", str(value))
        self._open[scope] = span

    def _end(self, details: ScopeDetails) -> None:
        span = self._open.pop(details.scope)
        if details.outcome is not None and has(type(details.outcome)):
            for name, value in asdict(details.outcome, recurse=False).items():  # type: ignore[arg-type]
                if isinstance(value, bool | int | float | str):
                    span.set_attribute(f"capillary.{name}", value)
        if details.error is not None:
            span.set_status(Status(StatusCode.ERROR, type(details.error).__name__))
        span.end()

    def _request(self, details: RequestDetails) -> None:
        ended = time.time_ns()
        span = self.tracer.start_span(
            details.method,
            context=self._within(details.scope),
            kind=SpanKind.CLIENT,
            start_time=ended - int(details.seconds * 1e9),
        )
        span.set_attribute(_METHOD, details.method)
        span.set_attribute(_URL, details.url)
        if details.attempt > 1:
            span.set_attribute(_RESENDS, details.attempt - 1)
        if details.status is not None:
            span.set_attribute(_STATUS, details.status)
        if details.request_id is not None:
            span.set_attribute("capillary.request_id", details.request_id)
        if details.error is not None:
            span.set_attribute(_ERROR, type(details.error).__name__)
            span.set_status(Status(StatusCode.ERROR, type(details.error).__name__))
        span.end(ended)
