"""Memory of all workers: what a process leaves when it dies in the middle of a write."""

from __future__ import annotations

import os
import time

import pytest

from holdfast.api.limits.bandwidth import Bandwidth
from holdfast.api.limits.rates import BURST_MIN, Limits, Rates
from holdfast.api.limits.shared_memory import (
    BUCKETS,
    CLOCK,
    CLOCKS,
    TAG,
    UNTIL,
    HashTable,
    SharedMemory,
)
from holdfast.api.limits.worker_table import WorkerTable

SECOND = 1_000_000_000


def test_the_parts_do_not_overlap() -> None:
    memory = SharedMemory(3)
    parts = [memory.shared_clock, memory.clocks, memory.buckets, *memory.workers, *memory.counters]
    assert len(parts) == 9
    for number, cells in enumerate(parts, 1):
        assert cells[0] == cells[-1] == 0
        cells[0] = cells[-1] = number
    for number, cells in enumerate(parts, 1):
        assert {cells[0], cells[-1]} == {number}


def test_a_process_that_ended_leaves_what_it_wrote() -> None:
    memory = SharedMemory(2)
    rates = Rates(address=0.001)
    child = os.fork()
    if not child:
        table = WorkerTable(memory)
        table.add(1, "10.0.0.1", 1)
        limits = Limits(memory, rates)
        for _ in range(BURST_MIN):
            limits.arrive("10.0.0.1")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert Limits(memory, rates).arrive("10.0.0.1") > 0
    assert Limits(memory, rates).arrive("10.0.0.2") == 0
    table = WorkerTable(memory)
    assert table.connections_of("10.0.0.1") == table.connections(1) == 1
    table.clear(1)
    assert table.connections_of("10.0.0.1") == table.connections() == 0


def test_a_bucket_with_a_tag_only_waits_no_longer_than_the_one_before() -> None:
    """A process died between the tag of the new subject and its time."""
    memory = SharedMemory()
    limits = Limits(memory, Rates(address=1))
    for _ in range(BURST_MIN):
        assert limits.arrive("10.0.0.1") == 0
    before = limits.wait("address", "10.0.0.1")
    assert before > 0
    table = HashTable(memory.buckets, BUCKETS, memory.salt)
    at, _ = table.find("address", "10.0.0.1")
    _, tag = table.find("address", "10.0.0.2")
    there = HashTable(memory.buckets, BUCKETS, memory.salt).find("address", "10.0.0.2")[0]
    memory.buckets[there + TAG] = tag
    memory.buckets[there + UNTIL] = memory.buckets[at + UNTIL]
    assert 0 < limits.arrive("10.0.0.2") <= before
    # The time passes, and the bucket works as any other.
    memory.buckets[there + UNTIL] = time.monotonic_ns()
    assert limits.arrive("10.0.0.2") == 0


def test_a_clock_with_a_tag_only_makes_its_namespace_wait_for_nothing() -> None:
    """An entry is taken over once it is inactive, so its clock is in the past."""
    memory = SharedMemory()
    now = SECOND
    line = Bandwidth(memory, 1000, clock=lambda: now)
    line.take("old", 5000)
    table = HashTable(memory.clocks, CLOCKS, memory.salt)
    at, _ = table.find("old")
    assert memory.clocks[at + CLOCK] <= memory.clocks[at + UNTIL]
    now = memory.clocks[at + UNTIL]
    place, tag = table.find("new")
    memory.clocks[place + TAG] = tag
    memory.clocks[place + CLOCK] = memory.clocks[at + CLOCK]
    assert line.take("new", 1) == 0


@pytest.mark.parametrize("entries", [8, 64])
def test_the_entry_that_is_free_soonest_is_taken_over(entries: int) -> None:
    memory = SharedMemory()
    table = HashTable(memory.buckets[: 2 * entries], entries, memory.salt)
    for number in range(4 * entries):
        at, tag = table.find(str(number))
        if table.cells[at + TAG]:  # taken over: no other place of its group was free sooner
            assert table.cells[at + UNTIL] > 0
        table.cells[at + TAG] = tag
        table.cells[at + UNTIL] = number + 1
        assert table.find(str(number)) == (at, tag)
    if entries == 8:  # all entries are one group, so the last ones are left
        assert sorted(table.cells[UNTIL::2]) == [25, 26, 27, 28, 29, 30, 31, 32]


def test_where_an_entry_lies_is_secret() -> None:
    first, second = (
        HashTable(memory.buckets, BUCKETS, memory.salt)
        for memory in (SharedMemory(), SharedMemory())
    )
    names = [str(number) for number in range(8)]
    assert [first.find(name) for name in names] != [second.find(name) for name in names]
