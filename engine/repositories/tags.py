"""Tags: names in an image that point to one manifest each, moved atomically."""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from uuid import UUID

import msgspec

from holdfast.engine.core import SECOND, Core
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Image as ImageRow
from holdfast.engine.ledger.records import Namespace as NamespaceRow
from holdfast.engine.ledger.records import Tag as Row
from holdfast.engine.ledger.records import get_payload, load, put_payload, save
from holdfast.engine.model.conditions import ALWAYS, Condition
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Immutable, Invalid, NotFound
from holdfast.engine.model.names import check_tag_name, first_match
from holdfast.engine.model.values import Order, Page, Repository, Tag, moment
from holdfast.engine.namespaces import identity, limit_rows, listings, namespaces
from holdfast.engine.namespaces.listings import Entry, Query
from holdfast.engine.references import attached, manifest_rows, pruning, reclaimable, trash_rows
from holdfast.engine.references.pruning import Pruned

from . import images

KIND: Final = b"t"
LINKS_PER_TXN: Final = 1000
"""Links of manifests that end with a tag in one transaction; the rest follows in the next."""


def tag_row(image_key: bytes, name: str) -> bytes:
    """Key of a tag."""
    return layout.TAG + image_key + name.encode()


async def by_name(txn: Transaction, image_key: bytes, name: str) -> Row | None:
    """The tag of that name, or None."""
    return await load(txn, Row, tag_row(image_key, name))


def check_movable(namespace: NamespaceRow, name: str) -> None:
    """Raises Immutable where a rule of the namespace forbids to move or delete the tag."""
    pattern = first_match(limit_rows.immutable(namespace), name)
    if pattern is not None:
        raise Immutable(name, pattern)


async def point(
    txn: Transaction,
    place: tuple[ImageRow, NamespaceRow],
    name: str,
    digest: Digest,
    sha: bytes,
    time: int,
    random: bytes,
) -> None:
    """Let a tag point to a manifest of the image. Raises Immutable.

    A tag that existed keeps its id and ``created_at``.
    """
    image, namespace = place
    old = await by_name(txn, image.key, name)
    if old is None:
        new, created = await identity.mint(txn, time, random)
        row = Row(new, name, digest.key, sha, created, created)
        await insert(txn, image, row)
        return
    if old.sha != sha:
        check_movable(namespace, name)
        await txn.delete(manifest_rows.tagged_row(image.key, old.sha, name))
        await put_payload(txn, manifest_rows.tagged_row(image.key, sha, name))
    row = msgspec.structs.replace(old, digest=digest.key, sha=sha, updated=time)
    await save(txn, tag_row(image.key, name), row)


async def insert(txn: Transaction, image: ImageRow, row: Row) -> None:
    """Add a tag with its index rows."""
    await save(txn, tag_row(image.key, row.name), row)
    await put_payload(txn, manifest_rows.tagged_row(image.key, row.sha, row.name))
    await put_payload(txn, layout.TAG_ID + row.id, image.key + row.name.encode())
    await listings.insert(txn, KIND, (image.key,), Entry(row.id, row.name))
    await txn.add(layout.counter(layout.IMAGE_TAGS, image.key), 1)


async def remove(txn: Transaction, image_key: bytes, row: Row) -> None:
    """Remove a tag with its index rows."""
    await txn.delete(tag_row(image_key, row.name))
    await txn.delete(manifest_rows.tagged_row(image_key, row.sha, row.name))
    await txn.delete(layout.TAG_ID + row.id)
    await listings.remove(txn, KIND, (image_key,), Entry(row.id, row.name))
    await txn.add(layout.counter(layout.IMAGE_TAGS, image_key), -1)


def view(row: Row, image: ImageRow, namespace: NamespaceRow, *, deleting: bool = False) -> Tag:
    """The tag as callers see it."""
    return Tag(
        id=UUID(bytes=row.id),
        image_id=UUID(bytes=image.id),
        name=row.name,
        status="deleting" if deleting else "locked" if limit_rows.locked(namespace) else "ready",
        digest=Digest.from_key(row.digest),
        created_at=moment(row.created),
        updated_at=moment(row.updated),
        pull_count=row.pulls,
        pulled_at=moment(row.pulled) if row.pulled else None,
    )


async def require(txn: Transaction, tag_id: bytes) -> tuple[Row, ImageRow, NamespaceRow]:
    """The living tag with that id, its image and its namespace. Raises NotFound."""
    pointer = await get_payload(txn, layout.TAG_ID + tag_id)
    if pointer is not None:
        key, name = pointer[: layout.ID_BYTES], pointer[layout.ID_BYTES :].decode()
        row = await by_name(txn, key, name)
        image = await images.by_key(txn, key)
        if row is not None and image is not None and not image.deleted:
            namespace = await load(txn, NamespaceRow, layout.NAMESPACE + image.namespace)
            if namespace is not None and not namespace.deleted:
                return row, image, namespace
    raise NotFound("tag", str(UUID(bytes=tag_id)))


