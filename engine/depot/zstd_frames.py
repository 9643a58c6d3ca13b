"""Content at rest as independent zstd frames: smaller, still a legal .zst file, random access.

The file is that of the zstd "seekable format" 0.1.0 with checksums: frames of equal content, then
a skippable frame with the seek table. Before the table stands one more skippable frame, which
holds the blake3 of the table: without it a damaged size would shift all that follows unseen.
A frame is verified whenever it is read: it is the one that the table means (sizes and checksum),
and its content has that checksum. Synchronous; one thread at a time may use an object.
"""

from __future__ import annotations

import struct
import sys
from array import array
from itertools import accumulate
from typing import Final

import zstandard

from holdfast.engine.model.digest import checksum
from holdfast.engine.model.errors import Corrupt, Invalid, TooLarge

from .interface import Data, Reader, Writer

FRAME_BYTES: Final = 256 * 1024
"""Content of a frame: what a read of one byte has to decompress, in about 0.2 ms."""

FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
"""Upper bound of the memory that one reader needs for content."""

FRAMES_MAX: Final = 1 << 18
"""Upper bound of the seek table, which a reader holds in memory: 3 MiB of it."""

LEVEL: Final = 3
"""zstd's own default: 350 MB/s; twice the work saves 2 % more of typical layers."""

MIN_GAIN: Final = 0.2
"""Saving less than this share of the size is not worth losing the kernel's sendfile."""

_EASY_FRAMES: Final = 1 << 14
"""Frames grow with the content only beyond this many."""
_SAMPLES: Final = 8
_SAMPLE_BYTES: Final = 64 * 1024

_TABLE_MAGIC: Final = 0x184D2A5E
_GUARD_MAGIC: Final = 0x184D2A5D
_SEEKABLE_MAGIC: Final = 0x8F92EAB1
_HAS_CHECKSUMS: Final = 0x80
_HEADER: Final = struct.Struct("<II")
_ENTRY: Final = struct.Struct("<III")
_FOOTER: Final = struct.Struct("<IBI")
_CHECKSUM: Final = struct.Struct("<I")
_GUARD_HEADER: Final = _HEADER.pack(_GUARD_MAGIC, 32)
_GUARD_BYTES: Final = len(_GUARD_HEADER) + 32
_GUARD_ENTRY: Final = _ENTRY.pack(_GUARD_BYTES, 0, 0x51D8E999)
"""Empty content, and its checksum: the low half of XXH64 of nothing."""

_COMPRESSED_MAGICS: Final = (
    b"\x1f\x8b",  # gzip
    b"\x28\xb5\x2f\xfd",  # zstd
    b"\xfd7zXZ\x00",  # xz
    b"BZh",  # bzip2
    b"\x04\x22\x4d\x18",  # lz4
    b"7z\xbc\xaf\x27\x1c",
    b"LZIP",
    b"PK\x03\x04",  # zip, and all that is one: jar, whl, docx
    b"PAR1",  # parquet
    b"ORC",
    b"hsqs",  # squashfs
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # jpeg
    b"GIF8",
    b"OggS",
    b"fLaC",
    b"ID3",  # mp3
    b"PACK",  # git
)
_MAGIC_BYTES: Final = 16


def frame_bytes_for(size: int) -> int:
    """Content of a frame for content of ``size`` bytes: 256 KiB up to 4 GiB, 4 MiB from 64 GiB."""
    frame_bytes = FRAME_BYTES
    while frame_bytes < FRAME_BYTES_MAX and frame_bytes * _EASY_FRAMES < size:
        frame_bytes *= 2
    return frame_bytes


