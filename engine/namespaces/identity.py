"""Identity: mints UUIDs in order of creation, and gives each change its time.

The transaction that creates an object mints its id from a clock that never stands still or goes
back. So a listing by creation, which is ordered by id, grows only at its end, whatever the wall
clock does. Times of changes follow the wall clock: after it was ahead and is set back, ids go on
from the later time, and times return to the right one.

The clock of ids is a row with two numbers: the last time in an id, and how far ids are ahead of
the wall clock since times were last cut (``trash.future_times``). Their difference is the latest
wall-clock time of any change.
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
"""-> last time in an id (8 bytes), how far ids are ahead of the wall clock (8), microseconds."""

_SKEW_MAX: Final = SECOND
"""Microseconds by which the wall clock may lag behind the last change and changes still get
increasing times. Beyond that it was set back, and its time is taken as right."""

_BY_ID: Final = (layout.NAMESPACE, layout.IMAGE_ID, layout.TAG_ID)
"""Kinds of rows that are ordered by id."""


async def state(txn: Transaction) -> tuple[int, int]:
    """Return the last time in an id, and how far ids are ahead of the wall clock."""
    try:
        row = await get_payload(txn, _CLOCK)
    except Corrupt:
        # Recover from the ids that exist: every change needs this clock, so a damaged row must
        # not fail them all.
        return await newest(txn), 0
    return (0, 0) if row is None else (layout.at(row, 0), layout.at(row, 8))


async def newest(txn: Transaction) -> int:
    """Return the time in the latest existing id: replaces a clock that cannot be read."""
    latest = 0
    for kind in _BY_ID:
        for key, _ in await txn.scan(kind, after(kind), limit=1, reverse=True):
            try:
                latest = max(latest, microseconds_of(UUID(bytes=key[1 : 1 + ID_BYTES])))
            except Invalid:
                continue
    return latest


async def set_state(txn: Transaction, last: int, ahead: int) -> None:
    """Write the two numbers that ``state`` returns."""
    await put_payload(txn, _CLOCK, number(last) + number(ahead))


async def _advance(txn: Transaction, now: int) -> tuple[int, int]:
    """Advance the clock; return the time for an id, and the time of the change."""
    last, ahead = await state(txn)
    # At least a microsecond after the last id, whatever the wall clock says.
    ordered = max(now + ahead, last + 1)
    await set_state(txn, ordered, ahead)
    time = ordered - ahead
    return ordered, time if time - now <= _SKEW_MAX else now


async def tick(txn: Transaction, now: int) -> int:
    """Return the time of this change: ``now``, or just after a change within the last second."""
    return (await _advance(txn, now))[1]


async def last(txn: Transaction, now: int) -> int:
    """Return the time of the last change.

    Later changes have later times, unless the wall clock is set back meanwhile: then some may
    have earlier times, and after a clock that was ahead all have.
    """
    ordered, ahead = await state(txn)
    time = ordered - ahead
    return time if time - now <= _SKEW_MAX else now - 1


async def mint(txn: Transaction, now: int, entropy: bytes) -> tuple[bytes, int]:
    """Return a new id (16 bytes of a version 7 UUID) and its time of creation."""
    ordered, created = await _advance(txn, now)
    return uuid7(ordered, entropy[:8]).bytes, created
