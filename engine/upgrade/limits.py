"""What a store of format 2 lacks: limits, the layer beside the settings of a namespace.

What bound a namespace then is in both layers afterwards: so nothing that was bound is open, and a
tenant that changes its own settings changes nothing that an operator had set.
"""

from __future__ import annotations

from typing import Final

import msgspec

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Limits, Namespace, get_payload, load, readable, save
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.namespaces import limit_rows

_STEP: Final = 200


async def advance(txn: Transaction, cursor: bytes, _now: int) -> bytes | None:
    """Give some names the limits that the settings of their namespaces are. One in the trash has
    a say where no other one of its project has its name. What a name has already stays: this may
    be the second time, after damage took the row that says how far the upgrade is."""
    rows = await txn.scan(cursor or layout.NAMESPACE, after(layout.NAMESPACE), limit=_STEP)
    for key, row in readable(Namespace, rows):
        limits = Limits(row.quota, row.immutable, row.locked)
        if limits == Limits() or (row.deleted and await _has_successor(txn, row)):
            continue
        place = layout.place(row.project, row.region, row.name)
        known = await limit_rows.of_name(txn, place)
        if known is None:
            await limit_rows.save_of_name(txn, place, limits)
        elif not row.deleted:
            limits = known
        if not row.deleted:
            await save(txn, key, msgspec.structs.replace(row, limits=limits))
    return rows[-1][0] + b"\0" if len(rows) == _STEP else None


async def _has_successor(txn: Transaction, row: Namespace) -> bool:
    """Whether the project of a deleted namespace has another one of its name."""
    try:
        found = await get_payload(
            txn, layout.NAMESPACE_NAME + layout.name_key(row.region, row.name)
        )
        living = None if found is None else await load(txn, Namespace, layout.NAMESPACE + found)
    except Corrupt:
        return False
    return living is not None and living.project == row.project
