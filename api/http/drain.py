"""Letting running requests finish before a process stops.

aiohttp's own shutdown stops reading from all connections at once, so an upload that runs could
never end. Here, first the requests end, whose connections close with their answers, and then
aiohttp is shut down. A connection that was accepted a moment ago gets its first answer too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from .connection import Connection

FIRST_REQUEST_SECONDS: Final = 2.0
"""How long a new connection may take to send its request: a round trip, and one that is lost.
Who connects without asking anything (a port scan, a browser that looks ahead) holds up a stop no
longer than this."""


class Drain:
    """Counts the running requests of one application, to wait for the last one."""

    def __init__(self) -> None:
        self._running = 0
        self._none_left: asyncio.Event | None = None

    def install(self, app: web.Application) -> None:
        """Watch an application, and all within it. Call it before the application runs."""

        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.begin()
            try:
                return await handler(request)
            finally:
                self.end()

        app.middlewares.insert(0, count)
        app.on_response_prepare.append(self._close_connection)

    def begin(self) -> None:
        """A request runs, until ``end``."""
        self._running += 1

    def end(self) -> None:
        """It ended."""
        self._running -= 1
        if self._running == 0 and self._none_left is not None:
            self._none_left.set()

    async def wait(
        self, seconds: float, connections: Callable[[], Iterable[object]] = tuple
    ) -> bool:
        """Wait until no request runs, at most so long; whether none runs. Call it once, when no
        new connections are accepted; ``connections`` are those that were."""
        none_left = self._none_left = asyncio.Event()
        begun = asyncio.get_running_loop().time()
        # The accept call and the connection's first callback are two turns of the loop.
        await asyncio.sleep(0)
        owed = [
            asyncio.create_task(connection.lost())
            for connection in connections()
            if isinstance(connection, Connection) and connection.is_owed
        ]
        if owed:
            _, silent = await asyncio.wait(owed, timeout=min(seconds, FIRST_REQUEST_SECONDS))
            for each in silent:
                each.cancel()
        if self._running == 0:
            return True
        none_left.clear()
        try:
            spent = asyncio.get_running_loop().time() - begun
            await asyncio.wait_for(none_left.wait(), seconds - spent)
        except TimeoutError:
            return False
        return True

    async def _close_connection(self, _request: web.Request, response: web.StreamResponse) -> None:
        if self._none_left is not None:
            response.force_close()
            # aiohttp has made its headers already (RFC 9112 section 9.6).
            response.headers["Connection"] = "close"