class FrameWriter:
    """Compresses a stream into a file, which has to be new. Syncing it is the caller's.

    Holds one frame in memory, and 12 bytes for each frame written.
    """

    __slots__ = ("_buffer", "_compressor", "_finished", "_frame_bytes", "_table", "_writer")

    def __init__(
        self, writer: Writer, *, frame_bytes: int = FRAME_BYTES, level: int = LEVEL
    ) -> None:
        if not 1 <= frame_bytes <= FRAME_BYTES_MAX:
            raise Invalid("frame_bytes", f"must be 1 to {FRAME_BYTES_MAX}")
        self._writer = writer
        self._frame_bytes = frame_bytes
        self._compressor = zstandard.ZstdCompressor(
            level=level, write_checksum=True, write_content_size=True
        )
        self._buffer = bytearray()
        self._table = bytearray()
        self._finished = False

    def append(self, data: Data) -> None:
        """Take the next bytes. Raises TooLarge over FRAMES_MAX frames, StorageFull, StorageFailed.

        After an error the file is of no use.
        """
        assert not self._finished, "append after finish"
        with memoryview(data).cast("B") as view:
            start = 0
            if self._buffer:
                start = self._frame_bytes - len(self._buffer)
                self._buffer += view[:start]
                if len(self._buffer) == self._frame_bytes:
                    self._write(self._buffer)
                    self._buffer = bytearray()
            while len(view) - start >= self._frame_bytes:
                self._write(view[start : start + self._frame_bytes])
                start += self._frame_bytes
            self._buffer += view[start:]

    def finish(self) -> int:
        """Write the rest and the seek table. Returns the size of the file in bytes.

        Raises as ``append`` does.
        """
        assert not self._finished, "finished twice"
        if self._buffer:
            self._write(self._buffer)
        self._finished = True
        self._table += _GUARD_ENTRY
        count = len(self._table) // _ENTRY.size
        table = b"".join(
            (
                _HEADER.pack(_TABLE_MAGIC, len(self._table) + _FOOTER.size),
                self._table,
                _FOOTER.pack(count, _HAS_CHECKSUMS, _SEEKABLE_MAGIC),
            )
        )
        self._writer.append(b"".join((_GUARD_HEADER, checksum(table), table)))
        return self._writer.size

    def _write(self, content: bytearray | memoryview) -> None:
        if len(self._table) == FRAMES_MAX * _ENTRY.size:
            raise TooLarge("content", FRAMES_MAX, f"frames of {self._frame_bytes} bytes")
        frame = self._compressor.compress(content)
        self._writer.append(frame)
        # A frame ends with the checksum that the table wants: the low half of XXH64.
        (content_checksum,) = _CHECKSUM.unpack_from(frame, len(frame) - _CHECKSUM.size)
        self._table += _ENTRY.pack(len(frame), len(content), content_checksum)


