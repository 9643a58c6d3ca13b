"""What a delete would free: the bytes at rest to which nothing else has a claim. Reads only.

The callers find the rows of what would be deleted, so that tags, images and namespaces can each
ask here what their own deletion would free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Final

from holdfast.engine.blobs import blob_rows, claims
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.layout import ID_BYTES, SHA_BYTES
from holdfast.engine.ledger.records import Tag, unseal
from holdfast.engine.model.names import first_match

from . import attached, manifest_rows

_STEP: Final = 1000


async def by_tag(
    txn: Transaction, image_key: bytes, tag: Tag, immutable: tuple[str, ...], project: bytes | None
) -> int:
    """Count the bytes at rest that a delete of the tag frees once holds are over.

    With a ``project``, count whole blobs as if there were no other project, so that the number
    tells a tenant nothing about other tenants.
    """
    gone = await losses(txn, image_key, {tag.name: tag.sha}, (), immutable)
    return await _by_image(txn, gone.blobs, image_key, project)


@dataclass(frozen=True, slots=True)
class Losses:
    """What goes from an image with some tags and manifests."""

    blobs: list[bytes]
    """Those that the image would have no more right to, once holds are over."""
    attached: list[tuple[Tag, bytes]]
    """Tags that belonged to a manifest, and that one."""
    referrers: list[tuple[bytes, bytes]]
    """Manifests that named another one as their subject, and that one."""


async def losses(
    txn: Transaction,
    image_key: bytes,
    removed: Mapping[str, bytes],
    untagged: Iterable[bytes],
    immutable: tuple[str, ...],
) -> Losses:
    """What would go with some tags (name to sha256) and some manifests, as
    ``pruning.prune_unneeded`` takes it."""
    lost: Counter[bytes] = Counter()
    children: Counter[bytes] = Counter()
    gone: set[bytes] = set()
    names = set(removed)
    attached_tags: list[tuple[Tag, bytes]] = []
    subjects: dict[bytes, bytes] = {}
    asked = {*removed.values(), *untagged}
    waiting = list(asked)
    while waiting:
        sha = waiting.pop(0)
        if sha in gone or await _is_kept(txn, image_key, sha, children[sha], names):
            continue
        if sha not in asked and await manifest_rows.has_subject(txn, image_key, sha, gone):
            continue
        gone.add(sha)
        for kind, needed in await manifest_rows.needs_of(txn, image_key, sha):
            lost[needed] += 1
            if kind == manifest_rows.CHILD:
                children[needed] += 1
                waiting.append(needed)
        for referrer in await manifest_rows.referrers_of(txn, image_key, sha):
            subjects.setdefault(referrer, sha)
            waiting.append(referrer)
        for tag in await attached.tags_of(txn, image_key, sha):
            if tag.name not in names and first_match(immutable, tag.name) is None:
                names.add(tag.name)
                attached_tags.append((tag, sha))
                waiting.append(tag.sha)
    ended = []
    for sha, needs in lost.items():
        claim = await claims.get(txn, image_key, sha)
        if claim is not None and claim.content + claim.bodies + claim.children == needs:
            ended.append(sha)
    referrers = [(sha, subjects[sha]) for sha in gone if sha in subjects and sha not in asked]
    return Losses(ended, attached_tags, referrers)


async def _is_kept(
    txn: Transaction, image_key: bytes, sha: bytes, parents_gone: int, tags_gone: Set[str]
) -> bool:
    """Whether a manifest is not here, or another index or another tag needs it."""
    if not await manifest_rows.present(txn, image_key, sha):
        return True
    claim = await claims.get(txn, image_key, sha)
    if claim is not None and claim.children > parents_gone:
        return True
    names = await manifest_rows.tags_of(txn, image_key, sha, len(tags_gone) + 1)
    return any(name not in tags_gone for name in names)


async def alone(
    txn: Transaction, sha: bytes, project: bytes, owners: Collection[bytes]
) -> tuple[bool, bool]:
    """Whether nobody but these owners (of one project) has a right to the blob.

    Twice: in the whole store, and as far as the project knows of.
    """
    prefix = layout.references(sha)
    rows = await txn.scan(prefix, after(prefix), limit=3 * len(owners) + 1)
    if all(key[layout.OWNER_AT :] in owners for key, _ in rows):
        return True, True
    for kind in (layout.CONTENT, layout.KEPT, layout.HELD):
        rows = await txn.scan(
            prefix + kind + project, after(prefix + kind + project), limit=len(owners) + 1
        )
        if not all(key[layout.OWNER_AT :] in owners for key, _ in rows):
            return False, False
    return False, True


@dataclass(frozen=True, slots=True)
class Size:
    """Of a blob. Whoever has a key of one project is told ``whole`` only: how a blob lies at rest
    may tell that a stranger brought it earlier."""

    at_rest: int
    whole: int


async def size_of(txn: Transaction, sha: bytes) -> Size:
    """The sizes of a blob. Raises NotFound."""
    blob = await blob_rows.require(txn, sha)
    return Size(blob.stored, blob.size)


async def _by_image(
    txn: Transaction, shas: Iterable[bytes], image_key: bytes, project: bytes | None
) -> int:
    """What an image's end of its rights to some blobs would free."""
    freed = 0
    for sha in shas:
        size = await size_of(txn, sha)
        whole, inside = await alone(txn, sha, project or b"", (image_key,))
        if project is None:
            freed += size.at_rest if whole else 0
        else:
            freed += size.whole if inside else 0
    return freed


async def by_image(txn: Transaction, image_key: bytes, project: bytes | None) -> int:
    """Count the bytes that a delete of the image frees once the trash is emptied.

    ``project`` as in ``by_tag``.
    """
    freed = 0
    async for sha in _claimed(txn, image_key):
        freed += await _by_image(txn, (sha,), image_key, project)
    return freed


async def by_namespace(txn: Transaction, namespace_id: bytes) -> int:
    """Count the bytes at rest that a delete of the namespace frees once the trash is emptied."""
    seen: set[bytes] = set()
    freed = 0
    prefix = layout.IMAGE_NAME + namespace_id
    start = prefix
    while rows := await txn.scan(start, after(prefix), limit=_STEP):
        for key, value in rows:
            async for sha in _claimed(txn, unseal(key, value)):
                if sha not in seen:
                    seen.add(sha)
                    freed += await _if_alone(txn, sha, layout.NAMESPACE_AT, namespace_id)
        start = rows[-1][0] + b"\0"
    return freed


async def _claimed(txn: Transaction, image_key: bytes) -> AsyncIterator[bytes]:
    prefix = layout.claimed(image_key)
    start = prefix
    while rows := await txn.scan(start, after(prefix), limit=_STEP):
        for key, _ in rows:
            yield key[-SHA_BYTES:]
        start = rows[-1][0] + b"\0"


async def _if_alone(txn: Transaction, sha: bytes, at: int, who: bytes) -> int:
    """The blob's bytes at rest, if every reference to it is by ``who`` (found at ``at``)."""
    prefix = layout.references(sha)
    start = prefix
    while rows := await txn.scan(start, after(prefix), limit=1):
        key = rows[0][0]
        if key[at : at + ID_BYTES] != who:
            return 0
        start = after(key[: at + ID_BYTES])
    blob = await blob_rows.require(txn, sha)
    return blob.stored
