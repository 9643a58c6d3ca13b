"""Images (OCI: repositories): made by the first blob, seen from the first manifest on."""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from uuid import UUID

import msgspec

from holdfast.engine.blobs.claims import Owner
from holdfast.engine.core import SECOND, Core
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Image as Row
from holdfast.engine.ledger.records import Namespace as NamespaceRow
from holdfast.engine.ledger.records import get_payload, load, put_payload, save
from holdfast.engine.model.errors import Corrupt, Invalid, NotFound
from holdfast.engine.model.names import split_full_name
from holdfast.engine.model.values import (
    TAGS_SHOWN,
    Image,
    Namespace,
    Order,
    Page,
    Repository,
    Visibility,
    moment,
)
from holdfast.engine.namespaces import identity, limit_rows, listings, namespaces, protection
from holdfast.engine.namespaces.listings import Entry, Query
from holdfast.engine.references import reclaimable, trash_rows

KIND: Final = b"i"

CACHED_HANDLES_MAX: Final = 1024
"""Handles that are remembered: some 1 KiB each."""

VISIBILITIES: Final[tuple[Visibility, ...]] = ("inherit", "public", "private")


def visibility_of(row: Row) -> Visibility:
    """The row's visibility, as one of the three."""
    for value in VISIBILITIES:
        if value == row.visibility:
            return value
    raise Corrupt("image", row.name, "its visibility is none of the three")


def in_namespace(namespace_id: bytes) -> bytes:
    """Scope of the images of one namespace."""
    return b"n" + namespace_id


def scopes(namespace: NamespaceRow) -> tuple[bytes, ...]:
    """Listings that an image of the namespace appears in."""
    return (*namespaces.scopes(namespace), in_namespace(namespace.id))


def entry(row: Row) -> Entry:
    """What the image is sorted by; the namespace's id goes along."""
    return Entry(row.id, row.name, value=row.namespace)


def owner_of(row: Row, namespace: NamespaceRow) -> Owner:
    """The image as an owner of claims."""
    place = namespaces.place(namespace)
    return Owner(row.key, namespace.project, row.namespace, not row.deleted, place)


async def counted_at(txn: Transaction, key: bytes, namespace_id: bytes) -> bytes:
    """``layout.place`` of the namespace of an image with that key; b"" where no row tells it.

    An image in the trash may be there longer than its namespace. Raises Corrupt.
    """
    namespace = await load(txn, NamespaceRow, layout.NAMESPACE + namespace_id)
    if namespace is not None:
        return namespaces.place(namespace)
    image = await by_key(txn, key)
    found = None if image is None else await trash_rows.find(txn, image.id)
    return b"" if found is None else trash_rows.place(found[1])


async def holder(txn: Transaction, key: bytes, place: bytes) -> Owner:
    """The owner of a hold, by the key and the payload of the row of its end. Raises Corrupt."""
    owner = key[9 : 9 + layout.ID_BYTES]
    project, namespace = place[: layout.ID_BYTES], place[layout.ID_BYTES :]
    if namespace == layout.ZERO_ID:
        return Owner(owner)
    found = await counted_at(txn, owner, namespace)
    if not found:
        raise Corrupt(*layout.about(key), "no row tells what its namespace was called")
    return Owner(owner, project, namespace, place=found)


def name_row(namespace_id: bytes, name: str) -> bytes:
    """Key of the row that gives an image name its image."""
    return layout.IMAGE_NAME + namespace_id + name.encode()


def catalog_row(row: Row) -> bytes:
    """Key of the row that lists an image in the catalog."""
    return namespaces.catalog_prefix(row.namespace, row.visibility) + row.name.encode()


async def by_key(txn: Transaction, key: bytes) -> Row | None:
    """The image with that key, in whatever state."""
    return await load(txn, Row, layout.IMAGE + key)


async def living(txn: Transaction, key: bytes) -> bool:
    """Whether neither the image with that key nor its namespace was deleted."""
    row = await by_key(txn, key)
    if row is None or row.deleted:
        return False
    namespace = await load(txn, NamespaceRow, layout.NAMESPACE + row.namespace)
    return namespace is not None and not namespace.deleted


async def by_name(txn: Transaction, namespace_id: bytes, name: str) -> Row | None:
    """The image of that name, draft or listed, or None."""
    key = await get_payload(txn, name_row(namespace_id, name))
    return None if key is None else await by_key(txn, key)


