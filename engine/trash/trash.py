"""Lists, restores and purges entries of the trash: namespaces, images, tags.

A tag is restored with the manifests that were removed with it. If these are too many for one
transaction, several restore them, children first, and the last one restores the tag: all or
nothing in effect. Until then each restored manifest's row has a mark (``unfinished``). If the
restore fails, the marked manifests are removed again: at once after an error, with the purge of
the entry if the process died. Those that a client has pushed meanwhile stay.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from holdfast.engine.blobs import blob_rows, claims
from holdfast.engine.core import Core, entropy
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import Image as ImageRow
from holdfast.engine.ledger.records import Limits, load, put_payload, save
from holdfast.engine.ledger.records import Namespace as NamespaceRow
from holdfast.engine.ledger.records import Tag as TagRow
from holdfast.engine.ledger.records import Trash as Entry
from holdfast.engine.manifests import manifest_put
from holdfast.engine.model import documents
from holdfast.engine.model.config import MANIFEST_BYTES_MAX
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.documents import Document
from holdfast.engine.model.errors import (
    AlreadyExists,
    Busy,
    Corrupt,
    EngineError,
    Invalid,
    Locked,
    NotFound,
)
from holdfast.engine.model.values import Page, Trashed, TrashItem, moment
from holdfast.engine.namespaces import identity, limit_rows, namespaces
from holdfast.engine.namespaces.listings import PAGE_MAX
from holdfast.engine.references import manifest_rows, pruning, trash_rows
from holdfast.engine.repositories import images, tags
from holdfast.engine.repositories.reader import BlobReader

from . import adoption, content, purge
from .content import Needed

_KINDS: Final[dict[str, Trashed]] = {
    "namespace": "namespace",
    "image": "image",
    "tag": "tag",
}


_ROWS_PER_TXN: Final = 200
_LINKS_PER_TXN: Final = 4096
_BODY_BYTES_PER_TXN: Final = 4 << 20
"""Bounds of one transaction of a restore: manifests, their links, bytes of their bodies. A single
manifest may exceed the last two."""

_INLINE_PARSE_BYTES_MAX: Final = 64 * 1024
"""Documents up to this size parse in under a millisecond; longer ones go to a thread."""

_LIST_END: Final = 1 << 62
"""A position after every manifest in a list."""


@dataclass(frozen=True, slots=True)
class RemovedManifest:
    """A manifest that was removed with a tag, read from its blob."""

    sha: bytes
    size: int
    document: Document


@dataclass(frozen=True, slots=True)
class Batch:
    """Manifests that one transaction restores, children first."""

    manifests: tuple[RemovedManifest, ...]
    first: int
    """Lowest position among them; 0 if they complete the list."""
    length: int
    """Length of the whole list when the batch was read."""


async def require(txn: Transaction, entry_id: bytes, now: int) -> tuple[int, Entry]:
    """Return when an entry is due (us), and the entry. Raises NotFound if it is due.

    A due entry cannot be restored even before the sweep purges it: its holds have expired too.
    """
    found = await trash_rows.find(txn, entry_id)
    if found is None or found[1].purging or found[0] <= now:
        raise NotFound("trash", str(UUID(bytes=entry_id)))
    return found


async def restore(txn: Transaction, entry_id: bytes, now: int) -> None:
    """Restore a namespace or an image. Raises NotFound, AlreadyExists, Locked."""
    until, entry = await require(txn, entry_id, now)
    time = await identity.tick(txn, now)
    if entry.kind == "namespace":
        await _namespace(txn, entry, time)
    else:
        await _image(txn, entry, time)
    await trash_rows.take(txn, until, entry)


async def restore_tag(
    txn: Transaction, entry_id: bytes, now: int, token: bytes, batch: Batch, sparse: bool
) -> bool:
    """Restore a tag with the last batch of its manifests. Return False if the list has grown.

    ``token`` is that of ``restore_some``; empty if the batch is the whole list. Raises NotFound,
    AlreadyExists, Locked, MissingContent, Busy.
    """
    until, entry = await require(txn, entry_id, now)
    if not await _is_current(txn, entry, token, batch):
        return False
    await _tag(txn, entry, now, batch.manifests, sparse)
    if await trash_rows.drop_rows(txn, entry, _ROWS_PER_TXN + 1) <= _ROWS_PER_TXN:
        await trash_rows.take(txn, until, entry)
    else:
        # Too many rows for this transaction: the sweep purges the rest of the entry.
        await trash_rows.leave_rest(txn, until, entry, now)
    return True


async def restore_attached(
    txn: Transaction, entry_ids: tuple[bytes, ...], now: int, sparse: bool
) -> None:
    """Restore tags that were deleted with one that is restored; leave those that cannot be."""
    for entry_id in entry_ids:
        with suppress(NotFound, AlreadyExists, Locked):
            until, entry = await require(txn, entry_id, now)
            await _tag(txn, entry, now, (), sparse)
            await trash_rows.take(txn, until, entry)


async def restore_some(
    txn: Transaction,
    entry_id: bytes,
    now: int,
    token: bytes,
    begins: bool,
    batch: Batch,
    sparse: bool,
) -> bool:
    """Restore a batch of a deleted tag's manifests, without the tag.

    With ``begins``, this restore replaces any other one of the entry, which gets Busy if its
    process is still alive. Returns and raises what ``restore_tag`` does.
    """
    until, entry = await require(txn, entry_id, now)
    image, namespace = await _image_of(txn, entry)
    if not await _is_current(txn, entry, b"" if begins else token, batch):
        return False
    if begins:
        await trash_rows.change(txn, until, msgspec.structs.replace(entry, restoring=token))
    mark = trash_rows.list_of(entry)
    await _restore_manifests(txn, image, namespace, batch.manifests, now, sparse=sparse, mark=mark)
    return True


async def _is_current(txn: Transaction, entry: Entry, token: bytes, batch: Batch) -> bool:
    """Return True if the list has not grown since the batch was read.

    A delete may add to it until a restore has begun. Raises Busy if another restore took over.
    """
    if token and entry.restoring != token:
        raise Busy("trash", str(UUID(bytes=entry.id)))
    return await trash_rows.length(txn, entry) == batch.length


async def roll_back(
    txn: Transaction, entry_id: bytes, now: int, token: bytes, position: int
) -> int | None:
    """Remove manifests that a failed restore brought back, from a position of the list on.

    Returns the position to continue at; None if all is done.
    """
    found = await trash_rows.find(txn, entry_id)
    if found is None or found[1].purging or found[1].restoring != token:
        # Another restore or the purge has taken over, and removes them.
        return None
    until, entry = found
    image = await images.by_key(txn, entry.image)
    shas = await trash_rows.shas_from(txn, entry, position, _ROWS_PER_TXN)
    if image is not None:
        owner = trash_rows.owner(entry, counted=not image.deleted)
        await pruning.take_back(txn, owner, trash_rows.list_of(entry), shas, now, until)
    if len(shas) == _ROWS_PER_TXN:
        return position + _ROWS_PER_TXN
    await trash_rows.change(txn, until, msgspec.structs.replace(entry, restoring=b""))
    return None


async def _namespace(txn: Transaction, entry: Entry, time: int) -> None:
    row = await load(txn, NamespaceRow, layout.NAMESPACE + entry.id)
    if row is None:
        raise _row_missing(entry)
    name = layout.NAMESPACE_NAME + layout.name_key(row.region, row.name)
    if await txn.get(name) is not None:
        raise AlreadyExists("namespace", row.name)
    await txn.delete(layout.DEAD + row.id)
    # Limits belong to the name, and may have been set while the namespace was deleted.
    limits = await limit_rows.of_name(txn, namespaces.place(row)) or Limits()
    row = msgspec.structs.replace(row, deleted=0, updated=time, limits=limits)
    await namespaces.enlist(txn, row)


def _row_missing(entry: Entry) -> Corrupt:
    return Corrupt("trash", str(UUID(bytes=entry.id)), f"the row of its {entry.kind} is missing")


async def _image(txn: Transaction, entry: Entry, time: int) -> None:
    row = await images.by_key(txn, entry.image)
    if row is None:
        raise _row_missing(entry)
    namespace = await _namespace_of(txn, entry)
    namespaces.check_unlocked(namespace)
    name = images.name_row(row.namespace, row.name)
    if await txn.get(name) is not None:
        raise AlreadyExists("image", row.name)
    row = msgspec.structs.replace(row, deleted=0, updated=time)
    await save(txn, layout.IMAGE + row.key, row)
    await put_payload(txn, name, row.key)
    await images.show(txn, row, namespace)
    size = await txn.counter(layout.counter(layout.IMAGE_SIZE, row.key))
    await txn.add(layout.counter(layout.NAMESPACE_SIZE, row.namespace), size)
    await namespaces.touch(txn, row.namespace, time)


async def _tag(
    txn: Transaction, entry: Entry, now: int, removed: tuple[RemovedManifest, ...], sparse: bool
) -> None:
    image, namespace = await _image_of(txn, entry)
    await _restore_manifests(txn, image, namespace, removed, now, sparse=sparse)
    digest, sha = Digest.from_key(entry.digest), entry.sha
    if not await manifest_rows.present(txn, image.key, sha):
        raise NotFound("manifest", str(digest))
    if digest.algorithm != "sha256":
        # The manifest may have been removed and pushed again under its sha256 only.
        await blob_rows.alias(txn, sha, await blob_rows.require(txn, sha), digest.key)
        await claims.name(txn, image.key, sha, digest.key)
    time = await identity.tick(txn, now)
    row = TagRow(entry.id, entry.name, entry.digest, sha, entry.created, time)
    await tags.insert(txn, image, row)
    await images.touch(txn, image, time)


async def _restore_manifests(
    txn: Transaction,
    image: ImageRow,
    namespace: NamespaceRow,
    removed: tuple[RemovedManifest, ...],
    now: int,
    *,
    sparse: bool,
    mark: bytes = b"",
) -> None:
    """Write manifests back to their image. Raises NotFound, MissingContent.

    No quota is checked: what is in the trash counts for the namespace all along.
    """
    owner = images.owner_of(image, namespace)
    sparse = namespaces.takes_sparse(namespace, sparse)
    time = await identity.tick(txn, now)
    for found in removed:
        if not await blob_rows.claimed(txn, image.key, found.sha, now):
            raise NotFound("manifest", str(Digest.sha256(found.sha)))
        await manifest_put.store_manifest(
            txn,
            owner,
            found.document,
            found.sha,
            found.size,
            now,
            time,
            sparse=sparse,
            unfinished=mark,
        )


async def _image_of(txn: Transaction, entry: Entry) -> tuple[ImageRow, NamespaceRow]:
    """Return image and namespace of a deleted tag. Raises NotFound, Locked, AlreadyExists."""
    image = await images.by_key(txn, entry.image)
    namespace = await _namespace_of(txn, entry)
    if image is None or image.deleted:
        raise NotFound("image", f"{entry.namespace_name}/{entry.image_name}")
    namespaces.check_unlocked(namespace)
    if await tags.by_name(txn, image.key, entry.name) is not None:
        raise AlreadyExists("tag", entry.name)
    return image, namespace


async def _namespace_of(txn: Transaction, entry: Entry) -> NamespaceRow:
    """Return the namespace of a deleted image or tag. Raises NotFound, with its name."""
    row = await load(txn, NamespaceRow, layout.NAMESPACE + entry.namespace)
    if row is None or row.deleted:
        raise NotFound("namespace", entry.namespace_name)
    return row


async def list_page(
    txn: Transaction, entry_id: bytes, now: int, below: int
) -> tuple[list[tuple[int, bytes, str]], int]:
    """Return manifests of a deleted tag's list, as ``trash_rows.manifests``, and its length.

    Raises NotFound, Corrupt.
    """
    _, entry = await require(txn, entry_id, now)
    return await trash_rows.manifests(txn, entry, below, _ROWS_PER_TXN), await trash_rows.length(
        txn, entry
    )


async def restore_target(txn: Transaction, entry_id: bytes, now: int) -> tuple[Entry, bytes]:
    """Return the entry, and for a tag the key of its image. Raises what ``restore`` does."""
    _, entry = await require(txn, entry_id, now)
    if entry.kind != "tag":
        return entry, b""
    image, _ = await _image_of(txn, entry)
    return entry, image.key


def view(until: int, entry: Entry) -> TrashItem:
    """Return an entry as callers see it."""
    return TrashItem(
        kind=_KINDS[entry.kind],
        id=UUID(bytes=entry.id),
        name=entry.name,
        region=entry.region,
        project_id=UUID(bytes=entry.project),
        namespace_id=UUID(bytes=entry.namespace),
        namespace=entry.namespace_name,
        image=entry.image_name or None,
        purge_at=moment(until),
    )


async def make_due(txn: Transaction, entry_id: bytes, now: int) -> bytes:
    """Make an entry due now, so that it cannot be restored; return its key.

    Raises NotFound, Locked.
    """
    until, entry = await require(txn, entry_id, now)
    return await content.make_due(txn, until, entry, now)


async def exists(txn: Transaction, key: bytes) -> bool:
    """Return True if the entry still exists."""
    return await txn.get(key) is not None


def _batches(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    every = sorted(keys)
    for start in range(0, len(every), _ROWS_PER_TXN):
        yield every[start : start + _ROWS_PER_TXN]


async def get(txn: Transaction, entry_id: bytes, now: int) -> TrashItem:
    """Return an entry that can still be restored. Raises NotFound."""
    return view(*await require(txn, entry_id, now))


class Trash:
    """The trash of a store."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def list(
        self,
        *,
        region: str | None = None,
        project_id: UUID | None = None,
        kind: Trashed | None = None,
        namespace: str | None = None,
        image: str | None = None,
        tag: str | None = None,
        page: int = 1,
        page_size: int = 100,
    ) -> Page[TrashItem]:
        """List a page of the entries that can be restored, next to be purged first.

        Filters are combined with AND. ``namespace`` and ``image`` also match entries that were
        in a namespace or image of that name. Reads all of the trash; with ``project_id``, all of
        the project's. Raises Invalid.
        """
        chosen = trash_rows.Filter(
            region, project_id.bytes if project_id else None, kind, namespace, image, tag
        )
        if page < 1:
            raise Invalid("page", "must be at least 1")
        if not 1 <= page_size <= PAGE_MAX:
            raise Invalid("page_size", f"must be 1 to {PAGE_MAX}")
        found, total = await self._core.ledger.read_in_thread(
            trash_rows.page_of, self._core.now(), chosen, (page - 1) * page_size, page_size
        )
        return Page([view(until, entry) for until, entry in found], total)

    async def get(self, item_id: UUID) -> TrashItem:
        """Return the entry with that id, if it can be restored. Raises NotFound (``trash``)."""
        return await self._core.ledger.read(get, item_id.bytes, self._core.now())

    async def restore(self, item_id: UUID) -> None:
        """Restore a namespace, an image or a tag under its old name and id.

        A tag is restored with the manifests that were removed with it, then the tags that were
        deleted with it; such a tag stays in the trash if its name is taken. Raises NotFound
        (``trash``, or what it belonged to), AlreadyExists if the name is taken, Locked;
        MissingContent or NotFound (``manifest``) if the image has changed too much; Busy if
        another call restores the same tag. Nothing has changed then.
        """
        core = self._core
        entry, image_key = await core.ledger.read(restore_target, item_id.bytes, core.now())
        if entry.kind != "tag":
            await core.ledger.transact(restore, item_id.bytes, core.now())
            return
        await adoption.before_restore(core, entry)
        attached = await self._attached(entry)
        while not await self._restore_tag(item_id.bytes, image_key):
            continue
        for start in range(0, len(attached), _ROWS_PER_TXN):
            some = tuple(attached[start : start + _ROWS_PER_TXN])
            await core.ledger.transact(
                restore_attached, some, core.now(), core.config.sparse_indexes
            )

    async def _attached(self, entry: Entry) -> builtins.list[bytes]:
        """Return the ids of all tags that were deleted with a tag."""
        found: builtins.list[bytes] = []
        if entry.kind == "tag":
            last = b""
            while some := await self._core.ledger.read(
                trash_rows.attached_to, entry, last, _ROWS_PER_TXN
            ):
                found += some
                last = some[-1]
        return found

    async def purge(self, item_id: UUID, *, seconds: float = 1.0) -> bool:
        """Purge an entry before it is due: it cannot be restored any more.

        Ends its claims, so that bytes that nothing else needs are freed. Works for about
        ``seconds``; returns False if something is left, which the sweep then does. Raises
        NotFound, Locked.
        """
        core = self._core
        until, entry = await core.ledger.read(require, item_id.bytes, core.now())
        await adoption.before_purge(core, entry)
        done = True
        for tag_id in await self._attached(entry):
            with suppress(NotFound):
                done &= await self.purge(UUID(bytes=tag_id), seconds=seconds)
        own: set[bytes] = set()
        others = Needed()
        if entry.kind == "tag":
            own = await content.of_tag(core, entry)
            others = await content.needed(core, entry.project, entry.namespace, entry.id)
        # Due first, then the holds: a restore in between would find content without a hold.
        key = await core.ledger.transact(make_due, item_id.bytes, core.now())
        last = content.holds_until(core, until)
        for some in _batches(own):
            await core.ledger.transact(content.end_holds, entry, some, last, others, core.now())
        clock = asyncio.get_running_loop().time
        stop = clock() + seconds
        while await core.ledger.read(exists, key):
            if clock() >= stop:
                return False
            try:
                await core.ledger.transact(purge.step, key, core.now(), _ROWS_PER_TXN)
            except Corrupt:
                # The sweep finds the damaged row as well, and parks the entry.
                return False
        return done

    async def _restore_tag(self, entry_id: bytes, image_key: bytes) -> bool:
        """Restore a tag. Return False if a delete has added to its list since this began."""
        core, sparse, token = self._core, self._core.config.sparse_indexes, entropy()
        batch = await self._batch(entry_id, image_key, _LIST_END)
        if not batch.first:
            return await core.ledger.transact(restore_tag, entry_id, core.now(), b"", batch, sparse)
        begins = True
        try:
            while batch.first:
                if not await core.grow(
                    restore_some, entry_id, core.now(), token, begins, batch, sparse
                ):
                    return False
                begins = False
                batch = await self._batch(entry_id, image_key, batch.first)
            return await core.ledger.transact(
                restore_tag, entry_id, core.now(), token, batch, sparse
            )
        except EngineError:
            position: int | None = 0
            while position is not None:
                position = await core.ledger.transact(
                    roll_back, entry_id, core.now(), token, position
                )
            raise

    async def _batch(self, entry_id: bytes, image_key: bytes, below: int) -> Batch:
        """Read the last manifests of a list below a position, up to the bounds of a transaction."""
        core = self._core
        rows, length = await core.ledger.read(list_page, entry_id, core.now(), below)
        removed: list[RemovedManifest] = []
        links = size = 0
        first = 0
        for position, sha, media_type in rows:
            found = await self._read(image_key, sha, media_type)
            links += 1 + len(found.document.needs)
            size += found.size
            if removed and (links > _LINKS_PER_TXN or size > _BODY_BYTES_PER_TXN):
                break
            removed.append(found)
            first = position
        return Batch(tuple(removed), first, length)

    async def _read(self, image_key: bytes, sha: bytes, media_type: str) -> RemovedManifest:
        digest = Digest.sha256(sha)
        reader = BlobReader(
            self._core, digest, owner=image_key, offset=0, length=None, verify=False
        )
        try:
            async with reader:
                body = await reader.read()
        except NotFound:
            raise NotFound("manifest", str(digest)) from None
        if len(body) <= _INLINE_PARSE_BYTES_MAX:
            document = documents.parse(body, media_type, limit=MANIFEST_BYTES_MAX)
        else:
            document = await self._core.threads.run(
                documents.parse, body, media_type, limit=MANIFEST_BYTES_MAX
            )
        return RemovedManifest(sha, len(body), document)
