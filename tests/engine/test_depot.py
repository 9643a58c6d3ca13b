"""What both depots promise, shown on each: the one on disk and the one in memory."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.depot import read, write
from support.engine import raised

from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.depot.interface import BLOCK_FILES, Depot
from holdfast.engine.depot.memory import MemoryDepot
from holdfast.engine.model.errors import AlreadyExists, Busy, Invalid, NotFound, StorageFailed

KINDS: list[Literal["disk", "memory"]] = ["disk", "memory"]
GROUP_FILES = 4096 * BLOCK_FILES


@contextmanager
def opened(kind: str) -> Iterator[Depot]:
    if kind == "memory":
        yield MemoryDepot()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield DiskDepot(Path(folder, "files"))


@pytest.fixture(params=KINDS)
def depot(request: pytest.FixtureRequest) -> Iterator[Depot]:
    with opened(request.param) as depot:
        yield depot


def test_appended_bytes_are_read_back(depot: Depot) -> None:
    writer = depot.create(7)
    assert writer.size == 0
    for part in (b"ab", bytearray(b"cd"), memoryview(b"xefx")[1:3], b""):
        writer.append(part)
    assert writer.size == 6
    assert writer.read(1, 3) == b"bcd"
    writer.sync()
    writer.close()
    reader = depot.open(7)
    assert reader.size == 6
    assert reader.read(0, 100) == b"abcdef"
    reader.close()


def test_wide_items_count_in_bytes(depot: Depot) -> None:
    writer = depot.create(1)
    writer.append(memoryview(b"abcdefgh").cast("I"))
    assert writer.size == 8
    writer.append(b"i")
    writer.close()
    assert read(depot, 1) == b"abcdefghi"


def test_an_id_is_created_once(depot: Depot) -> None:
    write(depot, 3, b"first")
    with raised(AlreadyExists, kind="file", name="3"):
        depot.create(3)
    assert read(depot, 3) == b"first"


def test_a_file_that_is_not_there(depot: Depot) -> None:
    write(depot, 255, b"neighbour")
    for file_id in (0xAB, 1 << 40):
        with raised(NotFound, kind="file", name=f"{file_id:x}"):
            depot.open(file_id)
        with pytest.raises(NotFound):
            depot.reopen(file_id)
        with pytest.raises(NotFound):
            depot.link(file_id, "never-written")
        assert depot.delete(file_id) is False


def test_one_writer_at_a_time(depot: Depot) -> None:
    first = depot.create(9)
    first.append(b"one")
    with raised(Busy, kind="file", name="9"):
        depot.reopen(9)
    first.close()
    second = depot.reopen(9)
    assert second.size == 3
    with pytest.raises(Busy):
        depot.reopen(9)
    second.append(b"two")
    second.close()
    assert read(depot, 9) == b"onetwo"


def test_a_refused_writer_does_not_free_the_file(depot: Depot) -> None:
    first = depot.create(9)
    with pytest.raises(Busy):
        depot.reopen(9)
    with pytest.raises(AlreadyExists):
        depot.create(9)
    with pytest.raises(Busy):
        depot.reopen(9)
    first.close()
    first.close()
    second = depot.reopen(9)
    first.close()
    with pytest.raises(Busy):
        depot.reopen(9)
    second.close()


def test_two_threads_get_one_writer(depot: Depot) -> None:
    write(depot, 5, b"")
    start = threading.Barrier(4)
    over = threading.Barrier(4)
    outcomes: list[str] = []

    def contend() -> None:
        start.wait()
        try:
            writer = depot.reopen(5)
        except Busy:
            outcomes.append("busy")
            over.wait()
        else:
            outcomes.append("writer")
            over.wait()
            writer.close()

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["busy", "busy", "busy", "writer"]


def test_an_open_file_outlives_its_id(depot: Depot) -> None:
    write(depot, 4, b"still here")
    reader = depot.open(4)
    assert depot.delete(4) is True
    assert depot.delete(4) is False
    with pytest.raises(NotFound):
        depot.open(4)
    write(depot, 4, b"another")
    assert reader.read(0, 100) == b"still here"
    reader.close()
    assert read(depot, 4) == b"another"


def test_a_deleted_file_can_be_written_to_its_end(depot: Depot) -> None:
    writer = depot.create(4)
    assert depot.delete(4) is True
    writer.append(b"for nobody")
    assert writer.read(4, 6) == b"nobody"
    writer.close()
    assert list(depot.files(0)) == []


def test_readers_do_not_disturb_the_writer(depot: Depot) -> None:
    writer = depot.create(4)
    writer.append(b"abc")
    reader = depot.open(4)
    writer.append(b"def")
    assert (reader.size, reader.read(0, 100)) == (3, b"abc")
    later = depot.open(4)
    assert later.read(2, 2) == b"cd"
    for each in (reader, later, writer):
        each.close()


def test_a_file_cut_under_its_reader_is_damage_not_an_end(depot: Depot) -> None:
    writer = depot.create(4)
    writer.append(b"abcdef")
    reader = depot.open(4)
    writer.truncate(2)
    assert reader.read(0, 2) == b"ab"
    with pytest.raises(StorageFailed, match="ends at 2 of 6 bytes"):
        reader.read(0, 6)
    reader.close()
    writer.close()


def test_truncate_only_cuts(depot: Depot) -> None:
    writer = depot.create(2)
    writer.append(b"abcdef")
    for size in (7, -1):
        with pytest.raises(Invalid):
            writer.truncate(size)
    assert writer.size == 6
    writer.truncate(6)
    writer.truncate(2)
    writer.append(b"X")
    assert writer.read(0, 9) == b"abX"
    writer.truncate(0)
    writer.sync()
    writer.close()
    assert read(depot, 2) == b""


def test_negative_numbers_are_refused(depot: Depot) -> None:
    write(depot, 2, b"abc")
    reader = depot.open(2)
    for offset, length in ((-1, 1), (0, -1)):
        with pytest.raises(Invalid):
            reader.read(offset, length)
    reader.close()
    for call in (depot.create, depot.open, depot.reopen, depot.delete):
        with pytest.raises(Invalid):
            call(-1)
    with pytest.raises(Invalid):
        list(depot.files(-1))


def test_a_closed_file_refuses_its_methods(depot: Depot) -> None:
    writer = depot.create(2)
    writer.append(b"abc")
    writer.close()
    for call in (
        lambda: writer.append(b"x"),
        lambda: writer.truncate(0),
        lambda: writer.read(0, 1),
        writer.sync,
    ):
        with pytest.raises(StorageFailed):
            call()
    reader = depot.open(2)
    reader.close()
    reader.close()
    assert reader.fileno() is None
    with pytest.raises(StorageFailed):
        reader.read(0, 1)
    assert read(depot, 2) == b"abc"


def test_files_are_found_by_block(depot: Depot) -> None:
    by_block = {
        0: {0, 1, 255},
        1: {256, 300},
        4095: {GROUP_FILES - 1},
        4096: {GROUP_FILES, GROUP_FILES + 17},
        0x1_0000_0000: {0x100_0000_0000},
    }
    for file_id in set().union(*by_block.values()):
        write(depot, file_id, b"%d" % file_id)
    for block, file_ids in by_block.items():
        found = list(depot.files(block))
        assert len(found) == len(file_ids)
        assert set(found) == file_ids
    assert list(depot.files(2)) == []
    assert list(depot.files(1 << 50)) == []
    assert sorted(depot.blocks()) == sorted(by_block)
    for file_id in set().union(*by_block.values()):
        assert read(depot, file_id) == b"%d" % file_id


def test_a_whole_block_of_files(depot: Depot) -> None:
    for file_id in range(BLOCK_FILES * 3, BLOCK_FILES * 4):
        depot.create(file_id).close()
    assert sorted(depot.files(3)) == list(range(BLOCK_FILES * 3, BLOCK_FILES * 4))
    for file_id in depot.files(3):
        assert depot.delete(file_id)
    assert list(depot.files(3)) == []
    assert list(depot.blocks()) == [3]


def test_an_emptied_block_takes_files_again(depot: Depot) -> None:
    write(depot, 1, b"a")
    assert depot.delete(1)
    write(depot, 2, b"b")
    assert list(depot.files(0)) == [2]


def test_free_bytes(depot: Depot) -> None:
    assert depot.free_bytes() > 0


def test_linked_content_outlives_the_file(depot: Depot, tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    write(depot, 6, data)
    target = tmp_path / "copy"
    depot.link(6, str(target))
    assert depot.delete(6)
    assert target.read_bytes() == data
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_link_replaces_nothing(depot: Depot, tmp_path: Path) -> None:
    write(depot, 6, b"new")
    target = tmp_path / "taken"
    target.write_bytes(b"old")
    with raised(AlreadyExists, name=str(target)):
        depot.link(6, str(target))
    assert target.read_bytes() == b"old"
    with raised(StorageFailed, what=str(tmp_path / "missing" / "copy")):
        depot.link(6, str(tmp_path / "missing" / "copy"))
    assert list(tmp_path.glob("missing")) == []


def test_closing_the_depot_leaves_the_files(depot: Depot) -> None:
    write(depot, 6, b"kept")
    reader = depot.open(6)
    depot.close()
    depot.close()
    assert reader.read(0, 4) == b"kept"
    reader.close()


CONTENT = st.binary(max_size=5000)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), CONTENT),
        st.tuples(st.just("truncate"), st.floats(0, 1)),
        st.tuples(st.just("read"), st.integers(0, 12000), st.integers(0, 12000)),
        st.tuples(st.just("look"), st.integers(0, 12000), st.integers(0, 12000)),
        st.tuples(st.just("sync")),
        st.tuples(st.just("reopen")),
    ),
    max_size=20,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(steps=STEPS)
def test_a_file_behaves_like_bytes(kind: str, steps: list[tuple[object, ...]]) -> None:
    model = b""
    with opened(kind) as depot:
        writer = depot.create(11)
        for step in steps:
            match step:
                case ("append", bytes(data)):
                    writer.append(data)
                    model += data
                case ("truncate", float(share)):
                    size = int(len(model) * share)
                    writer.truncate(size)
                    model = model[:size]
                case ("read", int(offset), int(length)):
                    assert writer.read(offset, length) == model[offset : offset + length]
                case ("look", int(offset), int(length)):
                    reader = depot.open(11)
                    assert reader.size == len(model)
                    assert reader.read(offset, length) == model[offset : offset + length]
                    reader.close()
                case ("sync",):
                    writer.sync()
                case _:
                    writer.close()
                    writer = depot.reopen(11)
            assert writer.size == len(model)
        writer.close()
        assert read(depot, 11) == model
