"""Races, forced step by step.

What a task does between two of its transactions is its own; so two tasks can meet in as many
ways as there are gaps. ``gaps`` tries every one: it lets an intruder run, whole, in the n-th gap
of the work, for every n.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from holdfast.engine import Store
from support.engine import Function, Hooks, problems


class Held:
    """A task that stands still before (or after) a certain transaction."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._go_on = asyncio.Event()

    async def hold(self) -> None:
        self._reached.set()
        await self._go_on.wait()

    async def reached(self) -> None:
        """Wait until the task stands still."""
        await self._reached.wait()

    def go_on(self) -> None:
        self._go_on.set()


def hold_before(hooks: Hooks, function: Function) -> Held:
    """Hold the first task that comes to a transaction of this function."""
    held = Held()

    async def before(this: Function) -> None:
        if this is function:
            hooks.before = None
            await held.hold()

    hooks.before = before
    return held


@asynccontextmanager
async def meanwhile(held: Held, work: Awaitable[object]) -> AsyncIterator[asyncio.Future[object]]:
    """Run the body while the work is held; then let the work come to its end."""
    task = asyncio.ensure_future(work)
    reached = asyncio.create_task(held.reached())
    await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
    if not reached.done():
        reached.cancel()
        raise AssertionError("the work ended without coming to where it was to be held")
    try:
        yield task
    finally:
        held.go_on()
        await asyncio.wait({task})


async def gaps(
    hooks: Hooks,
    gap: int,
    work: Callable[[], Awaitable[object]],
    intrude: Callable[[], Awaitable[None]],
    *,
    reads: bool = False,
) -> tuple[bool, BaseException | None]:
    """Run the work with the intruder in its gap of that number, from 0.

    With ``reads``, behind each of its reads there is a gap as well.

    Says whether the work has such a gap, and what the work raised. Behind its last transaction
    there is one more gap, which a caller tries by running the two one after the other.
    """
    seen = 0
    intruded = False

    async def before(_: Function) -> None:
        nonlocal seen, intruded
        if seen == gap:
            intruded = True
            hooks.before = hooks.after_read = None
            await intrude()
        seen += 1

    hooks.before = before
    hooks.after_read = before if reads else None
    try:
        await work()
    except Exception as error:  # noqa: BLE001 - the caller says which ones may come
        return intruded, error
    finally:
        hooks.before = hooks.after_read = None
    return intruded, None


async def clean(store: Store) -> None:
    """Sweep all that nothing needs, the trash too; the check finds nothing wrong."""
    await store.sweeper.run(early=True)
    assert await problems(store) == []
