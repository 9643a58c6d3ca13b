"""Replaces the id clock of format 2, a counter that also gave the times of changes.

Once a wall clock had been ahead, all later times of such a store were in the future.
"""

from __future__ import annotations

from typing import Final

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.namespaces import identity
from holdfast.engine.trash import future_times

_COUNTER: Final = layout.counter(b"ck")


async def advance(txn: Transaction, _cursor: bytes, _now: int) -> None:
    """Turn the counter into the clock's row, and start a walk that corrects all times."""
    try:
        last = await txn.counter(_COUNTER)
    except Corrupt:
        # The newest id is a lower bound that keeps later ids in order.
        last = await identity.newest(txn)
    if last:
        await txn.delete(_COUNTER)
        await identity.set_state(txn, last, 0)
        await future_times.begin_walk(txn)
