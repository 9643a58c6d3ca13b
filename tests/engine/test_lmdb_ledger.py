"""What only the ledger in LMDB does: files, processes, group commits, a full map, damage."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lmdb
import pytest

from holdfast.engine import Change
from holdfast.engine.ledger import lmdb as lmdb_ledger
from holdfast.engine.ledger import lmdb_file
from holdfast.engine.ledger.group_commit import GROUP_BOUNDS
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.ledger.lmdb_txn import ReadTxn, WriteTxn
from holdfast.engine.model.errors import (
    AlreadyExists,
    Closed,
    Corrupt,
    NotAStore,
    StorageFailed,
    StorageFull,
)

MAP_BYTES = 1 << 30
PAGE = os.sysconf("SC_PAGE_SIZE")

CHILD = """
import asyncio, os, resource, sys, time
from pathlib import Path
from holdfast.engine.model.errors import StorageFailed
from holdfast.engine.ledger.lmdb import LmdbLedger

path = Path(sys.argv[1])

async def add(txn, key, delta=1):
    await txn.add(key, delta)

async def put(txn, key, value):
    await txn.put(key, value)

async def get(txn, key):
    return await txn.get(key)

async def reads_until_told(txn):
    print("reading", flush=True)
    sys.stdin.readline()
    return [key for key, _ in await txn.scan(b"a", b"z", limit=100)]

def opened(create=False):
    return LmdbLedger.open(path, map_bytes=1 << 30, create=create)
