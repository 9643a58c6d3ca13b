"""The access log of what aiohttp answers; the fast lane writes its own lines (``fast_watch``)."""

from __future__ import annotations

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from .app_keys import TRAIL
from .logs import AccessLine, log_access


class AccessLogger(AbstractAccessLogger):
    """Writes the access log for requests that aiohttp handles."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """One request."""
        trail = request.get(TRAIL) if isinstance(request, web.Request) else None
        line = AccessLine(
            address=(trail.address if trail else request.remote) or "",
            method=request.method,
            path=request.rel_url.raw_path,
            version=f"HTTP/{request.version.major}.{request.version.minor}",
            status=response.status,
            size=response.body_length,
            seconds=time,
            agent=request.headers.get("User-Agent", ""),
            actor=trail.actor if trail else "",
            request_id=response.headers.get("X-Request-Id", "-"),
        )
        log_access(self.logger, line)
