"""The files of the ledger in LMDB: modes, damage, formats, copies."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest
from support import lmdb_ledger as fixtures
from support.lmdb_ledger import (
    PAGE,
    Gate,
    add,
    appears,
    child,
    clear,
    fill,
    keys,
    mode,
    names_in,
    opened,
    put,
    said,
    submitted,
    total,
)

from holdfast.engine.ledger import lmdb_file
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.model.errors import AlreadyExists, Closed, Corrupt, NotAStore, StorageFailed

path = fixtures.path
ledger = fixtures.ledger


async def test_modes_and_what_is_left_after_creation(path: Path, ledger: LmdbLedger) -> None:
    assert names_in(path) == ["data.mdb", "lock.mdb"]
    assert mode(path) == 0o700
    assert mode(path / "data.mdb") == mode(path / "lock.mdb") == 0o600


async def test_rows_are_there_after_reopening(path: Path) -> None:
    for number in range(3):
        ledger = opened(path, create=number == 0)
        await ledger.transact(put, b"%d" % number, b"x" * 10_000)
        await ledger.transact(add, b"n")
        await ledger.close()
    ledger = opened(path, create=True)
    assert ledger.read_now(keys) == [b"0", b"1", b"2", b"n"]
    assert ledger.read_now(total, b"n") == 3
    await ledger.close()


@pytest.mark.slow
async def test_acknowledged_rows_survive_kill_9(path: Path) -> None:
    script = """
async def main():
    ledger = opened(create=True)
    async def one(first):
        for number in range(first, 10**9, 8):
            await ledger.transact(put, b"%012d" % number, b"x" * 300)
            print(number, flush=True)
    await asyncio.gather(*map(one, range(8)))