async def enter(
    txn: Transaction, namespace_id: bytes, name: str, random: bytes, now: int
) -> tuple[Row, NamespaceRow]:
    """The image of that name to push to, as a new draft where there is none.

    Raises NotFound where the namespace is gone, Locked.
    """
    namespace = await namespaces.require(txn, namespace_id)
    namespaces.check_unlocked(namespace)
    row = await by_name(txn, namespace_id, name)
    if row is None:
        row = Row(random, b"", namespace_id, name, "inherit", now, now)
        await save(txn, layout.IMAGE + row.key, row)
        await put_payload(txn, name_row(namespace_id, name), row.key)
    return row, namespace


async def drop_draft(txn: Transaction, key: bytes) -> None:
    """Forget a draft that has no claim any more.

    One that cannot be read is left alone: it may be no draft.
    """
    try:
        row = await by_key(txn, key)
    except Corrupt:
        return
    if row is None or row.listed:
        return
    if await txn.scan(layout.claimed(key), after(layout.claimed(key)), limit=1):
        return
    await txn.delete(layout.IMAGE + key)
    # Nothing but a draft's own image has its name.
    await txn.delete(name_row(row.namespace, row.name))


async def current(txn: Transaction, repository: Repository) -> tuple[Row, NamespaceRow]:
    """The image that the repository named when it was located, if it still is that one.

    Raises NotFound: for the namespace, or for the image.
    """
    namespace = await namespaces.require(txn, repository.namespace_id.bytes)
    if repository.key is not None:
        row = await by_key(txn, repository.key)
        if row is not None and not row.deleted:
            return row, namespace
    raise NotFound("image", repository.full_name)


async def current_listed(txn: Transaction, repository: Repository) -> tuple[Row, NamespaceRow]:
    """As ``current``; a draft counts as absent."""
    row, namespace = await current(txn, repository)
    if not row.listed:
        raise NotFound("image", repository.full_name)
    return row, namespace


async def enlist(
    txn: Transaction, row: Row, namespace: NamespaceRow, time: int, random: bytes
) -> Row:
    """Make a draft one of the namespace's images: it gets its id now."""
    new, created = await identity.mint(txn, time, random)
    row = msgspec.structs.replace(row, id=new, created=created, updated=created)
    await save(txn, layout.IMAGE + row.key, row)
    await put_payload(txn, layout.IMAGE_ID + new, row.key)
    await show(txn, row, namespace)
    return row


async def show(txn: Transaction, row: Row, namespace: NamespaceRow) -> None:
    """Put an image into the listings and the counts."""
    await listings.insert(txn, KIND, scopes(namespace), entry(row))
    await put_payload(txn, catalog_row(row), row.key)
    await _reveal(txn, row, namespace)
    await txn.add(layout.counter(layout.NAMESPACE_IMAGES, row.namespace), 1)
    await txn.add(layout.counter(layout.IMAGES), 1)


async def hide(txn: Transaction, row: Row, namespace: NamespaceRow) -> None:
    """Take an image out of the listings and the counts."""
    await listings.remove(txn, KIND, scopes(namespace), entry(row))
    await txn.delete(catalog_row(row))
    await _reveal(txn, row, namespace)
    await txn.add(layout.counter(layout.NAMESPACE_IMAGES, row.namespace), -1)
    await txn.add(layout.counter(layout.IMAGES), -1)


async def _reveal(txn: Transaction, row: Row, namespace: NamespaceRow) -> None:
    """Update the catalog of the public for an image that is public by itself."""
    if row.visibility == "public" and not namespace.deleted:
        await namespaces.reveal(txn, namespace)


async def touch(txn: Transaction, row: Row, time: int) -> None:
    """Move ``updated_at`` of the image and of its namespace."""
    await save(txn, layout.IMAGE + row.key, msgspec.structs.replace(row, updated=time))
    await namespaces.touch(txn, row.namespace, time)


async def require(txn: Transaction, image_id: bytes) -> tuple[Row, NamespaceRow]:
    """The living image with that id, and its namespace. Raises NotFound."""
    key = await get_payload(txn, layout.IMAGE_ID + image_id)
    row = None if key is None else await by_key(txn, key)
    if row is not None and not row.deleted:
        namespace = await load(txn, NamespaceRow, layout.NAMESPACE + row.namespace)
        if namespace is not None and not namespace.deleted:
            return row, namespace
    raise NotFound("image", str(UUID(bytes=image_id)))


