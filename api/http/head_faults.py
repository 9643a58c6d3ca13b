"""Faults of request heads that aiohttp's parser accepts, and the words for those that it finds."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import HttpVersion11, hdrs
from aiohttp.http_exceptions import (
    BadHttpMessage,
    HttpProcessingError,
    InvalidURLError,
)
from aiohttp.http_parser import RawRequestMessage

from .origin import is_foreign

MESSAGES: Final = {
    400: "this is not a valid HTTP request",
    414: "the request target is too long",
    431: "the request headers are too long",
    501: "only the transfer coding chunked is supported",
}
"""Messages of answers to malformed requests by status."""


def size_of_head(message: RawRequestMessage) -> int:
    """Return the bytes of a head: the target, and each header with its colon and its line end."""
    fields = sum(len(name) + len(value) + len(b": \r\n") for name, value in message.raw_headers)
    return len(message.path) + fields


def fault_of(message: RawRequestMessage) -> HttpProcessingError | None:
    """Return the fault of a request that the parser accepts; None if it has none."""
    if "#" in message.path:
        # RFC 9112 section 3.2: a target has no fragment. A proxy may cut it off, and so read
        # another path than this server.
        return BadHttpMessage("the target has a fragment")
    if is_foreign(message.path):
        return BadHttpMessage("the target is not one of this server")
    codings = message.headers.getall(hdrs.TRANSFER_ENCODING, None)
    if codings is None:
        return None
    if message.version < HttpVersion11:
        # RFC 9112 section 6.1: such framing counts as faulty.
        return BadHttpMessage("Transfer-Encoding before HTTP/1.1")
    coding = ",".join(codings).strip(" \t").lower()
    if coding == "chunked":
        return None
    if not coding:
        return BadHttpMessage("Transfer-Encoding is empty")
    return HttpProcessingError(code=501, message="the transfer coding is not known")


def reason_of(error: HttpProcessingError) -> str:
    """Return the parser's reason without the bytes that it quotes: they may be secrets."""
    kind = type(error).__name__
    if isinstance(error, InvalidURLError):
        return kind
    kind_of_fault = re.split(r"[:\n]", error.message, maxsplit=1)[0]
    return f"{kind}: {kind_of_fault}"