asyncio.run(main())
"""
    with child(script, path) as process:
        told = [said(process) for _ in range(500)]
        process.kill()
        rest, _ = process.communicate()
    told += [line for line in rest.split("\n")[:-1] if line]
    ledger = opened(path)
    present = {int(key) for key in ledger.read_now(keys)}
    assert {int(number) for number in told} <= present
    await ledger.transact(put, b"more")
    await ledger.close()


@pytest.mark.parametrize("kind", ["absent", "file", "directory", "below-a-file"])
def test_not_a_ledger(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ledger"
    if kind in {"file", "below-a-file"}:
        path.write_bytes(b"x")
        path = path / "below" if kind == "below-a-file" else path
    elif kind == "directory":
        path.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NotAStore) as caught:
        opened(path)
    assert caught.value.path == str(path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("keep", [0, 1, 100, PAGE, 2 * PAGE - 1])
@pytest.mark.parametrize("create", [True, False])
async def test_a_file_cut_off_in_its_first_pages(path: Path, keep: int, create: bool) -> None:
    ledger = opened(path, create=True)
    await ledger.transact(fill, 0, 100, 1000)
    await ledger.close()
    os.truncate(path / "data.mdb", keep)
    with pytest.raises(Corrupt, match="holdfast restore") as caught:
        opened(path, create=create)
    assert (caught.value.kind, caught.value.name) == ("file", "ledger/data.mdb")
    assert (path / "data.mdb").stat().st_size == keep


async def test_a_file_cut_off_anywhere(path: Path, tmp_path: Path) -> None:
    ledger = opened(path, create=True)
    await ledger.transact(fill, 0, 60, 3000)
    await ledger.transact(clear, 20)
    await ledger.transact(fill, 100, 60, 5000)
    await ledger.close()
    size = (path / "data.mdb").stat().st_size
    for keep in range(2 * PAGE, size, PAGE):
        cut = tmp_path / f"cut-{keep}"
        shutil.copytree(path, cut)
        os.truncate(cut / "data.mdb", keep)
        with pytest.raises(Corrupt, match="truncated") as caught:
            opened(cut)
        assert "holdfast restore" in str(caught.value)
        shutil.rmtree(cut)
    os.truncate(path / "data.mdb", size)
    ledger = opened(path)
    assert len(ledger.read_now(keys)) == 100
    await ledger.close()


async def test_a_short_file_that_lacks_only_free_pages_is_whole(path: Path) -> None:
    """LMDB never writes pages that it took at the end of the file and freed in one go."""

    async def churn(txn: Transaction, number: int) -> None:
        for row in range(5):
            await txn.delete(b"%08d" % (number * 37 % 900 + row * 7))
            await txn.put(b"%08d" % (number * 91 % 900 + row * 11), b"y" * (100 + 4900 * (row % 2)))
        await txn.put(b"a", b"x" * 60_000)
        await txn.put(b"b", b"x" * 60_000)
        await txn.delete(b"b")
        await txn.delete(b"a")

    ledger = opened(path, create=True)
    await ledger.transact(fill, 0, 1000, 100)
    short = 0
    for number in range(60):
        await ledger.transact(churn, number)
        before, used = ledger.read_now(keys), ledger.info()["used_bytes"]
        if (path / "data.mdb").stat().st_size < used:
            short += 1
            await ledger.close()
            ledger = opened(path)
            assert ledger.read_now(keys) == before
    assert short > 0
    # One page less, and something in use is missing.
    await ledger.close()
    os.truncate(path / "data.mdb", (path / "data.mdb").stat().st_size - PAGE)
    with pytest.raises(Corrupt, match="truncated"):
        opened(path)


async def test_a_snapshot_that_the_file_has_moved_on_from(path: Path, ledger: LmdbLedger) -> None:
    """Opening then looks again, at a newer one. A file older than its lock file was swapped."""
    for number in range(5):
        await ledger.transact(put, b"%d" % number)
    newest, file = ledger.last_txn(), path / "data.mdb"
    assert lmdb_file.check_length(file, newest)
    assert lmdb_file.check_length(file, newest - 1)
    assert not lmdb_file.check_length(file, newest - 2)
    with pytest.raises(Corrupt, match="older than"):
        lmdb_file.check_length(file, newest + 1)


@pytest.mark.parametrize("size", [10, 5000, 100_000])
def test_garbage_is_no_ledger(path: Path, size: int) -> None:
    path.mkdir()
    (path / "data.mdb").write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    with pytest.raises(Corrupt, match="holdfast restore"):
        opened(path, create=True)


@pytest.mark.parametrize("page", [0, 1])
async def test_a_damaged_meta_page(path: Path, page: int) -> None:
    await opened(path, create=True).close()
    with (path / "data.mdb").open("r+b") as file:
        file.seek(page * PAGE + 16)
        file.write(b"\0\0\0\0")
    with pytest.raises(Corrupt, match="not an LMDB file"):
        opened(path)


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (76, b"\x04\0", "its meta page does not lead to its rows"),
        (112, (1 << 40).to_bytes(8, sys.byteorder), "its meta page does not lead to its rows"),
        (120, (1 << 60).to_bytes(8, sys.byteorder), "more pages than its map has"),
    ],
    ids=["flags of the rows", "root of the rows", "last page"],
)
async def test_a_meta_page_that_says_what_cannot_be(
    path: Path, ledger: LmdbLedger, at: int, value: bytes, reason: str
) -> None:
    """With flags of another kind of tree LMDB would find it empty, and take new rows."""
    await ledger.transact(put, b"a")
    await ledger.close()
    with (path / "data.mdb").open("r+b") as file:
        for page in (0, 1):
            file.seek(page * PAGE + 16 + at)
            file.write(value)
    with pytest.raises(Corrupt, match=f"{reason}.*holdfast restore"):
        opened(path)


@pytest.mark.parametrize("what", ["a page of rows", "a page past the end", "zeros", "a number"])
async def test_a_damaged_free_list_is_found(path: Path, ledger: LmdbLedger, what: str) -> None:
    """No read needs it, and every write does."""
    await ledger.transact(fill, 0, 500, 2000)
    await ledger.transact(clear, 250)
    ledger.check_free_list()
    await ledger.close()
    file = path / "data.mdb"
    content = bytearray(file.read_bytes())
    for page in (0, 1):
        at = page * PAGE + 16
        root = int.from_bytes(content[at + 64 : at + 72], sys.byteorder)
        if what == "zeros" and root < len(content) // PAGE:
            content[root * PAGE + 16 : (root + 1) * PAGE] = bytes(PAGE - 16)
        elif what == "a page of rows":
            content[at + 64 : at + 72] = content[at + 112 : at + 120]
        elif what == "a number" and root < len(content) // PAGE:
            slot = int.from_bytes(content[root * PAGE + 16 : root * PAGE + 18], sys.byteorder)
            # Behind the node's head and its key stands the page of a list so long; there, behind
            # the page's head, how many there are.
            node = root * PAGE + slot + 8 + 8
            first = int.from_bytes(content[node : node + 8], sys.byteorder) * PAGE + 16 + 8
            content[first : first + 8] = (1 << 40).to_bytes(8, sys.byteorder)
        elif what == "a page past the end":
            content[at + 64 : at + 72] = (len(content) // PAGE + 7).to_bytes(8, sys.byteorder)
    file.write_bytes(content)
    again = opened(path)
    with pytest.raises(Corrupt, match=r"free list.*holdfast restore"):
        again.check_free_list()
    await again.close()


async def test_another_data_format_is_refused(path: Path) -> None:
    await opened(path, create=True).close()
    with (path / "data.mdb").open("r+b") as file:
        file.seek(20)
        file.write((3).to_bytes(4, sys.byteorder))
    with pytest.raises(NotAStore, match="data format is 3, must be 1"):
        opened(path)


def test_an_unusable_map_size_is_reported(path: Path) -> None:
    with pytest.raises(StorageFailed, match="ledger"):
        opened(path, create=True, map_bytes=1 << 62)
    assert opened(path).read_now(keys) == []


@pytest.mark.parametrize("compact", [True, False])
async def test_a_copy_is_a_ledger(
    path: Path, tmp_path: Path, ledger: LmdbLedger, compact: bool
) -> None:
    await ledger.transact(fill, 0, 500, 2000)
    await ledger.transact(clear, 250)
    gate = Gate()
    waiting = await gate.shut(ledger) if compact else None
    target = tmp_path / "copy"
    ledger.copy(target, compact=compact)
    expected = ledger.read_now(keys)
    if waiting is not None:
        gate.go_on.set()
        await waiting
    await ledger.transact(put, b"later")
    assert mode(target / "data.mdb") == 0o600
    assert names_in(target) == ["data.mdb"]
    copied = opened(target)
    assert copied.read_now(keys) == expected
    assert len(expected) == 250
    await copied.transact(put, b"own")
    await copied.close()
    assert b"own" not in ledger.read_now(keys)
    if compact:
        sizes = [(folder / "data.mdb").stat().st_size for folder in (target, path)]
        assert sizes[0] < sizes[1]
    with pytest.raises(AlreadyExists):
        ledger.copy(target, compact=compact)
    with pytest.raises(StorageFailed):
        ledger.copy(tmp_path / "no" / "such", compact=compact)
    await ledger.close()
    with pytest.raises(Closed):
        ledger.copy(tmp_path / "other", compact=compact)


@pytest.mark.parametrize("compact", [True, False])
async def test_a_copy_and_a_writer_in_one_process(
    tmp_path: Path, ledger: LmdbLedger, compact: bool
) -> None:
    """A copy may have to wait for the writer, which then needs the interpreter to go on."""
    gate, first = await Gate.shut_on(ledger)
    copying = asyncio.create_task(
        asyncio.to_thread(ledger.copy, tmp_path / "copy", compact=compact)
    )
    await asyncio.to_thread(appears, tmp_path / "copy" / "data.mdb")
    more = await submitted(*(ledger.transact(add, b"n") for _ in range(10)))
    gate.go_on.set()
    await asyncio.gather(first, copying, *more)
    copied = opened(tmp_path / "copy")
    assert set(copied.read_now(keys)) <= {b"gate", b"n"}
    await copied.close()


async def test_a_copy_that_fails_leaves_no_file(path: Path) -> None:
    script = """
async def main():
    ledger = opened(create=True)
    for number in range(50):
        await ledger.transact(put, b"%d" % number, b"x" * 60000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    try:
        ledger.copy(path / "copy", compact=False)
    except StorageFailed as error:
        print("failed", sorted(item.name for item in (path / "copy").iterdir()), flush=True)
    await ledger.close()
asyncio.run(main())
"""
    with child(script, path) as process:
        assert said(process) == "failed []"
