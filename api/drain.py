"""Letting running requests finish before a process stops.

aiohttp's own shutdown stops reading from all connections at once, so an upload that runs could
never end. Here, first the requests end, whose connections close with their answers, and then
aiohttp is shut down.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler


class Drain:
    """Counts the running requests of one application, to wait for the last one."""

    def __init__(self) -> None:
        self._running = 0
        self._none_left: asyncio.Event | None = None

    def install(self, app: web.Application) -> None:
        """Watch an application, and all within it. Call it before the application runs."""

        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._running += 1
            try:
                return await handler(request)
            finally:
                self._running -= 1
                if self._running == 0 and self._none_left is not None:
                    self._none_left.set()

        app.middlewares.insert(0, count)
        app.on_response_prepare.append(self._close_connection)

    async def wait(self, seconds: float) -> bool:
        """Wait until no request runs, at most so long; whether none runs. Call it once, when no
        new connections are accepted."""
        self._none_left = asyncio.Event()
        if self._running == 0:
            return True
        try:
            await asyncio.wait_for(self._none_left.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _close_connection(self, _request: web.Request, response: web.StreamResponse) -> None:
        if self._none_left is not None:
            response.force_close()
