"""Group commits of the ledger in LMDB, reads beside them, and callers that go away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import lmdb
import pytest
from support import lmdb_ledger as fixtures
from support.lmdb_ledger import (
    Gate,
    Oops,
    add,
    ends,
    keys,
    opened,
    put,
    put_and_fail,
    submitted,
    total,
)

from holdfast.engine import Change
from holdfast.engine.ledger.group_commit import GROUP_BOUNDS
from holdfast.engine.ledger.interface import Transaction, Work
from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.ledger.lmdb_txn import ReadTxn, WriteTxn
from holdfast.engine.model.errors import Closed, Corrupt

path = fixtures.path
ledger = fixtures.ledger


async def test_who_waits_shares_one_commit(ledger: LmdbLedger) -> None:
    gate, first = await Gate.shut_on(ledger)
    tasks = await submitted(*(ledger.transact(add, b"n") for _ in range(200)))
    gate.go_on.set()
    await asyncio.gather(first, *tasks)
    info = ledger.info()
    assert (info["commits"], info["members"]) == (2, 201)
    assert ledger.read_now(total, b"n") == 200


async def test_a_group_is_bounded(ledger: LmdbLedger) -> None:
    gate, first = await Gate.shut_on(ledger)
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
    gate, first = await Gate.shut_on(ledger)
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
        gate, first = await Gate.shut_on(ledger)
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


@pytest.mark.parametrize(("work", "change"), [(hush, Change.TIMES), (bring, Change.CONTENT)])
async def test_the_first_transaction_of_a_copy_drops_what_the_row_said(
    path: Path, tmp_path: Path, work: Work[[bytes], None], change: Change
) -> None:
    ledger = opened(path, create=True)
    for number in range(10):
        await ledger.transact(bring, b"%d" % number)
    last = ledger.last_txn()
    ledger.copy(tmp_path / "copy", compact=True)
    await ledger.close()
    copied = opened(tmp_path / "copy")
    first = copied.last_txn()
    await copied.transact(work, b"a")
    assert copied.changed(first, first + 1) is change
    while copied.last_txn() < last:
        await copied.transact(put, b"b")
        assert copied.changed(first, copied.last_txn()) is Change.ANY
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

    gate, first = await Gate.shut_on(ledger)
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
    gate, first = await Gate.shut_on(ledger)
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
    gate, task = await Gate.shut_on(ledger)
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
    gate, first = await Gate.shut_on(ledger)
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
