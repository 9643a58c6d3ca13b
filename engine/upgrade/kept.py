"""What the ledger of a store of format 2 lacks: the sums of what namespaces keep."""

from __future__ import annotations

from typing import Final

from holdfast.engine.blobs import claims
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Blob, load
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.repositories import images

_STEP: Final = 500
"""Rows of one transaction of the upgrade."""

_COUNTERS: Final = (
    layout.NAMESPACE_MANIFESTS,
    layout.NAMESPACE_HELD,
    layout.PLACE_KEPT,
    layout.PROJECT_KEPT,
)


async def advance(txn: Transaction, cursor: bytes, _now: int) -> bytes | None:
    """Count what some references keep, for the upgrade: nothing was counted before format 3.

    References of a blob lie in order of their kind, then of their namespace: so the first row of
    a namespace stands for it, and rows of a later kind count only where there is none of an
    earlier one. Damaged rows are passed over, as they are by a recount.
    """
    if not cursor:
        return await _forget(txn)
    rows = await txn.scan(cursor, after(layout.BLOB), limit=_STEP)
    last = cursor[:-1]
    for key, _ in rows:
        first = key[: layout.OWNER_AT] != last[: layout.OWNER_AT]
        if first and layout.kind(key) == layout.REFERENCE:
            await _count_reference(txn, key)
        last = key
    return rows[-1][0] + b"\0" if len(rows) == _STEP else None


async def _forget(txn: Transaction) -> bytes:
    """Take away what was counted; says where to go on. There is none, but where damage took the
    row that says how far an upgrade is."""
    for name in _COUNTERS:
        prefix = layout.counter(name)
        rows = await txn.scan(prefix, after(prefix), limit=_STEP)
        for key, _ in rows:
            await txn.delete(key)
        if len(rows) == _STEP:
            return b""
    return layout.BLOB


async def _count_reference(txn: Transaction, key: bytes) -> None:
    sha, kind = key[1 : layout.BLOB_KEY_BYTES], key[layout.PROJECT_AT - 1 : layout.PROJECT_AT]
    place_key = key[layout.PROJECT_AT : layout.OWNER_AT]
    project, namespace = place_key[: layout.ID_BYTES], place_key[layout.ID_BYTES :]
    if namespace == layout.ZERO_ID:
        return
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