async def view(txn: Transaction, row: Row, namespace: NamespaceRow) -> Image:
    """The image as callers see it."""
    prefix = layout.TAG + row.key
    tags = await txn.scan(prefix, after(prefix), limit=TAGS_SHOWN)
    return Image(
        id=UUID(bytes=row.id),
        namespace_id=UUID(bytes=row.namespace),
        name=row.name,
        status="deleting" if row.deleted else "locked" if limit_rows.locked(namespace) else "ready",
        visibility=visibility_of(row),
        size=await txn.counter(layout.counter(layout.IMAGE_SIZE, row.key)),
        tags=tuple(key[len(prefix) :].decode() for key, _ in tags),
        tag_count=await txn.counter(layout.counter(layout.IMAGE_TAGS, row.key)),
        created_at=moment(row.created),
        updated_at=moment(row.updated),
        pull_count=row.pulls,
        pulled_at=moment(row.pulled) if row.pulled else None,
    )


async def get(txn: Transaction, image_id: bytes) -> Image:
    """The image with that id. Raises NotFound."""
    return await view(txn, *await require(txn, image_id))


async def namespace_of(txn: Transaction, image_id: bytes) -> Namespace:
    """The namespace that an image is in. Raises NotFound."""
    return await namespaces.view(txn, (await require(txn, image_id))[1])


async def page_of(
    txn: Transaction, selection: Query, region: str, namespace_id: bytes | None
) -> Page[Image]:
    """One page of a listing: of a namespace, if it is one of the region, or of a wider scope."""
    if namespace_id is None:
        dead = await namespaces.deleted_in(txn, selection.scope)
        ids, total = await listings.ids(txn, selection, {one: in_namespace(one) for one in dead})
    else:
        namespace = await load(txn, NamespaceRow, layout.NAMESPACE + namespace_id)
        if namespace is None or namespace.deleted or namespace.region != region:
            return Page([], 0)
        ids, total = await listings.ids(txn, selection)
    return Page(await listings.items(txn, get, ids), total)


async def update(txn: Transaction, image_id: bytes, visibility: str | None, now: int) -> Image:
    """Change the visibility, where given; ``updated_at`` moves in any case."""
    old, namespace = await require(txn, image_id)
    namespaces.check_unlocked(namespace)
    row = msgspec.structs.replace(
        old, visibility=visibility or old.visibility, updated=await identity.tick(txn, now)
    )
    await save(txn, layout.IMAGE + row.key, row)
    await txn.delete(catalog_row(old))
    await put_payload(txn, catalog_row(row), row.key)
    await namespaces.reveal(txn, namespace)
    return await view(txn, row, namespace)


async def delete(txn: Transaction, image_id: bytes, now: int, trash_until: int) -> Image:
    """Take an image out of sight; its name is free at once. Constant in what it holds.

    Raises NotFound, Locked; Immutable while a pattern in force covers one of its tags, Unverified
    where too many would have to be compared.
    """
    row, namespace = await require(txn, image_id)
    namespaces.check_unlocked(namespace)
    await protection.check_image(txn, row.key, limit_rows.immutable(namespace))
    time = await identity.tick(txn, now)
    gone = msgspec.structs.replace(row, deleted=time, updated=time)
    await save(txn, layout.IMAGE + row.key, gone)
    await txn.delete(name_row(row.namespace, row.name))
    await hide(txn, row, namespace)
    size = await txn.counter(layout.counter(layout.IMAGE_SIZE, row.key))
    await txn.add(layout.counter(layout.NAMESPACE_SIZE, row.namespace), -size)
    await namespaces.touch(txn, row.namespace, time)
    await trash_rows.trash_image(txn, gone, namespace, trash_until)
    return await view(txn, gone, namespace)


def repository_of(namespace: NamespaceRow, name: str, row: Row | None) -> Repository:
    """The handle for an image name in a namespace."""
    space = (
        namespace.id,
        namespace.region,
        namespace.project,
        namespace.name,
        namespace.is_public,
        namespace.sparse,
    )
    if row is None:
        return _repository(space, name, (None, None, "inherit"))
    return _repository(space, name, (row.key, row.id if row.listed else None, visibility_of(row)))


