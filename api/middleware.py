"""The server's middleware: begins the record of each request, limits it, and hands it to the
recorder."""

from __future__ import annotations

from typing import Final, get_args

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.typedefs import Handler

from .http.app_keys import REQUEST_RECORD
from .http.app_settings import AppSettings
from .http.bodies import settle
from .http.client_address import client_address
from .http.oci_errors import too_many
from .http.origin import origin_of
from .management.app import DOCUMENT_PATH, HEADERS
from .management.errors import too_many as too_many_requests
from .management.operations import OPERATIONS
from .oci.paths import Endpoint
from .recorder import Recorder
from .telemetry.logs import log_access
from .telemetry.request_record import CURRENT, OTHER, RequestRecord

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

_ROUTE_SET: Final = frozenset(ROUTES)
_TOO_MANY: Final = "too many requests from this address"
_UNLIMITED_ROUTES: Final = frozenset(("/healthz", "/readyz"))
_MANAGEMENT_PATHS: Final = ("/registry", "/holdfast")


class RequestMiddleware:
    """Surrounds the requests of one worker with limits, metrics, audit log and traces."""

    def __init__(self, settings: AppSettings, recorder: Recorder) -> None:
        self._settings = settings
        self._recorder = recorder

    def install(self, app: web.Application) -> None:
        """Surround the requests of an application. Call it before the application runs."""

        @web.middleware
        async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._handle(request, handler)

        app.middlewares.insert(0, handle)

    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        record = self._begin(request)
        response: web.StreamResponse | None = None
        # Unless there is an answer to send: a handler is cancelled once its client has left.
        record.gone = True
        try:
            response = self._refusal(request, record)
            if response is None:
                response = await handler(request)
            else:
                await settle(request, response)
            transport = request.transport
            # A handler that could not send on has cut the connection, which is closed later. Its
            # response says 503, and is not sent.
            record.gone = transport is None or (transport.is_closing() and not response.prepared)
            return response
        except web.HTTPException as error:
            response, record.gone = error, False
            raise
        except ConnectionError:
            raise
        except Exception:
            # aiohttp answers 500.
            record.status, record.gone = 500, False
            raise
        finally:
            self._end(request, record, response)

    def _begin(self, request: web.Request) -> RequestRecord:
        recorder = self._recorder
        record = record_of(request, client_address(request, self._settings))
        resource = request.match_info.route.resource
        # A fixed set of labels: a path from a client must not become one.
        if resource is not None and resource.canonical in _ROUTE_SET:
            record.route = resource.canonical
        record.limiter = recorder.limiter(record.address)
        record.bandwidth = recorder.bandwidth
        record.steps = recorder.begin_steps()
        # Each request runs in a ``contextvars`` context of its own, so this value ends with it.
        CURRENT.set(record)
        request[REQUEST_RECORD] = record
        return record

    def _refusal(self, request: web.Request, record: RequestRecord) -> web.Response | None:
        limiter = record.limiter
        if limiter is None or record.route in _UNLIMITED_ROUTES or not (wait := limiter.arrive()):
            return None
        # In the error format of the API that was called (RFC 6585 section 4).
        if not request.path.startswith(_MANAGEMENT_PATHS):
            return too_many(wait, _TOO_MANY).response()
        body = msgspec.json.encode(too_many_requests(wait, _TOO_MANY).body)
        return web.Response(status=429, body=body, headers={**HEADERS, "Retry-After": str(wait)})

    def _end(
        self, request: web.Request, record: RequestRecord, response: web.StreamResponse | None
    ) -> None:
        record.received = request.content.total_bytes
        if response is not None:
            record.status, record.content = response.status, _body_bytes(request, response)
        if self._recorder.traces:
            record.scheme = origin_of(request, self._settings).scheme
            parents = request.headers.getall("traceparent", ())
            record.parent = parents[0] if len(parents) == 1 else ""
            record.state = ",".join(request.headers.getall("tracestate", ()))
        # ``AccessLogger`` writes the access log: only aiohttp knows how much it sent.
        self._recorder.finish(record)


class AccessLogger(AbstractAccessLogger):
    """Writes the access log of requests that aiohttp answers, also of malformed ones."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line of one request."""
        record = request.get(REQUEST_RECORD) if isinstance(request, web.Request) else None
        if record is None:
            record = record_of(request, request.remote or "")
        record.status, record.size, record.seconds = response.status, response.body_length, time
        record.request_id = response.headers.get("X-Request-Id", "-")
        log_access(self.logger, record)


def record_of(request: web.BaseRequest, address: str) -> RequestRecord:
    """Return the record of a request that has just begun."""
    return RequestRecord(
        address=address,
        method=request.method,
        path=request.rel_url.raw_path,
        query=request.rel_url.raw_query_string,
        version=f"{request.version.major}.{request.version.minor}",
        agent=request.headers.get("User-Agent", ""),
    )


def _body_bytes(request: web.Request, response: web.StreamResponse) -> int:
    if request.method == "HEAD" or response.status in (204, 304):
        return 0
    return response.content_length or response.body_length
