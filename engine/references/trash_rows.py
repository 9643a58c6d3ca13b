"""Trash rows: deleted tags, images and namespaces that can be restored, in order of their purge.

An entry has three rows: by its purge time, by its id, and in the list of its project. The
manifests removed with a tag, of which there may be any number, are a list of rows in the order of
removal. The key of a list holds more than the tag's id, since a tag can be restored and deleted
again before all rows of its first list are gone. Attached tags removed with a tag are entries of
their own, and the tag has one row for each that points to its entry.

An entry whose purge has begun (``purging``) cannot be restored. A purging tag is found by its
time only.
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

_ROWS_PER_SCAN: Final = 1000

_ENTRY_BYTES: Final = 8 + layout.ID_BYTES
"""Bytes of time and id, which end an entry's key and its key in the list of its project."""

_POSITION_AT: Final = 1 + layout.ID_BYTES + 8
"""Offset of the list position in the key of a manifest removed with a tag."""

Gone = tuple[tuple[bytes, str], ...]
"""Manifests removed with a tag, parents first: sha256 and media type."""


class _Origin(TypedDict):
    """Fields of an entry that say where the deleted object was."""

    region: str
    project: bytes
    namespace: bytes
    namespace_name: str
    image_name: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on entries; None matches all."""

    region: str | None = None
    project: bytes | None = None
    kind: str | None = None
    namespace: str | None = None
    """Name of the deleted namespace, or of the one that the object was in."""
    image: str | None = None
    tag: str | None = None

    @property
    def every_kind(self) -> bool:
        """True if the filter has no condition, or one on the project alone."""
        return self == Filter(project=self.project)

    def matches(self, entry: Trash) -> bool:
        """Return True if the entry meets all conditions."""
        conditions = (
            (self.region, entry.region),
            (self.project, entry.project),
            (self.kind, entry.kind),
            (self.namespace, entry.namespace_name),
            (self.image, entry.image_name),
            (self.tag, entry.name if entry.kind == "tag" else ""),
        )
        return all(want is None or want == has for want, has in conditions)


def place(entry: Trash) -> bytes:
    """Return ``layout.place`` of the deleted namespace, or of the one that the object was in."""
    return layout.place(entry.project, entry.region, entry.namespace_name)


def owner(entry: Trash, *, counted: bool) -> Owner:
    """Return the entry's image, or the image that its tag was in, as an owner of claims."""
    return Owner(entry.image, entry.project, entry.namespace, counted, place(entry))


async def insert(txn: Transaction, entry: Trash, until: int) -> None:
    """Put an entry into the trash, to be purged at ``until``."""
    await save(txn, layout.TRASH + number(until) + entry.id, entry)
    await put_payload(txn, layout.TRASH_ID + entry.id, number(until))
    await put_payload(txn, project_row(entry, until))
    await txn.add(layout.counter(layout.TRASH_LENGTH), 1)


def project_row(entry: Trash, until: int) -> bytes:
    """Return the key of an entry in the list of its project."""
    return layout.TRASH_PROJECT + entry.project + number(until) + entry.id


async def list_row(txn: Transaction, key: bytes, value: bytes, *, listed: bool) -> None:
    """Add an entry to the list of its project, or remove it, when its queue row moves.

    For rows that are parked as dead letters, or requeued. No effect for rows of other queues and
    for entries that cannot be read.
    """
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


def _origin(namespace: Namespace, image_name: str = "") -> _Origin:
    return _Origin(
        region=namespace.region,
        project=namespace.project,
        namespace=namespace.id,
        namespace_name=namespace.name,
        image_name=image_name,
    )


async def trash_namespace(txn: Transaction, row: Namespace, until: int) -> None:
    """Put a deleted namespace into the trash until ``until``."""
    await insert(txn, Trash("namespace", row.id, row.name, **_origin(row)), until)


async def trash_image(txn: Transaction, row: Image, namespace: Namespace, until: int) -> None:
    """Put a deleted image into the trash until ``until``, with what the purge needs of it."""
    origin = _origin(namespace, row.name)
    await insert(txn, Trash("image", row.id, row.name, row.key, **origin), until)


