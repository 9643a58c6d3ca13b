"""The server's middleware: begins the context of each request, limits, counts, audits and traces
it."""

from __future__ import annotations

from time import perf_counter
from typing import Final, get_args

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from holdfast.engine import WAITS

from .access_log import line_of
from .http.app_keys import REQUEST_CONTEXT
from .http.app_settings import AppSettings
from .http.bodies import settle
from .http.client_address import client_address
from .http.oci_errors import too_many
from .http.origin import origin_of
from .http.queries import Query
from .limits.addresses import network_prefix
from .limits.bandwidth import Bandwidth
from .limits.rates import Kind, Limits
from .management.app import DOCUMENT_PATH, HEADERS
from .management.errors import too_many as too_many_requests
from .management.operations import OPERATIONS
from .oci.exchange import query_of
from .oci.paths import Endpoint
from .telemetry.audit import Audit
from .telemetry.counters import GONE, Slot
from .telemetry.request_context import CURRENT, OTHER, RequestContext
from .telemetry.tracing import EndedRequest, Traces
from .telemetry.waits import Steps

ROUTES: Final = (
    OTHER,
    *get_args(Endpoint),
    "/token",
    "/healthz",
    "/readyz",
    DOCUMENT_PATH,
    *(operation.path for operation in OPERATIONS),
)
"""Routes that requests are counted under, never text from clients."""

_TOO_MANY: Final = "too many requests from this address"

_ROUTE_SET: Final = frozenset(ROUTES)
_READ_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_UNCHANGING_ROUTES: Final = frozenset(("/token", "exists"))
"""Routes whose POST changes nothing."""

_UNLIMITED_ROUTES: Final = frozenset(("/healthz", "/readyz"))
_MANAGEMENT_PATHS: Final = ("/registry", "/holdfast")
_DIGEST_CHARS_MAX: Final = 256
UPLOADS: Final = ("upload", "uploads")
"""Endpoints of uploads."""


class _RequestLimiter:
    """The limits of one request (``request_context.RateLimiter``), which also count refusals."""

    __slots__ = ("_limits", "_prefix", "_slot")

    def __init__(self, limits: Limits, slot: Slot | None, prefix: str) -> None:
        self._limits = limits
        self._slot = slot
        self._prefix = prefix

    def arrive(self) -> int:
        """Count a request of its address."""
        return self._count_refusal("address", self._limits.arrive(self._prefix))

    def charge(self, access_key: str) -> int:
        """Count a request of a key."""
        return self._count_refusal("key", self._limits.charge(self._prefix, access_key))

    def login_wait(self) -> int:
        """Return the seconds until a secret may be looked up."""
        return self._count_refusal("login", self._limits.wait("login", self._prefix))

    def login_failed(self) -> None:
        """Count a failed login."""
        self._limits.take("login", self._prefix)
        if self._slot is not None:
            self._slot.add("failed_logins")

    def _count_refusal(self, kind: Kind, wait: int) -> int:
        if wait and self._slot is not None:
            self._slot.add(f"limited_{kind}")
        return wait


