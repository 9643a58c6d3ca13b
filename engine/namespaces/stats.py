"""Stats: the numbers of the whole store, each read from one counter."""

from __future__ import annotations

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.model.values import Stats, moment


async def stats(txn: Transaction, uploads: int) -> Stats:
    """Return all numbers from one state, with ``uploads``, which the scratch ledger counts."""

    async def of(name: bytes) -> int:
        return await txn.counter(layout.counter(name))

    oldest = await txn.scan(layout.GARBAGE, after(layout.GARBAGE), limit=1)
    return Stats(
        blobs=await of(layout.BLOBS),
        blob_bytes=await of(layout.BLOB_BYTES),
        stored_bytes=await of(layout.STORED_BYTES),
        namespaces=await of(layout.NAMESPACES),
        images=await of(layout.IMAGES),
        uploads=uploads,
        holds=await of(layout.HOLDS),
        garbage=await of(layout.GARBAGE_LENGTH),
        oldest_garbage=moment(layout.at(oldest[0][0], 1)) if oldest else None,
        freed_bytes=await of(layout.FREED_BYTES),
        trash=await of(layout.TRASH_LENGTH),
        aside=await of(layout.DEAD_LETTERS),
    )
