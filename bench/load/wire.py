"""HTTP/1.1 from the client's side, as cheap as Python can: one reused buffer a process, no copies.

Bodies are counted, and hashed or kept only where asked. It does what a bench needs, and raises
WireError on everything else.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

BUFFER_BYTES: Final = 512 * 1024
"""Half of it makes a pull of one stream slower, twice as much no faster."""

_BUFFER: Final = memoryview(mmap.mmap(-1, BUFFER_BYTES + mmap.PAGESIZE))
"""Where the kernel puts what arrives, on any connection: it is used up before the next read."""

HEAD_BYTES_MAX: Final = 64 * 1024
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024
"""The longest body that is kept: a list of a million tags is about 20 MB."""

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 120.0
"""A server that is silent for so long counts as broken."""


class WireError(Exception):
    """The other side broke the protocol or the connection. The text is one line."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is."""

    host: str
    port: int
    tls: bool = False

    @property
    def authority(self) -> str:
        """``host:port``, as a Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(slots=True)
class Answer:
    """What came back."""

    status: int
    head: bytes
    size: int = 0
    """Bytes of the body."""

    body: bytes = b""
    """The body, where it was to be kept."""

    digest: str = ""
    """Its sha256 digest, where it was to be hashed."""

    def header(self, name: str) -> str:
        """The first header of that name, or ''."""
        wanted = name.lower().encode() + b":"
        for line in self.head.split(b"\r\n")[1:]:
            if line[: len(wanted)].lower() == wanted:
                return line[len(wanted) :].strip().decode("latin-1")
        return ""


class Connection(asyncio.BufferedProtocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._head = bytearray()
        self._answer: Answer | None = None
        self._remaining = 0
        self._chunked: bytearray | None = None
        self._until_close = False
        self._bodyless = False
        self._at = 0
        self._keep = False
        self._kept = bytearray()
        self._hasher: Any = None
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop has connected."""
        # uvloop's transports have the methods, but not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=256 * 1024)

    def connection_lost(self, exc: Exception | None) -> None:
        """Either side has closed."""
        self.usable = False
        self._writable.set()
        if self._until_close and self._answer is not None and exc is None:
            self._finish()
        else:
            self._fail(f"the connection was lost: {exc or 'closed by the server'}")

    def pause_writing(self) -> None:
        """Enough is buffered."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on sending."""
        self._writable.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put what arrives.

        A body goes to the offset in a page that it has in its file: else, after a head of an odd
        length in the same read, the kernel copies at a third of the speed.
        """
        self._at = 0 if self._answer is None else self._answer.size % mmap.PAGESIZE
        return _BUFFER[self._at : self._at + BUFFER_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Something arrived."""
        try:
            self._take(_BUFFER[self._at : self._at + nbytes])
        except WireError as error:
            self.close()
            self._fail(str(error))

    def close(self) -> None:
        """Give the connection up."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    async def exchange(
        self,
        head: bytes,
        body: Sequence[bytes],
        *,
        chunked: bool,
        bodyless: bool,
        keep: bool,
        digest: bool,
    ) -> Answer:
        """Send a request and wait for its answer. Raises WireError."""
        assert self._transport is not None
        assert self._waiter is None, "one request at a time"
        self._waiter = asyncio.get_running_loop().create_future()
        self._head.clear()
        self._kept.clear()
        self._answer = None
        self._until_close = False
        self._chunked = None
        self._bodyless = bodyless
        self._keep = keep
        self._hasher = hashlib.sha256() if digest else None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._send(head, body, chunked)
                return await self._waiter
        except TimeoutError:
            self.close()
            raise WireError(f"no answer within {ANSWER_SECONDS:.0f} s") from None
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None

    async def _send(self, head: bytes, body: Sequence[bytes], chunked: bool) -> None:
        assert self._transport is not None
        assert self._waiter is not None
        if len(body) == 1 and len(body[0]) <= 64 * 1024 and not chunked:
            self._transport.write(head + body[0])
            return
        self._transport.write(head)
        for piece in body:
            await self._writable.wait()
            if self._waiter.done():
                self.usable = False  # it answered before it had everything
                return
            if chunked:
                self._transport.writelines((f"{len(piece):x}\r\n".encode(), piece, b"\r\n"))
            else:
                self._transport.write(piece)
        if chunked:
            self._transport.write(b"0\r\n\r\n")

    def _take(self, data: memoryview) -> None:
        if self._waiter is None or self._waiter.done():
            raise WireError("the server sent more than an answer")
        if self._answer is None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > HEAD_BYTES_MAX:
                    raise WireError("the answer's head is too long")
                return
            rest = bytes(self._head[end + 4 :])
            self._answer = self._begin(bytes(self._head[:end]))
            if self._answer is None:
                self._head.clear()
                if rest:
                    self._take(memoryview(rest))
                return
            data = memoryview(rest)
        if self._chunked is not None:
            self._take_chunked(data)
            return
        if data:
            self._consume(data)
        if not self._until_close:
            self._remaining -= len(data)
            if self._remaining < 0:
                raise WireError("the body is longer than its Content-Length")
            if self._remaining == 0:
                self._finish()

    def _begin(self, head: bytes) -> Answer | None:
        """Read a head; None where it only announces the real answer (100 Continue)."""
        parts = head.split(b" ", 2)
        if not head.startswith(b"HTTP/1.") or len(parts) < 2 or not parts[1][:3].isdigit():
            raise WireError(f"this is not HTTP: {head[:40]!r}")
        status = int(parts[1][:3])
        if status < 200:
            return None
        answer = Answer(status, head)
        self._remaining = 0
        if answer.header("Connection").lower() == "close":
            self.usable = False
        if not (self._bodyless or status in (204, 304)):
            length = answer.header("Content-Length")
            if "chunked" in answer.header("Transfer-Encoding").lower():
                self._chunked = bytearray()
            elif length.isdigit():
                self._remaining = int(length)
            else:
                self._until_close = True
        return answer

    def _take_chunked(self, data: memoryview) -> None:
        """Chunks are joined before they are used: only lists come so, never large blobs."""
        assert self._chunked is not None
        self._chunked += data
        buffer = self._chunked
        while True:
            line = buffer.find(b"\r\n")
            if line < 0:
                return
            try:
                length = int(bytes(buffer[:line]).partition(b";")[0], 16)
            except ValueError:
                raise WireError("bad chunk length") from None
            if len(buffer) < line + 2 + length + 2:
                return
            if length:
                with memoryview(buffer)[line + 2 : line + 2 + length] as chunk:
                    self._consume(chunk)
            del buffer[: line + 2 + length + 2]
            if not length:
                self._finish()
                return

    def _consume(self, data: memoryview) -> None:
        assert self._answer is not None
        self._answer.size += len(data)
        if self._hasher is not None:
            self._hasher.update(data)
        if self._keep:
            if self._answer.size > KEPT_BYTES_MAX:
                raise WireError(f"a body of over {KEPT_BYTES_MAX} bytes where none was expected")
            self._kept += data

    def _finish(self) -> None:
        answer = self._answer
        assert answer is not None
        if self._keep:
            answer.body = bytes(self._kept)
        if self._hasher is not None:
            answer.digest = f"sha256:{self._hasher.hexdigest()}"
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)

    def _fail(self, text: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(WireError(text))


class Client:
    """Requests to one server over one connection, opened again when the server closed it."""

    def __init__(self, address: Address, authorization: str = "") -> None:
        self.address = address
        self._context = ssl.create_default_context() if address.tls else None
        self._common = f"Host: {address.authority}\r\nUser-Agent: holdfast-bench\r\n"
        if authorization:
            self._common += f"Authorization: {authorization}\r\n"
        self._connection: Connection | None = None
        self.requests = 0
        """Requests sent so far."""

    async def connect(self) -> Connection:
        """The connection, opened where there is none. Raises WireError."""
        if self._connection is not None and self._connection.usable:
            return self._connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    Connection, self.address.host, self.address.port, ssl=self._context
                )
        except (OSError, TimeoutError) as error:
            raise WireError(f"cannot connect to {self.address.authority}: {error}") from error
        self._connection = connection
        return connection

    async def request(
        self,
        method: str,
        target: str,
        headers: str = "",
        body: Sequence[bytes] | None = None,
        *,
        chunked: bool = False,
        keep: bool = False,
        digest: bool = False,
    ) -> Answer:
        """One request. ``headers`` are whole lines, each with its CRLF. Raises WireError."""
        connection = await self.connect()
        self.requests += 1
        pieces = () if body is None else body
        if chunked:
            headers += "Transfer-Encoding: chunked\r\n"
        elif body is not None or method in ("POST", "PUT", "PATCH"):
            headers += f"Content-Length: {sum(map(len, pieces))}\r\n"
        head = f"{method} {target} HTTP/1.1\r\n{self._common}{headers}\r\n".encode("latin-1")
        return await connection.exchange(
            head,
            pieces,
            chunked=chunked,
            bodyless=method == "HEAD",
            keep=keep,
            digest=digest,
        )

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
