"""Lets running requests finish before a process stops.

aiohttp's own shutdown stops reading from all connections at once, so a running upload could never
end. Here the requests end first, each answer closing its connection, and aiohttp is shut down
afterwards. A connection that was accepted a moment ago gets its first answer too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from .aiohttp_handler import AiohttpHandler

FIRST_REQUEST_SECONDS: Final = 2.0
"""Time in seconds for a new connection to send its request: a round trip, and one that is lost. A
client that connects without a request (a port scan, a browser that preconnects) delays a stop by
no more."""


class Drain:
    """Counts the running requests of one application, and waits for the last one."""

    def __init__(self) -> None:
        self._running = 0
        self._none_left: asyncio.Event | None = None

    def install(self, app: web.Application) -> None:
        """Count the requests of an application and its sub-applications. Call it before it runs."""

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
        """Count a request that begins."""
        self._running += 1

    def end(self) -> None:
        """Count a request that has ended."""
        self._running -= 1
        if self._running == 0 and self._none_left is not None:
            self._none_left.set()

    async def wait(self, seconds: float, handlers: Callable[[], Iterable[object]] = tuple) -> bool:
        """Wait until no request runs, at most ``seconds``. Return True if none runs.

        Call it once, after the last accept; ``handlers`` returns those of the open connections.
        """
        none_left = self._none_left = asyncio.Event()
        started = asyncio.get_running_loop().time()
        # Accepting a connection and its first callback take two turns of the loop.
        await asyncio.sleep(0)
        waiting = [
            asyncio.create_task(handler.owner.lost())
            for handler in handlers()
            if isinstance(handler, AiohttpHandler) and handler.may_have_request
        ]
        if waiting:
            _, silent = await asyncio.wait(waiting, timeout=min(seconds, FIRST_REQUEST_SECONDS))
            for task in silent:
                task.cancel()
        if self._running == 0:
            return True
        # A request that began and ended during the wait above has set the event.
        none_left.clear()
        try:
            spent = asyncio.get_running_loop().time() - started
            await asyncio.wait_for(none_left.wait(), seconds - spent)
        except TimeoutError:
            return False
        return True

    async def _close_connection(self, _request: web.Request, response: web.StreamResponse) -> None:
        if self._none_left is not None:
            response.force_close()
            # aiohttp set this header before the signal (RFC 9112 section 9.6).
            response.headers["Connection"] = "close"
