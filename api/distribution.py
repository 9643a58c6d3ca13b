"""The OCI Distribution API: one dispatcher from raw paths to endpoints, and the token service.

OCI distribution-spec, "Endpoints"; the Docker registry's ``_catalog``; extensions under ``_oci``
and ``_holdfast``. Every request is answered here: errors of the engine become OCI errors by the
table in ``oci_errors``, and no input leads to a 500.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from holdfast.engine import Corrupt, EngineError, Invalid, Unusable

from . import blobs, catalog, extensions, manifests, referrers, tags, uploads
from .access import Gate, Unauthenticated, identify
from .bodies import BrokenBody, expect, settle
from .context import SETTINGS, STORE
from .exchange import Exchange, Handler, json_response, warning
from .oci_errors import OciError, oci_error, too_many
from .origin import origin_of
from .token_service import token
from .trail import note_key, note_region, note_target
from .transfer import API_VERSION
from .v2_paths import Endpoint, parse_path

_log: Final = logging.getLogger(__name__)

_TAIL: Final = "{tail:(?s:.*)}"


async def ping(exchange: Exchange) -> web.StreamResponse:
    """``GET /v2/`` (end-1): 401 without valid credentials, where some clients learn the scheme."""
    if not exchange.caller.presented:
        raise exchange.gate.unauthorized()
    return json_response({})


ENDPOINTS: Final[Mapping[Endpoint, Mapping[str, Handler]]] = {
    "ping": {"GET": ping, "HEAD": ping},
    "catalog": {"GET": catalog.listing, "HEAD": catalog.listing},
    "registry_extensions": {"GET": extensions.of_registry, "HEAD": extensions.of_registry},
    "repository_extensions": {"GET": extensions.of_repository, "HEAD": extensions.of_repository},
    "exists": {"POST": extensions.exists},
    "tags": {"GET": tags.listing, "HEAD": tags.listing},
    "manifest": {
        "GET": manifests.fetch,
        "HEAD": manifests.fetch,
        "PUT": manifests.push,
        "DELETE": manifests.delete,
    },
    "blob": {"GET": blobs.fetch, "HEAD": blobs.head, "DELETE": blobs.delete},
    "uploads": {"POST": uploads.begin},
    "upload": {
        "GET": uploads.status,
        "HEAD": uploads.status,
        "PATCH": uploads.append,
        "PUT": uploads.finish,
        "DELETE": uploads.cancel,
    },
    "referrers": {"GET": referrers.listing, "HEAD": referrers.listing},
}
"""Endpoint to method to handler."""


_KINDS: Final[Mapping[Endpoint, str]] = {
    endpoint: endpoint if endpoint in ("manifest", "blob", "upload") else ""
    for endpoint in ENDPOINTS
} | {"uploads": "upload"}
"""Endpoint to what its changes are changes of."""


def setup(app: web.Application) -> None:
    """Add ``/v2/`` and ``/token`` to an application that has STORE and SETTINGS.

    The application may be mounted under a prefix.
    """
    # Both as patterns: one form of path, so that the prefix is found in one way.
    for path in ("/v2", f"/v2/{_TAIL}"):
        app.router.add_route("*", path, _v2, expect_handler=_expect)
    app.router.add_route("*", "/token", _token, expect_handler=_expect)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    try:
        await expect(request)
    except OciError as error:
        response = error.response()
        await settle(request, response)
        return response
    return None


async def _v2(request: web.Request) -> web.StreamResponse:
    return await _answered(request, _dispatch, API_VERSION)


async def _token(request: web.Request) -> web.StreamResponse:
    return await _answered(request, token, {})


async def _answered(
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """The handler's answer, or the error that it ended with; what is left of the body settled."""
    try:
        response = await handler(request)
    except OciError as error:
        response = error.response()
        if isinstance(error, BrokenBody):
            response.force_close()
    except Invalid as error:
        answer = oci_error(error)
        if answer.code == "NAME_INVALID":
            # Some clients probe with HEAD first, and give up without ever seeing a message.
            answer.headers |= warning(answer.message)
        response = answer.response()
    except EngineError as error:
        if isinstance(error, Unusable):
            level = logging.ERROR if isinstance(error, Corrupt) else logging.WARNING
            _log.log(level, "%s %s: %s", request.method, request.path, error)
        response = oci_error(error).response()
    except ConnectionError as error:
        # The client is gone in the middle of an answer: this one only ends the connection.
        _log.debug("%s %s: %s", request.method, request.path, error)
        response = OciError("UNAVAILABLE").response()
        response.force_close()
    except Exception:  # noqa: BLE001 - the edge: a bug is logged, and answered as one
        _log.exception("unexpected error in %s %s", request.method, request.path)
        response = OciError("UNKNOWN").response()
    if not response.prepared:
        response.headers.update(headers)
    await settle(request, response)
    return response


def _prefix(request: web.Request) -> str:
    """Where the application is mounted: what its own route's path begins with."""
    resource = request.match_info.route.resource
    assert resource is not None
    return resource.canonical.removesuffix("/{tail}").removesuffix("/v2")


async def _dispatch(request: web.Request) -> web.StreamResponse:
    """Find the endpoint, then the caller, then let the handler decide."""
    prefix = _prefix(request)
    raw = request.rel_url.raw_path
    start = f"{prefix}/v2"
    # An escaped way of writing the fixed part reaches this route too, and is no endpoint.
    rest = raw.removeprefix(start)
    target = parse_path(rest.removeprefix("/")) if raw.startswith(start) else None
    if target is None:
        raise OciError("UNSUPPORTED", "no such endpoint", status=404)
    note_target(target.endpoint, _KINDS[target.endpoint], name=target.name, id=target.item)
    methods = ENDPOINTS[target.endpoint]
    handler = methods.get(request.method)
    if handler is None:
        raise OciError("UNSUPPORTED", headers={"Allow": ", ".join(methods)})
    store, settings = request.app[STORE], request.app[SETTINGS]
    origin = origin_of(request, settings)
    note_region(origin.region)
    gate = Gate(store, settings, origin, prefix)
    try:
        caller = await identify(request, store, origin.region)
    except Unauthenticated as error:
        raise gate.unauthorized(str(error), error="invalid_token") from error
    if wait := note_key(caller.key):
        raise too_many(wait, "too many requests with this key")
    return await handler(Exchange(request, gate, caller, target))
