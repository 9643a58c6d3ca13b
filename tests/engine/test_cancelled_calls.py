"""What a caller of threads can rely on when it is cancelled, whichever way it calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from support.threads import Gate, begun, turns

from holdfast.engine.model.errors import StorageFailed
from holdfast.engine.tasks.serial_queue import SerialQueue
from holdfast.engine.tasks.threads import Threads

Call = Callable[[Gate], Awaitable[object]]


@pytest.fixture(params=["run", "queue"])
def call(request: pytest.FixtureRequest, threads: Threads) -> Call:
    if request.param == "run":
        return threads.run
    queue = SerialQueue(threads, "row")

    async def submitted(gate: Gate) -> None:
        queue.submit(gate.pass_through)
        await queue.drain()

    return submitted


async def test_cancelling_twice_in_one_turn(call: Call) -> None:
    gate = Gate()
    task = asyncio.ensure_future(call(gate))
    await begun(gate)
    task.cancel()
    task.cancel()
    await turns()
    assert not task.done()
    gate.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.ended


async def test_what_a_call_raised_is_the_cause_of_the_end(call: Call) -> None:
    gate = Gate(StorageFailed("file", "refused"))
    caught: list[BaseException] = []

    async def caller() -> None:
        try:
            await call(gate)
        except asyncio.CancelledError as error:
            caught.append(error)
            raise

    task = asyncio.create_task(caller())
    await begun(gate)
    task.cancel()
    await turns()
    gate.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caught[0].__cause__ is gate.error


async def test_a_timeout_is_told_as_one(call: Call) -> None:
    gate = Gate()

    async def caller() -> None:
        async with asyncio.timeout(0.01):
            await call(gate)

    task = asyncio.create_task(caller())
    await begun(gate)
    asyncio.get_running_loop().call_later(0.05, gate.may_end.set)
    with pytest.raises(TimeoutError):
        await task
    assert gate.ended
