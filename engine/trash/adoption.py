"""Shares one list of removed manifests between the deleted tags of the same manifest.

The manifest is removed with the last of its tags, and that tag's trash entry lists what was
removed. A tag deleted earlier, while another tag still kept the manifest, has no such list. Before
it is restored, or before the entry with the list is purged, it therefore gets a copy of that list:
in bounded transactions, and a copy that was interrupted is continued.
"""

from __future__ import annotations

from typing import Final

import msgspec

from holdfast.engine.core import Core
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import Trash
from holdfast.engine.references import manifest_rows, trash_rows

from .content import deleted_tags

_ROWS_PER_TXN: Final = 200


async def lacks_list(txn: Transaction, entry: Trash) -> bool:
    """Return True if a deleted tag's manifest is neither in its image nor in its own list."""
    if entry.kind != "tag" or await manifest_rows.present(txn, entry.image, entry.sha):
        return False
    return bool(entry.adopting) or not await trash_rows.length(txn, entry)


async def _all_same_manifest(core: Core, entry: Trash) -> list[Trash]:
    """Return other deleted tags of the same manifest, as far as ``deleted_tags`` reads."""
    return [
        other
        async for _, other in deleted_tags(core, entry.project)
        if other is not None
        and (other.image, other.sha) == (entry.image, entry.sha)
        and other.id != entry.id
    ]


async def copy_batch(txn: Transaction, entry_id: bytes, source_id: bytes) -> bool:
    """Copy the next rows of one entry's list to another entry. Return True if nothing is left.

    Copies nothing if either has left the trash meanwhile, or is being restored or purged.
    """
    target, found = await trash_rows.find(txn, entry_id), await trash_rows.find(txn, source_id)
    if target is None or found is None:
        return True
    (until, entry), (_, source) = target, found
    # A restore or purge in progress consumes the list: a copy could be incomplete.
    if entry.purging or entry.restoring or source.purging or source.restoring:
        return True
    if not entry.adopting and await trash_rows.length(txn, entry):
        return True
    # The length of the copy so far is the position to continue at.
    rows = await trash_rows.listed_from(
        txn, source, await trash_rows.length(txn, entry), _ROWS_PER_TXN
    )
    await trash_rows.add_manifests(txn, entry, rows)
    done = len(rows) < _ROWS_PER_TXN
    # ``adopting`` names the source while the copy is incomplete, so that it can be continued.
    adopting = b"" if done else source_id
    if adopting != entry.adopting:
        await trash_rows.change(txn, until, msgspec.structs.replace(entry, adopting=adopting))
    return done


async def before_restore(core: Core, entry: Trash) -> None:
    """Copy the list that a deleted tag lacks from another deleted tag of its manifest, if any."""
    if not await core.ledger.read(lacks_list, entry):
        return
    sources = [entry.adopting] if entry.adopting else []
    if not sources:
        listed = [
            other.id
            for other in await _all_same_manifest(core, entry)
            if await core.ledger.read(trash_rows.length, other)
        ]
        sources = listed[-1:]
    for source in sources:
        while not await core.grow(copy_batch, entry.id, source):
            continue


async def before_purge(core: Core, entry: Trash) -> None:
    """Copy an entry's list to all deleted tags that depend on it, before the entry is purged."""
    if entry.kind != "tag" or not await core.ledger.read(trash_rows.length, entry):
        return
    for other in await _all_same_manifest(core, entry):
        if await core.ledger.read(lacks_list, other):
            # ``transact``, not ``grow``: a purge may use the reserve, since it frees a full disk.
            while not await core.ledger.transact(copy_batch, other.id, entry.id):
                continue
