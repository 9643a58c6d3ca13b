"""Framed zstd: the way back from every offset, a legal file, and damage that is always seen."""

from __future__ import annotations

import gzip
import random
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.depot import zstd_frames
from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.depot.interface import Depot, Reader
from holdfast.engine.depot.memory import MemoryDepot
from holdfast.engine.depot.zstd_frames import FrameReader, FrameWriter
from holdfast.engine.model.digest import checksum
from holdfast.engine.model.errors import Corrupt, Invalid, StorageFailed, StorageFull, TooLarge

NOISE = random.Random(1).randbytes(1 << 16)
TEXT = b"".join(b"line %d of a file that compresses\n" % number for number in range(40_000))
GIB = 1 << 30


class Shelf:
    """A depot, with files by content."""

    def __init__(self, depot: Depot) -> None:
        self.depot = depot
        self._ids = count()
        self._opened: list[Reader] = []

    def write(self, pieces: Iterable[bytes], *, frame_bytes: int = 1000) -> bytes:
        """What a FrameWriter makes of the pieces."""
        file_id = next(self._ids)
        writer = self.depot.create(file_id)
        framed = FrameWriter(writer, frame_bytes=frame_bytes)
        for piece in pieces:
            framed.append(piece)
        size = framed.finish()
        assert size == writer.size
        stored = writer.read(0, size)
        writer.close()
        return stored

    def open(self, stored: bytes) -> Reader:
        """A file with these bytes."""
        file_id = next(self._ids)
        writer = self.depot.create(file_id)
        writer.append(stored)
        writer.close()
        self._opened.append(self.depot.open(file_id))
        return self._opened[-1]

    def reader(self, content: bytes) -> FrameReader:
        return FrameReader(self.open(self.write([content])))

    def close(self) -> None:
        for reader in self._opened:
            reader.close()
        self.depot.close()


@pytest.fixture(params=["memory", "disk"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    depot: Depot = MemoryDepot() if request.param == "memory" else DiskDepot(tmp_path / "depot")
    opened = Shelf(depot)
    yield opened
    opened.close()


def refused(stored: bytes, offset: int = 0, length: int = 1 << 30) -> bytes | None:
    """What a reader of the file gives: None where it finds damage."""
    try:
        return FrameReader(Shelf(MemoryDepot()).open(stored)).read(offset, length)
    except Corrupt:
        return None


# The way back


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 12_345])
@pytest.mark.parametrize("source", [TEXT, NOISE])
def test_round_trip(shelf: Shelf, source: bytes, size: int) -> None:
    content = source[:size]
    reader = shelf.reader(content)
    assert reader.size == size
    assert reader.read(0, size + 10) == content
    assert reader.read(size, 10) == reader.read(size + 10, 10) == reader.read(0, 0) == b""


@given(
    pieces=st.lists(st.integers(0, 700).map(lambda size: TEXT[size : 2 * size]), max_size=12),
    frame_bytes=st.integers(1, 600),
    reads=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 3000)), max_size=10),
)
def test_reads_are_as_of_the_bytes_however_they_came(
    pieces: list[bytes], frame_bytes: int, reads: list[tuple[int, int]]
) -> None:
    content = b"".join(pieces)
    shelf = Shelf(MemoryDepot())
    stored = shelf.write(pieces, frame_bytes=frame_bytes)
    assert stored == shelf.write([content], frame_bytes=frame_bytes)
    reader = FrameReader(shelf.open(stored))
    assert reader.size == len(content)
    for offset, length in reads:
        assert reader.read(offset, length) == content[offset : offset + length]


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: memoryview(data).cast("H")])
def test_any_buffer_can_be_appended(kind: Callable[[bytes], bytes]) -> None:
    shelf = Shelf(MemoryDepot())
    assert shelf.write([kind(TEXT[:5000]), kind(TEXT[5000:5600])]) == shelf.write([TEXT[:5600]])


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, -1)])
def test_negative_ranges_are_refused(offset: int, length: int) -> None:
    with pytest.raises(Invalid):
        Shelf(MemoryDepot()).reader(TEXT).read(offset, length)


class Counting:
    """A reader that notes what is read of the file."""

    def __init__(self, reader: Reader) -> None:
        self.size = reader.size
        self.is_whole = reader.is_whole
        self.fileno = reader.fileno
        self.close = reader.close
        self.asked: list[tuple[int, int]] = []
        self._reader = reader

    def read(self, offset: int, length: int) -> bytes:
        self.asked.append((offset, length))
        return self._reader.read(offset, length)


