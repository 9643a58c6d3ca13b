"""Moves the bytes of a blob to a socket: whole, a part, or several parts."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from aiohttp import web

from holdfast.engine import BlobReader, Digest, EngineError, Repository, Store

from . import sendfile
from .ranges import Span
from .trail import flow

_log: Final = logging.getLogger(__name__)

API_VERSION: Final = {"Docker-Distribution-API-Version": "registry/2.0"}
"""Sent with everything under ``/v2/``: old clients look for it."""

OCTETS: Final = "application/octet-stream"


async def send(
    request: web.Request, reader: BlobReader, status: int, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer with what the reader covers. Small content goes out in one write with its headers.

    Damage that is met on the way breaks the connection: the client must not take the part for
    the whole.
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
        # What was sent is no whole answer: nothing may follow it on this connection.
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
    """An answer with all of its content at hand."""
    return web.Response(status=status, body=data, headers={**headers, "Content-Type": OCTETS})


async def send_parts(
    request: web.Request,
    store: Store,
    repository: Repository,
    digest: Digest,
    size: int,
    spans: Sequence[Span],
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """Answer 206 with several parts as multipart/byteranges (RFC 9110 section 14.6)."""
    boundary = secrets.token_hex(16)
    heads = [
        (
            f"\r\n--{boundary}\r\nContent-Type: {OCTETS}\r\n"
            f"Content-Range: {span.content_range(size)}\r\n\r\n"
        ).encode()
        for span in spans
    ]
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = sum(len(head) for head in heads) + sum(span.length for span in spans) + len(tail)
    kind = f"multipart/byteranges; boundary={boundary}"
    response = _head(206, {**headers, "Content-Type": kind}, length)
    await response.prepare(request)
    try:
        for head, span in zip(heads, spans, strict=True):
            await response.write(head)
            part = store.get(digest, offset=span.offset, length=span.length, repository=repository)
            async with part as reader:
                await _copy(reader, response)
    except EngineError as error:
        return _break_off(request, response, error)
    await response.write(tail)
    await response.write_eof()
    return response


def file_head(status: int, headers: Mapping[str, str], length: int) -> web.StreamResponse:
    """The head of an answer whose content is sent by other means."""
    return _head(status, {**headers, "Content-Type": OCTETS}, length)


def _head(status: int, headers: Mapping[str, str], length: int) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={**headers, **API_VERSION})
    response.content_length = length
    return response


async def _copy(reader: BlobReader, response: web.StreamResponse) -> None:
    moving = flow()
    async for chunk in reader if moving is None else moving.through(reader):
        await response.write(chunk)


def _break_off(
    request: web.Request, response: web.StreamResponse, error: Exception
) -> web.StreamResponse:
    """Cut the connection in the middle of a body that cannot be completed."""
    _log.error("breaking off %s %s: %s", request.method, request.path, error)
    response.force_close()
    if request.transport is not None:
        request.transport.abort()
    return response
