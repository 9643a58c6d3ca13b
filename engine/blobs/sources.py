"""Sources: what an embedder may hand to ``put``, as one stream of pieces."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator
from typing import BinaryIO, Final

import aiofiles

from holdfast.engine.model.errors import Invalid
from holdfast.engine.tasks.threads import opened

BUFFERS_IN_FLIGHT: Final = 3
"""Pieces that may be in use at once, with the one that was given last."""

Stream = AsyncIterable[bytes | memoryview]
"""Bytes in pieces. A buffer behind a memoryview may be filled again once LENT further pieces were
asked for, or the call that takes them is over; not before, also where the stream has come to its
end, for the piece may still be on its way to the disk. A bytearray is copied."""

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
            yield checked(piece)
    elif hasattr(source, "read"):
        while piece := _read(await asyncio.to_thread(source.read, PIECE_BYTES)):
            yield piece
    else:
        raise Invalid("source", f"{type(source).__name__} is no source of bytes")


def _read(piece: object) -> bytes | memoryview:
    """What a file gave. Raises Invalid for text, and for None: it would pass for the end."""
    if isinstance(piece, str):
        raise Invalid("source", "the file is not open in binary mode")
    if piece is None:
        raise Invalid("source", "the file does not wait for its bytes: open it in blocking mode")
    return checked(piece)


def checked(piece: object) -> bytes | memoryview:
    """A piece of a stream, such that its length is in bytes. Raises Invalid (``source``)."""
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, memoryview):
        plain = piece.ndim == 1 and piece.itemsize == 1 and piece.c_contiguous
        return piece if plain else bytes(piece)
    if isinstance(piece, bytearray):
        return bytes(piece)
    raise Invalid("source", f"it gave {type(piece).__name__} where bytes are needed")


def check_stream(source: object) -> None:
    """Raises Invalid (``source``) for what gives no pieces."""
    if not isinstance(source, AsyncIterable):
        name = type(source).__name__
        raise Invalid("source", f"{name} is no stream: an async iterable of bytes is needed")
