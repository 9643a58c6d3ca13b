"""The trash: what was deleted and can still be brought back, in the order it will be emptied.

An entry is a row by its time, one by its id and one in the list of its project. The manifests
that went with a tag, of which there may be any number, are rows of their own in the order in
which they went: a list. Its key is not the tag's alone, since a tag can come back and be deleted
again before all rows of the first list are gone. Tags that went with a tag, since they belonged
to such a manifest, are entries of their own, and rows that lead to these.

An entry that is being taken apart (``purging``) cannot be brought back. One of a tag is then
found by its time only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

import msgspec

from holdfast.engine.blobs.claims import Owner
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.layout import number
from holdfast.engine.ledger.records import (
    Image,
    Namespace,
    Tag,
    Trash,
    decode,
    get_payload,
    load,
    put_payload,
    save,
    unseal,
)
from holdfast.engine.model.errors import Corrupt

_STEP: Final = 1000

_ENTRY_BYTES: Final = 8 + layout.ID_BYTES
"""Time and id: the end of an entry's key, there and in the list of its project."""

_PLACE_AT: Final = 1 + layout.ID_BYTES + 8
"""Where the place stands in the key of a manifest that went with a tag."""

Gone = tuple[tuple[bytes, str], ...]
"""Manifests that went with a tag, parents first: sha256 and media type."""


