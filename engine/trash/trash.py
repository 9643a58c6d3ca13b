"""Bringing back what lies in the trash: namespaces, images, tags.

A tag comes back with the manifests that went with it. Where these are too many for one
transaction, they come back children first in several, and the last one brings the tag: all or
nothing in effect. Each row of a manifest that came back before that says so (``unfinished``).
Whatever stops the restore, these go again: at once after an error, with the purge of the entry
where a process died; but for those that somebody has pushed meanwhile.
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


_STEP: Final = 200
_LINKS: Final = 4096
_BODY_BYTES: Final = 4 << 20
"""Manifests, what they link, and bytes of their bodies that come back in one transaction: so
many, or a single one that is larger."""

_PARSED_INLINE: Final = 64 * 1024
"""A longer document is parsed in a thread."""

_END: Final = 1 << 62
"""A place behind every manifest that went with a tag."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A manifest that went with a tag, read again."""

    sha: bytes
    size: int
    document: Document


@dataclass(frozen=True, slots=True)
class Batch:
    """Manifests that come back in one transaction, children first."""

    manifests: tuple[Lost, ...]
    first: int
    """The lowest place among them; 0: nothing is left before them."""
    length: int
    """Of the whole list, when the restore began with its end."""


async def require(txn: Transaction, entry_id: bytes, now: int) -> tuple[int, Entry]:
    """The entry, if it can still be brought back. Raises NotFound.

    From the moment it is due on it cannot, whether or not a sweep came by: holds are over too.
    """
    found = await trash_rows.find(txn, entry_id)
    if found is None or found[1].purging or found[0] <= now:
        raise NotFound("trash", str(UUID(bytes=entry_id)))
    return found


async def restore(txn: Transaction, entry_id: bytes, now: int) -> None:
    """Bring a namespace or an image back. Raises NotFound, AlreadyExists, Locked."""
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
    """Bring a tag back, with the last of its manifests; False where the list has grown since.

    ``token`` is that of ``restore_some``, or empty: then the batch is the whole list. Raises
    NotFound, AlreadyExists, Locked, MissingContent, Busy.
    """
    until, entry = await require(txn, entry_id, now)
    if not await _current(txn, entry, token, batch):
        return False
    await _tag(txn, entry, now, batch.manifests, sparse)
    if await trash_rows.drop_rows(txn, entry, _STEP + 1) <= _STEP:
        await trash_rows.take(txn, until, entry)
    else:
        await trash_rows.leave_rest(txn, until, entry, now)
    return True


async def restore_attached(
    txn: Transaction, entry_ids: tuple[bytes, ...], now: int, sparse: bool
) -> None:
    """Bring tags back that went with one that is back; those that cannot come stay where they
    are."""
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
    """Bring some manifests of a deleted tag back, and not yet the tag; False as ``restore_tag``.

    With ``begins``, the restore with that token takes the place of any other one: which is told
    so (Busy), or died. Raises what ``restore_tag`` does.
    """
    until, entry = await require(txn, entry_id, now)
    image, namespace = await _image_of(txn, entry)
    if not await _current(txn, entry, b"" if begins else token, batch):
        return False
    if begins:
        await trash_rows.change(txn, until, msgspec.structs.replace(entry, restoring=token))
    mark = trash_rows.list_of(entry)
    await _keep(txn, image, namespace, batch.manifests, now, sparse=sparse, mark=mark)
    return True


async def _current(txn: Transaction, entry: Entry, token: bytes, batch: Batch) -> bool:
    """Whether the batch is still of the whole list: a delete may be adding to it, until a
    restore has begun. Raises Busy where another one has taken over."""
    if token and entry.restoring != token:
        raise Busy("trash", str(UUID(bytes=entry.id)))
    return await trash_rows.length(txn, entry) == batch.length


async def take_back(
    txn: Transaction, entry_id: bytes, now: int, token: bytes, place: int
) -> int | None:
    """Remove manifests from that place on that a failed restore brought back; says where to go
    on, or None."""
    found = await trash_rows.find(txn, entry_id)
    if found is None or found[1].purging or found[1].restoring != token:
        # It is another one's now, or the purge's.
        return None
    until, entry = found
    image = await images.by_key(txn, entry.image)
    shas = await trash_rows.shas_from(txn, entry, place, _STEP)
    if image is not None:
        owner = trash_rows.owner(entry, counted=not image.deleted)
        await pruning.take_back(txn, owner, trash_rows.list_of(entry), shas, now, until)
    if len(shas) == _STEP:
        return place + _STEP
    await trash_rows.change(txn, until, msgspec.structs.replace(entry, restoring=b""))
    return None


async def _namespace(txn: Transaction, entry: Entry, time: int) -> None:
    row = await load(txn, NamespaceRow, layout.NAMESPACE + entry.id)
    if row is None:
        raise _lost(entry)
    name = layout.NAMESPACE_NAME + layout.name_key(row.region, row.name)
    if await txn.get(name) is not None:
        raise AlreadyExists("namespace", row.name)
    await txn.delete(layout.DEAD + row.id)
    # Limits of the name may have been set meanwhile.
    limits = await limit_rows.of_name(txn, namespaces.place(row)) or Limits()
    row = msgspec.structs.replace(row, deleted=0, updated=time, limits=limits)
    await namespaces.enlist(txn, row)


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
    await _keep(txn, image, namespace, lost, now, sparse=sparse)
    digest, sha = Digest.from_key(entry.digest), entry.sha
    if not await manifest_rows.present(txn, image.key, sha):
        raise NotFound("manifest", str(digest))
    if digest.algorithm != "sha256":
        # The manifest may have gone meanwhile, and come back under its sha256 only.
        await blob_rows.alias(txn, sha, await blob_rows.require(txn, sha), digest.key)
        await claims.name(txn, image.key, sha, digest.key)
    time = await identity.tick(txn, now)
    row = TagRow(entry.id, entry.name, entry.digest, sha, entry.created, time)
    await tags.insert(txn, image, row)
    await images.touch(txn, image, time)


