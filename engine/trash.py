"""The trash: what was deleted and can still be brought back, in the order it will be emptied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypedDict

import msgspec

from . import layout
from .errors import Corrupt
from .layout import number
from .ledger import Transaction, after
from .records import Image, Namespace, Tag, Trash, decode, get_payload, load, put_payload, save

_STEP: Final = 1000
DIGESTS_MAX: Final = 500
"""Manifests remembered with a tag; a row has room for some 600. A tag that took more along comes
back only while the image has the rest."""


class Place(TypedDict):
    """Where something was, as its entry tells it."""

    region: str
    project: bytes
    namespace: bytes
    namespace_name: str
    image_name: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which entries are asked for; None does not look."""

    region: str | None = None
    project: bytes | None = None
    kind: str | None = None
    namespace: str | None = None
    """Name of the namespace, or of that which it was in."""
    image: str | None = None
    tag: str | None = None

    @property
    def everything(self) -> bool:
        """Whether all are."""
        return self == Chosen()

    def takes(self, entry: Trash) -> bool:
        """Whether this one is."""
        looks = (
            (self.region, entry.region),
            (self.project, entry.project),
            (self.kind, entry.kind),
            (self.namespace, entry.namespace_name),
            (self.image, entry.image_name),
            (self.tag, entry.name if entry.kind == "tag" else ""),
        )
        return all(asked is None or asked == has for asked, has in looks)


async def throw(txn: Transaction, entry: Trash, until: int) -> None:
    """Put an entry into the trash until then."""
    await save(txn, layout.TRASH + number(until) + entry.id, entry)
    await put_payload(txn, layout.TRASH_ID + entry.id, number(until))
    await txn.add(layout.counter(layout.TRASH_LENGTH), 1)


def _place(namespace: Namespace, image_name: str = "") -> Place:
    return Place(
        region=namespace.region,
        project=namespace.project,
        namespace=namespace.id,
        namespace_name=namespace.name,
        image_name=image_name,
    )


async def throw_namespace(txn: Transaction, row: Namespace, until: int) -> None:
    """A namespace was deleted."""
    await throw(txn, Trash("namespace", row.id, row.name, **_place(row)), until)


async def throw_image(txn: Transaction, row: Image, namespace: Namespace, until: int) -> None:
    """An image was deleted: its key and its place are what the purge needs."""
    place = _place(namespace, row.name)
    await throw(txn, Trash("image", row.id, row.name, row.key, **place), until)


async def throw_tag(
    txn: Transaction,
    image: Image,
    namespace: Namespace,
    row: Tag,
    digests: tuple[tuple[bytes, str], ...],
    until: int,
) -> None:
    """A tag was deleted, and these manifests (parents first) with it."""
    entry = Trash(
        "tag",
        row.id,
        row.name,
        image.key,
        row.digest,
        digests[:DIGESTS_MAX],
        row.created,
        sha=row.sha,
        **_place(namespace, image.name),
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


async def page_of(
    txn: Transaction, now: int, chosen: Chosen, skip: int, limit: int
) -> tuple[list[tuple[int, Trash]], int]:
    """Some of what can be brought back, next to go first; and how many there are.

    Without a filter rows are counted only; with one, all are read. Either is linear in the trash.
    """
    start = await _begin(txn, now)
    found: list[tuple[int, Trash]] = []
    total = 0
    while rows := await txn.scan(start, after(layout.TRASH), limit=_STEP):
        for key, value in rows:
            on_page = skip <= total < skip + limit
            if chosen.everything and not on_page:
                total += 1
                continue
            try:
                entry = decode(Trash, key, value)
            except Corrupt:
                # On whichever page it lies, it counts; the check tells of it.
                total += chosen.everything
                continue
            if chosen.takes(entry):
                total += 1
                if on_page:
                    found.append((layout.at(key, 1), entry))
        start = rows[-1][0] + b"\0"
    return found, total


async def _begin(txn: Transaction, now: int) -> bytes:
    """Key of the first entry that can be brought back: not due, and not being taken apart."""
    start = layout.TRASH + number(now + 1)
    while rows := await txn.scan(start, after(layout.TRASH), limit=1):
        key, value = rows[0]
        try:
            if not decode(Trash, key, value).purging:
                break
        except Corrupt:
            pass
        start = key + b"\0"
    return start
