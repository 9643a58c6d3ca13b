"""The application: both APIs over one store, ready to stand alone or to hang inside another."""

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
from .telemetry.request_context import CURRENT

NO_STORE: Final = {"Cache-Control": "no-store"}

log = logging.getLogger("holdfast.app")


def create_app(store: Store, settings: AppSettings | None = None) -> web.Application:
    """An aiohttp application that serves ``store``.

    Run it as it is, or mount it: ``parent.add_subapp("/registry", create_app(store))``. Then the
    management API and the token service are below that prefix; docker wants ``/v2/`` at the root
    of a host, so give it a host or port of its own for pushes and pulls.

    The store has to be open while requests are served; the application does not close it.
    """
    app = web.Application()
    app[STORE] = store
    app[SETTINGS] = AppSettings() if settings is None else settings
    app.on_response_prepare.append(_name_request)
    distribution.route(app, "/healthz", _alive)
    distribution.route(app, "/readyz", _ready)
    distribution.setup(app)
    management.setup(app)
    distribution.route(app, f"/{distribution.TAIL}", distribution.nowhere, API_VERSION)
    return app


async def _name_request(_request: web.Request, response: web.StreamResponse) -> None:
    """Give each answer an X-Request-Id, and the name of its server without versions.

    A signal costs less than a middleware around each call.
    """
    trail = CURRENT.get()
    name = str(uuid4()) if trail is None else trail.request_id
    response.headers.setdefault("X-Request-Id", name)
    response.headers["Server"] = SERVER


def _check_method(request: web.Request) -> None:
    if request.method not in ("GET", "HEAD"):
        raise OciError("UNSUPPORTED", headers={"Allow": "GET, HEAD"})


async def _alive(request: web.Request) -> web.Response:
    """The process answers."""
    _check_method(request)
    return web.Response(text="ok\n", headers=NO_STORE)


async def _ready(request: web.Request) -> web.Response:
    """The store answers, too, and files can be opened."""
    _check_method(request)
    try:
        await request.app[STORE].stats()
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except EngineError as error:
        log.warning("not ready: %s", error)
        return web.Response(text="the store does not answer\n", status=503, headers=NO_STORE)
    except OSError as error:
        log.warning("not ready: %s", error.strerror)
        return web.Response(text="no file can be opened\n", status=503, headers=NO_STORE)
    return web.Response(text="ok\n", headers=NO_STORE)
