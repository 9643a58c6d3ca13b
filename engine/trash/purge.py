"""Purges what is due in bounded transactions: expired holds, queued garbage, trash entries.

A step on a large trash entry removes some of its rows. After a crash the next step finds the rest
by the same prefixes. All that a step must know is in the entry itself, so a damaged row of the
deleted object does not stop it. An entry whose purge has begun can no longer be restored.
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
"""Queues with small entries, of which one transaction processes many."""

_IMAGE_ROWS: Final = (
    layout.TAG,
    layout.TAGGED,
    layout.MANIFEST,
    layout.NEEDS,
    layout.REFERRER,
)

_LIVING_COUNTERS: Final = (layout.NAMESPACE_SIZE, layout.NAMESPACE_IMAGES)
"""Counters of a namespace that leave out its deleted images. All other counters stay: they count
deleted images too, which may be in the trash for longer than the namespace."""


async def due(txn: Transaction, queue: bytes, until: int, limit: int) -> tuple[bytes, ...]:
    """Return keys of a queue's entries that are due before ``until`` (us), in order of time."""
    rows = await txn.scan(queue, queue + layout.number(until), limit=limit)
    return tuple(key for key, _ in rows)


async def take(txn: Transaction, keys: tuple[bytes, ...], now: int) -> int:
    """Process entries of ``QUEUES``. Return the bytes at rest that were freed. Raises Corrupt."""
    freed = 0
    for key in keys:
        value = await get_payload(txn, key)
        if value is None:
            # Another process's sweep was faster.
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
    """Remove a blob if nothing needs it. Return the bytes at rest that were freed."""
    sha = key[9:]
    await txn.add(layout.counter(layout.GARBAGE_LENGTH), -1)
    blob = await load(txn, Blob, layout.BLOB + sha)
    # 0 also passes: the row could not be updated if it was damaged when the entry was made.
    if blob is None or blob.queued not in {0, layout.at(key, 1)}:
        return 0
    if await blob_rows.needed(txn, sha):
        # Claimed again since it was queued; the next release of its last claim queues it again.
        kept = msgspec.structs.replace(blob, queued=0)
        await save(txn, layout.BLOB + sha, kept)
        return 0
    await blob_rows.remove(txn, sha, blob)
    return blob.stored


async def step(txn: Transaction, key: bytes, now: int, limit: int) -> int:
    """Remove about ``limit`` rows of a trash entry. Return how many. Raises Corrupt."""
    entry = await load(txn, Trash, key)
    if entry is None:
        # Another process's sweep was faster.
        return 1
    until = layout.at(key, 1)
    if entry.kind == "tag":
        return await _tag(txn, until, entry, now, limit)
    if not entry.purging:
        # In the transaction that removes the first rows: a restore must not find half of them.
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
    """Remove the next rows of a deleted tag, and manifests of a restore that did not complete.

    Returns the number of rows.
    """
    if entry.restoring:
        await _roll_back_restore(txn, entry, now, limit)
    rows = await trash_rows.drop_rows(txn, entry, limit)
    if rows < limit:
        await trash_rows.take(txn, until, entry)
    elif not entry.purging:
        await trash_rows.begin_purge(txn, until, entry)
    return rows + 1


async def _roll_back_restore(txn: Transaction, entry: Trash, now: int, limit: int) -> None:
    image = await images.by_key(txn, entry.image)
    if image is None:
        return
    owner = trash_rows.owner(entry, counted=not image.deleted)
    shas = await trash_rows.shas_from(txn, entry, 0, limit)
    # The entry is due, so the content need not be held any longer.
    await pruning.take_back(txn, owner, trash_rows.list_of(entry), shas, now, now + SECOND)


async def _namespace(txn: Transaction, entry: Trash, now: int, limit: int) -> bool:
    """Remove the next rows of a deleted namespace. Return True if none is left."""
    prefix = layout.IMAGE_NAME + entry.id
    rows = await txn.scan(prefix, after(prefix), limit=1)
    if not rows:
        for kind in (layout.NAMESPACE, layout.DEAD, layout.RETENTION):
            await txn.delete(kind + entry.id)
        for name in _LIVING_COUNTERS:
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
    """Return an image of a namespace; rebuild its row from the listing if it cannot be read."""
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
    """Subtract an image from its namespace's size, which counts only images not yet deleted."""
    try:
        size = await txn.counter(layout.counter(layout.IMAGE_SIZE, row.key))
    except Corrupt:
        return
    await txn.add(layout.counter(layout.NAMESPACE_SIZE, row.namespace), -size)


async def _image(txn: Transaction, owner: Owner, image_id: bytes, now: int, limit: int) -> bool:
    """Remove the next rows of a deleted image. Return True if none is left."""
    left = limit
    prefix = layout.claimed(owner.key)
    for key, _ in await txn.scan(prefix, after(prefix), limit=left):
        sha = key[1 + ID_BYTES :]
        try:
            claim = await claims.get(txn, owner.key, sha)
        except Corrupt:
            # The reference rows show which kinds of need the damaged row counted.
            claim = await claims.implied(txn, owner, sha)
        await claims.release(txn, owner, sha, claim or claims.NOTHING, now)
        # ``release`` does not delete this row if there was no claim.
        await txn.delete(key)
        left -= 1
    prefix = layout.LISTING + tags.KIND + owner.key
    by_creation = prefix + listings.CREATED
    for key, _ in await txn.scan(by_creation, after(by_creation), limit=max(left, 0)):
        await txn.delete(layout.TAG_ID + key[-ID_BYTES:])
        await txn.delete(key)
        left -= 1
    totals = layout.counter(layout.LISTED, tags.KIND + owner.key)
    for kind in (prefix, totals, *(kind + owner.key for kind in _IMAGE_ROWS)):
        for key, _ in await txn.scan(kind, after(kind), limit=max(left, 0)):
            await txn.delete(key)
            left -= 1
    if left <= 0:
        # The limit may have ended a scan early: the next step looks for what is left.
        return False
    for name in (layout.IMAGE_SIZE, layout.IMAGE_TAGS):
        await txn.delete(layout.counter(name, owner.key))
    await txn.delete(layout.IMAGE + owner.key)
    if image_id:
        await txn.delete(layout.IMAGE_ID + image_id)
    return True
