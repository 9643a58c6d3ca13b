"""Corrects times in the future, which a clock that was ahead has left, once the clock is right.

A hold, an entry of the trash or of the garbage queue, and an upload last for a fixed period. One
that ends later than that period from now was made while the clock was ahead: it is shortened to
its period from now. Times of creation, of update and of the last pull become now. They are in
rows of many kinds, so a walk over all of these starts when the clock of the ids shows that the
wall clock was ahead, or when a store is upgraded whose version did not check.

A clock that is behind looks the same: all correct times are in its future. So a clock before
PLAUSIBLE_SINCE is never trusted, and the sweep acts only after the times have been in the future
for a while.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from holdfast.engine.blobs import claims
from holdfast.engine.core import SECOND, Core
from holdfast.engine.depot import files
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.layout import ID_BYTES, number
from holdfast.engine.ledger.records import (
    Blob,
    Image,
    Key,
    Manifest,
    Namespace,
    Record,
    Tag,
    Trash,
    decode,
    get_payload,
    load,
    put_payload,
    save,
)
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.namespaces import identity, keys
from holdfast.engine.references import trash_rows
from holdfast.engine.repositories import images

SLACK: Final = 60 * SECOND
"""Lead (us) that is left alone: such times pass by themselves."""

PLAUSIBLE_SINCE: Final = 1_577_836_800 * SECOND
"""Start of the year 2020 (us). A clock that shows an earlier time was never set."""

_PERIODS: Final = layout.SETTING + b"periods"
"""-> hold (8), trash (8), upload (8): the longest periods of all programs that had it open."""

_WALK: Final = layout.SETTING + b"times"
"""-> the key at which the walk continues; no row if no walk is due."""

TIME_FIELDS: Final[dict[bytes, tuple[type[Record], tuple[str, ...]]]] = {
    layout.NAMESPACE: (Namespace, ("created", "updated", "deleted")),
    layout.IMAGE: (Image, ("created", "updated", "deleted", "pulled")),
    layout.TAG: (Tag, ("created", "updated", "pulled")),
    layout.MANIFEST: (Manifest, ("created", "renewed")),
    layout.KEY: (Key, ("created",)),
}
"""Fields that must not be later than now, by kind of row."""

_ORDER: Final = sorted(TIME_FIELDS)


class Periods(NamedTuple):
    """Lifetimes in microseconds."""

    hold: int
    trash: int
    upload: int

    def longest(self, other: Periods) -> Periods:
        """Return the longer of each period."""
        return Periods(*map(max, self, other))

    def until(self, queue: bytes, now: int) -> int:
        """Return the latest end (us) of a queue's entries that are made now.

        For ``layout.SETTING``, of a snapshot's lease; for ``keys.SIGNING``, of a retired key.
        """
        if queue == layout.GARBAGE:
            return now
        if queue == keys.SIGNING:
            return now + keys.OVERLAP_SECONDS_MAX * SECOND
        if queue == layout.SETTING:
            return now + files.LEASE_SECONDS * SECOND
        # Content of an entry in the trash is held for as long as the entry.
        return now + (self.trash if queue == layout.TRASH else max(self.hold, self.trash))


QUEUES: Final = (layout.EXPIRY, layout.GARBAGE, layout.TRASH)


def periods_of(core: Core) -> Periods:
    """Return the periods of an open store's configuration."""
    config = core.config
    seconds = config.hold_seconds, config.trash_seconds, config.upload_seconds
    return Periods(*(int(value * SECOND) for value in seconds))


async def longest_periods(txn: Transaction, own: Periods) -> Periods:
    """Return the longest periods with which entries of the store may have been made.

    Programs with different configurations may open a store; none of them shortens what another
    has promised.
    """
    recorded = await stored_periods(txn)
    return own if recorded is None else own.longest(recorded)


async def stored_periods(txn: Transaction) -> Periods | None:
    """Return the periods that ``store_periods`` has written; None if there are none, or damaged."""
    try:
        row = await get_payload(txn, _PERIODS)
    except Corrupt:
        # The next opening writes the row again; the check reports it until then.
        return None
    return None if row is None else Periods(*(layout.at(row, place) for place in (0, 8, 16)))


async def needs_periods(txn: Transaction, own: Periods) -> bool:
    """Return True if the stored periods must be extended to ``own``."""
    return await stored_periods(txn) != await longest_periods(txn, own)


async def store_periods(txn: Transaction, own: Periods) -> None:
    """Record that entries may be made with the periods ``own``, if they are longer."""
    longest = await longest_periods(txn, own)
    await put_payload(txn, _PERIODS, b"".join(map(number, longest)))


