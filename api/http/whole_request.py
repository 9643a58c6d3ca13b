"""A request that arrived whole, past aiohttp, with the attributes that handlers read."""

from __future__ import annotations

from aiohttp import web
from multidict import MultiMapping


class WholeRequest:
    """A request with its whole body. The names are those of ``web.Request``."""

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
        """``headers`` must ignore case. ``content_length`` is None for a chunked body; ``body`` is
        its content."""
        self.method = method
        self.path = path
        """Path as sent, not decoded, without the query."""
        self.query = query
        """Query as sent, not decoded."""
        self.headers = headers
        self.body = body
        self.content_length = content_length

    @property
    def body_exists(self) -> bool:
        """True if the request has a body, even an empty one."""
        return self.content_length != 0


IncomingRequest = web.Request | WholeRequest
"""Request of a handler that needs no more than these attributes."""
