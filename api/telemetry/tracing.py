"""Traces requests: a span for each, and below it one for each kind of wait, by OTLP over HTTP.

An extra, ``holdfast[otel]``: nothing of OpenTelemetry is imported unless traces are switched on. A
span is made once its request has ended, from the facts of the access log and the metrics, so no
code of OpenTelemetry runs during a request. Spans contain no secret: no query, no header but
``User-Agent``.

Besides the endpoint, OpenTelemetry's own variables apply: ``OTEL_TRACES_SAMPLER``,
``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_BSP_…``.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from .request_record import OTHER, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from .waits import Step

SERVICE: Final = "holdfast"
PATH: Final = "/v1/traces"
"""Path of a collector below its endpoint (OTLP specification, "OTLP/HTTP Request")."""

CLOSE_SECONDS: Final = 2.0
"""Time in seconds that a stop waits for a collector to take the rest."""

EXPORT_SECONDS: Final = 10.0
"""Time in seconds for a collector to take one batch."""

STATE_CHARS_MAX: Final = 512
"""Characters kept of ``tracestate``: W3C's Trace Context wants at least these (section 3.3.1.5)."""

_CHARS_MAX: Final = 1024
"""Characters kept of text from clients, which bounds the queue of spans."""

_PARENT: Final = "traceparent"
_STATE: Final = "tracestate"
_UNTRACED_ROUTES: Final = frozenset(("/healthz", "/readyz"))
"""Routes of probes, called every few seconds and of no interest."""

_METHODS: Final = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
)
_V2_ROUTES: Final = {
    "ping": "/v2/",
    "catalog": "/v2/_catalog",
    "registry_extensions": "/v2/_oci/ext/discover",
    "repository_extensions": "/v2/{name}/_oci/ext/discover",
    "exists": "/v2/{name}/_holdfast/exists",
    "tags": "/v2/{name}/tags/list",
    "manifest": "/v2/{name}/manifests/{reference}",
    "blob": "/v2/{name}/blobs/{digest}",
    "uploads": "/v2/{name}/blobs/uploads/",
    "upload": "/v2/{name}/blobs/uploads/{session}",
    "referrers": "/v2/{name}/referrers/{digest}",
}
"""Endpoints as path patterns, the form that OpenTelemetry wants for routes."""


def missing() -> bool:
    """Return True if the packages of the extra are not installed."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is None
    except ModuleNotFoundError:
        return True


class Traces:
    """Makes spans of one worker's requests, and sends them from a thread of its own.

    The queue of spans is bounded (2048 unless ``OTEL_BSP_MAX_QUEUE_SIZE`` sets it). If a collector
    does not keep up, spans are dropped and requests are not delayed.
    """

    def __init__(self, endpoint: str, version: str) -> None:
        """Connect to a collector's base URL. Raises ImportError without the extra."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        about = Resource(
            {"service.name": SERVICE, "service.version": version, "process.pid": os.getpid()}
        )
        # The operator's attributes win over the defaults.
        self._provider = TracerProvider(
            resource=about.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint + PATH, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Tracer = self._provider.get_tracer(SERVICE, version)
        self._propagator = TraceContextTextMapPropagator()

    def ended(self, record: RequestRecord) -> None:
        """Make the span of a request that ends now."""
        from opentelemetry.trace import SpanKind, StatusCode

        if record.route in _UNTRACED_ROUTES:
            return
        now, clock = time.time_ns(), time.perf_counter()

        def when(at: float) -> int:
            return now - int((clock - at) * 1e9)

        # ``record.seconds`` was taken a moment ago, which may be long on a busy machine. Without
        # the minimum, the request could seem to begin after its first wait.
        steps = tuple(record.steps or ())
        begun = min((now - int(record.seconds * 1e9), *(when(step.begun) for step in steps)))
        method = record.method if record.method in _METHODS else "_OTHER"
        route = _V2_ROUTES.get(record.route, record.route)
        # Semantic conventions 1.x, "HTTP server span".
        name = "HTTP" if method == "_OTHER" else method
        span = self._tracer.start_span(
            name if route == OTHER else f"{name} {route}",
            context=self._parent_context(record),
            kind=SpanKind.SERVER,
            attributes=_attributes(record, method, route),
            start_time=begun,
        )
        if record.gone:
            span.set_attribute("error.type", "gone")
        elif record.status >= 500:
            span.set_attribute("error.type", str(record.status))
            span.set_status(StatusCode.ERROR)
        if span.is_recording():
            self._add_waits(span, steps, when)
        span.end(now)

    def _add_waits(self, span: Span, steps: Iterable[Step], when: Callable[[float], int]) -> None:
        """Make the spans of a request's waits. ``when`` converts a time of ``perf_counter``."""
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(span, Context())
        for step in steps:
            attributes = {"holdfast.count": step.count, "holdfast.seconds": step.seconds}
            wait_span = self._tracer.start_span(
                step.what, context=context, attributes=attributes, start_time=when(step.begun)
            )
            wait_span.end(when(step.ended))

    def _parent_context(self, record: RequestRecord) -> Context:
        """Return the trace that the client names, or the context of a new one."""
        from opentelemetry.context import Context

        carrier = {_PARENT: record.parent, _STATE: record.state[:STATE_CHARS_MAX]}
        return self._propagator.extract(carrier, Context())

    async def close(self) -> None:
        """Send the rest of the queue, for CLOSE_SECONDS at most."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, CLOSE_SECONDS)


def _attributes(record: RequestRecord, method: str, route: str) -> Mapping[str, str | int]:
    named = {
        "http.request.method": method,
        "http.route": "" if route == OTHER else route,
        "url.scheme": record.scheme,
        "url.path": record.path[:_CHARS_MAX],
        "network.protocol.version": record.version,
        "client.address": record.address,
        "user_agent.original": record.agent[:_CHARS_MAX],
        "holdfast.request_id": record.request_id,
        "holdfast.access_key": record.actor,
        "holdfast.name": record.name,
        "holdfast.region": record.region,
    }
    # Undecodable bytes became lone surrogates. One of them would make the exporter lose a whole
    # batch.
    attributes: dict[str, str | int] = {
        key: value.encode("utf-8", "replace").decode() for key, value in named.items() if value
    }
    if not record.gone:
        attributes["http.response.status_code"] = record.status
    return attributes
