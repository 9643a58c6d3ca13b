"""The server's middleware: lays the trail of each request, applies limits, counts, and audits."""

from __future__ import annotations

from time import perf_counter
from typing import Final, get_args

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from holdfast.engine import WAITS

from .access_log import line_of
from .http.app_keys import TRAIL
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
from .telemetry.tracing import Ended, Traces
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
"""What requests are counted under: never what a client writes."""

_TOO_MANY: Final = "too many requests from this address"

_KNOWN: Final = frozenset(ROUTES)
_READS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_NO_CHANGES: Final = frozenset(("/token", "exists"))
"""Routes whose POST changes nothing."""

_EXEMPT: Final = frozenset(("/healthz", "/readyz"))
_MANAGEMENT: Final = ("/registry", "/holdfast")
_DIGEST_CHARS_MAX: Final = 256
UPLOADS: Final = ("upload", "uploads")
"""Endpoints of uploads."""


class _Guard:
    """The limits of one request, each counted where it is known what it is of."""

    __slots__ = ("_limits", "_slot", "_who")

    def __init__(self, limits: Limits, slot: Slot | None, who: str) -> None:
        self._limits = limits
        self._slot = slot
        self._who = who

    def arrive(self) -> int:
        """As ``trail.Guard``."""
        return self._counted("address", self._limits.arrive(self._who))

    def charge(self, access_key: str) -> int:
        """As ``trail.Guard``."""
        return self._counted("key", self._limits.charge(self._who, access_key))

    def login_wait(self) -> int:
        """As ``trail.Guard``."""
        return self._counted("login", self._limits.wait("login", self._who))

    def login_failed(self) -> None:
        """As ``trail.Guard``."""
        self._limits.take("login", self._who)
        if self._slot is not None:
            self._slot.add("failed_logins")

    def _counted(self, kind: Kind, wait: int) -> int:
        if wait and self._slot is not None:
            self._slot.add(f"limited_{kind}")
        return wait


class Watch:
    """Everything that happens around the requests of one worker."""

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
        """Watch an application. Call it before the application runs."""

        @web.middleware
        async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._around(request, handler)

        app.middlewares.insert(0, around)

    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        trail = self._lay(request)
        begun = perf_counter()
        status = GONE + 1
        response: web.StreamResponse | None = None
        try:
            response = self._refusal(request, trail)
            if response is None:
                response = await handler(request)
            else:
                await settle(request, response)
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
            self._after(request, trail, response, status, perf_counter() - begun)

    def _lay(self, request: web.Request) -> RequestContext:
        address = client_address(request, self._settings)
        trail = RequestContext(address=address, bandwidth=self._bandwidth)
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in _KNOWN:
            trail.route = resource.canonical
        if self._limits is not None:
            trail.guard = _Guard(self._limits, self._slot, network_prefix(trail.address))
        # Each request runs in a context of its own, so that this ends with it.
        CURRENT.set(trail)
        if self._traces is not None:
            trail.steps = Steps()
            WAITS.set(trail.steps)
        request[TRAIL] = trail
        return trail

    def _refusal(self, request: web.Request, trail: RequestContext) -> web.Response | None:
        guard = trail.guard
        if guard is None or trail.route in _EXEMPT or not (wait := guard.arrive()):
            return None
        # In the form of the API that was asked (RFC 6585 section 4).
        if not request.path.startswith(_MANAGEMENT):
            return too_many(wait, _TOO_MANY).response()
        body = msgspec.json.encode(too_many_requests(wait, _TOO_MANY).body)
        return web.Response(status=429, body=body, headers={**HEADERS, "Retry-After": str(wait)})

    def _after(
        self,
        request: web.Request,
        trail: RequestContext,
        response: web.StreamResponse | None,
        status: int,
        seconds: float,
    ) -> None:
        slot = self._slot
        if slot is not None:
            received = request.content.total_bytes
            sent = 0 if status > GONE else _body_bytes(request, response)
            slot.count(trail.route, request.method, status, received, sent, seconds)
        if self._traces is not None:
            self._traces.ended(self._ended(request, trail, response, status, seconds))
        if self._audit is not None and _changes(request, trail):
            answered = response.status if response is not None else 0
            if trail.route in UPLOADS:
                name_upload(trail, query_of(request))
            path = request.rel_url.raw_path
            if not self._audit.write(trail, request.method, path, answered) and slot:
                slot.add("audit_failed")

    def _ended(
        self,
        request: web.Request,
        trail: RequestContext,
        response: web.StreamResponse | None,
        status: int,
        seconds: float,
    ) -> Ended:
        gone = status > GONE
        parents = request.headers.getall("traceparent", ())
        line = line_of(
            request,
            trail,
            # What is raised here, aiohttp answers with 500.
            status=0 if gone else 500 if response is None else response.status,
            size=0,
            seconds=seconds,
            request_id=trail.request_id,
        )
        return Ended(
            line,
            trail.route,
            origin_of(request, self._settings).scheme,
            gone=gone,
            name=trail.name,
            region=trail.region,
            parent=parents[0] if len(parents) == 1 else "",
            state=",".join(request.headers.getall("tracestate", ())),
            steps=trail.steps or (),
        )


def _body_bytes(request: web.Request, response: web.StreamResponse | None) -> int:
    if response is None or request.method == "HEAD" or response.status in (204, 304):
        return 0
    return response.content_length or response.body_length


def _changes(request: web.Request, trail: RequestContext) -> bool:
    return request.method not in _READS and trail.route not in _NO_CHANGES


def name_upload(trail: RequestContext, query: Query) -> None:
    """Note the digest, which an upload names only in its query."""
    named = query.first("digest") or query.first("mount")
    if named:
        trail.kind, trail.id = "blob", named[:_DIGEST_CHARS_MAX]
