"""A worker's listening socket, plain or with TLS, that makes ``Connection`` objects.

asyncio accepts plain connections; the connection itself asks for admission. With TLS this module
accepts, because a handshake costs a hundred times what a connection does, and must be admitted
first.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from .aiohttp_handler import AiohttpSite
from .connection import Connection
from .connection_limits import Admission

HANDSHAKE_SECONDS = 10.0
"""Longest time of a TLS handshake: two round trips, and their retransmissions."""

HANDSHAKE_STOP_SECONDS: Final = 2.0
"""Time in seconds for running handshakes to end after the site stopped accepting."""

ACCEPT_RETRY_SECONDS: Final = 1.0
"""Delay in seconds before the next accept after the system had no descriptor for a connection."""

BUSY_CONNECTIONS: Final = 128
"""Connections of a process above which a new one gets a smaller read buffer."""

BUSY_BUFFER_BYTES: Final = 64 * 1024
"""Bytes of that buffer. A body that is not read fast enough fills two of them, then waits."""

_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log: Final = logging.getLogger(__name__)


class Site(AiohttpSite):
    """A listening socket whose connections need admission."""

    def __init__(
        self,
        runner: web.AppRunner,
        sock: socket.socket,
        *,
        backlog: int,
        admission: Admission,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(runner, sock, backlog=backlog, ssl_context=tls)
        self._listener = sock
        self._tls = tls
        self._pending_max = backlog
        self._admission = admission
        self._handshakes: set[asyncio.Task[None]] = set()
        self._acceptor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to accept, as SockSite does, but make ``Connection`` objects."""
        await self.register()
        loop = asyncio.get_running_loop()
        options = {**self.handler_options, "admission": self._admission, "loop": loop}
        if self._tls is not None:
            self._listener.setblocking(False)
            self._listener.listen(self._pending_max)
            self._acceptor = loop.create_task(self._accept(options), name="accept")
            return
        unix = self._listener.family == socket.AF_UNIX
        make: Callable[..., Awaitable[asyncio.Server]]
        make = loop.create_unix_server if unix else loop.create_server
        self.close_with(
            await make(
                lambda: self._make_connection(options),
                sock=self._listener,
                backlog=self._pending_max,
            )
        )

    async def stop(self) -> None:
        """Stop accepting. Open connections go on; running handshakes get HANDSHAKE_STOP_SECONDS."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            # The loop must not wait for a socket that is closed, so the acceptor ends first.
            acceptor.cancel()
            await asyncio.wait([acceptor])
            self._listener.close()
        if self._handshakes:
            await asyncio.wait(self._handshakes, timeout=HANDSHAKE_STOP_SECONDS)
            for handshake in self._handshakes:
                handshake.cancel()
        await super().stop()

    def _make_connection(self, options: dict[str, Any]) -> Connection:
        if self.connection_count > BUSY_CONNECTIONS:
            options = {**options, "read_bufsize": BUSY_BUFFER_BYTES}
        return self._new_connection(options)

    def _new_connection(self, options: dict[str, Any]) -> Connection:
        return Connection(self.handlers, **options)

    async def _accept(self, options: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR:
                    _log.warning(
                        "accepting a connection failed: %s; retrying in %.0f s",
                        error.strerror,
                        ACCEPT_RETRY_SECONDS,
                    )
                    await asyncio.sleep(ACCEPT_RETRY_SECONDS)
                continue
            if self._admission.enter(peer) is not None:
                # No handshake yet, so there is no way to send a reason.
                sock.close()
                continue
            handshake = loop.create_task(self._handshake(options, sock, peer))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    async def _handshake(self, options: dict[str, Any], sock: socket.socket, peer: Any) -> None:
        loop = asyncio.get_running_loop()
        made: list[Connection] = []

        def make() -> Connection:
            made.append(self._make_connection({**options, "peer": peer}))
            return made[0]

        try:
            await loop.connect_accepted_socket(
                make, sock, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except (OSError, ssl.CertificateError) as error:
            self._admission.on_event("failed_handshakes")
            _log.debug("TLS handshake failed: %s", error)
        finally:
            # A connection that was made leaves by itself in ``connection_lost``.
            if not made or not made[0].was_made:
                self._admission.leave(peer)
            # A transport that was made owns the socket.
            if not made:
                sock.close()
