"""Receives a request body straight into reused buffers, past aiohttp's parser.

During the body this is the transport's protocol: the kernel writes into one buffer while threads
write and hash the others. Nothing is copied, except content that has to be taken out of the chunked
coding.

A buffer goes round: free, filling, full (its view waits in ``_full_views``), yielded, and free
again once BUFFERS_IN_FLIGHT later views were asked for. Reading pauses while no buffer has room.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import AsyncIterator, Callable
from typing import Final

from holdfast.engine import BUFFERS_IN_FLIGHT

from .chunked import BadChunk, Chunked
from .slow_clients import Pace

BUFFER_COUNT: Final = BUFFERS_IN_FLIGHT + 1
"""Buffers of a body: one is filled while the others are in use."""

BUFFER_BYTES: Final = 512 * 1024
"""Bytes of a buffer while few bodies are received."""

BUFFER_BYTES_MIN: Final = 64 * 1024

POOL_BYTES: Final = 32 * 1024 * 1024
"""Bytes of the buffers of all bodies of a process, beyond which new ones are smaller. With 64
bodies they come to twice as much, with 1000 to ten times."""

SCRATCH_BYTES: Final = 256 * 1024
"""Bytes of a chunked body that are received at once."""


class Buffers:
    """The buffers of one process, kept for later bodies up to ``POOL_BYTES``."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self._in_use = 0
        self.scratch = bytearray(SCRATCH_BYTES)
        """Buffer for chunked bodies, shared by all: its bytes are copied out before the next
        receives."""

    def take(self) -> memoryview:
        """Return a buffer; a smaller one while many are in use."""
        self._in_use += 1
        size = max(BUFFER_BYTES_MIN, min(BUFFER_BYTES, POOL_BYTES // self._in_use))
        while self._free:
            buffer = self._free.pop()
            if len(buffer) <= size:
                return buffer
        # Anonymous pages take no memory until bytes arrive, so a thousand slow uploads cost little.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        return memoryview(mmap.mmap(-1, 1 << size.bit_length() - 1, flags=flags))

    def give_back(self, buffer: memoryview) -> None:
        """Return a buffer to the pool, or free it if the pool is full."""
        self._in_use -= 1
        if (len(self._free) + self._in_use) * BUFFER_BYTES < POOL_BYTES:
            self._free.append(buffer)


class BodyReceiver(asyncio.BufferedProtocol):
    """One body: call ``start``, iterate over ``views`` once, and call ``close``."""

    def __init__(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        buffers: Buffers,
        *,
        length: int | None,
        complete: Callable[[int, bytes], None],
    ) -> None:
        """``length`` is None for chunked content.

        ``complete`` is called at the end of the body with its size and the bytes behind it, once
        ``protocol`` is the transport's again.
        """
        self._transport = transport
        self._protocol = protocol
        self._pool = buffers
        self._complete = complete
        self._pace = Pace()
        self._chunked = Chunked() if length is None else None
        self._bytes_left = length or 0
        self._backlog = b""
        """Bytes that are not stored yet: those from before the start, while buffers are full."""
        self._free: list[memoryview] = []
        self._filling: memoryview | None = None
        self._filled = 0
        """Bytes in the buffer that is being filled."""
        self._full_views: list[memoryview] = []
        """Views of content that are not yielded yet."""
        self._yielded: list[memoryview] = []
        """Buffers of the views that were yielded last."""
        self._full_buffers: list[memoryview] = []
        """Buffers of the views in ``_full_views``, in the same order."""
        self._waiter: asyncio.Future[None] | None = None
        self._paused = True
        """True if reading is paused until a buffer has room."""
        self._receiving = False
        """True while this is the transport's protocol."""
        self._error: Exception | None = None
        self.size = 0
        """Bytes of content received."""
        self.done = False
        """True if the body is complete."""

    def start(self, held: bytes) -> None:
        """Take over the transport. ``held`` are the bytes of the body that came already."""
        self._backlog = held
        self._free = [self._pool.take() for _ in range(BUFFER_COUNT)]
        self._receiving = True
        # A transport looks up its protocol's methods when it begins to read.
        self._transport.pause_reading()
        self._transport.set_protocol(self)
        self._receive_more()

    async def views(self) -> AsyncIterator[memoryview]:
        """Yield the content, a buffer at a time.

        A view stays valid until BUFFERS_IN_FLIGHT later ones were asked for, or the body is closed:
        a caller may work on some while it takes the next. Raises ConnectionError when the client is
        gone, BadChunk, and TimeoutError when it is too slow; all content from before is yielded
        first.
        """
        while True:
            # Threads may still work on the last views; older ones are done.
            while len(self._yielded) >= BUFFERS_IN_FLIGHT:
                self._free.append(self._yielded.pop(0))
            self._receive_more()
            # A partly filled buffer is yielded only at the end: until then more bytes may fill it.
            if not self._full_views and (self.done or self._error is not None):
                self._seal()
            if self._full_views:
                self._yielded.append(self._full_buffers.pop(0))
                yield self._full_views.pop(0)
            elif self._error is not None:
                raise self._error
            elif self.done:
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Wait until bytes came, the body ended, or the client was too slow."""
        loop = asyncio.get_running_loop()
        started, size = loop.time(), self.size
        self._waiter = loop.create_future()
        timer = loop.call_later(self._pace.left, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
        # Only time in this wait counts against the client, not time in which the disk was slow.
        self._pace.waited(loop.time() - started)
        self._pace.moved(self.size - size)
        if self._pace.left <= 0:
            self._fail(TimeoutError("the body stalled: too few bytes came in the time allowed"))

    def close(self) -> None:
        """Return the buffers to the pool, and the transport to its protocol."""
        self._restore_protocol()
        filling = () if self._filling is None else (self._filling,)
        for buffer in (*self._free, *self._yielded, *self._full_buffers, *filling):
            self._pool.give_back(buffer)
        self._free, self._yielded, self._full_buffers, self._filling = [], [], [], None

    # What the transport calls

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory for the next bytes."""
        if self._chunked is not None:
            # Framing makes content only shorter, so bytes that fit into the room can always be
            # stored.
            return memoryview(self._pool.scratch)[: min(SCRATCH_BYTES, self._room())]
        buffer = self._current_buffer()
        return buffer[self._filled : min(len(buffer), self._filled + self._bytes_left)]

    def buffer_updated(self, nbytes: int) -> None:
        """Account for bytes that the transport received."""
        if self._chunked is not None:
            self._store(self._pool.scratch, nbytes)
            return
        self._filled += nbytes
        self._bytes_left -= nbytes
        self.size += nbytes
        self._advance(b"")

    def eof_received(self) -> bool | None:
        """Fail the body. The protocol decides whether the client is owed an answer."""
        self._fail(ConnectionResetError("the body ended early"))
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the body, and pass the loss on to the protocol."""
        self._receiving = False
        self._fail(exc if isinstance(exc, ConnectionError) else ConnectionResetError("gone"))
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass the pause on to the protocol, which sends the answer."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass the resumption on to the protocol, which sends the answer."""
        self._protocol.resume_writing()

    # Within

    def _room(self) -> int:
        """Return the bytes that fit into the free buffers."""
        filling = 0 if self._filling is None else len(self._filling) - self._filled
        return filling + sum(len(buffer) for buffer in self._free)

    def _current_buffer(self) -> memoryview:
        if self._filling is None:
            self._filling = self._free.pop()
            self._filled = 0
        return self._filling

    def _store(self, data: bytearray, end: int) -> None:
        """Store the content of ``end`` bytes, for which there is room."""
        if self._chunked is None:
            taken = min(end, self._bytes_left)
            self._copy(memoryview(data)[:taken])
            self._bytes_left -= taken
            self._advance(bytes(data[taken:end]))
            return
        view = memoryview(data)
        try:
            for start, stop in self._chunked.feed(data, end):
                self._copy(view[start:stop])
        except BadChunk as error:
            self._fail(error)
            return
        self._advance(bytes(data[self._chunked.used : end]))

    def _copy(self, view: memoryview) -> None:
        self.size += len(view)
        while len(view):
            buffer = self._current_buffer()
            count = min(len(view), len(buffer) - self._filled)
            buffer[self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]
            if self._filled == len(buffer):
                self._seal()

    def _seal(self) -> None:
        """Make the buffer that is being filled available as a view."""
        if self._filling is not None and self._filled:
            self._full_views.append(self._filling[: self._filled])
            self._full_buffers.append(self._filling)
            self._filling = None

    def _advance(self, rest: bytes) -> None:
        """Go on after bytes were stored; ``rest`` came behind the end of the body."""
        if self._filling is not None and self._filled == len(self._filling):
            self._seal()
        if self._chunked.done if self._chunked is not None else not self._bytes_left:
            self.done = True
            self._seal()
            # Bytes behind the body are the next request: the protocol gets all of them, in order.
            rest, self._backlog = rest + self._backlog, b""
            self._restore_protocol()
            self._complete(self.size, rest)
        # Back-pressure: the kernel's buffer fills, and the client stops sending.
        elif not self._paused and not self._room():
            self._paused = True
            self._transport.pause_reading()
        if self._full_views or self.done:
            self._wake()

    def _receive_more(self) -> None:
        """Store the backlog and resume reading, as far as there is room."""
        while self._backlog and self._receiving and self._error is None and (room := self._room()):
            data, self._backlog = self._backlog[:room], self._backlog[room:]
            self._store(bytearray(data), len(data))
        if self._paused and self._receiving and self._error is None and self._room():
            self._paused = False
            self._transport.resume_reading()

    def _fail(self, error: Exception) -> None:
        if self._error is None and not self.done:
            self._error = error
            if self._receiving:
                # Later bytes have no meaning, and must not be stored.
                self._transport.pause_reading()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _restore_protocol(self) -> None:
        if not self._receiving:
            return
        self._receiving = False
        if not self._transport.is_closing():
            self._transport.pause_reading()
            self._transport.set_protocol(self._protocol)
            self._transport.resume_reading()