class RequestMiddleware:
    """Surrounds the requests of one worker with limits, metrics, audit log and traces."""

    def __init__(
        self,
        settings: AppSettings,
        *,
        slot: Slot | None = None,
        limits: Limits | None = None,
        bandwidth: Bandwidth | None = None,
        audit: Audit | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._settings = settings
        self._slot = slot
        self._limits = limits
        self._bandwidth = bandwidth
        self._audit = audit
        self._traces = traces

    def install(self, app: web.Application) -> None:
        """Surround the requests of an application. Call it before the application runs."""

        @web.middleware
        async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._handle(request, handler)

        app.middlewares.insert(0, handle)

    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        context = self._begin(request)
        started = perf_counter()
        status = GONE + 1
        response: web.StreamResponse | None = None
        try:
            response = self._refusal(request, context)
            if response is None:
                response = await handler(request)
            else:
                await settle(request, response)
            # Without a transport the client has left, and ``status`` stays "gone".
            if request.transport is not None:
                status = response.status // 100
            return response
        except web.HTTPException as error:
            response = error
            status = error.status // 100
            raise
        except ConnectionError:
            raise
        except Exception:
            status = 5
            raise
        finally:
            self._end(request, context, response, status, perf_counter() - started)

    def _begin(self, request: web.Request) -> RequestContext:
        address = client_address(request, self._settings)
        context = RequestContext(address=address, bandwidth=self._bandwidth)
        resource = request.match_info.route.resource
        # A fixed set of labels: a path from a client must not become one.
        if resource is not None and resource.canonical in _ROUTE_SET:
            context.route = resource.canonical
        if self._limits is not None:
            prefix = network_prefix(address)
            context.limiter = _RequestLimiter(self._limits, self._slot, prefix)
        # Each request runs in a ``contextvars`` context of its own, so this value ends with it.
        CURRENT.set(context)
        if self._traces is not None:
            context.steps = Steps()
            WAITS.set(context.steps)
        request[REQUEST_CONTEXT] = context
        return context

    def _refusal(self, request: web.Request, context: RequestContext) -> web.Response | None:
        limiter = context.limiter
        if limiter is None or context.route in _UNLIMITED_ROUTES or not (wait := limiter.arrive()):
            return None
        # In the error format of the API that was called (RFC 6585 section 4).
        if not request.path.startswith(_MANAGEMENT_PATHS):
            return too_many(wait, _TOO_MANY).response()
        body = msgspec.json.encode(too_many_requests(wait, _TOO_MANY).body)
        return web.Response(status=429, body=body, headers={**HEADERS, "Retry-After": str(wait)})

    def _end(
        self,
        request: web.Request,
        context: RequestContext,
        response: web.StreamResponse | None,
        status: int,
        seconds: float,
    ) -> None:
        slot = self._slot
        if slot is not None:
            received = request.content.total_bytes
            sent = 0 if status > GONE else _body_bytes(request, response)
            slot.count(context.route, request.method, status, received, sent, seconds)
        if self._traces is not None:
            self._traces.ended(self._ended_request(request, context, response, status, seconds))
        if self._audit is not None and _changes(request, context):
            answered = response.status if response is not None else 0
            if context.route in UPLOADS:
                name_upload(context, query_of(request))
            path = request.rel_url.raw_path
            if not self._audit.write(context, request.method, path, answered) and slot:
                slot.add("audit_failures")

    def _ended_request(
        self,
        request: web.Request,
        context: RequestContext,
        response: web.StreamResponse | None,
        status: int,
        seconds: float,
    ) -> EndedRequest:
        gone = status > GONE
        parents = request.headers.getall("traceparent", ())
        line = line_of(
            request,
            context,
            # aiohttp answers 500 to an exception.
            status=0 if gone else 500 if response is None else response.status,
            size=0,
            seconds=seconds,
            request_id=context.request_id,
        )
        return EndedRequest(
            line,
            context.route,
            origin_of(request, self._settings).scheme,
            gone=gone,
            name=context.name,
            region=context.region,
            parent=parents[0] if len(parents) == 1 else "",
            state=",".join(request.headers.getall("tracestate", ())),
            steps=context.steps or (),
        )


def _body_bytes(request: web.Request, response: web.StreamResponse | None) -> int:
    if response is None or request.method == "HEAD" or response.status in (204, 304):
        return 0
    return response.content_length or response.body_length


def _changes(request: web.Request, context: RequestContext) -> bool:
    return request.method not in _READ_METHODS and context.route not in _UNCHANGING_ROUTES


def name_upload(context: RequestContext, query: Query) -> None:
    """Note the digest of an upload, which is only in its query."""
    named = query.first("digest") or query.first("mount")
    if named:
        context.kind, context.id = "blob", named[:_DIGEST_CHARS_MAX]
