"""One ledger in LMDB under several openings and processes, some of them killed."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import pytest
from support import lmdb_ledger as fixtures
from support.lmdb_ledger import add, child, keys, names_in, opened, put, said, total

from holdfast.engine.ledger import lmdb as lmdb_ledger
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.model.errors import Closed, StorageFailed

path = fixtures.path
ledger = fixtures.ledger


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
