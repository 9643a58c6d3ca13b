"""Calls in threads, and what becomes of them when their callers are cancelled."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest
from support.threads import Gate, begun, turns

from holdfast.engine.model.errors import Closed, StorageFailed
from holdfast.engine.tasks.threads import Threads


class Handle:
    def __init__(self, error: Exception | None = None) -> None:
        self.closed = 0
        self.error = error

    def close(self) -> None:
        self.closed += 1
        if self.error is not None:
            raise self.error


async def test_a_call_runs_in_a_named_thread(threads: Threads) -> None:
    def call(first: int, *, second: int) -> tuple[int, str]:
        return first + second, threading.current_thread().name

    total, name = await threads.run(call, 1, second=2)
    assert total == 3
    assert name.startswith("leaf")


async def test_errors_come_out(threads: Threads) -> None:
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 1, 0)


async def test_the_end_of_an_iterator_is_an_error(threads: Threads) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run(next, iter(()))


async def test_no_more_calls_at_once_than_threads(threads: Threads) -> None:
    both = threading.Barrier(2)
    await asyncio.gather(threads.run(both.wait), threads.run(both.wait))
    gates = [Gate() for _ in range(3)]
    tasks = [asyncio.create_task(threads.run(gate)) for gate in gates]
    await begun(gates[0])
    await begun(gates[1])
    assert not gates[2].begun.is_set()
    gates[0].may_end.set()
    await begun(gates[2])
    for gate in gates:
        gate.may_end.set()
    assert await asyncio.gather(*tasks) == ["done"] * 3


async def test_after_close_nothing_runs() -> None:
    threads = Threads(1, "leaf")
    assert await threads.run(len, "abc") == 3
    threads.close()
    threads.close()
    with pytest.raises(Closed):
        await threads.run(len, "abc")


async def test_close_waits_for_what_was_submitted() -> None:
    threads = Threads(1, "leaf")
    gate = Gate()
    task = asyncio.create_task(threads.run(gate))
    await begun(gate)
    closing = asyncio.get_running_loop().run_in_executor(None, threads.close)
    await turns()
    assert not closing.done()
    gate.may_end.set()
    await closing
    assert gate.ended
    assert await task == "done"


@pytest.mark.parametrize("cancels", [1, 2, 5])
async def test_a_cancelled_caller_waits_for_its_call(threads: Threads, cancels: int) -> None:
    gate = Gate()
    ended_first: list[bool] = []

    async def caller() -> None:
        try:
            await threads.run(gate)
        finally:
            ended_first.append(gate.ended)

    task = asyncio.create_task(caller())
    await begun(gate)
    for number in range(cancels):
        task.cancel(f"reason {number}")
        await turns()
        assert not task.done()
    assert ended_first == []
    gate.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert ended_first == [True]


async def test_a_call_that_has_not_begun_never_does() -> None:
    threads = Threads(1, "leaf")
    first, second = Gate(), Gate()
    running = asyncio.create_task(threads.run(first))
    await begun(first)
    queued = asyncio.create_task(threads.run(second))
    await turns()
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    assert not first.ended
    first.may_end.set()
    assert await running == "done"
    threads.close()
    assert not second.begun.is_set()


async def test_acquired_things_are_the_callers(threads: Threads) -> None:
    handle = Handle()
    assert await threads.acquire(lambda: handle) is handle
    assert handle.closed == 0
    with pytest.raises(ZeroDivisionError):
        await threads.acquire(lambda: [handle][1 // 0])


@pytest.mark.parametrize("error", [None, StorageFailed("file", "refused")])
async def test_what_a_cancelled_caller_acquired_is_closed(
    threads: Threads, error: StorageFailed | None
) -> None:
    gate = Gate()
    handle = Handle(error)
    caught: list[BaseException] = []

    def obtain() -> Handle:
        gate()
        return handle

    async def caller() -> None:
        try:
            await threads.acquire(obtain)
        except asyncio.CancelledError as cancelled:
            caught.append(cancelled)
            raise

    task = asyncio.create_task(caller())
    await begun(gate)
    task.cancel()
    await turns()
    assert not task.done()
    gate.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.closed == 1
    assert caught[0].__cause__ is error


async def test_a_cancelled_acquire_that_failed_or_never_began(threads: Threads) -> None:
    gates = [Gate(StorageFailed("file", "refused")), Gate()]
    tasks = [asyncio.create_task(threads.run(gate)) for gate in gates]
    for gate in gates:
        await begun(gate)
    made: list[Handle] = []

    def obtain() -> Handle:
        made.append(Handle())
        return made[-1]

    queued = asyncio.create_task(threads.acquire(obtain))
    await turns()
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    for gate in gates:
        gate.may_end.set()
    assert [type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [
        StorageFailed,
        str,
    ]
    assert made == []


async def test_an_error_leaves_no_circle_behind(threads: Threads) -> None:
    class Big:
        pass

    def fail(big: Big) -> None:
        raise StorageFailed("file", "refused")

    async def caller() -> weakref.ref[Big]:
        big = Big()
        with pytest.raises(StorageFailed):
            await threads.run(fail, big)
        return weakref.ref(big)

    gc.disable()
    try:
        left = await caller()
        # The worker lets go of its last call when it takes the next.
        await asyncio.gather(threads.run(len, ""), threads.run(len, ""))
        assert left() is None
    finally:
        gc.enable()


async def test_what_lets_go_of_something_is_called_though_its_caller_is_gone() -> None:
    threads = Threads(1, "test")
    go, called = threading.Event(), threading.Event()
    busy = asyncio.create_task(threads.run(go.wait))
    letting_go = asyncio.create_task(threads.finish(called.set))
    while not threads._pool._work_queue.qsize():  # noqa: ASYNC110 - until it waits for its turn
        await asyncio.sleep(0)
    letting_go.cancel()
    await asyncio.sleep(0)
    assert not letting_go.done()
    go.set()
    await busy
    await asyncio.wait([letting_go])
    assert letting_go.cancelled()
    assert called.is_set()
    threads.close()
