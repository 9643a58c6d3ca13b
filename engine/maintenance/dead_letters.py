"""Set aside: entries of the sweep's queues that meet a damaged row. The rest goes on.

Such an entry leaves its queue, so that nothing waits behind it, and stays known: it is counted,
listed, and a problem to the check. When its reason is gone (a push healed the blob, rows came
back from a snapshot) it is put back, and dealt with like any other.
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

_REASON_CHARS: Final = 500
_LENGTHS: Final = {layout.GARBAGE: layout.GARBAGE_LENGTH, layout.TRASH: layout.TRASH_LENGTH}
"""Counters of the queues that have one."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """An entry that the sweep could not deal with."""

    kind: str
    name: str
    """What it is about, as far as its key tells."""
    reason: str
    since: datetime


async def put(txn: Transaction, key: bytes, reason: str, now: int) -> None:
    """Set a row aside; nothing where it is gone."""
    value = await txn.get(key)
    if value is None:
        return
    await txn.delete(key)
    await trash_rows.list_row(txn, key, value, listed=False)
    await save(txn, layout.DEAD_LETTER + key, DeadLetter(value, reason[:_REASON_CHARS], now))
    await _count(txn, key, 1)


async def put_back(txn: Transaction, last: bytes, limit: int) -> bytes | None:
    """Give rows behind the key ``last`` back to their queues; says where to go on, or None."""
    start = layout.DEAD_LETTER + last + b"\0" if last else layout.DEAD_LETTER
    rows = await txn.scan(start, after(layout.DEAD_LETTER), limit=limit)
    for key, value in rows:
        try:
            record = decode(DeadLetter, key, value)
        except Corrupt:
            # The check tells of it.
            continue
        await txn.delete(key)
        await txn.put(key[1:], record.value)
        await trash_rows.list_row(txn, key[1:], record.value, listed=True)
        await _count(txn, key[1:], -1)
    return rows[-1][0][1:] if rows else None


async def _count(txn: Transaction, key: bytes, by: int) -> None:
    await txn.add(layout.counter(layout.DEAD_LETTERS), by)
    length = _LENGTHS.get(key[:1])
    if length is not None:
        await txn.add(layout.counter(length), -by)


async def listing(txn: Transaction, limit: int) -> list[SetAside]:
    """What is set aside, in order of keys."""
    found = []
    for key, value in await txn.scan(layout.DEAD_LETTER, after(layout.DEAD_LETTER), limit=limit):
        kind, name = layout.about(key)
        try:
            record = decode(DeadLetter, key, value)
        except Corrupt as error:
            record = DeadLetter(b"", error.reason, 0)
        found.append(SetAside(kind, name, record.reason, moment(record.when)))
    return found