"""


def spawn(script: str, path: Path) -> subprocess.Popen[str]:
    """A process of its own, with ``CHILD`` before its script."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD + script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def child(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A child that is gone after the block, however it ends."""
    process = spawn(script, path)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def names_in(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def appears(file: Path) -> None:
    while not file.exists():
        os.sched_yield()


def ends(writer: threading.Thread) -> None:
    """Collect until it does: its last step, and this task's, may still hold an error's frames."""
    while writer.is_alive():
        gc.collect()
        os.sched_yield()


def opened(path: Path, *, create: bool = False, map_bytes: int = MAP_BYTES) -> LmdbLedger:
    return LmdbLedger.open(path, map_bytes=map_bytes, create=create)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[LmdbLedger]:
    made = opened(path, create=True)
    yield made
    await made.close()


class Oops(Exception):
    """What a body raises on purpose."""


async def put(txn: Transaction, key: bytes, value: bytes = b"") -> None:
    await txn.put(key, value)


async def get(txn: Transaction, key: bytes) -> bytes | None:
    return await txn.get(key)


async def add(txn: Transaction, key: bytes, delta: int = 1) -> None:
    await txn.add(key, delta)


async def total(txn: Transaction, key: bytes) -> int:
    return await txn.counter(key)


async def keys(txn: Transaction) -> list[bytes]:
    return [key for key, _ in await txn.scan(b"", b"\xff", limit=1_000_000)]


async def fill(txn: Transaction, first: int, rows: int, row_bytes: int) -> None:
    for number in range(first, first + rows):
        await txn.put(b"%08d" % number, b"x" * row_bytes)


async def clear(txn: Transaction, rows: int) -> int:
    found = await txn.scan(b"", b"\xff", limit=rows)
    for key, _ in found:
        await txn.delete(key)
    return len(found)


async def put_and_fail(txn: Transaction, key: bytes) -> None:
    await txn.put(key, b"")
    await txn.add(b"n", 1)
    raise Oops(key)


class Gate:
    """A body that holds the writer until it is told to go on, so that others queue up."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()

    async def body(self, txn: Transaction) -> None:
        await txn.put(b"gate", b"")
        self.entered.set()
        assert self.go_on.wait(60)

    async def shut(self, ledger: LmdbLedger) -> asyncio.Task[None]:
        task = asyncio.create_task(ledger.transact(self.body))
        assert await asyncio.to_thread(self.entered.wait, 60)
        return task


async def submitted(*calls: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    """Tasks that have run as far as they can."""
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


# --- files ---------------------------------------------------------------------------------


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
        with pytest.raises(Corrupt, match="cut off") as caught:
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
    with pytest.raises(Corrupt, match="cut off"):
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
        (76, b"\x04\0", "where its rows are"),
        (112, (1 << 40).to_bytes(8, sys.byteorder), "where its rows are"),
        (120, (1 << 60).to_bytes(8, sys.byteorder), "more pages than its map"),
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
    with pytest.raises(NotAStore, match="data format 3"):
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
    gate = Gate()
    first = await gate.shut(ledger)
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


# --- group commits -------------------------------------------------------------------------


async def test_who_waits_shares_one_commit(ledger: LmdbLedger) -> None:
    gate = Gate()
    first = await gate.shut(ledger)
    tasks = await submitted(*(ledger.transact(add, b"n") for _ in range(200)))
    gate.go_on.set()
    await asyncio.gather(first, *tasks)
    info = ledger.info()
    assert (info["commits"], info["members"]) == (2, 201)
    assert ledger.read_now(total, b"n") == 200


async def test_a_group_is_bounded(ledger: LmdbLedger) -> None:
    gate = Gate()
    first = await gate.shut(ledger)
    tasks = await submitted(*(ledger.transact(add, b"n") for _ in range(1200)))
    gate.go_on.set()
    await asyncio.gather(first, *tasks)
    info = ledger.info()
    assert info["commits"] == 1 + 3
    # One member; 512 twice; and the 176 that were left.
    sizes = {name: count for name, count in info.items() if name.startswith("commits_")}
    assert len(sizes) == len(GROUP_BOUNDS)
    assert {name for name, count in sizes.items() if count} == {
        "commits_1",
        "commits_256",
        "commits_512",
    }
    assert sizes["commits_512"] == 2
    assert ledger.read_now(total, b"n") == 1200


async def test_who_fails_in_a_group_fails_alone(ledger: LmdbLedger) -> None:
    gate = Gate()
    first = await gate.shut(ledger)
    tasks = await submitted(
        ledger.transact(put, b"a"),
        ledger.transact(put_and_fail, b"b"),
        ledger.transact(add, b"n", 5),
        ledger.transact(put_and_fail, b"c"),
        ledger.transact(put, b"d"),
    )
    gate.go_on.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    await first
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        Oops,
        type(None),
        Oops,
        type(None),
    ]
    assert ledger.read_now(keys) == [b"a", b"d", b"gate", b"n"]
    assert ledger.read_now(total, b"n") == 5
    assert ledger.info()["commits"] == 2


async def hush(txn: Transaction, key: bytes) -> None:
    txn.declare_change(Change.TIMES)
    await txn.put(key, b"")


async def bring(txn: Transaction, key: bytes) -> None:
    txn.declare_change(Change.CONTENT)
    await txn.put(key, b"")


async def hush_and_fail(txn: Transaction, key: bytes) -> None:
    await hush(txn, key)
    raise Oops


async def read_only(txn: Transaction) -> None:
    await txn.get(b"a")


async def test_a_group_is_quiet_if_all_who_wrote_are(ledger: LmdbLedger) -> None:
    async def quiet_group(*others: Coroutine[Any, Any, None]) -> bool:
        gate = Gate()
        first = await gate.shut(ledger)
        tasks = await submitted(ledger.transact(hush, b"a"), *others, ledger.transact(hush, b"b"))
        gate.go_on.set()
        await first
        await asyncio.gather(*tasks, return_exceptions=True)
        newest = ledger.last_txn()
        return ledger.changed(newest - 1, newest) is Change.TIMES

    assert await quiet_group()
    assert await quiet_group(ledger.transact(read_only), ledger.transact(put_and_fail, b"c"))
    assert not await quiet_group(ledger.transact(put, b"c"))
    assert not await quiet_group(ledger.transact(put, b"c"), ledger.transact(hush_and_fail, b"d"))
    assert not await quiet_group(ledger.transact(add, b"n"))
    assert not await quiet_group(ledger.transact(bring, b"e"))
    newest = ledger.last_txn()
    assert ledger.changed(newest - 1, newest) is Change.CONTENT


async def test_a_copy_counts_its_transactions_anew(path: Path, tmp_path: Path) -> None:
    """And what the copied row says of quiet ones is of others with the same numbers."""
    ledger = opened(path, create=True)
    start = ledger.last_txn()
    for number in range(10):
        await ledger.transact(hush, b"%d" % number)
    last = ledger.last_txn()
    assert ledger.changed(start, last) is Change.TIMES
    ledger.copy(tmp_path / "copy", compact=True)
    await ledger.close()
    copied = opened(tmp_path / "copy")
    first = copied.last_txn()
    assert first < last
    while copied.last_txn() < last:
        await copied.transact(add, b"n")
        assert copied.changed(first, copied.last_txn()) is Change.ANY
    await copied.transact(hush, b"a")
    assert copied.changed(last, last + 1) is Change.TIMES
    assert copied.changed(last - 1, last + 1) is Change.ANY
    await copied.close()


async def test_who_opens_a_copy_later_does_not_believe_its_row_either(
    path: Path, tmp_path: Path
) -> None:
    """Others may have had it open since before the transactions that it is not about."""
    ledger = opened(path, create=True)
    for number in range(10):
        await ledger.transact(hush, b"%d" % number)
    last = ledger.last_txn()
    ledger.copy(tmp_path / "copy", compact=True)
    await ledger.close()
    copied = opened(tmp_path / "copy")
    first = copied.last_txn()
    while copied.last_txn() < last:
        await copied.transact(add, b"n")
    await copied.close()
    later = opened(tmp_path / "copy")
    await later.transact(hush, b"a")
    assert later.changed(last, last + 1) is Change.TIMES
    assert later.changed(first, last + 1) is Change.ANY
    await later.close()


async def test_who_meets_a_damaged_page_in_a_group_fails_alone(ledger: LmdbLedger) -> None:
    """After an error of LMDB its transaction is good for nothing: the others have their own."""

    async def meet(txn: Transaction) -> None:
        await txn.put(b"b", b"")
        error = lmdb.CorruptedError("mdb_get: MDB_CORRUPTED")
        error.__dict__["code"] = -30796  # as the binding does
        raise error

    gate = Gate()
    first = await gate.shut(ledger)
    tasks = await submitted(
        ledger.transact(put, b"a"), ledger.transact(meet), ledger.transact(add, b"n")
    )
    gate.go_on.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    await first
    assert [type(outcome) for outcome in outcomes] == [type(None), Corrupt, type(None)]
    assert ledger.read_now(keys) == [b"a", b"gate", b"n"]
    assert ledger.info()["commits"] == 3


async def test_members_of_a_group_see_the_room_that_those_before_them_left(path: Path) -> None:
    """It is not looked at for each: never more is told than there is, nor much less."""
    row, members, rooms = b"x" * 30_000, 200, list[tuple[int, int]]()

    async def take(txn: Transaction, key: bytes) -> None:
        exact = (await ReadTxn.room(cast(WriteTxn, txn))).map
        rooms.append((exact, (await txn.room()).map))
        await txn.put(key, row)

    ledger = opened(path, create=True, map_bytes=64 << 20)
    gate = Gate()
    first = await gate.shut(ledger)
    tasks = await submitted(*(ledger.transact(take, b"%d" % number) for number in range(members)))
    gate.go_on.set()
    await asyncio.gather(first, *tasks)
    await ledger.close()
    assert len(rooms) == members
    assert rooms[0][0] - rooms[-1][0] > members * len(row) * 0.9
    for exact, told in rooms:
        assert exact - exact // 50 <= told <= exact


async def test_reads_go_on_beside_a_writer(ledger: LmdbLedger) -> None:
    await ledger.transact(put, b"before")
    gate = Gate()
    task = await gate.shut(ledger)
    number = ledger.last_txn()
    for _ in range(3):
        assert await ledger.read(keys) == [b"before"]
        assert await ledger.read_in_thread(keys) == [b"before"]
        assert ledger.last_txn() == number
    gate.go_on.set()
    await task
    assert await ledger.read(keys) == [b"before", b"gate"]
    assert ledger.last_txn() > number


async def test_a_read_sees_one_state_however_long_it_takes(ledger: LmdbLedger) -> None:
    await ledger.transact(put, b"a")
    gate = Gate()

    async def look_twice(txn: Transaction) -> list[int]:
        seen = [len(await keys(txn))]
        gate.entered.set()
        assert gate.go_on.wait(60)
        return [*seen, len(await keys(txn))]

    aside = asyncio.create_task(ledger.read_in_thread(look_twice))
    assert await asyncio.to_thread(gate.entered.wait, 60)
    for number in range(20):
        await ledger.transact(put, b"%d" % number)
    gate.go_on.set()
    assert await aside == [1, 1]
    assert len(ledger.read_now(keys)) == 21


async def test_a_cancelled_caller_disturbs_nobody(ledger: LmdbLedger) -> None:
    gate = Gate()
    first = await gate.shut(ledger)
    good, gone, failing, last = await submitted(
        ledger.transact(put, b"good"),
        ledger.transact(put, b"gone"),
        ledger.transact(put_and_fail, b"failing"),
        ledger.transact(put, b"last"),
    )
    gone.cancel()
    failing.cancel()
    first.cancel()
    gate.go_on.set()
    await asyncio.gather(good, last)
    for task in (gone, failing, first):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ledger.read_now(keys) == [b"gate", b"gone", b"good", b"last"]
    await ledger.transact(put, b"more")


def test_a_caller_whose_loop_is_gone_disturbs_nobody(path: Path) -> None:
    ledger = opened(path, create=True)
    gate = Gate()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(gate.shut(ledger))
    # The pending task is dropped with its loop, as after a crash of its thread.
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined] # the test means it
    loop.close()
    gate.go_on.set()
    asyncio.run(ledger.transact(put, b"a"))
    assert ledger.read_now(keys) == [b"a", b"gate"]
    asyncio.run(ledger.close())


async def test_close_waits_for_reads_aside(ledger: LmdbLedger) -> None:
    await ledger.transact(put, b"a")
    gate = Gate()

    async def wait(txn: Transaction) -> list[bytes]:
        gate.entered.set()
        assert gate.go_on.wait(60)
        return await keys(txn)

    aside = asyncio.create_task(ledger.read_in_thread(wait))
    assert await asyncio.to_thread(gate.entered.wait, 60)
    closing = asyncio.create_task(ledger.close())
    await asyncio.sleep(0)
    with pytest.raises(Closed):
        await ledger.read(keys)
    assert not closing.done()
    gate.go_on.set()
    assert await aside == [b"a"]
    await closing


async def test_a_forgotten_ledger_leaves_no_thread(path: Path) -> None:
    before = set(threading.enumerate())
    ledger = opened(path, create=True)
    await ledger.transact(put, b"a")
    with pytest.raises(Oops):
        await ledger.transact(put_and_fail, b"b")
    (writer,) = (t for t in threading.enumerate() if t not in before and t.name == "ledger")
    del ledger
    await asyncio.to_thread(ends, writer)
    again = opened(path)
    assert again.read_now(keys) == [b"a"]
    await again.close()


# --- one directory, several users ----------------------------------------------------------


async def test_two_ledgers_on_one_path_in_one_process(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    one = opened(path, create=True)
    two = opened(tmp_path / "link", create=True)
    calls = [ledger.transact(add, b"n") for ledger in (one, two) for _ in range(100)]
    await asyncio.gather(*calls)
    assert one.read_now(total, b"n") == two.read_now(total, b"n") == 200
    await one.close()
    with pytest.raises(Closed):
        one.read_now(total, b"n")
    await two.transact(add, b"n")
    assert two.read_now(total, b"n") == 201
    await two.close()
    again = opened(path)
    assert again.read_now(total, b"n") == 201
    await again.close()


async def test_a_new_directory_at_the_path_of_an_open_one(path: Path) -> None:
    old = opened(path, create=True)
    await old.transact(put, b"old")
    shutil.move(path, path.with_name("aside"))
    new = opened(path, create=True)
    assert new.read_now(keys) == []
    await new.transact(put, b"new")
    assert old.read_now(keys) == [b"old"]
    await asyncio.gather(old.close(), new.close())


@pytest.mark.slow
async def test_processes_write_side_by_side(path: Path) -> None:
    """They also race to create it, and each sees what the others committed."""
    script = """
async def main():
    ledger = opened(create=True)
    await asyncio.gather(*(ledger.transact(add, b"n") for _ in range(50)))
    for _ in range(50):
        await ledger.transact(add, b"n")
    await ledger.close()
asyncio.run(main())
"""
    with child(script, path) as first, child(script, path) as second:
        ledger = opened(path, create=True)
        before = ledger.last_txn()
        for _ in range(100):
            await ledger.transact(add, b"n")
        assert (first.wait(60), second.wait(60)) == (0, 0)
    assert ledger.read_now(total, b"n") == 300
    assert ledger.last_txn() > before
    assert names_in(path) == ["data.mdb", "lock.mdb"]
    await ledger.close()


@pytest.mark.slow
async def test_opening_beside_a_busy_writer(path: Path) -> None:
    script = """
async def main():
    ledger = opened(create=True)
    for number in range(10**9):
        await ledger.transact(put, b"%03d" % (number % 1000), b"x" * (number % 9000))
        if number == 10:
            print("busy", flush=True)
asyncio.run(main())
"""
    with child(script, path) as process:
        assert said(process) == "busy"
        for _ in range(300):
            ledger = opened(path)
            assert ledger.read_now(keys)
            await ledger.close()


@pytest.mark.slow
async def test_a_writer_killed_inside_its_transaction(path: Path, ledger: LmdbLedger) -> None:
    script = """
async def stuck(txn):
    await txn.put(b"never", b"x")
    print("writing", flush=True)
    time.sleep(600)
asyncio.run(opened().transact(stuck))
"""
    with child(script, path) as process:
        assert said(process) == "writing"
        waiting = asyncio.create_task(ledger.transact(put, b"a"))
        assert ledger.read_now(keys) == []
        process.send_signal(signal.SIGKILL)
        await waiting
    assert ledger.read_now(keys) == [b"a"]


READER = "print(opened().read_now(reads_until_told), flush=True)"


@pytest.mark.slow
async def test_another_process_reads_its_snapshot(path: Path, ledger: LmdbLedger) -> None:
    await ledger.transact(put, b"a")
    with child(READER, path) as process:
        assert said(process) == "reading"
        for number in range(20):
            await ledger.transact(put, b"b%d" % number)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert said(process) == "[b'a']"


@pytest.mark.slow
async def test_killed_readers_do_not_keep_pages(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every commit frees some 70 KB; were they never reused, the map would be full soon."""
    monkeypatch.setattr(lmdb_ledger, "_CHECK_COMMITS", 40)
    ledger = opened(path, create=True, map_bytes=8 << 20)
    await ledger.transact(put, b"a", b"x" * 60_000)
    with child(READER, path) as process:
        assert said(process) == "reading"
        process.kill()
        process.wait()
    for number in range(400):
        await ledger.transact(put, b"a", b"%d" % number + b"x" * 60_000)
    await ledger.close()


@pytest.mark.slow
async def test_opening_forgets_killed_readers(path: Path) -> None:
    ledger = opened(path, create=True, map_bytes=8 << 20)
    await ledger.transact(put, b"a", b"x" * 60_000)
    with child(READER, path) as process:
        assert said(process) == "reading"
        process.kill()
        process.wait()
    with child("opened()\nprint('open', flush=True)\ntime.sleep(600)", path) as other:
        assert said(other) == "open"
        for number in range(400):
            await ledger.transact(put, b"a", b"%d" % number + b"x" * 60_000)
    await ledger.close()


@pytest.mark.slow
async def test_slots_of_killed_readers_are_used_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_ledger, "_READERS_MAX", 4)
    ledger = opened(path, create=True)

    def nested(depth: int) -> int:
        async def work(txn: Transaction) -> int:
            assert await keys(txn) == []
            return 1 + nested(depth - 1) if depth else 0

        return ledger.read_now(work)

    def deepest() -> int:
        for depth in range(100):
            try:
                nested(depth)
            except StorageFailed:
                return depth - 1
        raise AssertionError("the slots never run out")

    most = deepest()
    assert most >= 2
    with child(READER, path) as one, child(READER, path) as two:
        assert (said(one), said(two)) == ("reading", "reading")
        with pytest.raises(StorageFailed, match="READERS_FULL"):
            nested(most)
        one.kill()
        two.kill()
        one.wait()
        two.wait()
        assert nested(most) == most
    await ledger.close()


