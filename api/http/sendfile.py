"""Sends a file to a socket inside the kernel, beside aiohttp's transport.

uvloop has no sendfile. So once the headers have left the transport's buffer, the file is sent on a
duplicate of the socket, and the transport is used again only afterwards. Never under TLS.
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
"""Bytes sent before other connections get their turn: some 0.2 ms of the loop's time."""

SAMPLE_BYTES: Final = 256 * 1024
"""Bytes between the positions at which a file is tested for being in memory.

The kernel reads ahead and evicts in runs; a gap between two samples costs one read of this length.
"""

_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)

Done = Callable[[Exception | None], None]
"""Called once, when neither the loop nor a thread uses the descriptors any more.

With None after the last byte, ConnectionError when the client is gone, EOFError when the file is
shorter, another OSError when it cannot be read.
"""


class Stalled(ConnectionError):
    """The client reads too slowly (``slow_clients``)."""


class Sending:
    """A part of a file that is being sent to a socket.

    Callbacks of the loop send it, a turn at a time: first at once, then whenever the socket has
    room again. A thread reads and sends a part that is not in memory, so that the loop never waits
    for the disk.
    """

    __slots__ = (
        "_done", "_file", "_head", "_in_thread", "_loop", "_offset", "_pace", "_sock",
        "_stall_timer", "_stop", "_stop_reason", "_watching", )  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        file: int,
        offset: int,
        count: int,
        done: Done,
        head: bytes = b"",
        pace: slow_clients.Pace | None = None,
    ) -> None:
        """Prepare to send. Raises ConnectionError if the transport is closing.

        The caller must call ``start`` without waiting, with an empty send buffer. It keeps ``file``
        open until ``done``. ``head`` is sent before the file. ``pace`` is the rest of the client's
        time budget.
        """
        if transport.is_closing():
            raise ConnectionResetError("the connection was lost")
        self._loop = asyncio.get_running_loop()
        # The loop refuses a writer callback on a descriptor that a transport uses.
        self._sock = os.dup(transport.get_extra_info("socket").fileno())
        self._file = file
        self._offset = offset
        self._stop = offset + count
        self._done = done
        self._head = head
        self._pace = pace
        self._stall_timer: slow_clients.StallTimer | None = None
        """Timer of the client; None until it first read less than it was sent."""
        self._watching = False
        self._in_thread = False
        """True while a thread uses the descriptors."""
        self._stop_reason: Exception | None = None
        """Reason of a ``stop`` during that time."""

    def start(self) -> None:
        """Send as much as the socket takes; ``done`` may be called before this returns."""
        self._step()

    def stop(self, reason: Exception) -> None:
        """Stop early: ``done`` gets ``reason``, now or when the thread is through. May be
        repeated."""
        if self._in_thread:
            self._stop_reason = self._stop_reason or reason
        else:
            self._finish(reason)

    def _step(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.end()
        turn = TURN_BYTES
        while turn > 0 and not self._in_thread:
            if self._head and not self._send_head():
                return
            # A cold part would block the loop for the time of a disk read.
            want = min(turn, self._stop - self._offset)
            try:
                if not _cached(self._file, self._offset, want):
                    self._send_in_thread(want)
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
                # A short write means that the socket is full; another call would only fail.
                self._watch()
                return
            turn -= sent
        # A fast client would otherwise keep the loop for the whole file.
        if not self._watching and not self._in_thread:
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        # The sending may have been stopped since the callback was scheduled.
        if self._sock >= 0:
            self._step()

    def _send_head(self) -> bool:
        """Send the head. Return True once it is sent whole."""
        try:
            self._head = self._head[os.write(self._sock, self._head) :]
        except BlockingIOError:
            pass  # the writer callback goes on, as after a partial write
        except OSError as error:
            self._finish(_translated(error))
            return False
        if self._head:
            self._watch()
        return not self._head

    def _advance(self, sent: int) -> bool:
        """Account for sent bytes. Return True if more are left."""
        if sent == 0:
            self._finish(EOFError("the file is shorter than it was"))
            return False
        self._offset += sent
        if self._offset >= self._stop:
            self._finish(None)
            return False
        return True

    def _send_in_thread(self, want: int) -> None:
        # The loop must not write to the socket while the thread does.
        self._unwatch()
        self._in_thread = True
        future = self._loop.run_in_executor(
            None, os.sendfile, self._sock, self._file, self._offset, want
        )
        future.add_done_callback(self._thread_done)

    def _thread_done(self, future: asyncio.Future[int]) -> None:
        self._in_thread = False
        error = future.exception() if not future.cancelled() else asyncio.CancelledError()
        if self._stop_reason is not None:
            self._finish(self._stop_reason)
        elif error is None:
            if self._advance(future.result()):
                self._step()
        elif isinstance(error, BlockingIOError):
            self._watch()
        elif isinstance(error, OSError):
            self._finish(_translated(error))
        else:
            self._finish(ConnectionAbortedError(f"the transfer was cancelled: {error!r}"))

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._loop.add_writer(self._sock, self._step)
        if self._stall_timer is None:
            pace = self._pace or slow_clients.Pace(slow_clients.READER_GRACE_SECONDS)
            self._stall_timer = slow_clients.StallTimer(pace, lambda: self._offset, self._stall)
        self._stall_timer.begin()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_writer(self._sock)

    def _stall(self) -> None:
        self._finish(Stalled("the client reads too slowly"))

    def _finish(self, error: Exception | None) -> None:
        # Closed once: the number may belong to another socket afterwards.
        sock, self._sock = self._sock, -1
        if sock < 0:
            return
        if self._watching:
            self._watching = False
            self._loop.remove_writer(sock)
        if self._stall_timer is not None:
            self._stall_timer.close()
        os.close(sock)
        self._done(error)


def possible(request: web.Request) -> bool:
    """Return True if the connection of a request is a plain socket."""
    transport = request.transport
    return transport is not None and is_plain(transport)


def is_plain(transport: asyncio.Transport) -> bool:
    """Return True if the transport writes bytes to its socket as they are."""
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
    pace = slow_clients.Pace(slow_clients.READER_GRACE_SECONDS)
    stop = offset + count
    while offset < stop:
        turn = stop - offset
        if flow is not None:
            turn = min(turn, flow.bandwidth.piece_bytes)
            await flow.turn(turn)
        await _send(request, file, offset, turn, pace)
        offset += turn


async def _send(
    request: web.Request, file: int, offset: int, count: int, pace: slow_clients.Pace
) -> None:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the connection was lost")
    await _flushed(request, transport)
    ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    sending = Sending(transport, file, offset, count, ended.set_result, pace=pace)
    sending.start()
    try:
        error = await asyncio.shield(ended)
    except asyncio.CancelledError:
        # The caller closes the file after this, so wait until no thread reads it any more.
        sending.stop(ConnectionAbortedError("cancelled"))
        while not ended.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((ended,))
        raise
    if error is not None:
        raise error
    # aiohttp's writer must count these bytes: for the access log, and so that an error after them
    # does not send a second answer.
    request.writer.output_size += count


async def _flushed(request: web.Request, transport: asyncio.Transport) -> None:
    """Wait until the send buffer of the transport is empty."""
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
"""Errors of a socket whose client is lost, beside those that are ConnectionError."""


def _translated(error: OSError) -> OSError:
    if error.errno in _GONE and not isinstance(error, ConnectionError):
        return ConnectionResetError("the connection was lost")
    return error


def read_cached(file: int, offset: int, buffer: memoryview) -> bool:
    """Fill a buffer from a file. Return False if the file is not all in memory, or cannot be
    tested."""
    if not _NOWAIT:
        return False
    try:
        return os.preadv(file, [buffer], offset, _NOWAIT) == len(buffer)
    except OSError:
        # The ordinary read that follows meets the same error, and reports it.
        return False


def _cached(file: int, offset: int, count: int) -> bool:
    """Return True if a part of a file is in memory, by samples."""
    if not _NOWAIT:
        return True
    byte = bytearray(1)
    try:
        for position in (*range(offset, offset + count, SAMPLE_BYTES), offset + count - 1):
            os.preadv(file, [byte], position, _NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        # The file system does not support RWF_NOWAIT: assume that the file is in memory.
        return True
    return True
