"""Sends the content of a blob: whole, a part, or several parts."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from typing import Final

from aiohttp import web

from holdfast.api.telemetry.request_record import flow
from holdfast.engine import BlobReader, EngineError

from . import sendfile
from .ranges import Span

_log: Final = logging.getLogger(__name__)

API_VERSION: Final = {"Docker-Distribution-API-Version": "registry/2.0"}
"""Header of every answer under ``/v2/``: old clients look for it."""

NO_STORE: Final = "no-store"
"""Cache-Control of every answer that sets none.

The right to see it is decided for each request, and even missing content may appear in a moment
(RFC 9111 section 4.2.2 lets caches keep 404).
"""

OCTETS: Final = "application/octet-stream"


PARTS_BATCH_BYTES: Final = 256 * 1024
"""Bytes of several parts that are read and sent at once."""

PARTS_BATCH_MAX: Final = 64
"""Parts that are read and sent at once: each may need a frame of compressed content, of up to 4
MiB."""


async def send(
    request: web.Request, reader: BlobReader, status: int, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer with the content of a reader. Short content is sent in one write with its headers.

    Damage found on the way cuts the connection: the client must not take the part for the whole.
    """
    data = reader.data
    if data is not None:
        return whole(data, status, headers)
    response = file_head(status, headers, reader.length)
    await response.prepare(request)
    file = reader.file() if request.method == "GET" and sendfile.possible(request) else None
    try:
        if file is None:
            await _copy(reader, response)
        else:
            await sendfile.send_file(request, *file, flow=flow())
    except BaseException as error:
        # An incomplete answer was sent, so nothing may follow it on this connection.
        if request.transport is not None:
            request.transport.abort()
        if isinstance(error, ConnectionError):
            raise
        if isinstance(error, (EngineError, EOFError, OSError)):
            return _break_off(request, response, error)
        raise
    await response.write_eof()
    return response


def whole(data: bytes, status: int, headers: Mapping[str, str]) -> web.Response:
    """Return an answer with its whole content."""
    return web.Response(status=status, body=data, headers={**headers, "Content-Type": OCTETS})


async def send_parts(
    request: web.Request,
    reader: BlobReader,
    spans: Sequence[Span],
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """Answer 206 with several parts as multipart/byteranges (RFC 9110 section 14.6).

    ``reader`` covers the whole blob.
    """
    boundary = secrets.token_hex(16)
    heads = [
        (
            f"\r\n--{boundary}\r\nContent-Type: {OCTETS}\r\n"
            f"Content-Range: {span.content_range(reader.size)}\r\n\r\n"
        ).encode()
        for span in spans
    ]
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = sum(len(head) for head in heads) + sum(span.length for span in spans) + len(tail)
    kind = f"multipart/byteranges; boundary={boundary}"
    response = _head(206, {**headers, "Content-Type": kind}, length)
    await response.prepare(request)
    try:
        await _copy(_parts(reader, spans, heads), response)
        await response.write(tail)
    except EngineError as error:
        return _break_off(request, response, error)
    await response.write_eof()
    return response


async def _parts(
    reader: BlobReader, spans: Sequence[Span], heads: Sequence[bytes]
) -> AsyncIterator[bytes]:
    """Yield the parts behind their heads, with many small ones read at once."""
    batch: list[tuple[int, int]] = []
    batch_heads: list[bytes] = []
    """Head before each piece of the batch; empty within a part."""
    size = 0
    for span, head in zip(spans, heads, strict=True):
        at, stop = span.offset, span.offset + span.length
        while at < stop:
            count = min(PARTS_BATCH_BYTES - size, stop - at)
            batch.append((at, count))
            batch_heads.append(head if at == span.offset else b"")
            at, size = at + count, size + count
            if size == PARTS_BATCH_BYTES or len(batch) == PARTS_BATCH_MAX:
                yield await _read_batch(reader, batch_heads, batch)
                batch, batch_heads, size = [], [], 0
    if batch:
        yield await _read_batch(reader, batch_heads, batch)


async def _read_batch(
    reader: BlobReader, batch_heads: Sequence[bytes], batch: Sequence[tuple[int, int]]
) -> bytes:
    found = await reader.read_parts(batch)
    return b"".join(piece for pair in zip(batch_heads, found, strict=True) for piece in pair)


def file_head(status: int, headers: Mapping[str, str], length: int) -> web.StreamResponse:
    """Return the head of an answer whose content is sent by other means."""
    return _head(status, {**headers, "Content-Type": OCTETS}, length)


def _head(status: int, headers: Mapping[str, str], length: int) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={**headers, **API_VERSION})
    response.content_length = length
    return response


async def _copy(reader: AsyncIterable[bytes], response: web.StreamResponse) -> None:
    limiter = flow()
    async for chunk in reader if limiter is None else limiter.through(reader):
        await response.write(chunk)


def _break_off(
    request: web.Request, response: web.StreamResponse, error: Exception
) -> web.StreamResponse:
    """Cut the connection in the middle of a body that cannot be completed."""
    _log.error("%s %s failed: %s; closing the connection", request.method, request.path, error)
    response.force_close()
    if request.transport is not None:
        request.transport.abort()
    return response
