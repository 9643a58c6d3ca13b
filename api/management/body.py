"""Reads request bodies of the management API, with limits of size and time."""

from __future__ import annotations

from asyncio import timeout
from typing import Final

from aiohttp import HttpVersion11, hdrs, web

from holdfast.api.http.app_keys import SETTINGS

from .errors import invalid, too_large, too_slow

BODY_SECONDS_MAX: Final = 30.0
"""Time limit of a body, which has one or two packets; it only ends connections that hang."""


async def read_body(request: web.Request) -> bytes:
    """Read the request's body, at most ``AppSettings.json_bytes_max`` bytes.

    Raises ApiError: 413 as soon as the body or its Content-Length exceeds the limit, 408 after
    BODY_SECONDS_MAX, 400 if it ends early or its encoding is broken.
    """
    limit = request.app[SETTINGS].json_bytes_max
    # Refuse by the header before reading; a chunked body is counted as it arrives.
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    body = bytearray()
    try:
        async with timeout(BODY_SECONDS_MAX):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise too_large(limit)
    except TimeoutError:
        raise too_slow(BODY_SECONDS_MAX) from None
    except (ConnectionError, web.RequestPayloadError):
        raise invalid("body", "format", "ends early or has a broken encoding") from None
    return bytes(body)


async def expect(request: web.Request) -> None:
    """Send 100 Continue to a client that waits for it (RFC 9110, section 10.1.1).

    A body over the limit gets no 100, since an error response follows. Ignore other expectations.
    """
    waits = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
    small = (request.content_length or 0) <= request.app[SETTINGS].json_bytes_max
    if waits and small and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # aiohttp takes any output for the start of the response
