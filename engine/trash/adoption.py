"""Deleted tags that pointed to one manifest: it went with the one that was deleted last.

What went with a tag is listed with its entry in the trash. A tag that was deleted while another
one kept the manifest has no such list. So before it comes back, or before the other one's entry
is given up, it gets a copy of the other one's: in steps, and a copy that was begun goes on.
"""

from __future__ import annotations

from typing import Final

import msgspec

from holdfast.engine.core import Core
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Trash, load
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.references import manifest_rows, trash_rows

LOOKED_AT_MAX: Final = 10_000
"""Entries of a project's trash that are looked at for the other tag."""

_STEP: Final = 200


async def lacks(txn: Transaction, entry: Trash) -> bool:
    """Whether the manifest of a deleted tag is neither in its image nor in its own list."""
    if entry.kind != "tag" or await manifest_rows.present(txn, entry.image, entry.sha):
        return False
    return bool(entry.adopting) or not await trash_rows.length(txn, entry)


async def others(
    txn: Transaction, entry: Trash, start: bytes, limit: int
) -> tuple[list[Trash], bytes | None]:
    """Other deleted tags of the same manifest among some entries of the project; where to go on.

    Entries that cannot be read are passed over: they cannot be brought back either.
    """
    prefix = layout.TRASH_PROJECT + entry.project
    rows = await txn.scan(start or prefix, after(prefix), limit=limit)
    found = []
    for key, _ in rows:
        try:
            other = await load(txn, Trash, layout.TRASH + key[len(prefix) :])
        except Corrupt:
            continue
        same = other is not None and (other.image, other.sha) == (entry.image, entry.sha)
        if other is not None and same and other.kind == "tag" and other.id != entry.id:
            found.append(other)
    return found, rows[-1][0] + b"\0" if len(rows) == limit else None


async def _all_others(core: Core, entry: Trash) -> list[Trash]:
    found: list[Trash] = []
    start: bytes | None = b""
    looked = 0
    while start is not None and looked < LOOKED_AT_MAX:
        some, start = await core.ledger.read_in_thread(others, entry, start, _STEP)
        found += some
        looked += _STEP
    return found


async def copy_some(txn: Transaction, entry_id: bytes, source_id: bytes) -> bool:
    """Copy some of the list of one entry to another one; says whether that is all done.

    Nothing where either left the trash meanwhile, or is being brought back or purged.
    """
    target, source = await trash_rows.find(txn, entry_id), await trash_rows.find(txn, source_id)
    if target is None or source is None:
        return True
    (until, entry), (_, giver) = target, source
    if entry.purging or entry.restoring or giver.purging or giver.restoring:
        return True
    if not entry.adopting and await trash_rows.length(txn, entry):
        return True
    rows = await trash_rows.listed_from(txn, giver, await trash_rows.length(txn, entry), _STEP)
    await trash_rows.add_manifests(txn, entry, rows)
    done = len(rows) < _STEP
    adopting = b"" if done else source_id
    if adopting != entry.adopting:
        await trash_rows.change(txn, until, msgspec.structs.replace(entry, adopting=adopting))
    return done


async def before_restore(core: Core, entry: Trash) -> None:
    """Give a deleted tag the list that it lacks, if another deleted tag of its manifest has it."""
    if not await core.ledger.read(lacks, entry):
        return
    givers = [entry.adopting] if entry.adopting else []
    if not givers:
        listed = [
            other.id
            for other in await _all_others(core, entry)
            if await core.ledger.read(trash_rows.length, other)
        ]
        givers = listed[-1:]
    for giver in givers:
        while not await core.grow(copy_some, entry.id, giver):
            continue


async def before_purge(core: Core, entry: Trash) -> None:
    """Let the deleted tags that an entry's list would be for have it, before it goes."""
    if entry.kind != "tag" or not await core.ledger.read(trash_rows.length, entry):
        return
    for other in await _all_others(core, entry):
        if await core.ledger.read(lacks, other):
            # Out of the room for deletes: this is one, and may be what frees a full disk.
            while not await core.ledger.transact(copy_some, other.id, entry.id):
                continue
