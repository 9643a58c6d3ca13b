"""Purging: what has been in the trash long enough is taken apart, in bounded transactions.

Each step removes some rows and can be the last before a crash: the next step finds what is left
by the same prefixes. An entry that a purge has begun with cannot be brought back any more.
"""

from __future__ import annotations

from typing import Final

import msgspec

from . import blobs, claims, images, layout, sessions, trash
from .claims import Owner
from .layout import ID_BYTES
from .ledger import Transaction, after
from .records import Blob, Claim, Image, Namespace, Tag, Trash, decode, load, save, unseal

_OF_IMAGE: Final = (
    layout.TAG,
    layout.TAGGED,
    layout.MANIFEST,
    layout.NEEDS,
    layout.REFERRER,
)


async def step(txn: Transaction, due: int, now: int, limit: int) -> int:
    """Take about ``limit`` rows of what was due by then out of the ledger; 0: nothing is."""
    found = await trash.first(txn, due)
    if found is None:
        return 0
    until, entry = found
    if entry.kind == "tag":
        await trash.take(txn, until, entry)
        return 1
    if not entry.purging:
        entry = msgspec.structs.replace(entry, purging=True)
        await save(txn, layout.TRASH + layout.number(until) + entry.id, entry)
    if entry.kind == "image":
        done = await _image_entry(txn, entry, now, limit)
    else:
        done = await _namespace(txn, entry.id, now, limit)
    if not done:
        return limit
    await trash.take(txn, until, entry)
    return limit


async def _image_entry(txn: Transaction, entry: Trash, now: int, limit: int) -> bool:
    row = await load(txn, Image, layout.IMAGE + entry.digest)
    if row is None:
        return True
    return await _image(txn, row, entry.parent[ID_BYTES:], now, limit)


async def _namespace(txn: Transaction, namespace_id: bytes, now: int, limit: int) -> bool:
    namespace = await load(txn, Namespace, layout.NAMESPACE + namespace_id)
    if namespace is None:
        return True
    prefix = layout.IMAGE_NAME + namespace_id
    rows = await txn.scan(prefix, after(prefix), limit=1)
    if not rows:
        await txn.delete(layout.NAMESPACE + namespace_id)
        await txn.delete(layout.DEAD + namespace_id)
        await txn.delete(layout.RETENTION + namespace_id)
        return True
    key, value = rows[0]
    row = await images.by_key(txn, unseal(key, value))
    assert row is not None, "an image name leads nowhere"
    if row.listed and not row.deleted:
        size = await txn.counter(layout.counter(layout.IMAGE_SIZE, row.key))
        await txn.add(layout.counter(layout.NAMESPACE_SIZE, namespace_id), -size)
        await images.hide(txn, row, namespace)
    if not row.deleted:
        row = msgspec.structs.replace(row, deleted=now)
        await save(txn, layout.IMAGE + row.key, row)
    if await _image(txn, row, namespace.project, now, limit):
        await txn.delete(key)
    return False


async def _image(txn: Transaction, row: Image, project: bytes, now: int, limit: int) -> bool:
    """Take some rows of a deleted image away; says whether it is all gone."""
    left = limit
    prefix = layout.SESSION_IMAGE + row.key
    for key, _ in await txn.scan(prefix, after(prefix), limit=left):
        await sessions.abort(txn, None, key[1 + ID_BYTES :])
        left -= 1
    owner = Owner(row.key, project, row.namespace, counted=False)
    prefix = layout.CLAIM + row.key
    for key, value in await txn.scan(prefix, after(prefix), limit=left):
        claim = decode(Claim, key, value)
        await claims.release(txn, owner, key[1 + ID_BYTES :], claim, now)
        left -= 1
    prefix = layout.LISTING + b"t" + row.key
    for kind in (prefix, *(kind + row.key for kind in _OF_IMAGE)):
        rows = await txn.scan(kind, after(kind), limit=max(left, 0))
        for key, value in rows:
            await txn.delete(key)
            if kind[:1] == layout.TAG:
                await _tag_id(txn, key, value)
            left -= 1
    prefix = layout.counter(layout.LISTED, b"t" + row.key)
    for key, _ in await txn.scan(prefix, after(prefix), limit=max(left, 0)):
        await txn.delete(key)
        left -= 1
    if left <= 0:
        return False
    for name in (layout.IMAGE_SIZE, layout.IMAGE_TAGS):
        await txn.delete(layout.counter(name, row.key))
    await txn.delete(layout.IMAGE + row.key)
    if row.listed:
        await txn.delete(layout.IMAGE_ID + row.id)
    return True


async def _tag_id(txn: Transaction, key: bytes, value: bytes) -> None:
    await txn.delete(layout.TAG_ID + decode(Tag, key, value).id)


async def expire_holds(txn: Transaction, now: int, limit: int) -> int:
    """End holds that are over; says how many."""
    stop = layout.EXPIRY + layout.number(now)
    rows = await txn.scan(layout.EXPIRY, stop, limit=limit)
    for key, value in rows:
        owner_key, sha = key[9 : 9 + ID_BYTES], key[9 + ID_BYTES :]
        place = unseal(key, value)
        owner = Owner(owner_key, place[:ID_BYTES], place[ID_BYTES:])
        await claims.drop_hold(txn, owner, sha, now)
        await images.drop_draft(txn, owner_key)
    return len(rows)


async def expire_uploads(txn: Transaction, now: int, limit: int) -> list[int]:
    """End sessions whose time is over; says which files they had."""
    stop = layout.SESSION_EXPIRY + layout.number(now)
    rows = await txn.scan(layout.SESSION_EXPIRY, stop, limit=limit)
    return [await sessions.abort(txn, None, key[9:]) for key, _ in rows]


async def collect(txn: Transaction, now: int, limit: int) -> tuple[int, int]:
    """Remove blobs of the garbage queue that nobody needs; says how many entries, and bytes."""
    stop = layout.GARBAGE + layout.number(now)
    rows = await txn.scan(layout.GARBAGE, stop, limit=limit)
    freed = 0
    for key, _ in rows:
        sha = key[9:]
        await txn.delete(key)
        await txn.add(layout.counter(layout.GARBAGE_LENGTH), -1)
        blob = await load(txn, Blob, layout.BLOB + sha)
        if blob is None:
            continue
        if await blobs.needed(txn, sha):
            kept = msgspec.structs.replace(blob, queued=0)
            await save(txn, layout.BLOB + sha, kept)
            continue
        await blobs.remove(txn, sha, blob)
        freed += blob.stored
    if freed:
        await txn.add(layout.counter(layout.FREED_BYTES), freed)
    return len(rows), freed
