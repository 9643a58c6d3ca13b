"""The OCI Distribution API: the dispatcher from raw paths to handlers, and the token service.

OCI distribution-spec, "Endpoints"; the Docker registry's ``_catalog``; extensions under ``_oci``
and ``_holdfast``. The dispatcher turns errors of the engine into OCI errors by the table in
``oci_errors``, so that no input leads to a 500.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from holdfast.api.http.app_keys import SETTINGS, STORE
from holdfast.api.http.bodies import BrokenBody, expect, settle
from holdfast.api.http.client_address import client_address
from holdfast.api.http.conditions import selected
from holdfast.api.http.oci_errors import OciError, oci_error, too_many
from holdfast.api.http.origin import origin_of
from holdfast.api.http.read_owner import set_read_owner
from holdfast.api.http.transfer import API_VERSION, NO_STORE
from holdfast.api.telemetry.request_record import (
    flow,
    note_key,
    note_namespace,
    note_region,
    note_target,
)
from holdfast.engine import Corrupt, EngineError, Invalid, Unusable

from . import blobs, catalog, extensions, manifests, referrers, tags, uploads
from .access import Gate, Unauthenticated, identify
from .exchange import Exchange, Handler, Route, json_response, requested_scope, warning
from .paths import Endpoint, parse_path
from .rights import Action
from .token_service import token

_log: Final = logging.getLogger(__name__)

TAIL: Final = "{tail:(?s:.*)}"
"""Route pattern for the rest of a path, including slashes and line breaks."""

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def ping(exchange: Exchange) -> web.StreamResponse:
    """Handle ``GET /v2/`` (end-1): 401 without valid credentials shows clients the scheme."""
    if not exchange.caller.presented:
        raise exchange.gate.unauthorized()
    return json_response({})


def _read_routes(handler: Handler, action: Action | None = None) -> dict[str, Route]:
    return dict.fromkeys(("GET", "HEAD"), Route(handler, action))


ENDPOINTS: Final[Mapping[Endpoint, Mapping[str, Route]]] = {
    "ping": _read_routes(ping),
    "catalog": _read_routes(catalog.listing),
    "registry_extensions": _read_routes(extensions.of_registry),
    "repository_extensions": _read_routes(extensions.of_repository, "pull"),
    "exists": {"POST": Route(extensions.exists, "pull")},
    "tags": _read_routes(tags.listing, "pull"),
    "manifest": {
        **_read_routes(manifests.fetch, "pull"),
        "PUT": Route(manifests.push, "push"),
        "DELETE": Route(manifests.delete, "delete"),
    },
    "blob": {
        "GET": Route(blobs.fetch, "pull"),
        # HEAD usually precedes a push, and some clients use their first token for all of it.
        "HEAD": Route(blobs.head, "pull", asks="push"),
        "DELETE": Route(blobs.delete, "delete"),
    },
    "uploads": {"POST": Route(uploads.begin, "push")},
    "upload": {
        **_read_routes(uploads.status, "push"),
        "PATCH": Route(uploads.append, "push"),
        "PUT": Route(uploads.finish, "push"),
        # Ending a session needs only the right to push, which its start needed.
        "DELETE": Route(uploads.cancel, "push"),
    },
    "referrers": _read_routes(referrers.listing, "pull"),
}
"""Endpoint to method to route."""


KINDS: Final[Mapping[Endpoint, str]] = {
    endpoint: endpoint if endpoint in ("manifest", "blob", "upload") else ""
    for endpoint in ENDPOINTS
} | {"uploads": "upload"}
"""Endpoint to the kind of resource that it changes; empty if it changes none."""


def setup(app: web.Application) -> None:
    """Add ``/v2/`` and ``/token`` to an application that has STORE and SETTINGS.

    The application may be mounted under a prefix.
    """
    for path in ("/v2", f"/v2/{TAIL}"):
        route(app, path, _dispatch, API_VERSION)
    route(app, "/token", token)


def route(
    app: web.Application, path: str, answer: Answer, headers: Mapping[str, str] | None = None
) -> None:
    """Route all methods of a path to ``answer``, and turn its errors into responses.

    Every response gets ``headers``.
    """
    common_headers = headers or {}

    async def handle(request: web.Request) -> web.StreamResponse:
        return await _response_of(request, answer, common_headers)

    async def expected(request: web.Request) -> web.StreamResponse | None:
        try:
            await expect(request)
        except OciError as error:
            response = error.response()
            response.headers.update(common_headers)
            response.headers.setdefault("Cache-Control", NO_STORE)
            await settle(request, response)
            return response
        return None

    app.router.add_route("*", path, handle, expect_handler=expected)


async def unknown_endpoint(_request: web.Request) -> web.StreamResponse:
    """Raise the OciError of an unknown endpoint, status 404."""
    raise OciError("UNSUPPORTED", "no such endpoint", status=404)


async def _response_of(
    request: web.Request, answer: Answer, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Return the response of ``answer`` or of its error, and deal with an unread body."""
    try:
        response = await answer(request)
    except ConnectionError as error:
        # The client has disconnected: the response only closes the connection.
        _log.debug("%s %s: %s", request.method, request.path, error)
        response = OciError("UNAVAILABLE").response()
        response.force_close()
    except Exception as error:  # noqa: BLE001 - the outermost handler: log a bug, send a 500
        response = refusal(error, request.method, request.path)
    if not response.prepared:
        response.headers.update(headers)
        response.headers.setdefault("Cache-Control", NO_STORE)
    await settle(request, response)
    return response


