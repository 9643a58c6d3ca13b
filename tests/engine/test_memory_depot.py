"""What only the depot in memory has: a capacity."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.engine.depot.interface import Depot
from holdfast.engine.depot.memory import MemoryDepot
from holdfast.engine.model.errors import StorageFull


def test_an_append_over_the_capacity_leaves_nothing() -> None:
    depot = MemoryDepot(10)
    first, second = depot.create(1), depot.create(2)
    first.append(b"123456")
    second.append(b"7890")
    assert depot.free_bytes() == 0
    with pytest.raises(StorageFull) as caught:
        first.append(b"x")
    assert caught.value.what == "depot"
    assert first.size == 6
    first.append(b"")
    second.truncate(1)
    assert depot.free_bytes() == 3
    with pytest.raises(StorageFull):
        first.append(b"four")
    first.append(b"now")
    assert first.read(0, 20) == b"123456now"


def test_deleted_files_take_no_room() -> None:
    depot = MemoryDepot(10)
    writer = depot.create(1)
    writer.append(b"0123456789")
    reader = depot.open(1)
    depot.delete(1)
    assert depot.free_bytes() == 10
    writer.append(b"and more, which nobody can open")
    writer.truncate(3)
    assert depot.free_bytes() == 10
    assert reader.read(0, 3) == b"012"


def test_there_is_no_descriptor() -> None:
    depot = MemoryDepot()
    depot.create(1).close()
    assert depot.open(1).fileno() is None


def test_a_link_is_a_file(tmp_path: Path) -> None:
    depot: Depot = MemoryDepot()
    writer = depot.create(1)
    writer.append(b"bytes")
    depot.link(1, str(tmp_path / "file"))
    writer.append(b" and more")
    assert (tmp_path / "file").read_bytes() == b"bytes"