async def overlong(txn: Transaction, now: int, own: Periods, limit: int) -> tuple[bytes, ...]:
    """Return keys of up to ``limit`` entries that end later than their period from now."""
    periods = await longest_periods(txn, own)
    found: list[bytes] = []
    for queue in QUEUES:
        start = queue + number(periods.until(queue, now) + SLACK)
        rows = await txn.scan(start, after(queue), limit=limit)
        found += [key for key, _ in rows]
    found += await files.far_leases(txn, periods.until(layout.SETTING, now) + SLACK)
    beyond = periods.until(keys.SIGNING, now) + SLACK
    if await keys.far_signing_keys(txn, beyond):
        found.insert(0, keys.SIGNING)
    return tuple(found[:limit])


async def shorten(txn: Transaction, rows: tuple[bytes, ...], now: int, own: Periods) -> None:
    """Make the entries under these keys end as if they were made now. Raises Corrupt."""
    periods = await longest_periods(txn, own)
    for key in rows:
        value = await txn.get(key)
        if value is None:
            # Another process's sweep was faster.
            continue
        until = periods.until(key[:1], now)
        if key.startswith(files.LEASE):
            # A running snapshot renews its lease.
            await put_payload(txn, key, number(until))
        elif key == keys.SIGNING:
            await keys.cut_signing_keys(txn, periods.until(key, now))
        elif key[:1] == layout.TRASH:
            await trash_rows.move(txn, layout.at(key, 1), decode(Trash, key, value), now, until)
        elif key[:1] == layout.GARBAGE:
            await _shorten_garbage(txn, key, now)
        else:
            await _shorten_hold(txn, key, now, until)


async def _shorten_hold(txn: Transaction, key: bytes, now: int, until: int) -> None:
    place = await get_payload(txn, key) or b""
    owner, sha = await images.holder(txn, key, place), key[9 + ID_BYTES :]
    claim = await claims.get(txn, owner.key, sha)
    if claim is not None and claim.hold == layout.at(key, 1):
        shorter = msgspec.structs.replace(claim, hold=until)
        await claims.change(txn, owner, sha, claim, shorter, now)
    else:
        # The claim has no such hold: the row is a leftover.
        await txn.delete(key)


async def _shorten_garbage(txn: Transaction, key: bytes, now: int) -> None:
    sha = key[9:]
    await txn.delete(key)
    await put_payload(txn, layout.GARBAGE + number(now) + sha)
    blob = await load(txn, Blob, layout.BLOB + sha)
    # The blob's row names its place in the queue; both move together.
    if blob is not None and blob.queued == layout.at(key, 1):
        await save(txn, layout.BLOB + sha, msgspec.structs.replace(blob, queued=now))


async def begin_walk(txn: Transaction) -> None:
    """Start a walk over all times, from the first row on."""
    await put_payload(txn, _WALK, _ORDER[0])


async def was_ahead(txn: Transaction, now: int) -> bool:
    """Return True if a change has a time after now, and no walk has started since."""
    last, skew = await identity.state(txn)
    return last - skew > now + SLACK


async def needs_walk(txn: Transaction, now: int) -> bool:
    """Return True if a walk over the times of the rows is due."""
    return await txn.get(_WALK) is not None or await was_ahead(txn, now)


async def walk(txn: Transaction, now: int, limit: int) -> int:
    """Correct the times in the walk's next rows, up to ``limit``. Return the rows corrected.

    If the clock was ahead again, the walk starts over.
    """
    if await was_ahead(txn, now):
        last, _ = await identity.state(txn)
        # Ids keep their lead and so their order; times of changes are the wall clock's again.
        await identity.set_state(txn, last, last - now)
        await begin_walk(txn)
    try:
        start = await get_payload(txn, _WALK)
    except Corrupt:
        start = _ORDER[0]
    if start is None:
        return 0
    kind = start[:1]
    rows = await txn.scan(start, after(kind), limit=limit)
    count = 0
    for key, value in rows:
        count += await _correct_row(txn, key, value, now)
    if len(rows) == limit:
        await put_payload(txn, _WALK, rows[-1][0] + b"\0")
    elif kind != _ORDER[-1]:
        await put_payload(txn, _WALK, _ORDER[_ORDER.index(kind) + 1])
    else:
        await txn.delete(_WALK)
    return count


async def _correct_row(txn: Transaction, key: bytes, value: bytes, now: int) -> bool:
    record_type, names = TIME_FIELDS[key[:1]]
    try:
        record = decode(record_type, key, value)
    except Corrupt:
        # The check reports the row.
        return False
    late: dict[str, Any] = dict.fromkeys(future_fields(record, names, now), now)
    if late:
        await save(txn, key, msgspec.structs.replace(record, **late))
    return bool(late)


def future_fields(record: Record, names: tuple[str, ...], now: int) -> list[str]:
    """Return the names of a record's times that are in the future."""
    return [name for name in names if getattr(record, name) > now + SLACK]


async def has_work(txn: Transaction, now: int, own: Periods) -> bool:
    """Return True if entries must be shortened, or a walk is due."""
    return await needs_walk(txn, now) or bool(await overlong(txn, now, own, 1))
