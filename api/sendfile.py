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

TURN_BYTES: Final = 1024 * 1024
"""Sent before other connections get their turn: some 0.2 ms of the loop's time."""

STALL_SECONDS = 120.0
"""A client that takes nothing of what waits for it for so long is gone."""

_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)


class Stalled(ConnectionError):
    """The client took nothing for ``STALL_SECONDS``."""


def possible(request: web.Request) -> bool:
    """Whether the connection of a request is a plain socket."""
    transport = request.transport
    return (
        transport is not None
        and transport.get_extra_info("sslcontext") is None
        and transport.get_extra_info("socket") is not None
    )


async def send_file(request: web.Request, file: int, offset: int, count: int) -> None:
    """Send ``count`` bytes of an open file after the headers of a prepared response.

    The descriptor stays in use until this returns, cancelled or not. Raises ConnectionError when
    the client is gone, EOFError when the file is shorter, other OSError when it cannot be read.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the connection was lost")
    await _flushed(request, transport)
    # Nothing may wait between this look and the copy: the number could become another client's.
    if transport.is_closing():
        raise ConnectionResetError("the connection was lost")
    sock = os.dup(transport.get_extra_info("socket").fileno())
    try:
        await _copy(sock, file, offset, count)
    finally:
        os.close(sock)
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


async def _copy(sock: int, file: int, offset: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    stop = offset + count
    turn = TURN_BYTES
    while offset < stop:
        want = min(TURN_BYTES, stop - offset)
        try:
            if _cached(file, offset, want):
                sent = os.sendfile(sock, file, offset, want)
            else:
                sent = await _aside(os.sendfile, sock, file, offset, want)
        except BlockingIOError:
            await _writable(loop, sock)
            turn = TURN_BYTES
            continue
        except OSError as error:
            if error.errno in _GONE:
                raise ConnectionResetError("the connection was lost") from error
            raise
        if sent == 0:
            raise EOFError("the file is shorter than it was")
        offset += sent
        turn -= sent
        # A client as fast as we are would otherwise never let anyone else have a turn.
        if turn <= 0:
            await asyncio.sleep(0)
            turn = TURN_BYTES


_GONE: Final = frozenset(
    (errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)
)
"""What a socket says of a lost client, besides the errors that are ConnectionError."""


async def _aside(call: Callable[..., int], *arguments: int) -> int:
    """Call in a thread. One who is cancelled waits for its end: the descriptors are in use."""
    future = asyncio.get_running_loop().run_in_executor(None, call, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((future,))
        # What came of it matters to nobody now.
        future.exception()
        raise


def _cached(file: int, offset: int, count: int) -> bool:
    """Whether a part of a file can be read without waiting for the disk, by three samples."""
    if not _NOWAIT:
        return True
    byte = bytearray(1)
    try:
        for place in (offset, offset + count // 2, offset + count - 1):
            os.preadv(file, [byte], place, _NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        # The file system knows no such reads; whether it waits cannot be told.
        return True
    return True


async def _writable(loop: asyncio.AbstractEventLoop, sock: int) -> None:
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        async with asyncio.timeout(STALL_SECONDS):
            await ready.wait()
    except TimeoutError:
        raise Stalled("the client takes nothing") from None
    finally:
        loop.remove_writer(sock)
