"""Adds the sums of what namespaces keep, which the ledger of format 2 lacks."""

from __future__ import annotations

from typing import Final

from holdfast.engine.blobs import claims
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Blob, load
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.repositories import images

_ROWS_PER_TXN: Final = 500

_COUNTERS: Final = (
    layout.NAMESPACE_MANIFESTS,
    layout.NAMESPACE_HELD,
    layout.PLACE_KEPT,
    layout.PROJECT_KEPT,
)


async def advance(txn: Transaction, cursor: bytes, _now: int) -> bytes | None:
    """Count what a batch of references keeps. Return the next cursor; None at the end.

    References of a blob are ordered by kind, then by namespace. So only the first row of a
    namespace counts, and a row of a later kind only if there is none of an earlier kind. Damaged
    rows are skipped, as a recount does.
    """
    if not cursor:
        return await _clear(txn)
    rows = await txn.scan(cursor, after(layout.BLOB), limit=_ROWS_PER_TXN)
    # A cursor is the last key plus a zero byte, so this is the key before the batch.
    last = cursor[:-1]
    for key, _ in rows:
        first = key[: layout.OWNER_AT] != last[: layout.OWNER_AT]
        if first and layout.kind(key) == layout.REFERENCE:
            await _count_reference(txn, key)
        last = key
    return rows[-1][0] + b"\0" if len(rows) == _ROWS_PER_TXN else None


async def _clear(txn: Transaction) -> bytes:
    """Delete a batch of counters, so that the step may start over. Return the next cursor.

    Counters exist only if damage to the row of the upgrade's position made it start again.
    """
    for name in _COUNTERS:
        prefix = layout.counter(name)
        rows = await txn.scan(prefix, after(prefix), limit=_ROWS_PER_TXN)
        for key, _ in rows:
            await txn.delete(key)
        if len(rows) == _ROWS_PER_TXN:
            return b""
    return layout.BLOB


async def _count_reference(txn: Transaction, key: bytes) -> None:
    sha, kind = key[1 : layout.BLOB_KEY_BYTES], key[layout.PROJECT_AT - 1 : layout.PROJECT_AT]
    place_key = key[layout.PROJECT_AT : layout.OWNER_AT]
    project, namespace = place_key[: layout.ID_BYTES], place_key[layout.ID_BYTES :]
    if namespace == layout.ZERO_ID:
        return
    # A blob counts once per namespace, whatever the kinds of its references.
    for earlier in claims.PARTS:
        if earlier == kind:
            break
        prefix = layout.references(sha, earlier) + place_key
        if await txn.scan(prefix, after(prefix), limit=1):
            return
    try:
        blob = await load(txn, Blob, layout.BLOB + sha)
        place = await images.counted_at(txn, key[layout.OWNER_AT :], namespace)
    except Corrupt:
        return
    if blob is None or not place:
        return
    if kind != layout.CONTENT:
        await txn.add(layout.counter(claims.PARTS[kind], namespace), blob.size)
    await txn.add(layout.counter(layout.PLACE_KEPT, place), blob.size)
    await txn.add(layout.counter(layout.PROJECT_KEPT, project), blob.size)
