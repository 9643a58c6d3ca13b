"""Makes the application: both APIs over one store, to run alone or within another application."""

from __future__ import annotations

import logging
import os
from typing import Final
from uuid import uuid4

from aiohttp import web

from holdfast.engine import EngineError, Store

from .http.app_keys import SETTINGS, STORE
from .http.app_settings import SERVER, AppSettings
from .http.oci_errors import OciError
from .http.transfer import API_VERSION
from .management import app as management
from .oci import app as distribution
from .telemetry.request_record import CURRENT

NO_STORE: Final = {"Cache-Control": "no-store"}

log = logging.getLogger("holdfast.app")


def create_app(store: Store, settings: AppSettings | None = None) -> web.Application:
    """Return an aiohttp application that serves ``store``.

    Run it as it is, or mount it: ``parent.add_subapp("/registry", create_app(store))``. Then the
    management API and the token service are below that prefix. docker wants ``/v2/`` at the root of
    a host, so give it a host or port of its own for pushes and pulls.

    The caller opens the store before requests are served, and closes it.
    """
    app = web.Application()
    app[STORE] = store
    app[SETTINGS] = AppSettings() if settings is None else settings
    app.on_response_prepare.append(_set_headers)
    distribution.route(app, "/healthz", _alive)
    distribution.route(app, "/readyz", _ready)
    distribution.setup(app)
    management.setup(app)
    distribution.route(app, f"/{distribution.TAIL}", distribution.unknown_endpoint, API_VERSION)
    return app


async def _set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Set X-Request-Id and Server (without a version) on each answer.

    A signal costs less than a middleware around each call.
    """
    context = CURRENT.get()
    request_id = str(uuid4()) if context is None else context.request_id
    response.headers.setdefault("X-Request-Id", request_id)
    response.headers["Server"] = SERVER


def _check_method(request: web.Request) -> None:
    if request.method not in ("GET", "HEAD"):
        raise OciError("UNSUPPORTED", headers={"Allow": "GET, HEAD"})


async def _alive(request: web.Request) -> web.Response:
    """Answer that the process runs."""
    _check_method(request)
    return web.Response(text="ok\n", headers=NO_STORE)


async def _ready(request: web.Request) -> web.Response:
    """Answer if the store can be read and files can be opened."""
    _check_method(request)
    try:
        await request.app[STORE].stats()
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except EngineError as error:
        log.warning("readiness check failed: %s", error)
        return web.Response(text="the store does not answer\n", status=503, headers=NO_STORE)
    except OSError as error:
        log.warning("readiness check failed: cannot open a file: %s", error.strerror)
        return web.Response(text="no file can be opened\n", status=503, headers=NO_STORE)
    return web.Response(text="ok\n", headers=NO_STORE)
