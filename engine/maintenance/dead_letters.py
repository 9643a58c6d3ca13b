"""Dead letters: entries of the sweep's queues that meet a damaged row, set aside.

Such an entry leaves its queue, so that no other entry waits behind it. It is counted and listed,
and the check reports it. The sweep requeues it now and then: when the reason is gone (a push healed
the blob, rows were restored from a snapshot), it is processed like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import DeadLetter, decode, save
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.model.values import moment
from holdfast.engine.references import trash_rows

_REASON_CHARS_MAX: Final = 500
_LENGTH_COUNTERS: Final = {layout.GARBAGE: layout.GARBAGE_LENGTH, layout.TRASH: layout.TRASH_LENGTH}
"""Counter of the length of each queue that has one."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """An entry that the sweep could not process."""

    kind: str
    name: str
    """Name of the object of the entry, as far as its key contains it."""
    reason: str
    since: datetime


async def park(txn: Transaction, key: bytes, reason: str, now: int) -> None:
    """Move a row from its queue to the dead letters; no-op if it is gone."""
    value = await txn.get(key)
    if value is None:
        return
    await txn.delete(key)
    await trash_rows.list_row(txn, key, value, listed=False)
    await save(txn, layout.DEAD_LETTER + key, DeadLetter(value, reason[:_REASON_CHARS_MAX], now))
    await _count(txn, key, 1)


async def requeue(txn: Transaction, last: bytes, limit: int) -> bytes | None:
    """Move rows behind the key ``last`` back to their queues; return where to continue, or None."""
    start = layout.DEAD_LETTER + last + b"\0" if last else layout.DEAD_LETTER
    rows = await txn.scan(start, after(layout.DEAD_LETTER), limit=limit)
    for key, value in rows:
        try:
            record = decode(DeadLetter, key, value)
        except Corrupt:
            # The check reports it.
            continue
        await txn.delete(key)
        await txn.put(key[1:], record.value)
        await trash_rows.list_row(txn, key[1:], record.value, listed=True)
        await _count(txn, key[1:], -1)
    return rows[-1][0][1:] if rows else None


async def _count(txn: Transaction, key: bytes, by: int) -> None:
    await txn.add(layout.counter(layout.DEAD_LETTERS), by)
    counter = _LENGTH_COUNTERS.get(key[:1])
    if counter is not None:
        await txn.add(layout.counter(counter), -by)


async def listing(txn: Transaction, limit: int) -> list[SetAside]:
    """Return what is set aside, in order of keys."""
    found = []
    for key, value in await txn.scan(layout.DEAD_LETTER, after(layout.DEAD_LETTER), limit=limit):
        kind, name = layout.about(key)
        try:
            record = decode(DeadLetter, key, value)
        except Corrupt as error:
            record = DeadLetter(b"", error.reason, 0)
        found.append(SetAside(kind, name, record.reason, moment(record.when)))
    return found
