"""Bringing back what lies in the trash: namespaces, images, tags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from . import (
    blobs,
    claims,
    documents,
    identity,
    images,
    layout,
    manifest_put,
    manifest_rows,
    namespaces,
    tags,
    trash,
)
from .config import MANIFEST_BYTES_MAX
from .core import Core
from .digest import Digest
from .documents import Document
from .errors import AlreadyExists, Corrupt, Invalid, NotFound
from .ledger import Transaction
from .listings import PAGE_MAX
from .models import Page, Trashed, TrashItem, moment
from .reading import BlobReader
from .records import Image as ImageRow
from .records import Namespace as NamespaceRow
from .records import Tag as TagRow
from .records import Trash as Entry
from .records import load, put_payload, save

_KINDS: Final[dict[str, Trashed]] = {
    "namespace": "namespace",
    "image": "image",
    "tag": "tag",
}


@dataclass(frozen=True, slots=True)
class Lost:
    """A manifest that went with a tag, read again."""

    sha: bytes
    size: int
    document: Document


async def require(txn: Transaction, entry_id: bytes, now: int) -> tuple[int, Entry]:
    """The entry, if it can still be brought back. Raises NotFound.

    From the moment it is due on it cannot, whether or not a sweep came by: holds are over too.
    """
    found = await trash.find(txn, entry_id)
    if found is None or found[1].purging or found[0] <= now:
        raise NotFound("trash", str(UUID(bytes=entry_id)))
    return found


async def restore(
    txn: Transaction, entry_id: bytes, now: int, lost: tuple[Lost, ...], sparse: bool
) -> None:
    """Bring something back; all of it or nothing.

    Raises NotFound, AlreadyExists, Locked, MissingContent, QuotaExceeded.
    """
    until, entry = await require(txn, entry_id, now)
    time = await identity.tick(txn, now)
    if entry.kind == "namespace":
        await _namespace(txn, entry, time)
    elif entry.kind == "image":
        await _image(txn, entry, time)
    else:
        await _tag(txn, entry, now, lost, sparse)
    await trash.take(txn, until, entry)


async def _namespace(txn: Transaction, entry: Entry, time: int) -> None:
    row = await load(txn, NamespaceRow, layout.NAMESPACE + entry.id)
    if row is None:
        raise _lost(entry)
    name = layout.NAMESPACE_NAME + layout.name_key(row.region, row.name)
    if await txn.get(name) is not None:
        raise AlreadyExists("namespace", row.name)
    await txn.delete(layout.DEAD + row.id)
    await namespaces.enlist(txn, msgspec.structs.replace(row, deleted=0, updated=time))


def _lost(entry: Entry) -> Corrupt:
    return Corrupt("trash", str(UUID(bytes=entry.id)), f"the row of its {entry.kind} is missing")


async def _image(txn: Transaction, entry: Entry, time: int) -> None:
    row = await images.by_key(txn, entry.image)
    if row is None:
        raise _lost(entry)
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
    txn: Transaction, entry: Entry, now: int, lost: tuple[Lost, ...], sparse: bool
) -> None:
    image, namespace = await _image_of(txn, entry)
    owner = images.owner_of(image, namespace)
    sparse = namespaces.takes_sparse(namespace, sparse)
    for found in lost:
        if not await blobs.claimed(txn, image.key, found.sha, now):
            raise NotFound("manifest", str(Digest.sha256(found.sha)))
        await manifest_put.keep(
            txn, owner, found.document, found.sha, found.size, now, sparse=sparse
        )
    if lost:
        await manifest_put.check_quota(txn, namespace)
    digest, sha = Digest.from_key(entry.digest), entry.sha
    if not await manifest_rows.present(txn, image.key, sha):
        raise NotFound("manifest", str(digest))
    if digest.algorithm != "sha256":
        # The manifest may have gone meanwhile, and come back under its sha256 only.
        await blobs.alias(txn, sha, await blobs.require(txn, sha), digest.key)
        await claims.name(txn, image.key, sha, digest.key)
    time = await identity.tick(txn, now)
    row = TagRow(entry.id, entry.name, entry.digest, sha, entry.created, time)
    await tags.insert(txn, image, row)
    await images.touch(txn, image, time)


async def _image_of(txn: Transaction, entry: Entry) -> tuple[ImageRow, NamespaceRow]:
    """Where a tag would come back to. Raises NotFound, Locked, AlreadyExists."""
    image = await images.by_key(txn, entry.image)
    namespace = await _namespace_of(txn, entry)
    if image is None or image.deleted:
        raise NotFound("image", f"{entry.namespace_name}/{entry.image_name}")
    namespaces.check_unlocked(namespace)
    if await tags.by_name(txn, image.key, entry.name) is not None:
        raise AlreadyExists("tag", entry.name)
    return image, namespace


async def _namespace_of(txn: Transaction, entry: Entry) -> NamespaceRow:
    """The namespace that an image or a tag comes back into. Raises NotFound, by its name."""
    row = await load(txn, NamespaceRow, layout.NAMESPACE + entry.namespace)
    if row is None or row.deleted:
        raise NotFound("namespace", entry.namespace_name)
    return row


async def home(txn: Transaction, entry_id: bytes, now: int) -> tuple[Entry, bytes]:
    """The entry; and, of a tag, the key of its image. Raises what ``restore`` does."""
    _, entry = await require(txn, entry_id, now)
    if entry.kind != "tag":
        return entry, b""
    image, _ = await _image_of(txn, entry)
    return entry, image.key


def view(until: int, entry: Entry) -> TrashItem:
    """The entry as callers see it."""
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


async def get(txn: Transaction, entry_id: bytes, now: int) -> TrashItem:
    """The entry, if it can still be brought back. Raises NotFound."""
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
        """One page of what can be brought back, next to go first. Raises Invalid.

        Filters are combined with AND. ``namespace`` and ``image`` are names of what something
        was in as well. Linear in the trash.
        """
        chosen = trash.Chosen(
            region, project_id.bytes if project_id else None, kind, namespace, image, tag
        )
        if page < 1:
            raise Invalid("page", "must be at least 1")
        if not 1 <= page_size <= PAGE_MAX:
            raise Invalid("page_size", f"must be 1 to {PAGE_MAX}")
        found, total = await self._core.ledger.read_aside(
            trash.page_of, self._core.now(), chosen, (page - 1) * page_size, page_size
        )
        return Page([view(until, entry) for until, entry in found], total)

    async def get(self, item_id: UUID) -> TrashItem:
        """What can be brought back under that id. Raises NotFound (``trash``)."""
        return await self._core.ledger.read(get, item_id.bytes, self._core.now())

    async def restore(self, item_id: UUID) -> None:
        """Bring something back under its old name and id.

        A tag comes back with the manifests that went with it. Raises NotFound (``trash``, or
        what it belonged to), AlreadyExists where the name is taken, Locked; MissingContent or
        QuotaExceeded where the image changed too much since. It changes nothing then.
        """
        core = self._core
        entry, image_key = await core.ledger.read(home, item_id.bytes, core.now())
        lost = tuple([await self._read(image_key, *went) for went in reversed(entry.digests)])
        await core.ledger.transact(
            restore, item_id.bytes, core.now(), lost, core.config.sparse_indexes
        )

    async def _read(self, image_key: bytes, sha: bytes, media_type: str) -> Lost:
        digest = Digest.sha256(sha)
        reader = BlobReader(
            self._core, digest, owner=image_key, offset=0, length=None, verify=False
        )
        try:
            async with reader:
                body = await reader.read()
        except NotFound:
            raise NotFound("manifest", str(digest)) from None
        return Lost(sha, len(body), documents.parse(body, media_type, limit=MANIFEST_BYTES_MAX))