def refusal(error: Exception, method: str, path: str) -> web.Response:
    """Return the response to a request that raised an error; log server errors."""
    if isinstance(error, OciError):
        response = error.response()
        if isinstance(error, BrokenBody):
            response.force_close()
        return response
    if isinstance(error, EngineError):
        if isinstance(error, Unusable):
            level = logging.ERROR if isinstance(error, Corrupt) else logging.WARNING
            _log.log(level, "%s %s: %s", method, path, error)
        answer = oci_error(error)
        if isinstance(error, Invalid) and answer.code == "NAME_INVALID":
            # Some clients probe with HEAD, whose response has no body: show the message here too.
            answer.headers |= warning(answer.message)
        return answer.response()
    _log.error("%s %s: unexpected error; sending 500", method, path, exc_info=error)
    return OciError("UNKNOWN").response()


def _prefix(request: web.Request) -> str:
    """Return the path at which the application is mounted, from its own route."""
    resource = request.match_info.route.resource
    assert resource is not None
    return resource.canonical.removesuffix("/{tail}").removesuffix("/v2")


async def _dispatch(request: web.Request) -> web.StreamResponse:
    """Find the endpoint, authenticate the caller, then call the handler."""
    prefix = _prefix(request)
    raw = request.rel_url.raw_path
    start = f"{prefix}/v2"
    # The router decodes paths: an escaped form of /v2 matches the route, but is no endpoint.
    rest = raw.removeprefix(start)
    target = parse_path(rest.removeprefix("/")) if raw.startswith(start) else None
    if target is None:
        return await unknown_endpoint(request)
    note_target(target.endpoint, KINDS[target.endpoint], name=target.name, id=target.item)
    methods = ENDPOINTS[target.endpoint]
    route = methods.get(request.method)
    if route is None:
        raise OciError("UNSUPPORTED", headers={"Allow": ", ".join(methods)})
    store, settings = request.app[STORE], request.app[SETTINGS]
    origin = origin_of(request, settings)
    note_region(origin.region)
    note_namespace(origin.region, target.name.partition("/")[0])
    gate = Gate(store, settings, origin, prefix)
    try:
        caller = await identify(request, store, origin.region)
    except Unauthenticated as error:
        scope = requested_scope(request, target, route)
        raise gate.unauthorized(str(error), scope=scope, error=error.advice) from error
    set_read_owner(caller.key, "" if caller.key else client_address(request, settings))
    if wait := note_key(caller.key):
        raise too_many(wait, "too many requests with this key")
    exchange = Exchange(request, gate, caller, target, route)
    response = await route.handler(exchange)
    if request.method in ("GET", "HEAD") and not response.prepared:
        response = selected(exchange.condition, response)
    # Files and streams pay for bandwidth as they are sent; a body in memory is paid for here.
    if (moving := flow()) is not None and request.method == "GET" and not response.prepared:
        await moving.turn(response.content_length or 0)
    return response
