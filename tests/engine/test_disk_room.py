"""Room on the disk that the ledger's file has before it needs it."""

from __future__ import annotations

import ctypes
from errno import EIO, ENOSPC, EOPNOTSUPP
from pathlib import Path

import pytest

from holdfast.engine import Store, StoreConfig
from holdfast.engine.ledger import disk_room
from holdfast.engine.ledger.disk_room import preallocate
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.model.errors import Closed, StorageFailed

KIB = 1024


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_file_has_room_behind_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    assert preallocate(path, 8192, 256 * KIB)
    assert path.read_bytes() == b"x" * 5000
    assert blocks(path) >= 264 * KIB


@pytest.mark.parametrize("number", [ENOSPC, EOPNOTSUPP, EIO])
def test_a_disk_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: int) -> int:
        ctypes.set_errno(number)
        return -1

    path = tmp_path / "file"
    path.write_bytes(b"")
    monkeypatch.setattr(disk_room, "_fallocate", lambda: refuse)
    if number == EIO:
        with pytest.raises(OSError, match="file"):
            preallocate(path, 0, KIB)
    else:
        assert not preallocate(path, 0, KIB)
    monkeypatch.setattr(disk_room, "_fallocate", lambda: None)
    assert not preallocate(path, 0, KIB)


async def grow(txn: Transaction, number: int) -> None:
    for row in range(8):
        await txn.put(b"%d %d" % (number, row), bytes(60 * KIB))


async def test_the_ledger_keeps_room_as_it_grows(tmp_path: Path) -> None:
    """And opens again as any other; half of it may be used up before more is asked for."""
    path, room = tmp_path / "ledger", 512 * KIB
    ledger = LmdbLedger.open(path, map_bytes=1 << 30, create=True)
    data = path / "data.mdb"
    for number in range(3):
        ledger.keep_room(room)
        assert blocks(data) >= data.stat().st_size + room // 2
        await ledger.transact(grow, number)
    ledger.end()
    with pytest.raises(Closed):
        ledger.keep_room(room)
    ledger = LmdbLedger.open(path, map_bytes=1 << 30, create=False)
    data.rename(path / "gone")
    with pytest.raises(StorageFailed):
        ledger.keep_room(room)
    (path / "gone").rename(data)
    ledger.end()


async def test_who_sweeps_keeps_room(tmp_path: Path) -> None:
    async with Store.open(tmp_path, StoreConfig(background=False)) as store:
        data = tmp_path / "ledger" / "data.mdb"
        assert blocks(data) < 1024 * KIB
        await store.core.keep_room()
        assert blocks(data) >= data.stat().st_size + 1024 * KIB
