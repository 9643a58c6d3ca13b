"""Identities: UUIDs whose order is the order of creation.

Minted inside the transaction that creates the object, from a clock that never stands still or
goes back. So a listing by ``created_at`` grows only at its end, whatever the wall clock does.
"""

from __future__ import annotations

from typing import Final

from . import layout
from .clock import uuid7
from .errors import Corrupt
from .ledger import Transaction

_CLOCK: Final = layout.counter(b"ck")


async def tick(txn: Transaction, now: int) -> int:
    """The time of this change: ``now``, or just after the last change if that is later."""
    try:
        last = await txn.counter(_CLOCK)
    except Corrupt:
        # Begun anew: the wall clock is ahead of it, but for what was pushed in this very moment.
        await txn.delete(_CLOCK)
        last = 0
    time = max(now, last + 1)
    await txn.add(_CLOCK, time - last)
    return time


async def last(txn: Transaction, now: int) -> int:
    """The time of the last change. Each one after it, whatever the wall clock does, is later."""
    try:
        return await txn.counter(_CLOCK)
    except Corrupt:
        # The next change begins it anew, as ``tick`` says.
        return now


async def mint(txn: Transaction, now: int, entropy: bytes) -> tuple[bytes, int]:
    """A new id (16 bytes of a version 7 UUID) and its time of creation."""
    created = await tick(txn, now)
    return uuid7(created, entropy[:8]).bytes, created
