"""Bodies of requests: streamed in bounded pieces, and got rid of when nobody reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from holdfast.api.telemetry.request_context import flow

from .body_receiver import BodyReceiver
from .chunked import BadChunk
from .connection import Connection
from .oci_errors import OciError
from .slow_clients import Pace
from .whole_request import IncomingRequest, WholeRequest

DRAIN_BYTES_MAX: Final = 1 << 20
"""Unread bytes that are taken in so that the connection can go on; with more it is closed."""

LINGER_BYTES_MAX: Final = 16 << 20
"""Unread bytes taken in after a last answer: closing at once would reset the connection, and
with it the answer that the client may not have read yet."""

DRAIN_SECONDS: Final = 1.0
"""Longest time for either."""

WHOLE_SECONDS = 30.0
"""Grace of a body that is taken as a whole: it has nothing to wait for."""

WHOLE_RATE: Final = 64 * 1024
"""Bytes a second of such a body, beyond its grace: at most 94 seconds for the largest manifest."""


class BrokenBody(OciError):
    """The client vanished, or broke the framing, before its body was complete."""


def _awaits_go_ahead(request: web.Request) -> bool:
    return request.headers.get("Expect", "").lower() == "100-continue"


async def expect(request: web.Request) -> None:
    """The routes' handler of Expect (RFC 9110 section 10.1.1): 100 is sent by the first read.

    So a request that is refused on its headers alone never has to send its body.
    """
    if "Expect" in request.headers and not _awaits_go_ahead(request):
        raise OciError("UNSUPPORTED", "only 100-continue can be expected", status=417)


async def chunks(request: web.Request, pace: Pace | None = None) -> AsyncIterator[bytes]:
    """The body as it arrives, in pieces of at most the read buffer.

    A body of which too little comes (of ``slow_clients``, where that of uploads is not meant) is
    given up with 408; what came before is kept. Raises BrokenBody, and 415 for an encoded body:
    digests are of the bytes as sent.
    """
    await _begin(request)
    moving, source = flow(), _content(request, pace or Pace())
    with _broken():
        async for piece in source if moving is None else moving.through(source):
            yield piece


async def _begin(request: web.Request) -> None:
    """Before the first read: refuse what cannot be read, and give the go-ahead."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise OciError("UNSUPPORTED", "content encodings are not supported", status=415)
    if _awaits_go_ahead(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The interim answer is not part of the response that follows.
        request.writer.output_size = 0


async def _content(request: web.Request, pace: Pace) -> AsyncIterator[bytes]:
    """What the parser makes of the body."""
    if isinstance(request.protocol, Connection):
        request.protocol.release_body()
    content = request.content
    while not content.at_eof():
        try:
            data = await pace.within(content.readany())
        except (ConnectionError, HttpProcessingError, web.RequestPayloadError):
            # Once a body has broken off, its reader refuses to give what had come before.
            if rest := content._read_nowait(-1):
                yield rest
            raise
        if data:
            pace.moved(len(data))
            yield data


@contextmanager
def _broken() -> Iterator[None]:
    """Every way in which a body breaks off becomes BrokenBody."""
    try:
        yield
    except TimeoutError as error:
        raise BrokenBody(
            "BLOB_UPLOAD_INVALID", "too little of the body came for too long", status=408
        ) from error
    except (ConnectionError, BadChunk, HttpProcessingError, web.RequestPayloadError) as error:
        raise BrokenBody("BLOB_UPLOAD_INVALID", "the body ended early") from error


@asynccontextmanager
async def stream(request: IncomingRequest) -> AsyncIterator[AsyncIterator[bytes | memoryview]]:
    """The body of an upload as it arrives: as ``chunks``, or in larger pieces where it can be
    received past the parser. A memoryview stays as it is until LENT further ones were asked for,
    or the context is left. Nothing is read before the first piece is asked for.
    """
    if isinstance(request, WholeRequest):
        yield _at_once(request.body)
        return
    connection = request.protocol if isinstance(request.protocol, Connection) else None
    taken: BodyReceiver | None = None

    async def pieces() -> AsyncIterator[bytes | memoryview]:
        nonlocal taken
        await _begin(request)
        if connection is not None:
            taken = connection.take_body(request)
        source: AsyncIterator[bytes | memoryview]
        source = _content(request, Pace()) if taken is None else taken.views()
        moving = flow()
        with _broken():
            async for piece in source if moving is None else moving.through(source):
                yield piece

    try:
        yield pieces()
    finally:
        if taken is not None and connection is not None:
            taken.close()
            if not taken.done:
                connection.cut_body(request)


async def _at_once(body: bytes) -> AsyncIterator[bytes]:
    """A body that is there."""
    if body:
        yield body


async def read_bounded(request: IncomingRequest, limit: int, code: str) -> bytes:
    """The whole body, of at most ``limit`` bytes. Raises 413 with ``code``, and BrokenBody."""
    too_large = OciError(code, f"the body is over the limit of {limit} bytes", status=413)
    if (request.content_length or 0) > limit:
        raise too_large
    if isinstance(request, WholeRequest):
        if len(request.body) > limit:
            raise too_large
        return request.body
    body = bytearray()
    async for data in chunks(request, Pace(WHOLE_SECONDS, WHOLE_RATE)):
        body += data
        if len(body) > limit:
            raise too_large
    return bytes(body)


async def settle(request: web.Request, response: web.StreamResponse) -> None:
    """Deal with what is left of a body that the answer did not wait for.

    Little is taken in, so that the connection can be used again. Otherwise the answer is sent at
    once as the last one, and the connection closed after a bounded linger.
    """
    connection = request.protocol
    if isinstance(connection, Connection):
        connection.release_body()
    if request.content.is_eof() or not request.body_exists or response.prepared:
        return
    if isinstance(connection, Connection) and connection.is_broken:
        response.force_close()
        with suppress(ConnectionError):  # the client is gone: nobody waits for the answer
            await response.prepare(request)
            await response.write_eof()
            await connection.linger()
        connection.force_close()
        return
    length = request.content_length
    # Where the body is not coming, there is nothing to wait for.
    stopped = response.keep_alive is False
    waiting = "Expect" in request.headers and request.content.total_bytes == 0
    lingering = not (stopped or waiting)
    small = length is None or length <= DRAIN_BYTES_MAX
    if lingering and small and await _discard(request, DRAIN_BYTES_MAX):
        return
    response.force_close()
    with suppress(ConnectionError):  # the client is gone: nobody waits for the answer
        await response.prepare(request)
        await response.write_eof()
    if lingering:
        await _discard(request, LINGER_BYTES_MAX)
    if request.protocol is not None:
        request.protocol.force_close()


async def _discard(request: web.Request, limit: int) -> bool:
    """Read and forget up to ``limit`` bytes. True when that was all of the body."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while not request.content.at_eof() and limit > 0:
                limit -= len(await request.content.readany())
    except TimeoutError:
        return False
    except (ConnectionError, HttpProcessingError, web.RequestPayloadError):
        # The connection is broken; the answer has nowhere to go, or is the last one.
        return False
    return request.content.at_eof()