@lru_cache(CACHED_HANDLES_MAX)
def _repository(
    space: tuple[bytes, str, bytes, str, bool, bool | None],
    name: str,
    image: tuple[bytes | None, bytes | None, Visibility],
) -> Repository:
    """A handle: the same one each time, since to make its ids costs more than to read its rows."""
    namespace_id, region, project, namespace, is_public, sparse = space
    key, image_id, visibility = image
    return Repository(
        namespace_id=UUID(bytes=namespace_id),
        region=region,
        project_id=UUID(bytes=project),
        namespace=namespace,
        is_public=is_public,
        name=name,
        key=key,
        image_id=None if image_id is None else UUID(bytes=image_id),
        visibility=visibility,
        sparse_indexes=sparse,
    )


async def locate(txn: Transaction, region: str, namespace: str, name: str) -> Repository:
    """Where a full name leads. Raises NotFound where there is no such namespace."""
    found = await namespaces.find(txn, region, namespace)
    return repository_of(found, name, await by_name(txn, found.id, name))


async def repository_at(txn: Transaction, image_key: bytes) -> Repository:
    """The handle for a living image. Raises NotFound, Corrupt."""
    row = await by_key(txn, image_key)
    if row is None or row.deleted:
        raise NotFound("image", image_key.hex())
    return repository_of(await namespaces.require(txn, row.namespace), row.name, row)


async def would_free(txn: Transaction, image_id: bytes, project_only: bool) -> int:
    """Count the bytes that ``delete`` would free. Raises NotFound."""
    image, namespace = await require(txn, image_id)
    return await reclaimable.by_image(txn, image.key, namespace.project if project_only else None)


class Images:
    """The images of a store, by id; by name they are reached through ``Store.locate``."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def get(self, image_id: UUID) -> Image:
        """The image with that id. Raises NotFound."""
        return await self._core.ledger.read(get, image_id.bytes)

    async def namespace(self, image_id: UUID) -> Namespace:
        """The namespace that the image is in. Raises NotFound."""
        return await self._core.ledger.read(namespace_of, image_id.bytes)

    async def locate(self, region: str, full_name: str) -> Repository:
        """Where ``namespace/image`` leads, whether or not anything was pushed there yet.

        Raises Invalid (``name``), NotFound where there is no such namespace.
        """
        namespace, name = split_full_name(full_name)
        return await self._core.ledger.read(locate, region, namespace, name)

    async def list(
        self,
        region: str,
        *,
        order: Order = "created_at_asc",
        page: int = 1,
        page_size: int = 20,
        project_id: UUID | None = None,
        namespace_id: UUID | None = None,
        name: str | None = None,
    ) -> Page[Image]:
        """One page of the images of a region, a project of it, or a namespace. Raises Invalid.

        With ``namespace_id`` the project is not looked at; a namespace that is not there, or is
        in another region, has no images.
        """
        if order.startswith("description"):
            raise Invalid("order_by", f"images are not ordered by {order}")
        if namespace_id is not None:
            scope = in_namespace(namespace_id.bytes)
        elif project_id is not None:
            scope = namespaces.in_project(region, project_id.bytes)
        else:
            scope = namespaces.in_region(region)
        selection = listings.query(KIND, scope, order, page, page_size, name)
        within = None if namespace_id is None else namespace_id.bytes
        ledger = self._core.ledger
        if selection.is_deep or (within is None and await ledger.read(namespaces.many_deleted)):
            return await ledger.read_in_thread(page_of, selection, region, within)
        return await ledger.read(page_of, selection, region, within)

    async def update(self, image_id: UUID, *, visibility: Visibility | None) -> Image:
        """Set the visibility; None leaves it. Raises NotFound, Locked, Invalid."""
        if visibility is not None and visibility not in VISIBILITIES:
            raise Invalid("visibility", f"must be one of {', '.join(VISIBILITIES)}")
        now = self._core.now()
        return await self._core.ledger.transact(update, image_id.bytes, visibility, now)

    async def delete(self, image_id: UUID) -> Image:
        """Delete an image and all that is in it; the answer says ``deleting``.

        Raises NotFound, Locked; Immutable and Unverified where immutable tags forbid it.
        """
        now = self._core.now()
        until = now + int(self._core.config.trash_seconds * SECOND)
        return await self._core.ledger.transact(delete, image_id.bytes, now, until)

    async def would_free(self, image_id: UUID, *, project_only: bool = False) -> int:
        """Bytes on disk that deleting it would free, once the trash is emptied.

        With ``project_only``, bytes of the blobs themselves, as if there were no other project:
        the figure that a key of this project may see. Raises NotFound.
        """
        return await self._core.ledger.read_in_thread(would_free, image_id.bytes, project_only)
