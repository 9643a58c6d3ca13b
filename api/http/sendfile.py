"""From a file to a socket inside the kernel, beside aiohttp's transport.

uvloop has no sendfile. So when the headers have left the transport's buffer, the file goes out on a
duplicate of the socket, and the transport is used again only after that. Never under TLS.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

from holdfast.api.limits.bandwidth import Flow

from . import slow_clients

TURN_BYTES: Final = 1024 * 1024
"""Sent before other connections get their turn: some 0.2 ms of the loop's time."""

SAMPLE_BYTES: Final = 256 * 1024
"""Distance of the places at which a file is asked whether it is in memory. The kernel reads ahead
and forgets in runs; what hides between two samples costs one read of this length."""

_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)

Done = Callable[[Exception | None], None]
"""Called once, when neither the loop nor a thread works on the descriptors any more: with None
after the last byte, ConnectionError when the client is gone, EOFError when the file is shorter,
other OSError when it cannot be read."""


class Stalled(ConnectionError):
    """The client takes too little of it (``slow_clients``)."""


class Sending:
    """A part of a file on its way to a socket.

    Moved on by callbacks of the loop, a turn at a time: from the first moment when the socket
    takes no more, whenever it takes some again. A part that is not in memory is read, and sent,
    by a thread, so that the loop never waits for the disk.
    """

    __slots__ = (
        "_busy", "_done", "_ended", "_file", "_head", "_loop", "_offset", "_pace", "_patience",
        "_sock", "_stop", "_watching",
    )  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        file: int,
        offset: int,
        count: int,
        done: Done,
        head: bytes = b"",
        patience: slow_clients.Pace | None = None,
    ) -> None:
        """Raises ConnectionError where the transport is closing.

        Nothing may wait between the making and ``start``, nor be in the transport's buffer then.
        ``file`` is the caller's until ``done``; ``head`` goes out before it. ``patience`` is what
        is left of the client's.
        """
        if transport.is_closing():
            raise ConnectionResetError("the connection was lost")
        self._loop = asyncio.get_running_loop()
        self._sock = os.dup(transport.get_extra_info("socket").fileno())
        self._file = file
        self._offset = offset
        self._stop = offset + count
        self._done = done
        self._head = head
        self._pace = patience
        self._patience: slow_clients.StallTimer | None = None
        """Once the client took less than it was sent."""
        self._watching = False
        self._busy = False
        """Whether a thread works on the descriptors."""
        self._ended: Exception | None = None
        """What ended it while it was busy."""

    def start(self) -> None:
        """Begin; ``done`` may be called before this returns."""
        self._step()

    def stop(self, reason: Exception) -> None:
        """End early: ``done`` gets ``reason``, now or when a thread is through. May be repeated."""
        if self._busy:
            self._ended = self._ended or reason
        else:
            self._finish(reason)

    def _step(self) -> None:
        if self._patience is not None:
            self._patience.end()
        turn = TURN_BYTES
        while turn > 0 and not self._busy:
            if self._head and not self._send_head():
                return
            want = min(turn, self._stop - self._offset)
            try:
                if not _cached(self._file, self._offset, want):
                    self._read_aside(want)
                    return
                sent = os.sendfile(self._sock, self._file, self._offset, want)
            except BlockingIOError:
                self._watch()
                return
            except OSError as error:
                self._finish(_translated(error))
                return
            if not self._advance(sent):
                return
            if sent < want:
                # The socket is full: asking it again would only say so.
                self._watch()
                return
            turn -= sent
        # A client as fast as we are would otherwise never let anyone else have a turn.
        if not self._watching and not self._busy:
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if self._sock >= 0:
            self._step()

    def _send_head(self) -> bool:
        """Whether all of it went."""
        try:
            self._head = self._head[os.write(self._sock, self._head) :]
        except BlockingIOError:
            pass  # watched below, as a part that went
        except OSError as error:
            self._finish(_translated(error))
            return False
        if self._head:
            self._watch()
        return not self._head

    def _advance(self, sent: int) -> bool:
        """Count what was sent; whether there is more to do."""
        if sent == 0:
            self._finish(EOFError("the file is shorter than it was"))
            return False
        self._offset += sent
        if self._offset >= self._stop:
            self._finish(None)
            return False
        return True

    def _read_aside(self, want: int) -> None:
        self._unwatch()
        self._busy = True
        future = self._loop.run_in_executor(
            None, os.sendfile, self._sock, self._file, self._offset, want
        )
        future.add_done_callback(self._was_aside)

    def _was_aside(self, future: asyncio.Future[int]) -> None:
        self._busy = False
        error = future.exception() if not future.cancelled() else asyncio.CancelledError()
        if self._ended is not None:
            self._finish(self._ended)
        elif error is None:
            if self._advance(future.result()):
                self._step()
        elif isinstance(error, BlockingIOError):
            self._watch()
        elif isinstance(error, OSError):
            self._finish(_translated(error))
        else:
            self._finish(ConnectionAbortedError(f"the copy was given up: {error!r}"))

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._loop.add_writer(self._sock, self._step)
        if self._patience is None:
            patience = self._pace or slow_clients.Pace(slow_clients.READER_GRACE_SECONDS)
            self._patience = slow_clients.StallTimer(patience, lambda: self._offset, self._give_up)
        self._patience.begin()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_writer(self._sock)

    def _give_up(self) -> None:
        self._finish(Stalled("the client takes too little"))

    def _finish(self, error: Exception | None) -> None:
        sock, self._sock = self._sock, -1
        if sock < 0:
            return
        if self._watching:
            self._watching = False
            self._loop.remove_writer(sock)
        if self._patience is not None:
            self._patience.close()
        os.close(sock)
        self._done(error)


