"""The faults that other tests rely on happen as they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engine import raised
from support.faults import FailingDepot, FailingLedger, LossyDepot

from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.depot.interface import BLOCK_FILES, Depot, Writer
from holdfast.engine.depot.memory import MemoryDepot
from holdfast.engine.ledger.interface import Ledger, Transaction
from holdfast.engine.ledger.memory import MemoryLedger
from holdfast.engine.model.errors import NotFound, StorageFailed

SEEDS = range(60)


def content(depot: Depot, file_id: int) -> bytes | None:
    try:
        reader = depot.open(file_id)
    except NotFound:
        return None
    data = reader.read(0, reader.size)
    reader.close()
    return data


def outcomes(depot: LossyDepot, file_id: int) -> set[bytes | None]:
    return {content(depot.crash(seed), file_id) for seed in SEEDS}


def test_what_was_not_synced_may_be_lost_torn_or_shortened() -> None:
    depot = LossyDepot()
    writer = depot.create(1)
    data = bytes(range(1, 251)) * 20
    writer.append(data)
    writer.close()
    seen = outcomes(depot, 1)
    assert {None, data} <= seen
    left = {each for each in seen if each is not None}
    assert any(len(each) < len(data) for each in left)
    assert any(not data.startswith(each) for each in left), "none was torn"
    assert depot.durable() == {}


def test_a_deleted_file_may_come_back() -> None:
    depot = LossyDepot()
    for file_id, synced in ((1, True), (2, False)):
        writer = depot.create(file_id)
        writer.append(b"x")
        if synced:
            writer.sync()
        writer.close()
        assert depot.delete(file_id)
    assert outcomes(depot, 1) == {None, b"x"}
    assert outcomes(depot, 2) == {None}
    writer = depot.create(1)
    writer.append(b"second")
    assert {None, b"x", b"second"} <= outcomes(depot, 1)
    writer.sync()
    assert outcomes(depot, 1) == {b"second"}


def test_a_delete_is_durable_once_its_block_is_synced() -> None:
    depot = LossyDepot()
    for file_id in (1, BLOCK_FILES + 1):
        writer = depot.create(file_id)
        writer.append(b"x")
        writer.sync()
        writer.close()
        assert depot.delete(file_id)
    depot.sync_block(0)
    assert outcomes(depot, 1) == {None}
    assert outcomes(depot, BLOCK_FILES + 1) == {None, b"x"}
    # A sync of the directory is no sync of the files in it that are still written.
    writer = depot.create(2)
    writer.append(b"y")
    depot.sync_block(0)
    assert {None, b"y"} <= outcomes(depot, 2)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "append", "append", "truncate", "sync", "reopen", "delete"]),
        st.integers(0, 2),
        st.integers(0, 1500),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(steps=STEPS, seed=st.integers(0, 1 << 30))
def test_every_crash_keeps_what_is_durable(steps: list[tuple[str, int, int]], seed: int) -> None:
    depot = LossyDepot()
    writers: dict[int, Writer] = {}
    synced: dict[int, bytes] = {}
    for step, file_id, number in steps:
        writer = writers.get(file_id)
        if step == "create" and writer is None:
            writers[file_id] = depot.create(file_id)
        elif writer is None:
            continue
        elif step == "append":
            writer.append(bytes([number % 255 + 1]) * number)
        elif step == "truncate":
            writer.truncate(min(number, writer.size))
            synced[file_id] = synced.get(file_id, b"")[: writer.size]
        elif step == "sync":
            writer.sync()
            synced[file_id] = writer.read(0, writer.size)
        elif step == "reopen":
            writer.close()
            writers[file_id] = depot.reopen(file_id)
        elif step == "delete":
            writers.pop(file_id).close()
            assert depot.delete(file_id)
            synced.pop(file_id, None)
    left = depot.crash(seed)
    for file_id, data in depot.durable().items():
        assert (content(left, file_id) or b"").startswith(data)
    for file_id, data in synced.items():
        if data:
            assert (content(left, file_id) or b"").startswith(data)


def story(depot: Depot, folder: Path) -> None:
    """Every call that is counted, once."""
    writer = depot.create(1)
    writer.append(b"abcdef")
    writer.truncate(3)
    assert writer.size == 3
    writer.read(0, 3)
    writer.sync()
    writer.close()
    depot.reopen(1).close()
    reader = depot.open(1)
    reader.read(0, reader.size)
    reader.fileno()
    reader.close()
    list(depot.files(0))
    list(depot.blocks())
    depot.free_bytes()
    depot.link(1, str(folder / "linked"))
    depot.delete(1)
    depot.sync_block(0)
    depot.close()


CALLS = [
    *("create", "append", "truncate", "read", "sync", "close"),
    *("reopen", "close"),
    *("open", "read", "close"),
    *("files", "blocks", "free_bytes", "link", "delete", "sync_block", "close"),
]


@pytest.mark.parametrize(
    ("kind", "number"), [("disk", 0), *(("memory", number) for number in range(len(CALLS) + 1))]
)
def test_the_chosen_call_fails(kind: str, number: int, tmp_path: Path) -> None:
    """Call 0 is none: all go through."""
    depot = FailingDepot(DiskDepot(tmp_path / "files") if kind == "disk" else MemoryDepot(), number)
    if number:
        with raised(StorageFailed, what="injected", reason=CALLS[number - 1]):
            story(depot, tmp_path)
    else:
        story(depot, tmp_path)
        assert (tmp_path / "linked").read_bytes() == b"abc"
    assert depot.calls.fired is bool(number)
    assert depot.calls.log == CALLS[: number or None]


async def bump(txn: Transaction, by: int) -> int:
    await txn.add(b"n", by)
    return await txn.counter(b"n")


async def look(txn: Transaction) -> int:
    return await txn.counter(b"n")


async def test_a_ledger_fails_before_or_after() -> None:
    ledger: Ledger = MemoryLedger()
    counting = FailingLedger(ledger)
    assert await counting.transact(bump, 1) == 1
    assert await counting.read(look) == 1
    assert await counting.read_in_thread(look) == 1
    assert (counting.calls.count, counting.calls.fired) == (3, False)
    assert counting.calls.log == ["transact", "read", "read_in_thread"]

    before = FailingLedger(ledger, 1, "before")
    with raised(StorageFailed, what="injected", reason="transact"):
        await before.transact(bump, 10)
    assert before.calls.fired
    assert await before.read(look) == 1

    after = FailingLedger(ledger, 2, "after")
    assert await after.read(look) == 1
    with pytest.raises(StorageFailed):
        await after.transact(bump, by=100)
    assert after.calls.fired
    assert await after.read(look) == 101
    await after.close()
