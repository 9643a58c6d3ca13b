"""Calls in a row, which threads make while their caller goes on."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable

import pytest
from support.threads import Gate, Told, begun, turns

from holdfast.engine.model.errors import Closed, StorageFailed
from holdfast.engine.tasks.serial_queue import CALLS_PER_TURN, SerialQueue
from holdfast.engine.tasks.threads import Threads
from holdfast.engine.tasks.timing import WAITS


@pytest.fixture
def queue(threads: Threads) -> SerialQueue:
    return SerialQueue(threads, "row")


def nothing() -> None:
    pass


def fail() -> None:
    raise StorageFailed("file", "refused")


async def soon(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - until a thread has done it
            await asyncio.sleep(0)


async def test_calls_are_made_in_order_and_one_at_a_time(queue: SerialQueue) -> None:
    made: list[int] = []
    alone = threading.Lock()

    def call(number: int) -> None:
        assert alone.acquire(blocking=False)
        made.append(number)
        alone.release()

    for number in range(500):
        queue.submit(call, number)
        if number % 7 == 0:
            await queue.drain(number % 3)
    await queue.drain()
    assert made == list(range(500))


async def test_the_caller_goes_on_while_few_are_left(queue: SerialQueue) -> None:
    gates = [Gate() for _ in range(4)]
    for gate in gates:
        queue.submit(gate.pass_through)
    await queue.drain(4)
    settling = asyncio.create_task(queue.drain(2))
    await begun(gates[0])
    gates[0].may_end.set()
    await begun(gates[1])
    await turns()
    assert not settling.done()
    gates[1].may_end.set()
    async with asyncio.timeout(10):
        await settling
    assert [gate.ended for gate in gates] == [True, True, False, False]
    gates[2].may_end.set()
    gates[3].may_end.set()
    await queue.drain()
    assert gates[3].ended


async def test_an_error_drops_what_follows_and_is_told_once(queue: SerialQueue) -> None:
    made: list[int] = []
    gate = Gate(StorageFailed("file", "refused"))
    queue.submit(gate.pass_through)
    queue.submit(made.append, 1)
    await begun(gate)
    gate.may_end.set()
    await soon(lambda: queue._error is not None)
    queue.submit(made.append, 2)
    with pytest.raises(StorageFailed) as failed:
        await queue.drain(1)
    assert failed.value is gate.error
    await queue.drain()
    assert made == []
    queue.submit(made.append, 3)
    await queue.drain()
    assert made == [3]


async def test_an_error_wakes_whoever_waits(queue: SerialQueue) -> None:
    gate = Gate(StorageFailed("file", "refused"))
    after: list[int] = []
    queue.submit(gate.pass_through)
    for number in range(3):
        queue.submit(after.append, number)
    settling = asyncio.create_task(queue.drain(1))
    await begun(gate)
    gate.may_end.set()
    async with asyncio.timeout(10):
        with pytest.raises(StorageFailed):
            await settling
    assert after == []


class Watched(SerialQueue):
    def __getattribute__(self, name: str) -> object:
        if name == "_error":
            assert super().__getattribute__("_lock").locked()
        return super().__getattribute__(name)


async def test_an_error_that_comes_while_one_is_looked_for_is_told(threads: Threads) -> None:
    """It would be overwritten, between looking for one and taking it away."""
    queue = Watched(threads, "row")
    queue.submit(fail)
    with pytest.raises(StorageFailed):
        await queue.drain()
    queue.submit(nothing)
    await queue.drain(1)


@pytest.mark.parametrize("cancels", [1, 2, 5])
async def test_a_cancelled_caller_waits_for_all(queue: SerialQueue, cancels: int) -> None:
    gates = [Gate(), Gate()]
    for gate in gates:
        queue.submit(gate.pass_through)
    ended_first: list[bool] = []

    async def caller() -> None:
        try:
            await queue.drain(1)
        finally:
            ended_first.append(all(gate.ended for gate in gates))

    task = asyncio.create_task(caller())
    await begun(gates[0])
    for number in range(cancels):
        task.cancel(f"reason {number}")
        await turns()
    gates[0].may_end.set()
    await begun(gates[1])
    await turns()
    assert not task.done()
    gates[1].may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert ended_first == [True]


async def test_other_work_has_its_turn() -> None:
    threads = Threads(1, "queue")
    queue, made = SerialQueue(threads, "row"), list[int]()
    gate = Gate()
    queue.submit(gate.pass_through)
    await begun(gate)
    for number in range(3 * CALLS_PER_TURN):
        queue.submit(made.append, number)
    other = asyncio.create_task(threads.run(made.copy))
    await soon(threads._pool._work_queue.qsize)
    gate.may_end.set()
    assert await other == list(range(CALLS_PER_TURN - 1))
    await queue.drain()
    assert made == list(range(3 * CALLS_PER_TURN))
    threads.close()


@pytest.mark.parametrize("ending", ["closed", "as it closes"])
async def test_calls_that_wait_are_made_though_the_threads_end(
    monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    threads = Threads(1, "queue")
    queue, made = SerialQueue(threads, "row"), list[int]()
    gate = Gate()
    queue.submit(gate.pass_through)
    await begun(gate)
    for number in range(3 * CALLS_PER_TURN):
        queue.submit(made.append, number)
    closing = asyncio.get_running_loop().run_in_executor(None, threads.close)
    await soon(lambda: threads._pool._shutdown)
    if ending == "as it closes":
        # As whoever looked just before they were.
        monkeypatch.setattr(threads, "_closed", False)
    gate.may_end.set()
    await closing
    assert made == list(range(3 * CALLS_PER_TURN))
    async with asyncio.timeout(10):
        await queue.drain()


async def test_a_call_without_threads_fails() -> None:
    threads = Threads(1, "queue")
    queue = SerialQueue(threads, "row")
    threads.close()
    for _ in range(2):
        queue.submit(fail)
        with pytest.raises(Closed):
            await queue.drain()
        await queue.drain()


async def test_no_thread_more_can_be_had(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool keeps the call that it refused, and may make it later: never two at once."""
    queue, kept, made = SerialQueue(threads, "row"), list[Callable[[], None]](), list[int]()

    def refuse(fn: Callable[[], None]) -> None:
        kept.append(fn)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threads, "begin", refuse)
        queue.submit(made.append, 0)
        with pytest.raises(RuntimeError, match="new thread"):
            await queue.drain()
    gate = Gate()
    queue.submit(gate.pass_through)
    queue.submit(made.append, 1)
    await begun(gate)
    await threads.run(kept.pop())
    assert made == []
    gate.may_end.set()
    await queue.drain()
    assert made == [1]

    def make(fn: Callable[[], None]) -> None:
        fn()
        refuse(fn)

    # One that comes all the same, and first, does it.
    with monkeypatch.context() as patched:
        patched.setattr(threads, "begin", make)
        queue.submit(made.append, 2)
        await queue.drain()
    assert made == [1, 2]


