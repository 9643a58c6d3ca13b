"""Sources: turns every input that ``Store.put`` accepts into one stream of pieces."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator
from typing import BinaryIO, Final

import aiofiles

from holdfast.engine.model.errors import Invalid
from holdfast.engine.tasks.threads import opened

BUFFERS_IN_FLIGHT: Final = 3
"""Buffers that may be in use at once, including the one given last."""

Stream = AsyncIterable[bytes | memoryview]
"""Bytes in pieces. The producer may refill the buffer behind a memoryview once BUFFERS_IN_FLIGHT
further pieces were asked for, or once the call that consumes the stream has returned. The end of
the stream is not enough: the piece may still be on its way to the disk. A bytearray is copied."""

PIECE_BYTES: Final = 256 * 1024
"""Bytes read from a file at a time."""


async def pieces(
    source: bytes | bytearray | memoryview | os.PathLike[str] | BinaryIO | Stream,
) -> AsyncIterator[bytes | memoryview]:
    """Yield the bytes of a source in order. Raises Invalid for other types, and OSError.

    A thread reads a file from its current position; the file is not closed.
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
            yield checked(piece)
    elif hasattr(source, "read"):
        while piece := _read(await asyncio.to_thread(source.read, PIECE_BYTES)):
            yield piece
    else:
        raise Invalid("source", f"{type(source).__name__} is not a source of bytes")


def _read(piece: object) -> bytes | memoryview:
    """Check what a file returned. Raises Invalid for text, and for None, which looks like EOF."""
    if isinstance(piece, str):
        raise Invalid("source", "the file is not open in binary mode")
    if piece is None:
        raise Invalid("source", "the file is in non-blocking mode: open it in blocking mode")
    return checked(piece)


def checked(piece: object) -> bytes | memoryview:
    """Return a piece of a stream in a form whose ``len`` is in bytes. Raises Invalid."""
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, memoryview):
        plain = piece.ndim == 1 and piece.itemsize == 1 and piece.c_contiguous
        return piece if plain else bytes(piece)
    if isinstance(piece, bytearray):
        return bytes(piece)
    raise Invalid("source", f"must yield bytes, not {type(piece).__name__}")


def check_stream(source: object) -> None:
    """Check that the source is an async iterable. Raises Invalid (``source``)."""
    if not isinstance(source, AsyncIterable):
        name = type(source).__name__
        raise Invalid("source", f"must be an async iterable of bytes, not {name}")
