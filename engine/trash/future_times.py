"""Times of the future: what a clock that was ahead has left is cut, once the clock is right.

A hold, an entry of the trash or of the garbage queue, and an upload last for a period from when
they are made. Where one ends later than a period from now, the clock was ahead when it was made:
it is cut to its period from now. Times of creation, of update and of the last pull are cut to
now; they lie in rows of all kinds, so a walk over these begins where the ids' clock tells that
the wall clock was ahead, or where a store was upgraded that did not look.

A clock that is behind looks the same: all that is right lies in its future. So no clock is
believed from before this program was written, and the background waits until what it sees has
lasted for a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

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
"""Times that are so little ahead pass by themselves."""

BELIEVED: Final = 1_577_836_800 * SECOND
"""The year 2020. A clock that tells an earlier time was never set."""

_PERIODS: Final = layout.SETTING + b"periods"
"""-> hold (8), trash (8), upload (8): the longest of all that had the store open."""

_WALK: Final = layout.SETTING + b"times"
"""-> the key from which on rows are to be looked at; no row where that is done."""

TIMES: Final[dict[bytes, tuple[type[Record], tuple[str, ...]]]] = {
    layout.NAMESPACE: (Namespace, ("created", "updated", "deleted")),
    layout.IMAGE: (Image, ("created", "updated", "deleted", "pulled")),
    layout.TAG: (Tag, ("created", "updated", "pulled")),
    layout.MANIFEST: (Manifest, ("created", "renewed")),
    layout.KEY: (Key, ("created",)),
}
"""Rows with times that are never later than now, and these."""

_ORDER: Final = sorted(TIMES)


@dataclass(frozen=True, slots=True)
class Periods:
    """How long things last, in microseconds."""

    hold: int
    trash: int
    upload: int

    def longest(self, other: Periods) -> Periods:
        """The longer one of each."""
        return Periods(
            max(self.hold, other.hold),
            max(self.trash, other.trash),
            max(self.upload, other.upload),
        )

    def until(self, queue: bytes, now: int) -> int:
        """Until when an entry of a queue lasts at most; of the settings, a snapshot's lease, and
        a retired signing key."""
        if queue == layout.GARBAGE:
            return now
        if queue == keys.SIGNING:
            return now + keys.OVERLAP_SECONDS_MAX * SECOND
        if queue == layout.SETTING:
            return now + files.LEASE_SECONDS * SECOND
        # What the trash may bring back is held for as long.
        return now + (self.trash if queue == layout.TRASH else max(self.hold, self.trash))


QUEUES: Final = (layout.EXPIRY, layout.GARBAGE, layout.TRASH)


def periods_of(core: Core) -> Periods:
    """The periods that an open store is configured for."""
    config = core.config
    seconds = config.hold_seconds, config.trash_seconds, config.upload_seconds
    return Periods(*(int(value * SECOND) for value in seconds))


async def known(txn: Transaction, own: Periods) -> Periods:
    """The longest periods that things in the store may have been made with.

    A store may be opened by programs of different configurations, and what one of them promised
    is not cut by another.
    """
    noted = await stored(txn)
    return own if noted is None else own.longest(noted)


async def stored(txn: Transaction) -> Periods | None:
    """What ``remember`` has written; None where that is not known."""
    try:
        row = await get_payload(txn, _PERIODS)
    except Corrupt:
        # Written again by the next opening; the check tells of it until then.
        return None
    return None if row is None else Periods(*(layout.at(row, place) for place in (0, 8, 16)))


async def unknown(txn: Transaction, own: Periods) -> bool:
    """Whether ``remember`` has something to write."""
    return await stored(txn) != await known(txn, own)


async def remember(txn: Transaction, own: Periods) -> None:
    """Keep in mind that things may be made with these periods."""
    longest = await known(txn, own)
    values = longest.hold, longest.trash, longest.upload
    await put_payload(txn, _PERIODS, b"".join(map(number, values)))


async def far(txn: Transaction, now: int, own: Periods, limit: int) -> tuple[bytes, ...]:
    """Keys of entries of the queues that end later than they may."""
    periods = await known(txn, own)
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


async def cut(txn: Transaction, rows: tuple[bytes, ...], now: int, own: Periods) -> None:
    """Let these entries end as if they were made now. Raises Corrupt."""
    periods = await known(txn, own)
    for key in rows:
        value = await txn.get(key)
        if value is None:
            # Another sweep was quicker.
            continue
        until = periods.until(key[:1], now)
        if key.startswith(files.LEASE):
            # A snapshot that lives renews it.
            await put_payload(txn, key, number(until))
        elif key == keys.SIGNING:
            await keys.cut_signing_keys(txn, periods.until(key, now))
        elif key[:1] == layout.TRASH:
            await trash_rows.move(txn, layout.at(key, 1), decode(Trash, key, value), now, until)
        elif key[:1] == layout.GARBAGE:
            await _cut_garbage(txn, key, now)
        else:
            await _cut_hold(txn, key, now, until)


async def _cut_hold(txn: Transaction, key: bytes, now: int, until: int) -> None:
    place = await get_payload(txn, key) or b""
    owner, sha = await images.holder(txn, key, place), key[9 + ID_BYTES :]
    claim = await claims.get(txn, owner.key, sha)
    if claim is not None and claim.hold == layout.at(key, 1):
        shorter = msgspec.structs.replace(claim, hold=until)
        await claims.change(txn, owner, sha, claim, shorter, now)
    else:
        await txn.delete(key)


async def _cut_garbage(txn: Transaction, key: bytes, now: int) -> None:
    sha = key[9:]
    await txn.delete(key)
    await put_payload(txn, layout.GARBAGE + number(now) + sha)
    blob = await load(txn, Blob, layout.BLOB + sha)
    if blob is not None and blob.queued == layout.at(key, 1):
        await save(txn, layout.BLOB + sha, msgspec.structs.replace(blob, queued=now))


async def begin_walk(txn: Transaction) -> None:
    """Have all times looked at again, from the first row on."""
    await put_payload(txn, _WALK, _ORDER[0])


async def ahead(txn: Transaction, now: int) -> bool:
    """Whether the wall clock has told a change a later time, and nobody has looked since."""
    last, skew = await identity.state(txn)
    return last - skew > now + SLACK


async def unsettled(txn: Transaction, now: int) -> bool:
    """Whether times of the rows are to be looked at."""
    return await txn.get(_WALK) is not None or await ahead(txn, now)


async def settle(txn: Transaction, now: int, limit: int) -> int:
    """Look at the times of up to ``limit`` rows, and cut those of the future; says how many.

    Where the clock was ahead a walk begins with that, also in the midst of another one.
    """
    if await ahead(txn, now):
        last, _ = await identity.state(txn)
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
        count += await _settle_row(txn, key, value, now)
    if len(rows) == limit:
        await put_payload(txn, _WALK, rows[-1][0] + b"\0")
    elif kind != _ORDER[-1]:
        await put_payload(txn, _WALK, _ORDER[_ORDER.index(kind) + 1])
    else:
        await txn.delete(_WALK)
    return count


async def _settle_row(txn: Transaction, key: bytes, value: bytes, now: int) -> bool:
    record_type, names = TIMES[key[:1]]
    try:
        record = decode(record_type, key, value)
    except Corrupt:
        # The check tells of it.
        return False
    late: dict[str, Any] = dict.fromkeys(late_of(record, names, now), now)
    if late:
        await save(txn, key, msgspec.structs.replace(record, **late))
    return bool(late)


def late_of(record: Record, names: tuple[str, ...], now: int) -> list[str]:
    """Those of the named times of a record that lie in the future."""
    return [name for name in names if getattr(record, name) > now + SLACK]


async def anything(txn: Transaction, now: int, own: Periods) -> bool:
    """Whether there is something to cut, or to look at."""
    return await unsettled(txn, now) or bool(await far(txn, now, own, 1))
