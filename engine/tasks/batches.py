"""Runs many entries in one transaction, and bisects a batch that fails on a damaged row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from holdfast.engine.model.errors import Corrupt, EngineError, StorageFull

ENTRIES_PER_TXN: Final = 200
"""Entries that ``flush_batched`` writes in one transaction, at most."""

E = TypeVar("E")
R = TypeVar("R")


async def bisect(
    work: Callable[[tuple[E, ...]], Awaitable[R]],
    entries: Sequence[E],
    refused: Callable[[E, Corrupt], Awaitable[None]],
) -> list[R]:
    """Run ``work`` over all entries; halve a batch that fails, down to the bad entries.

    ``work`` must be all or nothing, as a transaction is. One bad entry among n costs about
    2 log2(n) more calls. ``refused`` gets each single entry for which ``work`` raises Corrupt.
    Halves a batch that raises StorageFull too, and raises it for a single entry.
    """
    if not entries:
        return []
    try:
        return [await work(tuple(entries))]
    except StorageFull:
        if len(entries) == 1:
            raise
    except Corrupt as error:
        if len(entries) == 1:
            await refused(entries[0], error)
            return []
    half = len(entries) // 2
    first = await bisect(work, entries[:half], refused)
    return first + await bisect(work, entries[half:], refused)


async def flush_batched(
    work: Callable[[tuple[E, ...]], Awaitable[object]],
    gathered: list[E],
    refused: Callable[[E, Corrupt], Awaitable[None]],
    keep: Callable[[E], None],
) -> None:
    """Write entries that were gathered in memory, in batches; pass unwritten ones to ``keep``.

    ``work`` and ``refused`` are as for ``bisect``. Raises the errors of ``work`` except Corrupt.
    """
    waiting = gathered
    done = 0

    async def write(some: tuple[E, ...]) -> None:
        nonlocal done
        await work(some)
        done += len(some)

    async def refuse(entry: E, error: Corrupt) -> None:
        nonlocal done
        await refused(entry, error)
        done += 1

    try:
        while waiting:
            some, waiting = waiting[:ENTRIES_PER_TXN], waiting[ENTRIES_PER_TXN:]
            done = 0
            try:
                await bisect(write, some, refuse)
            except EngineError:
                # Halves come in order, so the first ``done`` entries have had their turn: kept,
                # they would count twice.
                waiting = some[done:] + waiting
                raise
    finally:
        # After a cancellation too; the batch under way is dropped, since it commits all the same.
        for entry in waiting:
            keep(entry)