async def test_no_wake_up_is_lost(queue: SerialQueue, threads: Threads) -> None:
    other, made = SerialQueue(threads, "row"), list[int]()
    async with asyncio.timeout(10):
        for number in range(2000):
            queue.submit(made.append, number)
            other.submit(nothing)
            await queue.drain(number % 3)
            await other.drain(number % 2)
        await queue.drain()
    assert made == list(range(2000))


async def test_a_wait_is_told_and_only_a_wait(queue: SerialQueue) -> None:
    told, gate = Told(), Gate()
    WAITS.set(told)
    queue.submit(gate.pass_through)
    await queue.drain(1)
    assert told.names == []
    asyncio.get_running_loop().call_soon(gate.may_end.set)
    await queue.drain()
    assert told.names == ["thread row"]


def test_the_loop_may_be_gone() -> None:
    """A call that ends after the loop of whoever waits does not end the work."""
    threads = Threads(1, "queue")
    queue, gate, made = SerialQueue(threads, "row"), Gate(), list[int]()
    queue.submit(gate.pass_through)
    queue.submit(made.append, 1)
    loop = asyncio.new_event_loop()
    settling = loop.create_task(queue.drain(1))
    loop.run_until_complete(turns())
    loop.close()
    gate.may_end.set()
    threads.close()
    assert made == [1]
    assert not settling.done()
    settling._log_destroy_pending = False  # type: ignore[attr-defined]  # it was left on purpose


async def test_nothing_of_a_call_is_held_once_it_is_over(
    queue: SerialQueue, threads: Threads
) -> None:
    class Big:
        def fail(self) -> None:
            raise StorageFailed("file", "refused")

        def succeed(self) -> None:
            pass

    async def failed() -> weakref.ref[Big]:
        big = Big()
        queue.submit(big.fail)
        with pytest.raises(StorageFailed):
            await queue.drain()
        return weakref.ref(big)

    async def cancelled() -> weakref.ref[Big]:
        big, gate = Big(), Gate()
        queue.submit(gate.pass_through)
        queue.submit(big.fail)
        task = asyncio.create_task(queue.drain())
        await begun(gate)
        task.cancel()
        await turns()
        gate.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return weakref.ref(big)

    async def succeeded() -> weakref.ref[Big]:
        big = Big()
        queue.submit(big.succeed)
        await queue.drain()
        return weakref.ref(big)

    gc.disable()
    try:
        for case in (failed, cancelled, succeeded):
            left = await case()
            # The worker lets go of its last call when it takes the next.
            await asyncio.gather(threads.run(len, ""), threads.run(len, ""))
            assert left() is None, case
    finally:
        gc.enable()
