"""The management API: its routes, and the checks of every request.

Order of checks: key (401), region (404), permission (403), path, query and body (400, 413), then
the operation. The first three read no object, so their responses reveal nothing about one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from uuid import UUID

import msgspec
from aiohttp import hdrs, web

from holdfast.api.http.app_keys import SETTINGS, STORE
from holdfast.api.http.connection import connection_of
from holdfast.api.http.origin import origin_of
from holdfast.api.http.read_owner import set_read_owner
from holdfast.api.telemetry.request_record import note_key, note_object, note_region, note_target
from holdfast.engine import Corrupt, EngineError, Key, Unusable

from .body import expect, read_body
from .errors import (
    ApiError,
    InternalError,
    MethodNotAllowed,
    TooManyRequests,
    Unavailable,
    denied,
    error_of,
    not_found,
    too_many,
)
from .login import AUTH_HEADER, authenticate
from .openapi import document
from .operation import AnyOperation, Call, Nothing
from .operations import OPERATIONS
from .parameters import parse_body, parse_query, parse_uuid

DOCUMENT_PATH: Final = "/openapi.json"

HEADERS: Final = {
    # Without parameters: Scaleway's JavaScript client compares the whole value.
    hdrs.CONTENT_TYPE: "application/json",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Content-Type-Options": "nosniff",
}

logger = logging.getLogger("holdfast.api")
_encode: Final = msgspec.json.Encoder().encode

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def setup(app: web.Application) -> None:
    """Add the routes. ``app`` must have STORE and SETTINGS before it serves."""
    paths: dict[str, dict[str, AnyOperation]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = operation
    for path, methods in paths.items():
        app.router.add_route("*", path, _path_handler(methods), expect_handler=expect)
    app.router.add_route("*", DOCUMENT_PATH, _document_handler(app), expect_handler=expect)
    for prefix in ("/registry", "/holdfast"):
        for path in (prefix, prefix + "/{tail:.*}"):
            app.router.add_route("*", path, _unknown_route, expect_handler=expect)


def _path_handler(methods: Mapping[str, AnyOperation]) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        # HEAD is GET without the body (RFC 9110, section 9.3.2); aiohttp leaves the body out.
        method = hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method
        operation = methods.get(method)
        if operation is None:
            return _not_allowed(methods)
        return await _answer(operation, request)

    return handle


def _document_handler(app: web.Application) -> _Handler:
    rendered: list[bytes] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            return _not_allowed((hdrs.METH_GET,))
        if not rendered:
            base = request.path.removesuffix(DOCUMENT_PATH) or "/"
            rendered.append(_encode(document(OPERATIONS, app[SETTINGS].regions, base)))
        return web.Response(body=rendered[0], headers=HEADERS)

    return handle


async def _unknown_route(request: web.Request) -> web.StreamResponse:
    return _error_response(not_found("route", request.path))


async def _answer(operation: AnyOperation, request: web.Request) -> web.StreamResponse:
    """Handle a request; turn every failure into a typed body."""
    try:
        call = await _parse_call(operation, request)
        answer = await _run(operation, request, call)
        if operation.writes:  # for the audit log
            _note_answer(answer)
        return _response(200, answer)
    except ApiError as error:
        return _error_response(error)
    except ConnectionError as error:
        # The client has disconnected: the response only closes the connection.
        logger.debug("%s: %s", operation.id, error)
        response = _error_response(ApiError(Unavailable(message="the client has disconnected")))
        response.force_close()
        return response
    except EngineError as error:
        refusal = error_of(error)
        if isinstance(error, Unusable):
            level = logging.ERROR if isinstance(error, Corrupt) else logging.WARNING
            logger.log(level, "%s failed: %s", operation.id, error)
        elif isinstance(refusal.body, InternalError):
            logger.exception("%s failed", operation.id)
        return _error_response(refusal)
    except Exception:
        logger.exception("%s failed", operation.id)
        return _error_response(ApiError(InternalError()))


async def _run(
    operation: AnyOperation, request: web.Request, call: Call[Any, Any]
) -> msgspec.Struct:
    """Run the operation. Raises ConnectionError if it was cancelled with its client."""
    connection = connection_of(request)
    handling = operation.handler(call)
    if operation.ends_with_client and connection is not None:
        return await connection.while_connected(handling)
    return await handling


async def _parse_call(operation: AnyOperation, request: web.Request) -> Call[Any, Any]:
    store, settings = request.app[STORE], request.app[SETTINGS]
    path = request.match_info
    _note_request(operation, path)
    key = await authenticate(store, request.headers.get(AUTH_HEADER))
    set_read_owner(key)
    if wait := note_key(key):
        raise too_many(wait, "too many requests with this key")
    region = path.get("region", "")
    if region and region not in settings.regions:
        raise not_found("region", region)
    _check_permission(operation, key)
    ids, names = _path_parameters(path)
    query = parse_query(operation.query, request.query)
    # Scaleway's Python client sends a body with every method; an undeclared one is not read.
    raw = b"" if operation.body is Nothing else await read_body(request)
    origin = origin_of(request, settings)
    return Call(
        store=store,
        settings=settings,
        key=key,
        organization_id=settings.organization_id or key.organization_id,
        scheme=origin.scheme,
        host=origin.host,
        region=region,
        ids=ids,
        names=names,
        query=query,
        body=parse_body(operation.body, raw),
    )


def _path_parameters(path: Mapping[str, str]) -> tuple[dict[str, UUID], dict[str, str]]:
    ids: dict[str, UUID] = {}
    names: dict[str, str] = {}
    for name, text in path.items():
        if name.endswith("_id"):
            ids[name] = parse_uuid(name, text)
        else:
            names[name] = text
    return ids, names


def _check_permission(operation: AnyOperation, key: Key) -> None:
    if operation.owner and key.project_id is not None:
        raise denied("registry", "administrate")
    if operation.writes and key.permission != "full":
        raise denied("registry", "write")


def _response(status: int, body: msgspec.Struct) -> web.Response:
    return web.Response(status=status, body=_encode(body), headers=HEADERS)


def _error_response(refusal: ApiError) -> web.Response:
    response = _response(refusal.status, refusal.body)
    if isinstance(refusal.body, TooManyRequests):
        response.headers[hdrs.RETRY_AFTER] = str(refusal.body.reset_seconds)
    return response


def _note_request(operation: AnyOperation, path: Mapping[str, str]) -> None:
    """Note the target of the request: the last object of its path, or the kind it lists."""
    names = [name for name in path if name != "region"]
    kind = operation.path.rpartition("/")[2].removesuffix("s")
    if names:
        kind = names[-1].removesuffix("_id").removeprefix("access_")
    note_region(path.get("region", ""))
    object_id = path[names[-1]] if names else ""
    note_target(operation.path, kind, action=operation.id, id=object_id)


def _note_answer(answer: msgspec.Struct) -> None:
    """Note the object that was created or changed; never the secret of a new key."""
    object_id = getattr(answer, "id_", None) or getattr(answer, "access_key", "")
    note_object(str(object_id), getattr(answer, "name", ""))


def _not_allowed(methods: Mapping[str, AnyOperation] | tuple[str, ...]) -> web.Response:
    response = _error_response(ApiError(MethodNotAllowed()))
    allowed = set(methods) | ({hdrs.METH_HEAD} if hdrs.METH_GET in methods else set())
    response.headers[hdrs.ALLOW] = ", ".join(sorted(allowed))
    return response