# --- no space ------------------------------------------------------------------------------


async def fill_up(ledger: LmdbLedger, row_bytes: int) -> int:
    for number in range(1_000_000):
        try:
            await ledger.transact(fill, number, 1, row_bytes)
        except StorageFull:
            return number
    raise AssertionError("the map is never full")


async def test_a_full_map_recovers_after_deletes(path: Path) -> None:
    ledger = opened(path, create=True, map_bytes=2 << 20)
    rows = await fill_up(ledger, 30_000)
    assert rows > 50
    with pytest.raises(StorageFull, match="in the ledger"):
        await ledger.transact(fill, rows, 1, 30_000)
    kept = ledger.read_now(keys)
    assert len(kept) == rows
    # Small things still fit, and deleting does.
    await ledger.transact(add, b"n")
    assert await ledger.transact(clear, 30) == 30
    assert ledger.read_now(keys) == [*kept[30:], b"n"]
    for number in range(20):
        await ledger.transact(put, b"new-%d" % number, b"x" * 30_000)
    await ledger.close()
    ledger = opened(path, map_bytes=2 << 20)
    assert len(ledger.read_now(keys)) == rows - 30 + 1 + 20
    await ledger.close()


async def test_in_a_group_only_those_fail_that_do_not_fit(path: Path) -> None:
    ledger = opened(path, create=True, map_bytes=2 << 20)
    gate = Gate()
    first = await gate.shut(ledger)
    tasks = await submitted(
        ledger.transact(add, b"n"),
        ledger.transact(fill, 0, 100, 60_000),
        ledger.transact(put_and_fail, b"x"),
        ledger.transact(add, b"n"),
        ledger.transact(fill, 1000, 200, 60_000),
        ledger.transact(put, b"last"),
    )
    gate.go_on.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    await first
    failed = [None if outcome is None else type(outcome) for outcome in outcomes]
    assert failed == [None, StorageFull, Oops, None, StorageFull, None]
    assert outcomes[1] is not outcomes[4]
    assert ledger.read_now(keys) == [b"gate", b"last", b"n"]
    assert ledger.read_now(total, b"n") == 2
    await ledger.close()


@pytest.mark.parametrize("callers", [1, 5])
def test_a_refused_write_fails_its_group_and_nothing_else(path: Path, callers: int) -> None:
    """The system refuses to let the file grow; afterwards all goes on."""
    script = f"""
async def main():
    ledger = opened(create=True)
    await ledger.transact(put, b"before", b"1")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, resource.RLIM_INFINITY))
    async def large(txn, first):
        for number in range(first, first + 10):
            await txn.put(b"%06d" % number, b"x" * 60000)
    outcomes = await asyncio.gather(
        *(ledger.transact(large, number * 10) for number in range({callers})),
        return_exceptions=True,
    )
    print(*(type(outcome).__name__ for outcome in outcomes), flush=True)
    print(ledger.read_now(get, b"before"), ledger.info()["entries"], flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    await ledger.transact(large, 0)
    print(ledger.info()["entries"], flush=True)
    await ledger.close()
asyncio.run(main())
"""
    with child(script, path) as process:
        assert said(process) == " ".join(["StorageFailed"] * callers)
        assert said(process) == "b'1' 1"
        assert said(process) == "11"
        assert process.wait(60) == 0
    ledger = opened(path)
    assert len(ledger.read_now(keys)) == 11
    asyncio.run(ledger.close())
