"""Batches of entries that were gathered in memory: each is written once, refused, or kept."""

from __future__ import annotations

import pytest

from holdfast.engine.model.errors import Corrupt, StorageFailed
from holdfast.engine.tasks.batches import ENTRIES_PER_TXN, flush_batched

DAMAGED = 5


@pytest.mark.parametrize("failing", [0, 3, DAMAGED, 6, 7, ENTRIES_PER_TXN, ENTRIES_PER_TXN + 9])
async def test_what_was_written_before_a_failure_is_not_kept(failing: int) -> None:
    """A damaged entry halves its batch; then the transaction with ``failing`` fails."""
    entries = list(range(ENTRIES_PER_TXN + 20))
    written: list[int] = []
    refused: list[int] = []
    kept: list[int] = []

    async def work(some: tuple[int, ...]) -> None:
        if DAMAGED in some:
            raise Corrupt("tag", "v1", "of this test")
        if failing in some and len(some) < ENTRIES_PER_TXN:
            raise StorageFailed("ledger", "of this test")
        written.extend(some)

    async def refuse(entry: int, _: Corrupt) -> None:
        refused.append(entry)

    if failing == DAMAGED:
        await flush_batched(work, entries, refuse, kept.append)
    else:
        with pytest.raises(StorageFailed):
            await flush_batched(work, entries, refuse, kept.append)
        assert failing in kept
    assert sorted(written + refused + kept) == entries, "each has one fate"
    assert set(refused) <= {DAMAGED}