def possible(request: web.Request) -> bool:
    """Whether the connection of a request is a plain socket."""
    transport = request.transport
    return transport is not None and is_plain(transport)


def is_plain(transport: asyncio.Transport) -> bool:
    """Whether what is written to a transport goes to a socket as it is."""
    return (
        transport.get_extra_info("sslcontext") is None
        and transport.get_extra_info("socket") is not None
    )


async def send_file(
    request: web.Request, file: int, offset: int, count: int, flow: Flow | None = None
) -> None:
    """Send ``count`` bytes of an open file after the headers of a prepared response.

    The descriptor stays in use until this returns, cancelled or not. Raises ConnectionError when
    the client is gone, EOFError when the file is shorter, other OSError when it cannot be read.
    """
    patience = slow_clients.Pace(slow_clients.READER_GRACE_SECONDS)
    stop = offset + count
    while offset < stop:
        turn = stop - offset
        if flow is not None:
            turn = min(turn, flow.bandwidth.piece_bytes)
            await flow.turn(turn)
        await _send(request, file, offset, turn, patience)
        offset += turn


async def _send(
    request: web.Request, file: int, offset: int, count: int, patience: slow_clients.Pace
) -> None:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the connection was lost")
    await _flushed(request, transport)
    ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    sending = Sending(transport, file, offset, count, ended.set_result, patience=patience)
    sending.start()
    try:
        error = await asyncio.shield(ended)
    except asyncio.CancelledError:
        sending.stop(ConnectionAbortedError("cancelled"))
        while not ended.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((ended,))
        raise
    if error is not None:
        raise error
    # What went past the writer counts as sent: for the access log, and against a second answer.
    request.writer.output_size += count


async def _flushed(request: web.Request, transport: asyncio.Transport) -> None:
    """Wait until the transport holds nothing back."""
    if not transport.get_write_buffer_size():
        return
    low, high = transport.get_write_buffer_limits()
    # At a limit of zero the transport pauses its protocol until its buffer is empty.
    transport.set_write_buffer_limits(high=0)
    try:
        await request.writer.drain()
    finally:
        transport.set_write_buffer_limits(high=high, low=low)
    if transport.get_write_buffer_size():
        raise ConnectionResetError("the connection was lost")


_GONE: Final = frozenset(
    (errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)
)
"""What a socket says of a lost client, besides the errors that are ConnectionError."""


def _translated(error: OSError) -> OSError:
    if error.errno in _GONE and not isinstance(error, ConnectionError):
        return ConnectionResetError("the connection was lost")
    return error


def read_cached(file: int, offset: int, buffer: memoryview) -> bool:
    """Fill a buffer from a file; False where that is not all in memory, or cannot be told."""
    if not _NOWAIT:
        return False
    try:
        return os.preadv(file, [buffer], offset, _NOWAIT) == len(buffer)
    except OSError:
        # Whoever reads it in another way meets that too, and says so.
        return False


def _cached(file: int, offset: int, count: int) -> bool:
    """Whether a part of a file can be read without waiting for the disk, by samples."""
    if not _NOWAIT:
        return True
    byte = bytearray(1)
    try:
        for place in (*range(offset, offset + count, SAMPLE_BYTES), offset + count - 1):
            os.preadv(file, [byte], place, _NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        # The file system knows no such reads; whether it waits cannot be told.
        return True
    return True