class Place(TypedDict):
    """Where something was, as its entry tells it."""

    region: str
    project: bytes
    namespace: bytes
    namespace_name: str
    image_name: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are asked for; None does not look."""

    region: str | None = None
    project: bytes | None = None
    kind: str | None = None
    namespace: str | None = None
    """Name of the namespace, or of that which it was in."""
    image: str | None = None
    tag: str | None = None

    @property
    def every_kind(self) -> bool:
        """Whether all are, or all of a project."""
        return self == Filter(project=self.project)

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


def place(entry: Trash) -> bytes:
    """What stands in keys for the name of the namespace that it was, or was in."""
    return layout.place(entry.project, entry.region, entry.namespace_name)


def owner(entry: Trash, *, counted: bool) -> Owner:
    """The image that the entry is, or that its tag was in, as an owner of claims."""
    return Owner(entry.image, entry.project, entry.namespace, counted, place(entry))


async def insert(txn: Transaction, entry: Trash, until: int) -> None:
    """Put an entry into the trash until then."""
    await save(txn, layout.TRASH + number(until) + entry.id, entry)
    await put_payload(txn, layout.TRASH_ID + entry.id, number(until))
    await put_payload(txn, project_row(entry, until))
    await txn.add(layout.counter(layout.TRASH_LENGTH), 1)


def project_row(entry: Trash, until: int) -> bytes:
    """Key of the row of an entry in the list of its project."""
    return layout.TRASH_PROJECT + entry.project + number(until) + entry.id


async def list_row(txn: Transaction, key: bytes, value: bytes, *, listed: bool) -> None:
    """Put an entry into the list of its project, or take it out: of a row of a queue that is set
    aside, or put back. Nothing where it is no entry, or cannot be read."""
    if key[:1] != layout.TRASH:
        return
    try:
        entry = decode(Trash, key, value)
    except Corrupt:
        return
    row = project_row(entry, layout.at(key, 1))
    if not listed:
        await txn.delete(row)
    elif not entry.purging:
        await put_payload(txn, row)


def _place(namespace: Namespace, image_name: str = "") -> Place:
    return Place(
        region=namespace.region,
        project=namespace.project,
        namespace=namespace.id,
        namespace_name=namespace.name,
        image_name=image_name,
    )


async def trash_namespace(txn: Transaction, row: Namespace, until: int) -> None:
    """A namespace was deleted."""
    await insert(txn, Trash("namespace", row.id, row.name, **_place(row)), until)


async def trash_image(txn: Transaction, row: Image, namespace: Namespace, until: int) -> None:
    """An image was deleted: its key and its place are what the purge needs."""
    place = _place(namespace, row.name)
    await insert(txn, Trash("image", row.id, row.name, row.key, **place), until)


async def trash_tag(
    txn: Transaction, image: Image, namespace: Namespace, row: Tag, gone: Gone, until: int
) -> Trash:
    """A tag was deleted, and these manifests with it; ``add_manifests`` adds more."""
    entry = Trash(
        "tag",
        row.id,
        row.name,
        image.key,
        row.digest,
        (),
        row.created,
        sha=row.sha,
        **_place(namespace, image.name),
        manifests=await _free_list(txn, row.id, until),
    )
    await insert(txn, entry, until)
    await add_manifests(txn, entry, gone)
    return entry


async def trash_attached(
    txn: Transaction,
    image: Image,
    namespace: Namespace,
    entry: Trash | None,
    rows: Sequence[Tag],
    until: int,
) -> None:
    """These tags went with that one, since they belonged to manifests that did.

    Each is an entry of its own, and comes back with the other one.
    """
    for row in rows:
        await trash_tag(txn, image, namespace, row, (), until)
        if entry is not None:
            await put_payload(txn, layout.TRASH_ATTACHED + list_of(entry) + row.id)


async def attached_to(txn: Transaction, entry: Trash, last: bytes, limit: int) -> list[bytes]:
    """Ids of tags that went with that one, in their order, after ``last``."""
    prefix = layout.TRASH_ATTACHED + list_of(entry)
    rows = await txn.scan(prefix + last + b"\0" if last else prefix, after(prefix), limit=limit)
    return [key[-layout.ID_BYTES :] for key, _ in rows]


async def _free_list(txn: Transaction, tag_id: bytes, until: int) -> bytes:
    """A list that has no rows: times are no names where a clock stands still.

    Rows of tags are only where rows of manifests are: see ``drop_rows``.
    """
    while await txn.scan(*_span(layout.TRASH_MANIFEST + tag_id + number(until)), limit=1):
        until += 1
    return number(until)


def _span(prefix: bytes) -> tuple[bytes, bytes]:
    return prefix, after(prefix)


def list_of(entry: Trash) -> bytes:
    """What the keys of the manifests that went with a tag begin with, but for the first byte."""
    return entry.id + entry.manifests


async def add_manifests(txn: Transaction, entry: Trash, gone: Gone) -> None:
    """More manifests went with a deleted tag. Their order is that of the calls."""
    if not gone:
        return
    prefix = layout.TRASH_MANIFEST + list_of(entry)
    place = await length(txn, entry)
    for sha, media_type in gone:
        await put_payload(txn, prefix + number(place), sha + media_type.encode())
        place += 1


async def length(txn: Transaction, entry: Trash) -> int:
    """How many manifests went with a tag; while they are purged: the place behind the last."""
    rows = await txn.scan(*_span(layout.TRASH_MANIFEST + list_of(entry)), limit=1, reverse=True)
    return layout.at(rows[0][0], _PLACE_AT) + 1 if rows else 0


async def manifests(
    txn: Transaction, entry: Trash, below: int, limit: int
) -> list[tuple[int, bytes, str]]:
    """The last ``limit`` manifests at places below that, last first: children before parents.

    Each with its place. Raises Corrupt.
    """
    prefix = layout.TRASH_MANIFEST + list_of(entry)
    found = []
    for key, value in await txn.scan(prefix, prefix + number(below), limit=limit, reverse=True):
        payload = unseal(key, value)
        sha, media_type = payload[: layout.SHA_BYTES], payload[layout.SHA_BYTES :].decode()
        found.append((layout.at(key, _PLACE_AT), sha, media_type))
    return found


async def shas_from(txn: Transaction, entry: Trash, place: int, limit: int) -> tuple[bytes, ...]:
    """The first ``limit`` manifests from that place on, parents first. Raises Corrupt."""
    return tuple(sha for sha, _ in await listed_from(txn, entry, place, limit))


async def listed_from(txn: Transaction, entry: Trash, place: int, limit: int) -> Gone:
    """The first ``limit`` manifests from that place on, with their media types. Raises Corrupt."""
    prefix = layout.TRASH_MANIFEST + list_of(entry)
    rows = await txn.scan(prefix + number(place), after(prefix), limit=limit)
    payloads = [unseal(key, value) for key, value in rows]
    return tuple(
        (payload[: layout.SHA_BYTES], payload[layout.SHA_BYTES :].decode()) for payload in payloads
    )


async def drop_rows(txn: Transaction, entry: Trash, limit: int) -> int:
    """Remove ``limit`` rows of what went with a tag; says how many there were.

    Those of tags go first, so that a list which looks empty is.
    """
    count = 0
    for kind in (layout.TRASH_ATTACHED, layout.TRASH_MANIFEST):
        rows = await txn.scan(*_span(kind + list_of(entry)), limit=limit - count)
        for key, _ in rows:
            await txn.delete(key)
        count += len(rows)
        if count == limit:
            break
    return count


async def find(txn: Transaction, entry_id: bytes) -> tuple[int, Trash] | None:
    """When an entry will be purged, and the entry, by the id of what was deleted."""
    when = await get_payload(txn, layout.TRASH_ID + entry_id)
    if when is None:
        return None
    entry = await load(txn, Trash, layout.TRASH + when + entry_id)
    return None if entry is None else (int.from_bytes(when, "big"), entry)


async def change(txn: Transaction, until: int, entry: Trash) -> None:
    """Write an entry again."""
    await save(txn, layout.TRASH + number(until) + entry.id, entry)


async def begin_purge(txn: Transaction, until: int, entry: Trash) -> Trash:
    """Take an entry out of all lists: from now on it cannot be brought back."""
    await _unlist(txn, until, entry)
    entry = msgspec.structs.replace(entry, purging=True)
    await change(txn, until, entry)
    return entry


async def _unlist(txn: Transaction, until: int, entry: Trash) -> None:
    await txn.delete(project_row(entry, until))
    if entry.kind == "tag":
        await _forget(txn, until, entry.id)


async def _forget(txn: Transaction, until: int, entry_id: bytes) -> None:
    """Remove the row of an entry's id, unless it leads to another entry by now: the same tag may
    have been brought back, and deleted once more."""
    key = layout.TRASH_ID + entry_id
    try:
        found = await get_payload(txn, key)
    except Corrupt:
        found = number(until)
    if found == number(until):
        await txn.delete(key)


async def take(txn: Transaction, until: int, entry: Trash) -> None:
    """Remove an entry; of a tag, the rows of what went with it are gone already."""
    await txn.delete(project_row(entry, until))
    await _forget(txn, until, entry.id)
    await txn.delete(layout.TRASH + number(until) + entry.id)
    await txn.add(layout.counter(layout.TRASH_LENGTH), -1)


async def move(txn: Transaction, until: int, entry: Trash, now: int, later: int) -> None:
    """Let an entry be purged at another time: one that was deleted while the clock was ahead."""
    old = layout.TRASH + number(until) + entry.id
    while await txn.get(layout.TRASH + number(later) + entry.id) is not None:
        later += 1
    await txn.delete(old)
    await change(txn, later, msgspec.structs.replace(entry, created=min(entry.created, now)))
    if await txn.get(project_row(entry, until)) is not None:
        await txn.delete(project_row(entry, until))
        await put_payload(txn, project_row(entry, later))
    if await get_payload(txn, layout.TRASH_ID + entry.id) == number(until):
        await put_payload(txn, layout.TRASH_ID + entry.id, number(later))


async def make_due(txn: Transaction, until: int, entry: Trash, now: int) -> bytes:
    """Let an entry be the sweep's now, and nobody's to bring back; says its key.

    One of a namespace or an image is found by its id until it is gone.
    """
    await take(txn, until, entry)
    when = now
    while await txn.get(layout.TRASH + number(when) + entry.id) is not None:
        when += 1
    await change(txn, when, msgspec.structs.replace(entry, purging=True))
    if entry.kind != "tag":
        await put_payload(txn, layout.TRASH_ID + entry.id, number(when))
    await txn.add(layout.counter(layout.TRASH_LENGTH), 1)
    return layout.TRASH + number(when) + entry.id


async def leave_rest(txn: Transaction, until: int, entry: Trash, now: int) -> None:
    """A tag is back, and too many rows of its manifests are left for one transaction.

    The sweep takes them: the entry is due now, and names no restore, so nothing is taken back.
    """
    await make_due(txn, until, msgspec.structs.replace(entry, restoring=b""), now)


async def page_of(
    txn: Transaction, now: int, chosen: Filter, skip: int, limit: int
) -> tuple[list[tuple[int, Trash]], int]:
    """Some of what can be brought back, next to go first; and how many there are.

    Of one project only its own entries are looked at. Where nothing else is asked for, rows are
    counted only; with another filter, all are read. Either is linear in them.
    """
    if chosen.project is None:
        prefix, start = layout.TRASH, await _begin(txn, now)
    else:
        prefix = layout.TRASH_PROJECT + chosen.project
        start = prefix + number(now + 1)
    found: list[tuple[int, Trash]] = []
    total = 0
    while rows := await txn.scan(start, after(prefix), limit=_STEP):
        for key, value in rows:
            on_page = skip <= total < skip + limit
            if chosen.every_kind and not on_page:
                total += 1
                continue
            try:
                entry = await _entry(txn, key, value)
            except Corrupt:
                entry = None
            if entry is None:
                # On whichever page it lies, it counts; the check tells of it.
                total += chosen.every_kind
            elif chosen.takes(entry):
                total += 1
                if on_page:
                    found.append((layout.at(key, len(prefix)), entry))
        start = rows[-1][0] + b"\0"
    return found, total


async def _entry(txn: Transaction, key: bytes, value: bytes) -> Trash | None:
    """The entry of a row of the trash, or of a project's list of it. Raises Corrupt."""
    if key[:1] == layout.TRASH:
        return decode(Trash, key, value)
    return await load(txn, Trash, layout.TRASH + key[-_ENTRY_BYTES:])


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
