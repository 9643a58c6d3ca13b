"""Purging: what is due is taken apart, in bounded transactions.

The queues are of holds, of garbage, and the trash. A step on something large
in the trash removes some of its rows, and can be the last before a crash: the next step finds
what is left by the same prefixes. What such a step has to know stands in the entry itself, so
that a damaged row of what was deleted is in nobody's way. An entry that a purge has begun with
cannot be brought back any more.
"""

from __future__ import annotations

from typing import Final

import msgspec

from holdfast.engine.blobs import blob_rows, claims
from holdfast.engine.blobs.claims import Owner
from holdfast.engine.core import SECOND
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.layout import ID_BYTES
from holdfast.engine.ledger.records import (
    Blob,
    Image,
    Namespace,
    Trash,
    get_payload,
    load,
    save,
    unseal,
)
from holdfast.engine.model.errors import Corrupt
from holdfast.engine.namespaces import listings, namespaces
from holdfast.engine.references import pruning, trash_rows
from holdfast.engine.repositories import images, tags

QUEUES: Final = (layout.EXPIRY, layout.GARBAGE)
"""Those whose entries are small: many are dealt with in one transaction."""

_OF_IMAGE: Final = (
    layout.TAG,
    layout.TAGGED,
    layout.MANIFEST,
    layout.NEEDS,
    layout.REFERRER,
)

_OF_LIVING: Final = (layout.NAMESPACE_SIZE, layout.NAMESPACE_IMAGES)
"""A namespace's counters that its deleted images are not in: these may lie in the trash longer
than the namespace does, and count in the others until they are taken apart."""


async def due(txn: Transaction, queue: bytes, until: int, limit: int) -> tuple[bytes, ...]:
    """Keys of the entries of a queue that are due before then, those due first first."""
    rows = await txn.scan(queue, queue + layout.number(until), limit=limit)
    return tuple(key for key, _ in rows)


async def take(txn: Transaction, keys: tuple[bytes, ...], now: int) -> int:
    """Deal with entries of ``QUEUES``; says how many bytes at rest went. Raises Corrupt."""
    freed = 0
    for key in keys:
        value = await get_payload(txn, key)
        if value is None:
            # Another sweep was quicker.
            continue
        await txn.delete(key)
        if key[:1] == layout.EXPIRY:
            await _hold(txn, key, value, now)
        else:
            freed += await _garbage(txn, key)
    if freed:
        await txn.add(layout.counter(layout.FREED_BYTES), freed)
    return freed


async def _hold(txn: Transaction, key: bytes, place: bytes, now: int) -> None:
    owner, sha = await images.holder(txn, key, place), key[9 + ID_BYTES :]
    await claims.end_hold(txn, owner, sha, layout.at(key, 1), now)
    await images.drop_draft(txn, owner.key)


async def _garbage(txn: Transaction, key: bytes) -> int:
    """Remove a blob if nobody needs it; says how many bytes at rest that were."""
    sha = key[9:]
    await txn.add(layout.counter(layout.GARBAGE_LENGTH), -1)
    blob = await load(txn, Blob, layout.BLOB + sha)
    # A row that could not be read when the entry was made knows of no queue.
    if blob is None or blob.queued not in {0, layout.at(key, 1)}:
        return 0
    if await blob_rows.needed(txn, sha):
        kept = msgspec.structs.replace(blob, queued=0)
        await save(txn, layout.BLOB + sha, kept)
        return 0
    await blob_rows.remove(txn, sha, blob)
    return blob.stored


async def step(txn: Transaction, key: bytes, now: int, limit: int) -> int:
    """Take about ``limit`` rows of an entry of the trash out of the ledger; says how many.

    Raises Corrupt.
    """
    entry = await load(txn, Trash, key)
    if entry is None:
        # Another sweep was quicker.
        return 1
    until = layout.at(key, 1)
    if entry.kind == "tag":
        return await _tag(txn, until, entry, now, limit)
    if not entry.purging:
        entry = await trash_rows.begin_purge(txn, until, entry)
    if entry.kind == "image":
        owner = trash_rows.owner(entry, counted=False)
        done = await _image(txn, owner, entry.id, now, limit)
    else:
        done = await _namespace(txn, entry, now, limit)
    if done:
        await trash_rows.take(txn, until, entry)
    return limit