def test_only_the_frames_that_are_needed_are_read(shelf: Shelf) -> None:
    file = Counting(shelf.open(shelf.write([NOISE], frame_bytes=4096)))
    reader = FrameReader(file)
    assert sum(length for _, length in file.asked) < 400
    file.asked.clear()
    assert reader.read(3 * 4096 + 7, 5) == NOISE[3 * 4096 + 7 :][:5]
    assert reader.read(3 * 4096 + 12, 5) == NOISE[3 * 4096 + 12 :][:5]
    assert len(file.asked) == 1
    assert file.asked[0][1] < 4200
    reader.read(5 * 4096 - 1, 2)
    assert len(file.asked) == 3


def test_a_closed_reader_reads_no_more(shelf: Shelf) -> None:
    file = shelf.open(shelf.write([TEXT]))
    reader = FrameReader(file)
    file.close()
    with pytest.raises(StorageFailed):
        reader.read(0, 1)


# A legal file


@pytest.mark.parametrize("size", [0, 123_456])
def test_the_zstd_program_reads_the_file(
    tmp_path: Path, require_tool: Callable[[str], str], size: int
) -> None:
    path = tmp_path / "content.zst"
    path.write_bytes(Shelf(MemoryDepot()).write([TEXT[:size]]))
    done = subprocess.run([require_tool("zstd"), "-dc", path], stdout=subprocess.PIPE, check=True)
    assert done.stdout == TEXT[:size]


def test_the_seek_table_is_that_of_the_seekable_format() -> None:
    stored = Shelf(MemoryDepot()).write([TEXT[:2500]])
    number_of_frames, descriptor, magic = struct.unpack("<IBI", stored[-9:])
    assert (descriptor, magic) == (0x80, 0x8F92EAB1)
    start = len(stored) - 9 - 12 * number_of_frames - 8
    assert struct.unpack("<II", stored[start : start + 8]) == (
        0x184D2A5E,
        12 * number_of_frames + 9,
    )
    entries = list(struct.iter_unpack("<III", stored[start + 8 : -9]))
    assert [size for _, size, _ in entries] == [1000, 1000, 500, 0]
    assert sum(size for size, _, _ in entries) == start
    offset = 0
    for number, (compressed, size, check) in enumerate(entries[:-1]):
        frame = stored[offset : offset + compressed]
        content = zstandard.ZstdDecompressor().decompress(frame)
        assert content == TEXT[number * 1000 :][:size]
        assert frame[-4:] == struct.pack("<I", check)
        assert zstandard.get_frame_parameters(frame).has_checksum
        offset += compressed


# Damage


def test_every_flipped_byte_is_seen_or_means_nothing() -> None:
    content = TEXT[:300] + NOISE[:150]
    stored = Shelf(MemoryDepot()).write([content], frame_bytes=200)
    seen = 0
    for at in range(len(stored)):
        for flip in (0x01, 0x10, 0x80, 0xFF):
            damaged = stored[:at] + bytes((stored[at] ^ flip,)) + stored[at + 1 :]
            got = refused(damaged)
            assert got in (None, content)
            seen += got is None
            # What lies in other frames is served, and is right.
            assert refused(damaged, 220, 50) in (None, content[220:270])
    assert seen > len(stored) * 3.9


def test_damage_in_one_frame_leaves_the_others_readable() -> None:
    stored = bytearray(Shelf(MemoryDepot()).write([NOISE[:3000]]))
    stored[1500] ^= 1
    assert refused(bytes(stored), 0, 1000) == NOISE[:1000]
    assert refused(bytes(stored), 2000, 1000) == NOISE[2000:3000]
    assert refused(bytes(stored), 999, 2) is None


def test_every_cut_is_seen() -> None:
    stored = Shelf(MemoryDepot()).write([TEXT[:3000]])
    for size in range(len(stored)):
        assert refused(stored[:size]) is None
        assert refused(stored[size:]) is None or size == 0


def test_more_at_the_end_or_the_start_is_seen() -> None:
    stored = Shelf(MemoryDepot()).write([TEXT[:3000]])
    for damaged in (stored + b"\0", b"\0" + stored, stored + stored, stored[:50] + stored[49:]):
        assert refused(damaged) is None


