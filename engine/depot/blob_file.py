"""What lies at rest behind a blob row: opening it, checking it, hashing it. Synchronous leaves."""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from holdfast.engine.ledger.records import FRAMES, Blob
from holdfast.engine.model.digest import Hasher
from holdfast.engine.model.errors import Corrupt, NotFound, StorageFailed

from .disk_file import Irregular
from .interface import Depot, Reader, Writer
from .zstd_frames import FrameReader

PIECE_BYTES: Final = 1024 * 1024
"""Read at a time while hashing."""


class BlobFile:
    """The original bytes of a file blob, however they lie."""

    def __init__(self, reader: Reader, blob: Blob) -> None:
        self.reader = reader
        self.file_id = blob.file_id
        self._frames = FrameReader(reader, f"{blob.file_id:x}") if blob.place == FRAMES else None
        self.size = (self._frames or reader).size

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``: fewer only at the end. Raises Corrupt, StorageFailed."""
        return (self._frames or self.reader).read(offset, length)

    @property
    def plain(self) -> bool:
        """Whether the file is the blob, byte for byte."""
        return self._frames is None

    def close(self) -> None:
        """Let go of the file."""
        self.reader.close()


def open_original(depot: Depot, blob: Blob) -> BlobFile:
    """Open a file blob and check its size. Raises NotFound, StorageFailed; Corrupt where it has
    another size, or is no file."""
    try:
        reader = depot.open(blob.file_id)
    except Irregular as error:
        raise Corrupt("file", f"{blob.file_id:x}", error.reason) from error
    try:
        original = BlobFile(reader, blob)
        if original.size != blob.size or reader.size != blob.stored:
            raise Corrupt("file", f"{blob.file_id:x}", f"{reader.size} bytes at rest")
    except BaseException:
        reader.close()
        raise
    return original


def damage(depot: Depot, blob: Blob) -> str | None:
    """Read a file blob whole and compare: why it is bad, or None if it is good.

    A read that the system refuses counts as damage: the bytes cannot be served.
    """
    try:
        original = open_original(depot, blob)
    except (NotFound, Corrupt, StorageFailed) as error:
        return str(error)
    try:
        return differs(original, blob)
    finally:
        original.close()


def differs(original: BlobFile, blob: Blob) -> str | None:
    """As ``damage``, of a file that is open already."""
    try:
        hasher = blake3()
        offset = 0
        while piece := original.read(offset, PIECE_BYTES):
            hasher.update(piece)
            offset += len(piece)
    except (Corrupt, StorageFailed) as error:
        return str(error)
    return None if hasher.digest() == blob.checksum else "the checksum differs"


def hash_written(writer: Writer, hasher: Hasher) -> None:
    """Hash a file that is still open for writing, from its start."""
    while piece := writer.read(hasher.size, PIECE_BYTES):
        hasher.update(piece)
