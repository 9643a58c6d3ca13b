"""A registry behind a socket of its own, with and without the fast lane, and requests sent to it
byte for byte."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import uvloop
from aiohttp import web

from holdfast.api import AppSettings, create_app
from holdfast.api.fast.connection import FastSite
from holdfast.api.fast.heads import Peer
from holdfast.api.fast.reads import FastReads
from holdfast.api.fast.records import Answer
from holdfast.api.http.connection_limits import Admission, ConnectionLimits
from holdfast.api.http.drain import Drain
from holdfast.api.http.site import Site
from holdfast.engine import Store

SECONDS: Final = 20
"""Until a test gives up on an answer."""

LAST: Final = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
"""A request that the fast lane leaves to others, after which the connection ends."""

LOOPS: Final = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

_PASSING: Final = re.compile(rb"\r\n(?:Date: [^\r]*|X-Request-Id: [0-9a-f-]{36}(?=\r\n))")

HOUSE: Final = ConnectionLimits(total=1000, of_address=0, of_process=1000)
"""More than any test asks for."""


class CountingLane(FastReads):
    """A fast lane that says how often it answered, and how often it did not."""

    answered = 0
    declined = 0
    written = 0
    """Pushes that were answered."""

    def answer(self, head: bytes, peer: Peer) -> Answer | bytes | None:
        answer = super().answer(head, peer)
        if answer is None:
            self.declined += 1
        else:
            self.answered += 1
        return answer

    def render(self, response: web.Response) -> tuple[bytes, bytes]:
        self.written += 1
        return super().render(response)


@asynccontextmanager
async def serving(
    store: Store,
    *,
    lane: FastReads | None = None,
    settings: AppSettings | None = None,
    house: ConnectionLimits = HOUSE,
    keepalive_timeout: float = 75,
    tls: ssl.SSLContext | None = None,
    path: Path | None = None,
    prepare: Callable[[web.Application], None] | None = None,
    **options: Any,
) -> AsyncIterator[int]:
    """Serve a store on a port of loopback, or a unix socket at ``path``, as a worker does."""
    options.setdefault("access_log", None)
    app = create_app(store, settings)
    if prepare is not None:
        prepare(app)
    runner = web.AppRunner(app, shutdown_timeout=1, keepalive_timeout=keepalive_timeout, **options)
    await runner.setup()
    if path is None:
        sock = socket.create_server(("127.0.0.1", 0))
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
    limits: dict[str, Any] = {"backlog": 128, "admission": Admission(house), "tls": tls}
    site = FastSite(runner, sock, lane, Drain(), **limits) if lane else Site(runner, sock, **limits)
    await site.start()
    try:
        yield sock.getsockname()[1] if path is None else 0
    finally:
        await runner.cleanup()


class Client:
    """One connection, on which everything that was sent and received counts.

    A bare socket: a stream would forget what it received when the server resets the connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self.step = 1 << 18
        """How much is received at once."""

    async def send(self, *pieces: bytes) -> None:
        """Send, with a chance for the server between the pieces to read them one by one.

        Raises ConnectionError where the server has ended the connection.
        """
        for piece in pieces:
            await self._loop.sock_sendall(self.sock, piece)
            for _ in range(5):
                await asyncio.sleep(0)

    def end(self) -> None:
        """End our side."""
        self.sock.shutdown(socket.SHUT_WR)

    async def answer(self, *, head: bool = False) -> bytes:
        """One answer; what there is of it when the server ends the connection."""
        end = -1
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if not await self.more():
                return self._take(len(self._received))
        lines = bytes(self._received[: end + 4])
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", lines.lower())
        bare = length is None or head or lines[9:12] in (b"304", b"204", b"100")
        whole = len(lines) + (0 if bare or length is None else int(length[1]))
        while len(self._received) < whole and await self.more():
            pass
        return self._take(whole)

    async def rest(self) -> bytes:
        """All that comes until the server ends the connection."""
        while await self.more():
            pass
        return self._take(len(self._received))

    async def more(self) -> bool:
        """Receive something. False when the server has ended the connection."""
        try:
            data = await self._loop.sock_recv(self.sock, self.step)
        except ConnectionError:
            data = b""
        self._received += data
        return bool(data)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken


@asynccontextmanager
async def connected(
    port: int, *, source: str = "127.0.0.1", buffer: int = 0
) -> AsyncIterator[Client]:
    """A connection; what is done with it must not take longer than SECONDS.

    ``source`` is the address that it comes from, ``buffer`` the size of what it can receive
    before anybody reads.
    """
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.bind((source, 0))
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        async with asyncio.timeout(SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            yield Client(sock)


class TlsClient(Client):
    """A connection under TLS, which has no end of one side only."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(writer.get_extra_info("socket"))
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send each piece in a record of its own."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            for _ in range(5):
                await asyncio.sleep(0)

    async def more(self) -> bool:
        """Receive something. False when the server has ended the connection."""
        data = await self._reader.read(self.step)
        self._received += data
        return bool(data)


@asynccontextmanager
async def connected_by_tls(port: int, context: ssl.SSLContext) -> AsyncIterator[Client]:
    """A connection under TLS; what is done with it must not take longer than SECONDS."""
    async with asyncio.timeout(SECONDS):
        streams = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        try:
            yield TlsClient(*streams)
        finally:
            streams[1].close()


@asynccontextmanager
async def connected_by_path(path: Path) -> AsyncIterator[Client]:
    """A connection to a unix socket; what is done with it must not take longer than SECONDS."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        async with asyncio.timeout(SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, str(path))
            yield Client(sock)


async def exchange(port: int, pieces: Sequence[bytes], heads: Sequence[bool]) -> list[bytes]:
    """The answers to what the pieces hold, as many as ``heads`` (whether each is to a HEAD); then
    all that follows LAST, which shows that the connection is where it should be. Passing things
    are masked."""
    async with connected(port) as client:
        answers = []
        try:
            await client.send(*pieces)
            answers = [await client.answer(head=head) for head in heads]
            await client.send(LAST)
        except ConnectionError:
            # The server ended the connection, and said so before.
            pass
        answers.append(await client.rest())
    return [masked(answer) for answer in answers]


def masked(answer: bytes) -> bytes:
    """An answer without the time and the name of the request."""
    return _PASSING.sub(b"\r\n-", answer)


def request(line: str, *headers: str) -> bytes:
    """A request without a body; ``Host: localhost`` comes first unless a host is given."""
    lines = list(headers)
    if not any(header.lower().startswith("host:") for header in headers):
        lines.insert(0, "Host: localhost")
    return "\r\n".join((line, *lines, "", "")).encode("latin-1")