async def get(txn: Transaction, tag_id: bytes) -> Tag:
    """The tag with that id. Raises NotFound."""
    return view(*await require(txn, tag_id))


async def page_of(txn: Transaction, image_id: bytes, selection: Query) -> Page[Tag]:
    """One page of an image's tags. Raises NotFound."""
    image, _ = await images.require(txn, image_id)
    selection = replace(selection, scope=image.key)
    ids, total = await listings.ids(txn, selection)
    return Page(await listings.items(txn, get, ids), total)


async def names(txn: Transaction, repository: Repository, last: str, limit: int) -> list[str]:
    """Tag names in byte order after ``last``. Raises NotFound."""
    image, _ = await images.current_listed(txn, repository)
    prefix = layout.TAG + image.key
    start = prefix + last.encode() + b"\0" if last else prefix
    rows = await txn.scan(start, after(prefix), limit=limit)
    return [key[len(prefix) :].decode() for key, _ in rows]


async def untag(
    txn: Transaction,
    repository: Repository,
    name: str,
    now: int,
    trash_until: int,
    only_if: Condition,
) -> None:
    """Remove a tag and nothing else. Raises NotFound, Immutable, Locked, PreconditionFailed."""
    image, namespace = await images.current_listed(txn, repository)
    namespaces.check_unlocked(namespace)
    row = await by_name(txn, image.key, name)
    if row is None:
        raise NotFound("tag", name)
    check_movable(namespace, name)
    only_if.check("tag", name, str(Digest.from_key(row.digest)))
    await remove(txn, image.key, row)
    await trash_rows.trash_tag(txn, image, namespace, row, (), trash_until)
    await images.touch(txn, image, await identity.tick(txn, now))


async def take(
    txn: Transaction,
    place: tuple[ImageRow, NamespaceRow],
    row: Row,
    now: int,
    hold_until: int,
    trash_until: int,
    limit: int,
    *,
    since: int | None = None,
) -> Pruned:
    """Move a tag of the image to the trash, and manifests with it that nothing else needs.

    Tags that belong to these go too. What was pushed after ``since`` stays. What is left is for
    ``prune``.
    """
    image, namespace = place
    await remove(txn, image.key, row)
    done = await pruning.prune_unneeded(
        txn,
        images.owner_of(image, namespace),
        (row.sha,),
        now,
        hold_until,
        limit,
        detach=_detaching(txn, place, since),
        untagged=row.sha,
        since=since,
    )
    entry = await trash_rows.trash_tag(txn, image, namespace, row, done.manifests, trash_until)
    await trash_rows.trash_attached(txn, image, namespace, entry, done.tags, trash_until)
    return done


async def take_untagged(
    txn: Transaction,
    place: tuple[ImageRow, NamespaceRow],
    sha: bytes,
    now: int,
    hold_until: int,
    trash_until: int,
    limit: int,
    *,
    since: int | None = None,
) -> tuple[Pruned, bytes]:
    """As ``take``, of a manifest without a tag; and the id of the tag that it went with.

    That is one which belonged to the manifest: it lies in the trash with all that went. Where
    there was none, that cannot be brought back.
    """
    image, namespace = place
    done = await pruning.prune_unneeded(
        txn,
        images.owner_of(image, namespace),
        (sha,),
        now,
        hold_until,
        limit,
        detach=_detaching(txn, place, since),
        untagged=sha,
        since=since,
    )
    if not done.tags:
        return done, b""
    first, *others = sorted(done.tags, key=lambda row: row.name)
    entry = await trash_rows.trash_tag(txn, image, namespace, first, done.manifests, trash_until)
    await trash_rows.trash_attached(txn, image, namespace, entry, others, trash_until)
    return done, first.id


def _detaching(
    txn: Transaction, place: tuple[ImageRow, NamespaceRow], since: int | None
) -> pruning.Detach:
    image, namespace = place

    async def detach(sha: bytes) -> list[Row]:
        gone = []
        for row in await attached.tags_of(txn, image.key, sha):
            if first_match(limit_rows.immutable(namespace), row.name) is not None:
                continue
            if since is None or row.updated <= since:
                await remove(txn, image.key, row)
                gone.append(row)
        return gone

    return detach