def test_frames_in_another_place_are_seen() -> None:
    stored = Shelf(MemoryDepot()).write([NOISE[:3000]])
    sizes = [entry[0] for entry in struct.iter_unpack("<III", stored[-9 - 4 * 12 : -9])]
    assert sizes[0] == sizes[1]
    first, second = stored[: sizes[0]], stored[sizes[0] : 2 * sizes[0]]
    swapped = second + first + stored[2 * sizes[0] :]
    assert refused(swapped) is None
    assert refused(swapped, 2000, 1000) == NOISE[2000:3000]


def test_a_frame_of_another_file_is_seen() -> None:
    shelf = Shelf(MemoryDepot())
    ours, theirs = shelf.write([NOISE[:2000]]), shelf.write([NOISE[2000:4000]])
    assert len(ours) == len(theirs)
    assert refused(theirs[:1000] + ours[1000:], 0, 1000) is None


def test_other_files_are_refused() -> None:
    for stored in (
        b"",
        b"x",
        TEXT[:5000],
        bytes(5000),
        zstandard.ZstdCompressor().compress(TEXT),
        b"\xff" * 5000,
        bytes(5000) + struct.pack("<IBI", 0xFFFFFFFF, 0x80, 0x8F92EAB1),
        bytes(5000) + struct.pack("<IBI", 0, 0x80, 0x8F92EAB1),
        bytes(5000) + struct.pack("<IBI", 400, 0x80, 0x8F92EAB1),
    ):
        assert refused(stored) is None
    with pytest.raises(Corrupt, match="does not end with a seek table"):
        FrameReader(Shelf(MemoryDepot()).open(TEXT))


@given(st.data())
def test_any_mixture_of_damage_gives_right_bytes_or_none(data: st.DataObject) -> None:
    content = TEXT[:900] + NOISE[:300]
    stored = bytearray(Shelf(MemoryDepot()).write([content], frame_bytes=300))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(stored)))
        stop = data.draw(st.integers(start, min(len(stored), start + 40)))
        stored[start:stop] = data.draw(st.binary(max_size=40))
    offset, length = data.draw(st.integers(0, 1200)), data.draw(st.integers(0, 1200))
    assert refused(bytes(stored), offset, length) in (None, content[offset : offset + length])


def guarded(written: list[tuple[bytes, int]], *, last: bytes | None = None) -> bytes:
    """A file of these frames, each with the size that its entry claims, and a proper guard."""
    guard_entry = struct.pack("<III", 40, 0, 0x51D8E999) if last is None else last
    entries = [struct.pack("<II", len(frame), size) + frame[-4:] for frame, size in written]
    rows = b"".join([*entries, guard_entry])
    table = b"".join(
        (
            struct.pack("<II", 0x184D2A5E, len(rows) + 9),
            rows,
            struct.pack("<IBI", len(rows) // 12, 0x80, 0x8F92EAB1),
        )
    )
    guard = struct.pack("<II", 0x184D2A5D, 32) + checksum(table)
    return b"".join((*(frame for frame, _ in written), guard, table))


def frame_of(content: bytes, *, checked: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=checked).compress(content)


def test_files_that_no_writer_makes_are_refused_though_their_table_is_whole() -> None:
    whole, short = (frame_of(TEXT[:100]), 100), (frame_of(TEXT[:50]), 50)
    assert refused(guarded([whole, whole, short])) == TEXT[:100] * 2 + TEXT[:50]
    assert refused(guarded([whole, short, whole])) is None
    assert refused(guarded([short, whole])) is None
    assert refused(guarded([whole, (frame_of(b""), 0)])) is None
    assert refused(guarded([(frame_of(b""), 0)])) is None
    assert refused(guarded([whole], last=struct.pack("<III", 39, 0, 0))) is None
    too_large = bytes(zstd_frames.FRAME_BYTES_MAX + 1)
    assert refused(guarded([(frame_of(too_large), len(too_large))])) is None
    assert refused(guarded([(frame_of(TEXT[:100], checked=False), 100)])) is None


def test_the_header_of_a_frame_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    # It claims 1 GiB; were it believed, that much would be allocated before the first byte.
    huge = struct.pack("<IBI", 0xFD2FB528, 0xA4, GIB) + bytes(50)
    assert zstandard.get_frame_parameters(huge).content_size == GIB
    stored = guarded([(huge, 100)])

    class Unused:
        def __init__(self, **_: object) -> None:
            pass

    monkeypatch.setattr(zstandard, "ZstdDecompressor", Unused)
    assert refused(stored) is None


def test_the_memory_for_the_table_is_bounded() -> None:
    claimed = zstd_frames.FRAMES_MAX + 2
    footer = struct.pack("<IBI", claimed, 0x80, 0x8F92EAB1)
    file = Counting(Shelf(MemoryDepot()).open(bytes(claimed * 12 + 100) + footer))
    with pytest.raises(Corrupt):
        FrameReader(file)
    assert file.asked == [(file.size - 9, 9)]


def test_a_file_that_shrinks_under_its_reader_is_seen() -> None:
    class Shrinking(Counting):
        end = GIB

        def read(self, offset: int, length: int) -> bytes:
            return super().read(offset, length)[: max(0, self.end - offset)]

    file = Shrinking(Shelf(MemoryDepot()).open(Shelf(MemoryDepot()).write([NOISE[:3000]])))
    reader = FrameReader(file)
    file.end = 500
    with pytest.raises(Corrupt, match="cut off at byte 500"):
        reader.read(0, 10)
    with pytest.raises(Corrupt, match="cut off"):
        FrameReader(file)


def test_errors_name_the_file() -> None:
    with pytest.raises(Corrupt, match="file 2a is damaged") as caught:
        FrameReader(Shelf(MemoryDepot()).open(b"x"), "2a")
    assert (caught.value.kind, caught.value.name) == ("file", "2a")


# Writing


def test_a_full_disk_is_an_error_of_the_writer() -> None:
    framed = FrameWriter(MemoryDepot(capacity=3000).create(1), frame_bytes=1000)
    with pytest.raises(StorageFull):
        framed.append(NOISE)


@pytest.mark.parametrize("frame_bytes", [0, -1, zstd_frames.FRAME_BYTES_MAX + 1])
def test_frame_sizes_are_bounded(frame_bytes: int) -> None:
    with pytest.raises(Invalid):
        FrameWriter(MemoryDepot().create(1), frame_bytes=frame_bytes)


def test_the_number_of_frames_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd_frames, "FRAMES_MAX", 3)
    shelf = Shelf(MemoryDepot())
    stored = shelf.write([TEXT[:3000]])
    assert FrameReader(shelf.open(stored)).read(0, 3000) == TEXT[:3000]
    with pytest.raises(TooLarge):
        shelf.write([TEXT[:3001]])


