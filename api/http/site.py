"""A listening socket of a worker, plain or with TLS, whose connections are of our kind."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.web_server import Server

from .connection import Connection
from .connection_limits import Admission

HANDSHAKE_SECONDS = 10.0
"""Longest time of a TLS handshake: two round trips, and what is lost of them."""

STOP_SECONDS: Final = 2.0
"""How long handshakes that run may take when no new ones are begun."""

AGAIN_SECONDS: Final = 1.0
"""Rest before the next attempt where the system has no descriptor for a new connection."""

BUSY: Final = 128
"""Connections of a process, above which each has a smaller buffer."""

BUFFER_BYTES: Final = 64 * 1024
"""The size of it. A body that is not read fast enough fills two of them, then waits."""

_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log: Final = logging.getLogger(__name__)


class Site(web.SockSite):
    """A listening socket whose connections ask an Admission first.

    With TLS they ask before the handshake, which costs a hundred times what a connection does.
    """

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
        self._admission = admission
        self._handshakes: set[asyncio.Task[None]] = set()
        self._acceptor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """As SockSite, with connections of our own."""
        await web.BaseSite.start(self)
        server = self._runner.server
        assert isinstance(server, Server)
        loop = asyncio.get_running_loop()
        options = {**server._kwargs, "admission": self._admission, "loop": loop}
        if self._ssl_context is not None:
            self._sock.setblocking(False)
            self._sock.listen(self._backlog)
            self._acceptor = loop.create_task(self._accept(server, options), name="accept")
            return
        unix = self._sock.family == socket.AF_UNIX
        make: Callable[..., Awaitable[asyncio.Server]]
        make = loop.create_unix_server if unix else loop.create_server
        self._server = await make(
            lambda: self._made(server, options), sock=self._sock, backlog=self._backlog
        )

    async def stop(self) -> None:
        """Accept nothing more; connections that are there go on, handshakes for a moment."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.cancel()
            await asyncio.wait([acceptor])
            self._sock.close()
        if self._handshakes:
            await asyncio.wait(self._handshakes, timeout=STOP_SECONDS)
            for handshake in self._handshakes:
                handshake.cancel()
        await super().stop()

    def _made(self, server: Server, options: dict[str, Any]) -> Connection:
        if len(server._connections) > BUSY:
            options = {**options, "read_bufsize": BUFFER_BYTES}
        return self._connection(server, options)

    def _connection(self, server: Server, options: dict[str, Any]) -> Connection:
        return Connection(server, **options)

    async def _accept(self, server: Server, options: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(self._sock)
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR:
                    _log.warning("no connection can be accepted: %s", error.strerror)
                    await asyncio.sleep(AGAIN_SECONDS)
                continue
            if self._admission.enter(peer) is not None:
                # What it speaks is not known yet: there is no way to say why.
                sock.close()
                continue
            handshake = loop.create_task(self._shake_hands(server, options, sock, peer))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    async def _shake_hands(
        self, server: Server, options: dict[str, Any], sock: socket.socket, peer: Any
    ) -> None:
        loop = asyncio.get_running_loop()
        made: list[Connection] = []

        def make() -> Connection:
            made.append(self._made(server, {**options, "peer": peer}))
            return made[0]

        try:
            await loop.connect_accepted_socket(
                make, sock, ssl=self._ssl_context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except (OSError, ssl.CertificateError) as error:
            self._admission.tell("failed_handshakes")
            _log.debug("a TLS handshake failed: %s", error)
        finally:
            # Once it was connected, the connection itself leaves.
            if not made or not made[0].was_made:
                self._admission.leave(peer)
            # From then on the socket is its transport's.
            if not made:
                sock.close()