async def trash_tag(
    txn: Transaction, image: Image, namespace: Namespace, row: Tag, gone: Gone, until: int
) -> Trash:
    """Put a deleted tag into the trash, with the manifests removed so far; return its entry.

    ``add_manifests`` adds those that later transactions remove.
    """
    entry = Trash(
        "tag",
        row.id,
        row.name,
        image.key,
        row.digest,
        (),
        row.created,
        sha=row.sha,
        **_origin(namespace, image.name),
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
    """Put attached tags into the trash that were removed with the tag of ``entry``.

    Each is an entry of its own, and a restore of ``entry`` restores it too. ``entry`` is None
    where the trash has no entry that they could follow.
    """
    for row in rows:
        await trash_tag(txn, image, namespace, row, (), until)
        if entry is not None:
            await put_payload(txn, layout.TRASH_ATTACHED + list_of(entry) + row.id)


async def attached_to(txn: Transaction, entry: Trash, last: bytes, limit: int) -> list[bytes]:
    """Return ids of attached tags removed with the tag of ``entry``, in order, after ``last``."""
    prefix = layout.TRASH_ATTACHED + list_of(entry)
    rows = await txn.scan(prefix + last + b"\0" if last else prefix, after(prefix), limit=limit)
    return [key[-layout.ID_BYTES :] for key, _ in rows]


async def _free_list(txn: Transaction, tag_id: bytes, until: int) -> bytes:
    """Return a list key without rows. A time alone is not unique while the clock stands still.

    Only rows of manifests are searched: a list with rows of tags has some (see ``drop_rows``).
    """
    while await txn.scan(*_span(layout.TRASH_MANIFEST + tag_id + number(until)), limit=1):
        until += 1
    return number(until)


def _span(prefix: bytes) -> tuple[bytes, bytes]:
    return prefix, after(prefix)


def list_of(entry: Trash) -> bytes:
    """Return the prefix, after the kind byte, of the keys of an entry's list."""
    return entry.id + entry.manifests


async def add_manifests(txn: Transaction, entry: Trash, gone: Gone) -> None:
    """Append removed manifests to the list of a deleted tag."""
    if not gone:
        return
    prefix = layout.TRASH_MANIFEST + list_of(entry)
    position = await length(txn, entry)
    for sha, media_type in gone:
        await put_payload(txn, prefix + number(position), sha + media_type.encode())
        position += 1


async def length(txn: Transaction, entry: Trash) -> int:
    """Return the position after the last manifest of a tag's list.

    That is the number of manifests, until a purge begins to remove them.
    """
    rows = await txn.scan(*_span(layout.TRASH_MANIFEST + list_of(entry)), limit=1, reverse=True)
    return layout.at(rows[0][0], _POSITION_AT) + 1 if rows else 0


async def manifests(
    txn: Transaction, entry: Trash, below: int, limit: int
) -> list[tuple[int, bytes, str]]:
    """Return the last ``limit`` manifests before position ``below``, last first.

    So children come before parents. Each has its position. Raises Corrupt.
    """
    prefix = layout.TRASH_MANIFEST + list_of(entry)
    found = []
    for key, value in await txn.scan(prefix, prefix + number(below), limit=limit, reverse=True):
        payload = unseal(key, value)
        sha, media_type = payload[: layout.SHA_BYTES], payload[layout.SHA_BYTES :].decode()
        found.append((layout.at(key, _POSITION_AT), sha, media_type))
    return found


async def shas_from(txn: Transaction, entry: Trash, position: int, limit: int) -> tuple[bytes, ...]:
    """Return the first ``limit`` sha256s from a position on, parents first. Raises Corrupt."""
    return tuple(sha for sha, _ in await listed_from(txn, entry, position, limit))


async def listed_from(txn: Transaction, entry: Trash, position: int, limit: int) -> Gone:
    """Return the first ``limit`` manifests and media types from a position. Raises Corrupt."""
    prefix = layout.TRASH_MANIFEST + list_of(entry)
    rows = await txn.scan(prefix + number(position), after(prefix), limit=limit)
    payloads = [unseal(key, value) for key, value in rows]
    return tuple(
        (payload[: layout.SHA_BYTES], payload[layout.SHA_BYTES :].decode()) for payload in payloads
    )


async def drop_rows(txn: Transaction, entry: Trash, limit: int) -> int:
    """Remove up to ``limit`` rows of a tag's list; return how many there were.

    Rows of attached tags go first: so a list without manifest rows has no tag rows either, which
    ``_free_list`` relies on.
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
    """Return the purge time and the entry of a deleted object by its id, or None."""
    when = await get_payload(txn, layout.TRASH_ID + entry_id)
    if when is None:
        return None
    entry = await load(txn, Trash, layout.TRASH + when + entry_id)
    return None if entry is None else (int.from_bytes(when, "big"), entry)


async def change(txn: Transaction, until: int, entry: Trash) -> None:
    """Write a changed entry to its row by time."""
    await save(txn, layout.TRASH + number(until) + entry.id, entry)


async def begin_purge(txn: Transaction, until: int, entry: Trash) -> Trash:
    """Mark an entry as purging and remove it from all lists: it cannot be restored any more."""
    await _unlist(txn, until, entry)
    entry = msgspec.structs.replace(entry, purging=True)
    await change(txn, until, entry)
    return entry


async def _unlist(txn: Transaction, until: int, entry: Trash) -> None:
    await txn.delete(project_row(entry, until))
    if entry.kind == "tag":
        await _forget(txn, until, entry.id)


async def _forget(txn: Transaction, until: int, entry_id: bytes) -> None:
    """Remove the row of an entry's id, unless it points to a newer entry.

    The same tag may have been restored and deleted again.
    """
    key = layout.TRASH_ID + entry_id
    try:
        found = await get_payload(txn, key)
    except Corrupt:
        # A damaged row points nowhere: remove it.
        found = number(until)
    if found == number(until):
        await txn.delete(key)


async def take(txn: Transaction, until: int, entry: Trash) -> None:
    """Remove an entry. The caller has removed the rows of a tag's list (``drop_rows``)."""
    await txn.delete(project_row(entry, until))
    await _forget(txn, until, entry.id)
    await txn.delete(layout.TRASH + number(until) + entry.id)
    await txn.add(layout.counter(layout.TRASH_LENGTH), -1)


async def move(txn: Transaction, until: int, entry: Trash, now: int, later: int) -> None:
    """Change an entry's purge time: for objects that were deleted while the clock was ahead."""
    old = layout.TRASH + number(until) + entry.id
    # The same tag may have another entry at that microsecond.
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
    """Make an entry due for the sweep, so that it cannot be restored; return its new key.

    Namespaces and images are found by id until their purge is complete.
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
    """Leave the list of a restored tag to the sweep: it has too many rows for one transaction.

    The entry is due now and names no restore, so the purge does not undo the restore.
    """
    await make_due(txn, until, msgspec.structs.replace(entry, restoring=b""), now)


async def page_of(
    txn: Transaction, now: int, wanted: Filter, skip: int, limit: int
) -> tuple[list[tuple[int, Trash]], int]:
    """Return a page of restorable entries, next to be purged first, and their total.

    For one project only its own entries are scanned. Without further conditions rows are counted
    and only those of the page are read; with other conditions all are read. Both are linear.
    """
    if wanted.project is None:
        prefix, start = layout.TRASH, await _begin(txn, now)
    else:
        prefix = layout.TRASH_PROJECT + wanted.project
        start = prefix + number(now + 1)
    found: list[tuple[int, Trash]] = []
    total = 0
    while rows := await txn.scan(start, after(prefix), limit=_ROWS_PER_SCAN):
        for key, value in rows:
            on_page = skip <= total < skip + limit
            if wanted.every_kind and not on_page:
                total += 1
                continue
            try:
                entry = await _entry(txn, key, value)
            except Corrupt:
                entry = None
            if entry is None:
                # Counted like unreadable rows of other pages; the check reports it.
                total += wanted.every_kind
            elif wanted.matches(entry):
                total += 1
                if on_page:
                    found.append((layout.at(key, len(prefix)), entry))
        start = rows[-1][0] + b"\0"
    return found, total


async def _entry(txn: Transaction, key: bytes, value: bytes) -> Trash | None:
    """Return the entry of a row of the trash or of a project's list. Raises Corrupt."""
    if key[:1] == layout.TRASH:
        return decode(Trash, key, value)
    return await load(txn, Trash, layout.TRASH + key[-_ENTRY_BYTES:])


async def _begin(txn: Transaction, now: int) -> bytes:
    """Return the key from which entries are restorable: not due, and not purging."""
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
