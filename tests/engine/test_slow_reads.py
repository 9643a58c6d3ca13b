"""Long reads in threads: shared fairly among parties, and ended with their callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.engine import REGION, Place, make_namespace, push
from support.load import eventually

from holdfast.engine import Closed, Store
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.slow_reads import (
    READ_OWNER,
    THREADS_MAX,
    THREADS_PER_OWNER,
    SlowReads,
    Stop,
    Stopped,
)
from holdfast.engine.namespaces.listings import Query


class Gate:
    """Reads that run until they are let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun: list[str] = []

    def read(self, name: str) -> Callable[[Stop], str]:
        def call(stop: Stop) -> str:
            self.begun.append(name)
            while not self.open.wait(0.001):
                stop.check()
            return name

        return call


def start(reads: SlowReads, party: str, call: Callable[[Stop], str]) -> asyncio.Task[str]:
    async def run() -> str:
        READ_OWNER.set(party)
        return await reads.run(call)

    return asyncio.create_task(run())


async def test_one_party_has_half_of_the_threads_at_most() -> None:
    reads, gate = SlowReads("test"), Gate()
    many = [start(reads, "a", gate.read(f"a{number}")) for number in range(20)]
    await eventually(lambda: len(gate.begun) == THREADS_PER_OWNER)
    assert await start(reads, "b", lambda stop: "b") == "b", "while a has 18 more that wait"
    assert gate.begun == ["a0", "a1"]
    gate.open.set()
    assert await asyncio.gather(*many) == [f"a{number}" for number in range(20)]
    await eventually(lambda: not reads._threads)
    assert not reads._running
    assert not reads._waiting


async def test_parties_that_wait_take_turns() -> None:
    reads, gate, last = SlowReads("test"), Gate(), Gate()
    held = [start(reads, party, gate.read(party)) for party in ("x", "x", "y", "y")]
    await eventually(lambda: len(gate.begun) == THREADS_MAX)
    last.open.set()
    waiting = [
        start(reads, party, last.read(f"{party}{number}"))
        for party in ("a", "b", "c")
        for number in range(3)
    ]
    await asyncio.sleep(0.01)
    held[0].cancel()
    await asyncio.gather(*waiting)
    assert last.begun == [f"{party}{number}" for number in range(3) for party in "abc"]
    gate.open.set()
    await asyncio.wait(held)


def test_several_loops_share_the_threads() -> None:
    reads = SlowReads("test")

    async def some() -> list[str]:
        tasks = [start(reads, str(number), lambda stop: "done") for number in range(50)]
        return await asyncio.gather(*tasks)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: asyncio.run(some()), range(4)))
    assert found == [["done"] * 50] * 4


async def endless(txn: Transaction, seen: list[str]) -> None:
    seen.append("begun")
    try:
        while True:
            await txn.get(b"#")
            await txn.scan(b"#", b"$", limit=1)
            await txn.counter(b"#x")
    except Stopped:
        seen.append("stopped")
        raise


async def test_a_read_of_the_ledger_ends_with_its_caller(place: Place) -> None:
    seen: list[str] = []
    async with place.store() as store:
        task = asyncio.create_task(store.core.ledger.read_in_thread(endless, seen))
        await eventually(lambda: bool(seen))
        task.cancel()
        await eventually(lambda: seen == ["begun", "stopped"])
        # What is written in a read is refused there as well.
        with pytest.raises(RuntimeError):
            await store.core.ledger.read_in_thread(_write)
    with pytest.raises(Closed):
        await store.core.ledger.read_in_thread(endless, seen)
    assert len(seen) == 2


async def _write(txn: Transaction) -> None:
    await txn.room()
    for refused in (txn.put(b"#", b""), txn.delete(b"#"), txn.add(b"#", 1)):
        with pytest.raises(RuntimeError):
            await refused
    await txn.put(b"#", b"")


async def test_far_pages_are_read_in_a_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside: set[int] = set()
    read_in_thread = type(store.core.ledger).read_in_thread

    async def spy(ledger: Any, work: Any, *args: Any) -> Any:
        aside.update(asked.page for asked in args if isinstance(asked, Query))
        return await read_in_thread(ledger, work, *args)

    space = await make_namespace(store)
    for name in ("app/web", "app/api"):
        pushed = [await push(store, name, tag, [b"layer"]) for tag in ("v1", "v2")]
        assert pushed
    image = (await store.images.list(REGION)).items[0]
    listings = (
        lambda page: store.images.list(REGION, page=page, page_size=1),
        lambda page: store.images.list(REGION, namespace_id=space.id, page=page, page_size=1),
        lambda page: store.tags.list(image.id, page=page, page_size=1),
        lambda page: store.namespaces.list(REGION, page=page, page_size=1),
    )
    monkeypatch.setattr(type(store.core.ledger), "read_in_thread", spy)
    near = [await listing(page) for listing in listings for page in (1, 2)]
    assert not aside
    monkeypatch.setattr("holdfast.engine.namespaces.listings.ROWS_SKIPPED_ON_LOOP_MAX", 0)
    assert [await listing(page) for listing in listings for page in (1, 2)] == near
    assert aside == {2}
