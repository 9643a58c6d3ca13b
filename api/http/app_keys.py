"""What every handler needs: the store, and how this application presents itself to clients.

Both hang on the application under typed keys. A sub-application has its own pair, so handlers
read them from ``request.app``, never from the root application.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from holdfast.api.telemetry.request_context import RequestContext
from holdfast.engine import Store

from .app_settings import AppSettings

STORE: Final = web.AppKey("holdfast.store", Store)
"""The store an application serves. The application neither opens nor closes it."""

TRAIL: Final = web.RequestKey("holdfast.trail", RequestContext)
"""What is known of a request, for the access log."""

SETTINGS: Final = web.AppKey("holdfast.settings", AppSettings)
