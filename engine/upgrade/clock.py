"""The clock of ids of a store of format 2: a counter, which times went by as well.

A wall clock that was ahead once has left all later times of such a store in the future.
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
    """Go on with the clock as a row, and have all times looked at."""
    try:
        last = await txn.counter(_COUNTER)
    except Corrupt:
        last = await identity.newest(txn)
    if last:
        await txn.delete(_COUNTER)
        await identity.set_state(txn, last, 0)
        await future_times.begin_walk(txn)
