"""Reads request bodies in bounded pieces, and disposes of bodies that no handler reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from holdfast.api.telemetry.request_record import flow

from .aiohttp_handler import rest_of
from .connection import connection_of
from .oci_errors import OciError
from .slow_clients import Pace
from .whole_request import IncomingRequest, WholeRequest

DRAIN_BYTES_MAX: Final = 1 << 20
"""Unread bytes that are read so that the connection can stay open; with more it is closed."""

LINGER_BYTES_MAX: Final = 16 << 20
"""Unread bytes that are read after a last answer. Closing at once would reset the connection, and
destroy the answer before the client reads it."""

DRAIN_SECONDS: Final = 1.0
"""Longest time in seconds for either."""

WHOLE_SECONDS = 30.0
"""Grace in seconds of a body that is read whole: the client has no reason to wait."""

WHOLE_RATE: Final = 64 * 1024
"""Bytes a second of such a body beyond its grace: at most 94 seconds for the largest manifest."""


class BrokenBody(OciError):
    """The client left, or broke the framing, before its body was complete."""


def _awaits_go_ahead(request: web.Request) -> bool:
    return request.headers.get("Expect", "").lower() == "100-continue"


async def expect(request: web.Request) -> None:
    """Handle Expect for all routes (RFC 9110 section 10.1.1): the first read sends 100.

    So a request that is refused by its headers alone never has to send its body.
    """
    if "Expect" in request.headers and not _awaits_go_ahead(request):
        raise OciError("UNSUPPORTED", "Expect must be 100-continue", status=417)


async def chunks(request: IncomingRequest, pace: Pace | None = None) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, in pieces of at most the read buffer.

    ``pace`` is the client's time budget (None: that of uploads, ``slow_clients``). A body that
    stalls fails with 408; the pieces before are yielded. Raises BrokenBody, and 415 for an encoded
    body: digests are of the bytes as sent.
    """
    if isinstance(request, WholeRequest):
        if request.body:
            yield request.body
        return
    await _begin(request)
    limiter, source = flow(), _content(request, pace or Pace())
    with _as_broken_body():
        async for piece in source if limiter is None else limiter.through(source):
            yield piece


async def _begin(request: web.Request) -> None:
    """Refuse an encoded body, and send 100 Continue if the client waits for it."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise OciError("UNSUPPORTED", "content encodings are not supported", status=415)
    if _awaits_go_ahead(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The interim answer must not count as the beginning of the response.
        request.writer.output_size = 0


async def _content(request: web.Request, pace: Pace) -> AsyncIterator[bytes]:
    """Yield the body from the parser."""
    content = request.content
    while not content.at_eof():
        try:
            data = await pace.within(content.readany())
        except (ConnectionError, HttpProcessingError, web.RequestPayloadError):
            # The reader of a broken body refuses to return the bytes from before the break.
            if rest := rest_of(content):
                yield rest
            raise
        if data:
            pace.moved(len(data))
            yield data


@contextmanager
def _as_broken_body() -> Iterator[None]:
    """Turn every way in which a body breaks off into BrokenBody."""
    try:
        yield
    except TimeoutError as error:
        raise BrokenBody(
            "BLOB_UPLOAD_INVALID", "the body stalled: too few bytes came in time", status=408
        ) from error
    except (ConnectionError, HttpProcessingError, web.RequestPayloadError) as error:
        raise BrokenBody("BLOB_UPLOAD_INVALID", "the body ended early") from error


async def read_bounded(request: IncomingRequest, limit: int, code: str) -> bytes:
    """Return the whole body of at most ``limit`` bytes. Raises 413 with ``code``, and
    BrokenBody."""
    too_large = OciError(code, f"the body must be at most {limit} bytes", status=413)
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
    """Deal with the rest of a body that the answer did not wait for.

    A short rest is read, so that the connection can be used again. Otherwise this is sent at once
    as the last answer, and the connection is closed after a bounded linger.
    """
    connection = connection_of(request)
    if request.content.is_eof() or not request.body_exists or response.prepared:
        return
    # Nothing can be drained from a broken connection; this answer is its last one.
    if connection is not None and connection.is_broken:
        response.force_close()
        with suppress(ConnectionError):  # the client is gone, and needs no answer
            await response.prepare(request)
            await response.write_eof()
            await connection.linger()
        connection.force_close()
        return
    length = request.content_length
    # A client that still waits for 100 Continue sends no body.
    stopped = response.keep_alive is False
    waiting = "Expect" in request.headers and request.content.total_bytes == 0
    lingering = not (stopped or waiting)
    small = length is None or length <= DRAIN_BYTES_MAX
    if lingering and small and await _discard(request, DRAIN_BYTES_MAX):
        return
    response.force_close()
    with suppress(ConnectionError):  # the client is gone, and needs no answer
        await response.prepare(request)
        await response.write_eof()
    if lingering:
        await _discard(request, LINGER_BYTES_MAX)
    if request.protocol is not None:
        request.protocol.force_close()


async def _discard(request: web.Request, limit: int) -> bool:
    """Read and drop up to ``limit`` bytes. Return True if that was the whole rest."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while not request.content.at_eof() and limit > 0:
                limit -= len(await request.content.readany())
    except TimeoutError:
        return False
    except (ConnectionError, HttpProcessingError, web.RequestPayloadError):
        # The connection is broken: the answer is lost, or is the last one.
        return False
    return request.content.at_eof()
