"""Sources: what an embedder may hand to ``put``, as one stream of pieces."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator
from typing import BinaryIO, Final

import aiofiles

from .errors import Invalid
from .offload import opened

Stream = AsyncIterable[bytes | memoryview]
"""Bytes in pieces. A buffer behind a memoryview may be filled again once the next piece but one is
asked for, or the stream is left; not before, for the piece may still be on its way to the disk."""

PIECE_BYTES: Final = 256 * 1024
"""Read from a file at a time."""


async def pieces(
    source: bytes | bytearray | memoryview | os.PathLike[str] | BinaryIO | Stream,
) -> AsyncIterator[bytes | memoryview]:
    """The bytes of a source in order. Raises Invalid for anything else, OSError of its file.

    A file is read from where it stands, by a thread; it is not closed.
    """
    piece: bytes | memoryview
    if isinstance(source, bytes | bytearray | memoryview):
        for start in range(0, len(source), PIECE_BYTES):
            yield bytes(source[start : start + PIECE_BYTES])
    elif isinstance(source, os.PathLike):
        async with opened(aiofiles.open(source, "rb")) as file:
            while piece := await file.read(PIECE_BYTES):
                yield piece
    elif isinstance(source, AsyncIterable):
        async for piece in source:
            yield piece
    elif hasattr(source, "read"):
        while read := await asyncio.to_thread(source.read, PIECE_BYTES):
            if not isinstance(read, bytes):
                raise Invalid("source", "the file is not open in binary mode")
            yield read
    else:
        raise Invalid("source", f"{type(source).__name__} is no source of bytes")