class FrameReader:
    """The original content of a file that a FrameWriter wrote.

    Reads and verifies the seek table when made. Keeps the last frame that was read, so reading
    on in small steps decompresses each frame once. ``name`` stands for the file in errors.
    Raises Corrupt, StorageFailed.
    """

    __slots__ = (
        "_checksums", "_decompressor", "_frame", "_frame_bytes", "_index", "_name", "_offsets",
        "_reader", "size",
    )  # fmt: skip

    def __init__(self, reader: Reader, name: str = "of zstd frames") -> None:
        self._reader = reader
        self._name = name
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=FRAME_BYTES_MAX)
        self._index = -1
        self._frame = b""
        entries, frames_end = self._read_table()
        stored, sizes, self._checksums = entries[0::3], entries[1::3], entries[2::3]
        self._offsets = array("Q", accumulate(stored, initial=0))
        self.size = sum(sizes)
        """Bytes of the original content."""
        self._frame_bytes = sizes[0] if sizes else 1
        same = sizes.count(self._frame_bytes)
        regular = same == len(sizes) or (
            same == len(sizes) - 1 and 0 < sizes[-1] < self._frame_bytes
        )
        if not regular or not 1 <= self._frame_bytes <= FRAME_BYTES_MAX:
            raise self._corrupt("its frames are not of one size")
        if self._offsets[-1] != frames_end:
            raise self._corrupt("its frames do not end where the seek table begins")

    def read(self, offset: int, length: int) -> bytes:
        """Original bytes from ``offset``: fewer than ``length`` only at the end.

        Decompresses the frames that it needs, and no other. Raises Corrupt where one of them is
        damaged, StorageFailed, and Invalid for negative arguments.
        """
        if offset < 0 or length < 0:
            raise Invalid("offset" if offset < 0 else "length", "must not be negative")
        stop = min(offset + length, self.size)
        parts = []
        while offset < stop:
            index, start = divmod(offset, self._frame_bytes)
            part = self._content(index)[start : start + stop - offset]
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _read_table(self) -> tuple[array[int], int]:
        """The entries of the frames with content, three numbers each, and where these end."""
        footer_at = self._reader.size - _FOOTER.size
        if footer_at < 0:
            raise self._corrupt("too short for a seek table")
        count, descriptor, magic = _FOOTER.unpack(self._exactly(footer_at, _FOOTER.size))
        if magic != _SEEKABLE_MAGIC or descriptor != _HAS_CHECKSUMS:
            raise self._corrupt("it does not end with a seek table")
        if not 1 <= count <= FRAMES_MAX + 1:
            raise self._corrupt(f"its seek table claims {count} frames")
        table_bytes = _HEADER.size + count * _ENTRY.size + _FOOTER.size
        frames_end = self._reader.size - table_bytes - _GUARD_BYTES
        if frames_end < 0:
            raise self._corrupt(f"too short for {count} frames")
        tail = self._exactly(frames_end, _GUARD_BYTES + table_bytes)
        table = tail[_GUARD_BYTES:]
        if tail[:_GUARD_BYTES] != _GUARD_HEADER + checksum(table):
            raise self._corrupt("its seek table has a wrong checksum")
        expected = _HEADER.pack(_TABLE_MAGIC, table_bytes - _HEADER.size)
        guard_at = table_bytes - _FOOTER.size - _ENTRY.size
        if table[: _HEADER.size] != expected or table[guard_at : -_FOOTER.size] != _GUARD_ENTRY:
            raise self._corrupt("its seek table is of another form")
        entries = array("I", table[_HEADER.size : guard_at])
        if sys.byteorder == "big":
            entries.byteswap()
        return entries, frames_end

    def _content(self, index: int) -> bytes:
        """The content of one frame, verified. Raises Corrupt."""
        if index == self._index:
            return self._frame
        start = self._offsets[index]
        frame = self._exactly(start, self._offsets[index + 1] - start)
        size = min(self._frame_bytes, self.size - index * self._frame_bytes)
        try:
            header = zstandard.get_frame_parameters(frame)
            # Looked at first: the decoder allocates what the header says.
            if header.content_size != size or not header.has_checksum or header.dict_id:
                raise self._corrupt(f"frame {index} has the header of another")
            content = self._decompressor.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise self._corrupt(f"frame {index}: {error}") from None
        (content_checksum,) = _CHECKSUM.unpack_from(frame, len(frame) - _CHECKSUM.size)
        if content_checksum != self._checksums[index] or len(content) != size:
            raise self._corrupt(f"frame {index} is another one")
        self._frame, self._index = content, index
        return content

    def _exactly(self, offset: int, length: int) -> bytes:
        data = self._reader.read(offset, length)
        if len(data) != length:
            raise self._corrupt(f"it was cut off at byte {offset + len(data)}")
        return data

    def _corrupt(self, reason: str) -> Corrupt:
        return Corrupt("file", self._name, reason)


def compressible(reader: Reader) -> float:
    """Estimates which share of the size compression would save: 0.0 (nothing) to 1.0.

    Reads the magic of formats that are compressed already, else compresses 8 samples of 64 KiB
    from all over the content. Raises StorageFailed.
    """
    if reader.read(0, _MAGIC_BYTES).startswith(_COMPRESSED_MAGICS):
        return 0.0
    compressor = zstandard.ZstdCompressor(level=1)
    taken = stored = 0
    last = max(0, reader.size - _SAMPLE_BYTES)
    # Content of less than eight samples gives fewer: they must not overlap.
    samples = max(1, min(_SAMPLES, reader.size // _SAMPLE_BYTES))
    for number in range(samples):
        sample = reader.read(last * number // max(1, samples - 1), _SAMPLE_BYTES)
        taken += len(sample)
        stored += len(compressor.compress(sample))
    return max(0.0, 1.0 - stored / taken) if taken else 0.0


def worth_it(reader: Reader) -> bool:
    """Whether compressing would save at least MIN_GAIN of the size. Raises StorageFailed."""
    return compressible(reader) >= MIN_GAIN
