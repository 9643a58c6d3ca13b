"""A ledger in LMDB whose map or disk is full."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support import lmdb_ledger as fixtures
from support.lmdb_ledger import (
    Gate,
    Oops,
    add,
    child,
    clear,
    fill,
    keys,
    opened,
    put,
    put_and_fail,
    said,
    submitted,
    total,
)

from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.model.errors import StorageFull

path = fixtures.path
ledger = fixtures.ledger


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
    gate, first = await Gate.shut_on(ledger)
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