async def _keep(
    txn: Transaction,
    image: ImageRow,
    namespace: NamespaceRow,
    lost: tuple[Lost, ...],
    now: int,
    *,
    sparse: bool,
    mark: bytes = b"",
) -> None:
    """Give manifests back to their image: the namespace keeps them all along, so no quota has a
    say. Raises NotFound, MissingContent."""
    owner = images.owner_of(image, namespace)
    sparse = namespaces.takes_sparse(namespace, sparse)
    time = await identity.tick(txn, now)
    for found in lost:
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


async def went(
    txn: Transaction, entry_id: bytes, now: int, below: int
) -> tuple[list[tuple[int, bytes, str]], int]:
    """Manifests that went with a deleted tag, as ``trash_rows.manifests``; and how many did.

    Raises NotFound, Corrupt.
    """
    _, entry = await require(txn, entry_id, now)
    return await trash_rows.manifests(txn, entry, below, _STEP), await trash_rows.length(txn, entry)


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


async def expel(txn: Transaction, entry_id: bytes, now: int) -> bytes:
    """Take an entry out of reach, and make it due; its key. Raises NotFound, Locked."""
    until, entry = await require(txn, entry_id, now)
    return await content.hasten(txn, until, entry, now)


async def lies(txn: Transaction, key: bytes) -> bool:
    """Whether an entry is still there."""
    return await txn.get(key) is not None


def _batches(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    every = sorted(keys)
    for start in range(0, len(every), _STEP):
        yield every[start : start + _STEP]


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
        was in as well. Linear in the trash; with ``project_id``, in that of the project.
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
        """What can be brought back under that id. Raises NotFound (``trash``)."""
        return await self._core.ledger.read(get, item_id.bytes, self._core.now())

    async def restore(self, item_id: UUID) -> None:
        """Bring something back under its old name and id.

        A tag comes back with the manifests that went with it, and then the tags that did; such a
        one stays in the trash where its name was taken since. Raises NotFound (``trash``, or
        what it belonged to), AlreadyExists where the name is taken, Locked; MissingContent or
        where the image changed too much since; Busy where another call restores
        the same tag. It changes nothing then.
        """
        core = self._core
        entry, image_key = await core.ledger.read(home, item_id.bytes, core.now())
        if entry.kind != "tag":
            await core.ledger.transact(restore, item_id.bytes, core.now())
            return
        await adoption.before_restore(core, entry)
        attached = await self._attached(entry)
        while not await self._restore_tag(item_id.bytes, image_key):
            continue
        for start in range(0, len(attached), _STEP):
            some = tuple(attached[start : start + _STEP])
            await core.ledger.transact(
                restore_attached, some, core.now(), core.config.sparse_indexes
            )

    async def _attached(self, entry: Entry) -> builtins.list[bytes]:
        """Ids of all tags that went with a tag."""
        found: builtins.list[bytes] = []
        if entry.kind == "tag":
            last = b""
            while some := await self._core.ledger.read(trash_rows.attached_to, entry, last, _STEP):
                found += some
                last = some[-1]
        return found

    async def purge(self, item_id: UUID, *, seconds: float = 1.0) -> bool:
        """Take something out of the trash before its time: it cannot be brought back any more.

        Ends its claims, so that its bytes go when nothing else needs them, for some ``seconds``;
        says whether that is all done, else the sweep does the rest. Raises NotFound, Locked.
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
        key = await core.ledger.transact(expel, item_id.bytes, core.now())
        last = content.deadline(core, until)
        for some in _batches(own):
            await core.ledger.transact(content.give_up, entry, some, last, others, core.now())
        clock = asyncio.get_running_loop().time
        stop = clock() + seconds
        while await core.ledger.read(lies, key):
            if clock() >= stop:
                return False
            try:
                await core.ledger.transact(purge.step, key, core.now(), _STEP)
            except Corrupt:
                # The sweep meets the damaged row as well, and sets the entry aside.
                return False
        return done

    async def _restore_tag(self, entry_id: bytes, image_key: bytes) -> bool:
        """Bring a tag back; False where more of its manifests went since this began."""
        core, sparse, token = self._core, self._core.config.sparse_indexes, entropy()
        batch = await self._batch(entry_id, image_key, _END)
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
            place: int | None = 0
            while place is not None:
                place = await core.ledger.transact(take_back, entry_id, core.now(), token, place)
            raise

    async def _batch(self, entry_id: bytes, image_key: bytes, below: int) -> Batch:
        """Read the last manifests of a list, below a place, as far as one transaction takes."""
        core = self._core
        rows, length = await core.ledger.read(went, entry_id, core.now(), below)
        lost: list[Lost] = []
        links = size = 0
        first = 0
        for place, sha, media_type in rows:
            found = await self._read(image_key, sha, media_type)
            links += 1 + len(found.document.needs)
            size += found.size
            if lost and (links > _LINKS or size > _BODY_BYTES):
                break
            lost.append(found)
            first = place
        return Batch(tuple(lost), first, length)

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
        if len(body) <= _PARSED_INLINE:
            document = documents.parse(body, media_type, limit=MANIFEST_BYTES_MAX)
        else:
            document = await self._core.threads.run(
                documents.parse, body, media_type, limit=MANIFEST_BYTES_MAX
            )
        return Lost(sha, len(body), document)
