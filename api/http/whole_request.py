"""A request that came whole past aiohttp, as far as handlers look at one."""

from __future__ import annotations

from aiohttp import web
from multidict import MultiMapping


class WholeRequest:
    """A request with all of its body. The names are those of ``web.Request``."""

    __slots__ = ("body", "content_length", "headers", "method", "path", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: MultiMapping[str],
        body: bytes,
        content_length: int | None,
    ) -> None:
        """``headers`` are looked up in any case. ``content_length`` is None for a chunked body,
        whose ``body`` is its content."""
        self.method = method
        self.path = path
        """Raw, without the query."""
        self.query = query
        """Raw."""
        self.headers = headers
        self.body = body
        self.content_length = content_length

    @property
    def body_exists(self) -> bool:
        """Whether there is one, be it empty."""
        return self.content_length != 0


IncomingRequest = web.Request | WholeRequest
"""What handlers get that need to know no more of a request than this."""
