"""The access log of what aiohttp answers; ``fast.recorder`` writes the others."""

from __future__ import annotations

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from .http.app_keys import TRAIL
from .telemetry.logs import AccessLine, log_access
from .telemetry.request_context import RequestContext


class AccessLogger(AbstractAccessLogger):
    """Writes the access log for requests that aiohttp handles."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """One request."""
        trail = request.get(TRAIL) if isinstance(request, web.Request) else None
        line = line_of(
            request,
            trail,
            status=response.status,
            size=response.body_length,
            seconds=time,
            request_id=response.headers.get("X-Request-Id", "-"),
        )
        log_access(self.logger, line)


def line_of(
    request: web.BaseRequest,
    trail: RequestContext | None,
    *,
    status: int,
    size: int,
    seconds: float,
    request_id: str,
) -> AccessLine:
    """What there is to say of a request that has ended."""
    return AccessLine(
        address=(trail.address if trail else request.remote) or "",
        method=request.method,
        path=request.rel_url.raw_path,
        version=f"HTTP/{request.version.major}.{request.version.minor}",
        status=status,
        size=size,
        seconds=seconds,
        agent=request.headers.get("User-Agent", ""),
        actor=trail.actor if trail else "",
        request_id=request_id,
    )