async def _tag(txn: Transaction, until: int, entry: Trash, now: int, limit: int) -> int:
    """Take some rows of a deleted tag away, and the manifests that a restore which never came to
    its end brought back; says how many."""
    if entry.restoring:
        await _take_back(txn, entry, now, limit)
    rows = await trash_rows.drop_rows(txn, entry, limit)
    if rows < limit:
        await trash_rows.take(txn, until, entry)
    elif not entry.purging:
        await trash_rows.begin_purge(txn, until, entry)
    return rows + 1


async def _take_back(txn: Transaction, entry: Trash, now: int, limit: int) -> None:
    image = await images.by_key(txn, entry.image)
    if image is None:
        return
    owner = trash_rows.owner(entry, counted=not image.deleted)
    shas = await trash_rows.shas_from(txn, entry, 0, limit)
    # Holds of what is in the trash are over when it is.
    await pruning.take_back(txn, owner, trash_rows.list_of(entry), shas, now, now + SECOND)


async def _namespace(txn: Transaction, entry: Trash, now: int, limit: int) -> bool:
    """Take some rows of a deleted namespace away; says whether it is all gone."""
    prefix = layout.IMAGE_NAME + entry.id
    rows = await txn.scan(prefix, after(prefix), limit=1)
    if not rows:
        for kind in (layout.NAMESPACE, layout.DEAD, layout.RETENTION):
            await txn.delete(kind + entry.id)
        for name in _OF_LIVING:
            await txn.delete(layout.counter(name, entry.id))
        return True
    key, value = rows[0]
    namespace = namespaces.of_trash(entry)
    row = await _image_row(txn, namespace, key[len(prefix) :].decode(), unseal(key, value))
    if row.listed and not row.deleted:
        await _uncount(txn, row)
        await images.hide(txn, row, namespace)
    if not row.deleted:
        row = msgspec.structs.replace(row, deleted=now)
        await save(txn, layout.IMAGE + row.key, row)
    owner = images.owner_of(row, namespace)
    if await _image(txn, owner, row.id, now, limit):
        await txn.delete(key)
    return False


async def _image_row(txn: Transaction, namespace: Namespace, name: str, key: bytes) -> Image:
    """An image of a namespace; made anew from its place in the listing, if it cannot be read."""
    try:
        row = await images.by_key(txn, key)
    except Corrupt:
        row = None
    if row is not None:
        return row
    scope = listings.named(images.in_namespace(namespace.id), name)
    prefix = layout.LISTING + images.KIND + scope
    rows = await txn.scan(prefix, after(prefix), limit=1)
    found = rows[0][0][-ID_BYTES:] if rows else b""
    return Image(key, found, namespace.id, name, "inherit", 0, 0)


async def _uncount(txn: Transaction, row: Image) -> None:
    """The namespace's size is that of its living images, also while it is taken apart."""
    try:
        size = await txn.counter(layout.counter(layout.IMAGE_SIZE, row.key))
    except Corrupt:
        return
    await txn.add(layout.counter(layout.NAMESPACE_SIZE, row.namespace), -size)


async def _image(txn: Transaction, owner: Owner, image_id: bytes, now: int, limit: int) -> bool:
    """Take some rows of a deleted image away; says whether it is all gone."""
    left = limit
    prefix = layout.claimed(owner.key)
    for key, _ in await txn.scan(prefix, after(prefix), limit=left):
        sha = key[1 + ID_BYTES :]
        try:
            claim = await claims.get(txn, owner.key, sha)
        except Corrupt:
            claim = await claims.implied(txn, owner, sha)
        await claims.release(txn, owner, sha, claim or claims.NOTHING, now)
        # Also where there was no such claim.
        await txn.delete(key)
        left -= 1
    prefix = layout.LISTING + tags.KIND + owner.key
    by_creation = prefix + listings.CREATED
    for key, _ in await txn.scan(by_creation, after(by_creation), limit=max(left, 0)):
        await txn.delete(layout.TAG_ID + key[-ID_BYTES:])
        await txn.delete(key)
        left -= 1
    totals = layout.counter(layout.LISTED, tags.KIND + owner.key)
    for kind in (prefix, totals, *(kind + owner.key for kind in _OF_IMAGE)):
        for key, _ in await txn.scan(kind, after(kind), limit=max(left, 0)):
            await txn.delete(key)
            left -= 1
    if left <= 0:
        return False
    for name in (layout.IMAGE_SIZE, layout.IMAGE_TAGS):
        await txn.delete(layout.counter(name, owner.key))
    await txn.delete(layout.IMAGE + owner.key)
    if image_id:
        await txn.delete(layout.IMAGE_ID + image_id)
    return True
