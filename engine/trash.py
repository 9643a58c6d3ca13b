"""The trash: what was deleted and can still be brought back, in the order it will be emptied."""

from __future__ import annotations

import msgspec

from . import layout
from .layout import number
from .ledger import Transaction, after
from .records import Image, Namespace, Tag, Trash, get_payload, load, put_payload, save

DIGESTS_MAX = 500
"""Manifests remembered with a tag; a row has room for some 600. A tag that took more along comes
back only while the image has the rest."""


async def throw(txn: Transaction, entry: Trash, until: int) -> None:
    """Put an entry into the trash until then."""
    await save(txn, layout.TRASH + number(until) + entry.id, entry)
    await put_payload(txn, layout.TRASH_ID + entry.id, number(until))
    await txn.add(layout.counter(layout.TRASH_LENGTH), 1)


async def throw_namespace(txn: Transaction, row: Namespace, until: int) -> None:
    """A namespace was deleted."""
    await throw(txn, Trash("namespace", row.id, row.name, b""), until)


async def throw_image(txn: Transaction, row: Image, project: bytes, until: int) -> None:
    """An image was deleted: its key and its project are what the purge needs."""
    parent = row.namespace + project
    await throw(txn, Trash("image", row.id, row.name, parent, digest=row.key), until)


async def throw_tag(
    txn: Transaction,
    image_key: bytes,
    row: Tag,
    digests: tuple[tuple[bytes, str], ...],
    until: int,
) -> None:
    """A tag was deleted, and these manifests (parents first) with it."""
    entry = Trash(
        "tag",
        row.id,
        row.name,
        image_key,
        row.digest,
        digests[:DIGESTS_MAX],
        row.created,
        sha=row.sha,
    )
    await throw(txn, entry, until)


async def add_manifests(
    txn: Transaction, tag_id: bytes, digests: tuple[tuple[bytes, str], ...]
) -> None:
    """More manifests went with a deleted tag; nothing where the tag is not in the trash."""
    found = await find(txn, tag_id)
    if found is not None:
        until, entry = found
        every = (*entry.digests, *digests)[:DIGESTS_MAX]
        grown = msgspec.structs.replace(entry, digests=every)
        await save(txn, layout.TRASH + number(until) + tag_id, grown)


async def find(txn: Transaction, entry_id: bytes) -> tuple[int, Trash] | None:
    """When an entry will be purged, and the entry, by the id of what was deleted."""
    when = await get_payload(txn, layout.TRASH_ID + entry_id)
    if when is None:
        return None
    entry = await load(txn, Trash, layout.TRASH + when + entry_id)
    return None if entry is None else (int.from_bytes(when, "big"), entry)


async def take(txn: Transaction, until: int, entry: Trash) -> None:
    """Remove an entry."""
    await txn.delete(layout.TRASH + number(until) + entry.id)
    await txn.delete(layout.TRASH_ID + entry.id)
    await txn.add(layout.counter(layout.TRASH_LENGTH), -1)


async def first(txn: Transaction, now: int) -> tuple[int, Trash] | None:
    """The entry that is due first, if it is due by now."""
    stop = min(now + 1, (1 << 64) - 1)
    rows = await txn.scan(layout.TRASH, layout.TRASH + number(stop), limit=1)
    if not rows:
        return None
    key = rows[0][0]
    entry = await load(txn, Trash, key)
    return None if entry is None else (layout.at(key, 1), entry)


async def entries(txn: Transaction, now: int, limit: int) -> list[tuple[int, Trash]]:
    """What lies in the trash and is not due by now, next to go first."""
    found = []
    start = layout.TRASH + number(now + 1)
    for key, _ in await txn.scan(start, after(layout.TRASH), limit=limit):
        entry = await load(txn, Trash, key)
        if entry is not None:
            found.append((layout.at(key, 1), entry))
    return found
