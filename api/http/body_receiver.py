"""A request body received straight into buffers that are used again, past aiohttp's parser.

For the length of the body the transport has this for its protocol: the kernel writes into one
buffer while threads write and hash others, and nothing is copied in between but what the
chunked coding has to be taken out of.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import AsyncIterator, Callable
from typing import Final

from holdfast.engine import BUFFERS_IN_FLIGHT

from .chunked import BadChunk, Chunked
from .slow_clients import Pace

BUFFERS: Final = BUFFERS_IN_FLIGHT + 1
"""Of a body: one is being filled while the others are in use."""

BUFFER_BYTES: Final = 512 * 1024
"""Of a buffer, while few bodies are taken."""

BUFFER_BYTES_MIN: Final = 64 * 1024

POOL_BYTES: Final = 32 * 1024 * 1024
"""What the buffers of all bodies of a process have together, before they get smaller: with 64
bodies they come to twice as much, with 1000 to ten times."""

SCRATCH_BYTES: Final = 256 * 1024
"""What is received at once of a chunked body."""


class Buffers:
    """The buffers of one process: kept for the next body, up to ``POOL_BYTES``."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self._taken = 0
        self.scratch = bytearray(SCRATCH_BYTES)
        """Shared: what is received into it is copied out of it before anybody else receives."""

    def take(self) -> memoryview:
        """A buffer; smaller ones when many are taken."""
        self._taken += 1
        size = max(BUFFER_BYTES_MIN, min(BUFFER_BYTES, POOL_BYTES // self._taken))
        while self._free:
            buffer = self._free.pop()
            if len(buffer) <= size:
                return buffer
        # Pages into which nothing came yet take no memory: a thousand uploads may be slow ones.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        return memoryview(mmap.mmap(-1, 1 << size.bit_length() - 1, flags=flags))

    def give_back(self, buffer: memoryview) -> None:
        """The buffer is not used any more."""
        self._taken -= 1
        if (len(self._free) + self._taken) * BUFFER_BYTES < POOL_BYTES:
            self._free.append(buffer)


class BodyReceiver(asyncio.BufferedProtocol):
    """One body: ``start`` it, iterate over ``views`` once, and ``close`` it."""

    def __init__(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        buffers: Buffers,
        *,
        length: int | None,
        complete: Callable[[int, bytes], None],
    ) -> None:
        """``length`` is None for chunked content. ``complete`` is called at the end of the body
        with its size and with what came after it, when ``protocol`` is the transport's again."""
        self._transport = transport
        self._protocol = protocol
        self._pool = buffers
        self._complete = complete
        self._pace = Pace()
        self._chunked = Chunked() if length is None else None
        self._left = length or 0
        self._backlog = b""
        """What came before the start and is not taken in yet."""
        self._free: list[memoryview] = []
        self._filling: memoryview | None = None
        self._used = 0
        """Of the buffer that is being filled."""
        self._full: list[memoryview] = []
        """Views of content that can be taken."""
        self._lent: list[memoryview] = []
        """Buffers behind the views that were yielded last."""
        self._behind: list[memoryview] = []
        """Buffers behind those in ``_full``, in the same order."""
        self._waiter: asyncio.Future[None] | None = None
        self._paused = True
        """Whether nothing is received until there is room."""
        self._receiving = False
        """Whether this is the transport's protocol."""
        self._error: Exception | None = None
        self.size = 0
        """Bytes of content received."""
        self.done = False
        """Whether the body came to its end."""

    def start(self, held: bytes) -> None:
        """Take over the transport; ``held`` has come already."""
        self._backlog = held
        self._free = [self._pool.take() for _ in range(BUFFERS)]
        self._receiving = True
        # What a transport calls when something comes is settled when it begins to read.
        self._transport.pause_reading()
        self._transport.set_protocol(self)
        self._go_on()

    async def views(self) -> AsyncIterator[memoryview]:
        """The content, in pieces of a buffer each but for the last.

        A view stays as it is until LENT further ones were asked for, or the body is closed: so a
        caller may still work on some while it takes the next. Raises ConnectionError when the
        client is gone, BadChunk, TimeoutError when it is too slow; all that came before was
        yielded then.
        """
        while True:
            # The last ones may be in use still.
            while len(self._lent) >= BUFFERS_IN_FLIGHT:
                self._free.append(self._lent.pop(0))
            self._go_on()
            if not self._full and (self.done or self._error is not None):
                self._seal()
            if self._full:
                self._lent.append(self._behind.pop(0))
                yield self._full.pop(0)
            elif self._error is not None:
                raise self._error
            elif self.done:
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Until the client did something, or was too slow."""
        loop = asyncio.get_running_loop()
        begun, size = loop.time(), self.size
        self._waiter = loop.create_future()
        timer = loop.call_later(self._pace.left, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
        self._pace.waited(loop.time() - begun)
        self._pace.moved(self.size - size)
        if self._pace.left <= 0:
            self._fail(TimeoutError("too little of the body came for too long"))

    def close(self) -> None:
        """Give back the buffers, and the transport if it still is ours."""
        self._hand_back()
        filling = () if self._filling is None else (self._filling,)
        for buffer in (*self._free, *self._lent, *self._behind, *filling):
            self._pool.give_back(buffer)
        self._free, self._lent, self._behind, self._filling = [], [], [], None

    # What the transport calls

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        if self._chunked is not None:
            return memoryview(self._pool.scratch)[: min(SCRATCH_BYTES, self._room())]
        buffer = self._buffer()
        return buffer[self._used : min(len(buffer), self._used + self._left)]

    def buffer_updated(self, nbytes: int) -> None:
        """They are there."""
        if self._chunked is not None:
            self._put(self._pool.scratch, nbytes)
            return
        self._used += nbytes
        self._left -= nbytes
        self.size += nbytes
        self._after(b"")

    def eof_received(self) -> bool | None:
        """Nothing more comes; whoever answers says whether an answer is owed."""
        self._fail(ConnectionResetError("the body ended early"))
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._receiving = False
        self._fail(exc if isinstance(exc, ConnectionError) else ConnectionResetError("gone"))
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """For whoever answers."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """For whoever answers."""
        self._protocol.resume_writing()

    # Within

    def _room(self) -> int:
        """What can be received before somebody takes something."""
        filling = 0 if self._filling is None else len(self._filling) - self._used
        return filling + sum(len(buffer) for buffer in self._free)

    def _buffer(self) -> memoryview:
        if self._filling is None:
            self._filling = self._free.pop()
            self._used = 0
        return self._filling

    def _put(self, data: bytearray, end: int) -> None:
        """Take the content out of what came, which is not more than there is room for."""
        if self._chunked is None:
            taken = min(end, self._left)
            self._copy(memoryview(data)[:taken])
            self._left -= taken
            self._after(bytes(data[taken:end]))
            return
        view = memoryview(data)
        try:
            for start, stop in self._chunked.feed(data, end):
                self._copy(view[start:stop])
        except BadChunk as error:
            self._fail(error)
            return
        self._after(bytes(data[self._chunked.used : end]))

    def _copy(self, view: memoryview) -> None:
        self.size += len(view)
        while len(view):
            buffer = self._buffer()
            count = min(len(view), len(buffer) - self._used)
            buffer[self._used : self._used + count] = view[:count]
            self._used += count
            view = view[count:]
            if self._used == len(buffer):
                self._seal()

    def _seal(self) -> None:
        """What is in the buffer can be taken."""
        if self._filling is not None and self._used:
            self._full.append(self._filling[: self._used])
            self._behind.append(self._filling)
            self._filling = None

    def _after(self, rest: bytes) -> None:
        """Something was taken in, and ``rest`` after it belongs to no body of ours."""
        if self._filling is not None and self._used == len(self._filling):
            self._seal()
        if self._chunked.done if self._chunked is not None else not self._left:
            self.done = True
            self._seal()
            rest, self._backlog = rest + self._backlog, b""
            self._hand_back()
            self._complete(self.size, rest)
        elif not self._paused and not self._room():
            self._paused = True
            self._transport.pause_reading()
        if self._full or self.done:
            self._wake()

    def _go_on(self) -> None:
        """Receive again, now that there is room."""
        while self._backlog and self._receiving and self._error is None and (room := self._room()):
            data, self._backlog = self._backlog[:room], self._backlog[room:]
            self._put(bytearray(data), len(data))
        if self._paused and self._receiving and self._error is None and self._room():
            self._paused = False
            self._transport.resume_reading()

    def _fail(self, error: Exception) -> None:
        if self._error is None and not self.done:
            self._error = error
            if self._receiving:
                # What comes now has no meaning.
                self._transport.pause_reading()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _hand_back(self) -> None:
        if not self._receiving:
            return
        self._receiving = False
        if not self._transport.is_closing():
            self._transport.pause_reading()
            self._transport.set_protocol(self._protocol)
            self._transport.resume_reading()
