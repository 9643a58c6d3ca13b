"""Many entries in one transaction; where a damaged row stops it, that entry by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from holdfast.engine.model.errors import Corrupt, EngineError, StorageFull

STEP: Final = 200
"""Entries that ``write_gathered`` writes in one transaction."""

E = TypeVar("E")
R = TypeVar("R")


async def each(
    work: Callable[[tuple[E, ...]], Awaitable[R]],
    entries: Sequence[E],
    refused: Callable[[E, Corrupt], Awaitable[None]],
) -> list[R]:
    """Run ``work`` over all entries, or over halves of them down to those that it refuses.

    ``work`` has to be all or nothing, as a transaction is. One bad entry among n costs about
    2 log2(n) more calls. ``refused`` gets each entry for which ``work`` raises Corrupt alone.
    A transaction that is too large for what room is left is halved too.
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
    first = await each(work, entries[:half], refused)
    return first + await each(work, entries[half:], refused)


async def write_gathered(
    work: Callable[[tuple[E, ...]], Awaitable[object]],
    gathered: list[E],
    refused: Callable[[E, Corrupt], Awaitable[None]],
    keep: Callable[[E], None],
) -> None:
    """Write what was gathered in memory, some at a time; what cannot be written now is kept.

    ``work`` and ``refused`` are as for ``each``. Raises what ``work`` raises but Corrupt.
    """
    waiting = gathered
    try:
        while waiting:
            some, waiting = waiting[:STEP], waiting[STEP:]
            try:
                await each(work, some, refused)
            except EngineError:
                waiting += some
                raise
    finally:
        # After a cancellation too, but for what was handed over: that commits all the same.
        for entry in waiting:
            keep(entry)
