"""Adds limits, the operator's layer beside a namespace's settings, which format 2 lacks.

Settings of a namespace of format 2 are copied to both layers: nothing that was bounded becomes
unbounded, and a tenant that changes its own settings changes nothing that an operator had set.
"""

from __future__ import annotations

from typing import Final

import msgspec

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Limits, Namespace, get_payload, load, readable, save
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.namespaces import limit_rows

_ROWS_PER_TXN: Final = 200


async def advance(txn: Transaction, cursor: bytes, _now: int) -> bytes | None:
    """Copy settings of a batch of namespaces to the limits of their names.

    A deleted namespace counts only if its project has no other one of that name. Limits that a
    name has already stay: after damage to the row of the upgrade's position this step runs again.
    Returns the next cursor; None at the end.
    """
    rows = await txn.scan(cursor or layout.NAMESPACE, after(layout.NAMESPACE), limit=_ROWS_PER_TXN)
    for key, row in readable(Namespace, rows):
        limits = Limits(row.quota, row.immutable, row.locked)
        if limits == Limits() or (row.deleted and await _has_successor(txn, row)):
            continue
        place = layout.place(row.project, row.region, row.name)
        known = await limit_rows.of_name(txn, place)
        # A living namespace takes the limits that its name has, so that both rows agree.
        if known is None:
            await limit_rows.save_of_name(txn, place, limits)
        elif not row.deleted:
            limits = known
        if not row.deleted:
            await save(txn, key, msgspec.structs.replace(row, limits=limits))
    return rows[-1][0] + b"\0" if len(rows) == _ROWS_PER_TXN else None


async def _has_successor(txn: Transaction, row: Namespace) -> bool:
    """Return True if the project of a deleted namespace has another one of that name."""
    try:
        found = await get_payload(
            txn, layout.NAMESPACE_NAME + layout.name_key(row.region, row.name)
        )
        living = None if found is None else await load(txn, Namespace, layout.NAMESPACE + found)
    except Corrupt:
        return False
    return living is not None and living.project == row.project
