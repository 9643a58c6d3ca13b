"""Adds the trash's lists by project and of manifests, which format 2 lacks.

In format 2 a tag's entry holds the manifests that were removed with it, 500 at most.
"""

from __future__ import annotations

from typing import Final

import msgspec

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import DeadLetter, Trash, decode, encode, save
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.references import trash_rows

_ENTRIES_PER_TXN: Final = 20
"""Trash entries per transaction: up to 10,000 manifests."""


async def advance(txn: Transaction, cursor: bytes, _: int) -> bytes | None:
    """Write the lists of a batch of entries. Return the next cursor; None at the end.

    Entries in the trash come first, then the parked ones.
    """
    if not cursor.startswith(layout.DEAD_LETTER):
        rows = await txn.scan(cursor or layout.TRASH, after(layout.TRASH), limit=_ENTRIES_PER_TXN)
        for key, value in rows:
            changed = await _list(txn, key, value)
            if changed is not None:
                await save(txn, key, changed)
                await trash_rows.list_row(txn, key, encode(key, changed), listed=True)
        return (
            rows[-1][0] + b"\0"
            if len(rows) == _ENTRIES_PER_TXN
            else layout.DEAD_LETTER + layout.TRASH
        )
    rows = await txn.scan(cursor, after(layout.DEAD_LETTER + layout.TRASH), limit=_ENTRIES_PER_TXN)
    for key, value in rows:
        try:
            record = decode(DeadLetter, key, value)
        except Corrupt:
            continue
        changed = await _list(txn, key[1:], record.value)
        if changed is not None:
            stored = encode(key[1:], changed)
            await save(txn, key, msgspec.structs.replace(record, value=stored))
    return rows[-1][0] + b"\0" if len(rows) == _ENTRIES_PER_TXN else None


async def _list(txn: Transaction, key: bytes, value: bytes) -> Trash | None:
    """Write a row for each manifest in an entry. Return the new entry.

    None if the entry cannot be read: the check reports it.
    """
    try:
        entry = decode(Trash, key, value)
    except Corrupt:
        return None
    if entry.kind != "tag":
        return entry
    until = layout.number(layout.at(key, 1))
    changed = msgspec.structs.replace(entry, digests=(), manifests=until)
    if entry.digests:
        await trash_rows.add_manifests(txn, changed, entry.digests)
    return changed
