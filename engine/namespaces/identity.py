"""Identities: UUIDs whose order is the order of creation, and the times of changes.

Ids are minted inside the transaction that creates the object, from a clock that never stands
still or goes back. So a listing by creation, which goes by ids, grows only at its end, whatever
the wall clock does. Times are the wall clock's: after one that was ahead, ids go on from there,
and times do not.

The ids' clock is a row: the last time that it gave, and how far it is ahead of the wall clock
since times were last set right (``trash.future_times``). The difference of the two is the latest
time that the wall clock has told a change.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from holdfast.engine.core import SECOND
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.layout import ID_BYTES, number
from holdfast.engine.ledger.records import get_payload, put_payload
from holdfast.engine.model.errors import Corrupt, Invalid
from holdfast.engine.model.uuid7 import microseconds_of, uuid7

_CLOCK: Final = layout.SETTING + b"clock"
"""-> the last time of an id (8), how far ids are ahead of the wall clock (8)."""

_STEADY: Final = SECOND
"""Changes that are so close to each other have times in their order. By more than that the wall
clock went back, and is right."""

_BY_ID: Final = (layout.NAMESPACE, layout.IMAGE_ID, layout.TAG_ID)
"""Rows in the order of ids."""


async def state(txn: Transaction) -> tuple[int, int]:
    """The last time of an id, and how far ids are ahead of the wall clock."""
    try:
        row = await get_payload(txn, _CLOCK)
    except Corrupt:
        # A transaction that fails for it could not be told from one that damages it.
        return await newest(txn), 0
    return (0, 0) if row is None else (layout.at(row, 0), layout.at(row, 8))


async def newest(txn: Transaction) -> int:
    """The time in the latest id of what is there: for a clock that cannot be read."""
    latest = 0
    for kind in _BY_ID:
        for key, _ in await txn.scan(kind, after(kind), limit=1, reverse=True):
            try:
                latest = max(latest, microseconds_of(UUID(bytes=key[1 : 1 + ID_BYTES])))
            except Invalid:
                continue
    return latest


async def set_state(txn: Transaction, last: int, ahead: int) -> None:
    """Write what ``state`` reads."""
    await put_payload(txn, _CLOCK, number(last) + number(ahead))


async def _advance(txn: Transaction, now: int) -> tuple[int, int]:
    """The time for an id, and the time of the change."""
    last, ahead = await state(txn)
    ordered = max(now + ahead, last + 1)
    await set_state(txn, ordered, ahead)
    time = ordered - ahead
    return ordered, time if time - now <= _STEADY else now


async def tick(txn: Transaction, now: int) -> int:
    """The time of this change: ``now``, or just after the last change if that is a moment ago."""
    return (await _advance(txn, now))[1]


async def last(txn: Transaction, now: int) -> int:
    """The time of the last change. Each one after it is later, unless the wall clock is set back
    meanwhile: then some may have earlier times, as all do that come after one that was ahead."""
    ordered, ahead = await state(txn)
    time = ordered - ahead
    return time if time - now <= _STEADY else now - 1


async def mint(txn: Transaction, now: int, entropy: bytes) -> tuple[bytes, int]:
    """A new id (16 bytes of a version 7 UUID) and its time of creation."""
    ordered, created = await _advance(txn, now)
    return uuid7(ordered, entropy[:8]).bytes, created
