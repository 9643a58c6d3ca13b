"""Bodies of requests of the management API: asked for, bounded, and whole or refused."""

from __future__ import annotations

from asyncio import timeout
from typing import Final

from aiohttp import HttpVersion11, hdrs, web

from holdfast.api.http.app_keys import SETTINGS

from .errors import invalid, too_large, too_slow

BODY_SECONDS_MAX: Final = 30.0
"""A body that small comes in one or two packets; this only ends connections that hang."""


async def read_body(request: web.Request) -> bytes:
    """The request's body, of at most ``AppSettings.json_bytes_max`` bytes.

    Raises 413 as soon as it is, or says it is, over the limit; 408 when it takes too long; 400
    when it ends early or its encoding is broken.
    """
    limit = request.app[SETTINGS].json_bytes_max
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
        raise invalid("body", "format", "ends early, or its encoding is broken") from None
    return bytes(body)


async def expect(request: web.Request) -> None:
    """Ask for the body where the client waits to be asked (RFC 9110, section 10.1.1).

    One over the limit is not asked for: its refusal follows. Other expectations are ignored.
    """
    waits = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
    small = (request.content_length or 0) <= request.app[SETTINGS].json_bytes_max
    if waits and small and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has not begun