@pytest.mark.parametrize(
    ("size", "frame_bytes"),
    [
        (0, 256 * 1024),
        (4 * GIB, 256 * 1024),
        (4 * GIB + 1, 512 * 1024),
        (64 * GIB, 4 * 1024 * 1024),
        (1024 * GIB, 4 * 1024 * 1024),
    ],
)
def test_frames_grow_with_the_content(size: int, frame_bytes: int) -> None:
    assert zstd_frames.frame_bytes_for(size) == frame_bytes
    assert -(-size // frame_bytes) <= zstd_frames.FRAMES_MAX


# Whether it is worth it


@pytest.mark.parametrize(
    ("content", "worth"),
    [
        (TEXT, True),
        (bytes(1 << 20), True),
        (TEXT[:1000], True),
        (NOISE * 16, False),
        (NOISE[:1000], False),
        (b"", False),
        (gzip.compress(TEXT), False),
        (zstandard.ZstdCompressor().compress(TEXT), False),
        (b"PK\x03\x04" + TEXT, False),
        (b"\x89PNG\r\n\x1a\n" + TEXT, False),
        (b"\xff\xd8\xff\xe0" + TEXT, False),
        (b"PAR1" + TEXT, False),
    ],
)
def test_what_is_worth_compressing(shelf: Shelf, content: bytes, worth: bool) -> None:
    assert zstd_frames.worth_it(shelf.open(content)) is worth


def test_the_estimate_is_the_share_that_is_saved() -> None:
    shelf = Shelf(MemoryDepot())
    assert zstd_frames.compressible(shelf.open(bytes(1 << 20))) > 0.99
    noise = random.Random(2).randbytes(1 << 20)
    assert zstd_frames.compressible(shelf.open(noise)) == 0.0
    half = noise[: 1 << 19] + bytes(1 << 19)
    assert zstd_frames.compressible(shelf.open(half)) == pytest.approx(0.5, abs=0.01)


def test_the_estimate_reads_samples_only() -> None:
    file = Counting(Shelf(MemoryDepot()).open(TEXT * 8))
    zstd_frames.compressible(file)
    assert sum(length for _, length in file.asked) <= 16 + 8 * 64 * 1024
