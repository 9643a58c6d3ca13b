"""Writes the access log of requests that aiohttp answers; ``fast.recorder`` writes the others."""

from __future__ import annotations

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from .http.app_keys import REQUEST_CONTEXT
from .telemetry.logs import AccessLine, log_access
from .telemetry.request_context import RequestContext


class AccessLogger(AbstractAccessLogger):
    """Writes the access log for requests that aiohttp handles."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line of one request."""
        context = request.get(REQUEST_CONTEXT) if isinstance(request, web.Request) else None
        line = line_of(
            request,
            context,
            status=response.status,
            size=response.body_length,
            seconds=time,
            request_id=response.headers.get("X-Request-Id", "-"),
        )
        log_access(self.logger, line)


def line_of(
    request: web.BaseRequest,
    context: RequestContext | None,
    *,
    status: int,
    size: int,
    seconds: float,
    request_id: str,
) -> AccessLine:
    """Return the line of a request that has ended."""
    return AccessLine(
        address=(context.address if context else request.remote) or "",
        method=request.method,
        path=request.rel_url.raw_path,
        version=f"HTTP/{request.version.major}.{request.version.minor}",
        status=status,
        size=size,
        seconds=seconds,
        agent=request.headers.get("User-Agent", ""),
        actor=context.actor if context else "",
        request_id=request_id,
    )
