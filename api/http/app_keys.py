"""Keys of the application and its requests: the store, the settings, the request's context.

A sub-application has its own store and settings, so handlers read them from ``request.app``, never
from the root application.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from holdfast.api.telemetry.request_record import RequestRecord
from holdfast.engine import Store

from .app_settings import AppSettings

STORE: Final = web.AppKey("holdfast.store", Store)
"""The store an application serves. The application neither opens nor closes it."""

REQUEST_RECORD: Final = web.RequestKey("holdfast.request", RequestRecord)
"""The request's context, for the access log."""

SETTINGS: Final = web.AppKey("holdfast.settings", AppSettings)
