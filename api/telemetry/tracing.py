"""Traces: a span for each request, and below it one for each kind of thing that it waited for,
sent to a collector by OTLP over HTTP.

An extra, ``holdfast[otel]``: nothing of OpenTelemetry is imported unless traces are switched on.
Spans are made when their request has ended, from what the access log and the metrics know of it
too, so nothing of OpenTelemetry runs while it does. A secret is in none: no query, no header but
``User-Agent``.

Besides the endpoint, what OpenTelemetry's own variables say counts: ``OTEL_TRACES_SAMPLER``,
``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_BSP_…``.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from .logs import AccessLine
from .request_context import OTHER
from .waits import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

SERVICE: Final = "holdfast"
PATH: Final = "/v1/traces"
"""Where a collector takes spans, below its endpoint (OTLP specification, "OTLP/HTTP Request")."""

CLOSE_SECONDS: Final = 2.0
"""How long a stop waits for a collector to take what is left."""

EXPORT_SECONDS: Final = 10.0
"""How long a collector may take for one batch."""

STATE_CHARS_MAX: Final = 512
"""Of ``tracestate``: what W3C's Trace Context wants to be passed on (section 3.3.1.5)."""

_CHARS_MAX: Final = 1024
"""Of what clients write: it bounds what waits to be sent."""

_PARENT: Final = "traceparent"
_STATE: Final = "tracestate"
_SILENT: Final = frozenset(("/healthz", "/readyz"))
"""Routes that are asked every few seconds, and tell nothing."""

_METHODS: Final = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
)
_V2: Final = {
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
"""Endpoints as OpenTelemetry wants routes: as patterns of paths."""


def missing() -> bool:
    """Whether the packages of the extra are not installed."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is None
    except ModuleNotFoundError:
        return True


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that has ended, as far as the access log does not say it."""

    line: AccessLine
    route: str
    """An endpoint or a path pattern."""
    scheme: str
    gone: bool
    """Whether the client left before its answer."""
    name: str = ""
    """Of the repository or the object."""
    region: str = ""
    parent: str = ""
    """The header ``traceparent``; empty where there is none, or more than one."""
    state: str = ""
    """The header ``tracestate``."""
    steps: Iterable[Step] = ()
    """What it waited for."""


class Traces:
    """Makes spans of one worker's requests and sends them, from a thread of its own.

    What waits to be sent is bounded (2048 spans unless ``OTEL_BSP_MAX_QUEUE_SIZE`` says
    otherwise): where a collector does not keep up, spans are lost and requests are not held up.
    """

    def __init__(self, endpoint: str, version: str) -> None:
        """``endpoint`` is a collector's base URL. Raises ImportError without the extra."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        about = Resource(
            {"service.name": SERVICE, "service.version": version, "process.pid": os.getpid()}
        )
        # What the operator says of the service wins over what we say.
        self._provider = TracerProvider(
            resource=about.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint + PATH, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Tracer = self._provider.get_tracer(SERVICE, version)
        self._propagator = TraceContextTextMapPropagator()

    def ended(self, ended: Ended) -> None:
        """Make the span of a request that ends now."""
        from opentelemetry.trace import SpanKind, StatusCode

        if ended.route in _SILENT:
            return
        line = ended.line
        now, clock = time.time_ns(), time.perf_counter()

        def when(at: float) -> int:
            return now - int((clock - at) * 1e9)

        # Its seconds were counted a moment ago, and the moment may be long on a busy machine: so
        # it would seem to begin after what it waited for.
        steps = tuple(ended.steps)
        begun = min((now - int(line.seconds * 1e9), *(when(step.begun) for step in steps)))
        method = line.method if line.method in _METHODS else "_OTHER"
        route = _V2.get(ended.route, ended.route)
        # Semantic conventions 1.x, "HTTP server span".
        name = "HTTP" if method == "_OTHER" else method
        span = self._tracer.start_span(
            name if route == OTHER else f"{name} {route}",
            context=self._context(ended),
            kind=SpanKind.SERVER,
            attributes=_attributes(ended, method, route),
            start_time=begun,
        )
        if line.status >= 500 or ended.gone:
            span.set_attribute("error.type", "gone" if ended.gone else str(line.status))
        if line.status >= 500:
            span.set_status(StatusCode.ERROR)
        if span.is_recording():
            self._below(span, steps, when)
        span.end(now)

    def _below(self, span: Span, steps: Iterable[Step], when: Callable[[float], int]) -> None:
        """Make the spans of what a request waited for. ``when`` tells the time of a clock."""
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(span, Context())
        for step in steps:
            attributes = {"holdfast.count": step.count, "holdfast.seconds": step.seconds}
            below = self._tracer.start_span(
                step.what, context=context, attributes=attributes, start_time=when(step.begun)
            )
            below.end(when(step.ended))

    def _context(self, ended: Ended) -> Context:
        """The trace that the client says the request belongs to; else one of its own."""
        from opentelemetry.context import Context

        carrier = {_PARENT: ended.parent, _STATE: ended.state[:STATE_CHARS_MAX]}
        return self._propagator.extract(carrier, Context())

    async def close(self) -> None:
        """Send what is left, for CLOSE_SECONDS at most."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, CLOSE_SECONDS)


def _attributes(ended: Ended, method: str, route: str) -> Mapping[str, str | int]:
    line = ended.line
    named = {
        "http.request.method": method,
        "http.route": "" if route == OTHER else route,
        "url.scheme": ended.scheme,
        "url.path": line.path[:_CHARS_MAX],
        "network.protocol.version": line.version.removeprefix("HTTP/"),
        "client.address": line.address,
        "user_agent.original": line.agent[:_CHARS_MAX],
        "holdfast.request_id": line.request_id,
        "holdfast.access_key": line.actor,
        "holdfast.name": ended.name,
        "holdfast.region": ended.region,
    }
    # Text that is none (lone surrogates, which undecodable bytes become) would lose a whole batch.
    attributes: dict[str, str | int] = {
        key: value.encode("utf-8", "replace").decode() for key, value in named.items() if value
    }
    if not ended.gone:
        attributes["http.response.status_code"] = line.status
    return attributes