async def prune(
    txn: Transaction,
    image_id: bytes,
    tag_id: bytes,
    candidates: tuple[bytes, ...],
    now: int,
    hold_until: int,
    limit: int,
    *,
    since: int | None = None,
) -> Pruned:
    """Go on with ``take`` in a transaction of its own.

    What goes is remembered with the deleted tag. Where that is not in the trash any more, or is
    being brought back, nothing more goes: nothing would remember it. Without a tag (of
    ``take_untagged``) only tags are remembered, those that belong to what goes.
    """
    try:
        image, namespace = await images.require(txn, image_id)
    except NotFound:
        return Pruned()
    found = await trash_rows.find(txn, tag_id) if tag_id else None
    if tag_id and (found is None or found[1].purging or found[1].restoring):
        return Pruned()
    place = image, namespace
    done = await pruning.prune_unneeded(
        txn,
        images.owner_of(*place),
        candidates,
        now,
        hold_until,
        limit,
        detach=_detaching(txn, place, since),
        since=since,
    )
    if found is not None:
        await trash_rows.add_manifests(txn, found[1], done.manifests)
    until, entry = found or (hold_until, None)
    await trash_rows.trash_attached(txn, image, namespace, entry, done.tags, until)
    return done


async def delete(
    txn: Transaction, tag_id: bytes, now: int, hold_until: int, trash_until: int
) -> tuple[Tag, tuple[bytes, ...]]:
    """Remove a tag, and its manifest where nothing else needs that.

    Second part of the answer: what is left for ``prune`` when there is very much.
    Raises NotFound, Immutable, Locked.
    """
    row, image, namespace = await require(txn, tag_id)
    namespaces.check_unlocked(namespace)
    check_movable(namespace, row.name)
    done = await take(txn, (image, namespace), row, now, hold_until, trash_until, LINKS_PER_TXN)
    time = await identity.tick(txn, now)
    await images.touch(txn, image, time)
    row = msgspec.structs.replace(row, updated=time)
    return view(row, image, namespace, deleting=True), done.rest


async def would_free(txn: Transaction, tag_id: bytes, project_only: bool) -> int:
    """Count the bytes at rest that ``delete`` would free. Raises NotFound."""
    tag, image, namespace = await require(txn, tag_id)
    project = namespace.project if project_only else None
    return await reclaimable.by_tag(txn, image.key, tag, limit_rows.immutable(namespace), project)


class Tags:
    """The tags of a store."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def get(self, tag_id: UUID) -> Tag:
        """The tag with that id. Raises NotFound."""
        return await self._core.ledger.read(get, tag_id.bytes)

    async def names(
        self, repository: Repository, *, after: str = "", limit: int = 100
    ) -> list[str]:
        """Tag names in byte order, after a name (which need not exist). Raises NotFound."""
        return await self._core.ledger.read(names, repository, after, limit)

    async def list(
        self,
        image_id: UUID,
        *,
        order: Order = "created_at_asc",
        page: int = 1,
        page_size: int = 20,
        name: str | None = None,
    ) -> Page[Tag]:
        """One page of an image's tags. Raises NotFound, Invalid."""
        if order.startswith("description"):
            raise Invalid("order_by", f"tags are not ordered by {order}")
        selection = listings.query(KIND, b"", order, page, page_size, name)
        ledger = self._core.ledger
        read = ledger.read_in_thread if selection.is_deep else ledger.read
        return await read(page_of, image_id.bytes, selection)

    async def untag(
        self, repository: Repository, name: str, *, only_if: Condition = ALWAYS
    ) -> None:
        """Remove one tag; its manifest stays (OCI distribution-spec, "Deleting tags").

        Raises NotFound, Immutable, Locked, Invalid, PreconditionFailed.
        """
        check_tag_name(name)
        now = self._core.now()
        until = now + int(self._core.config.trash_seconds * SECOND)
        await self._core.ledger.transact(untag, repository, name, now, until, only_if)

    async def delete(self, tag_id: UUID) -> Tag:
        """Remove a tag, never a sibling; the answer says ``deleting``.

        Its manifest goes too when no other tag and no index needs it, and with it untagged
        children and referrers that nothing else needs, and tags that belong to what goes
        (``attached``). Raises NotFound, Immutable, Locked.
        """
        now = self._core.now()
        until = now + int(self._core.config.trash_seconds * SECOND)
        holds = max(until, self._core.hold_until(now))
        tag, rest = await self._core.ledger.transact(delete, tag_id.bytes, now, holds, until)
        while rest:
            done = await self._core.ledger.transact(
                prune, tag.image_id.bytes, tag_id.bytes, rest, now, holds, LINKS_PER_TXN
            )
            rest = done.rest
        return tag

    async def would_free(self, tag_id: UUID, *, project_only: bool = False) -> int:
        """Bytes on disk that deleting it would free, once holds and trash are over.

        With ``project_only``, bytes of the blobs themselves, as if there were no other project:
        the figure that a key of this project may see. Raises NotFound.
        """
        return await self._core.ledger.read_in_thread(would_free, tag_id.bytes, project_only)
