"""Reclaimable bytes: counts the bytes at rest that a deletion would free. Reads only.

These are the bytes to which nothing else has a claim. The caller finds the rows of the tag, image
or namespace to be deleted and passes them in.
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

_ROWS_PER_SCAN: Final = 1000


async def by_tag(
    txn: Transaction, image_key: bytes, tag: Tag, immutable: tuple[str, ...], project: bytes | None
) -> int:
    """Count the bytes at rest that a delete of the tag frees once holds are over.

    With a ``project``, count whole blobs as if there were no other project, so that the number
    reveals nothing about other tenants.
    """
    gone = await losses(txn, image_key, {tag.name: tag.sha}, (), immutable)
    return await _by_image(txn, gone.blobs, image_key, project)


@dataclass(frozen=True, slots=True)
class Losses:
    """Blobs, tags and manifests that an image loses with some tags and manifests."""

    blobs: list[bytes]
    """sha256s of blobs to which the image loses its right, once holds are over."""
    attached: list[tuple[Tag, bytes]]
    """Attached tags, each with the manifest that it belongs to."""
    referrers: list[tuple[bytes, bytes]]
    """Referrers, each with its subject."""


async def losses(
    txn: Transaction,
    image_key: bytes,
    removed: Mapping[str, bytes],
    untagged: Iterable[bytes],
    immutable: tuple[str, ...],
) -> Losses:
    """Compute what would be removed with some tags (name to sha256) and some manifests.

    Follows the same rules as ``pruning.prune_unneeded``, without writing.
    """
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
    """Return True if a manifest is absent, or if another index or another tag needs it."""
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
    """Return whether only these owners (of one project) have a right to the blob.

    First in the whole store, then as far as the project can see.
    """
    prefix = layout.references(sha)
    # Each owner has at most one reference of each of the three kinds.
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
    """Sizes of a blob in bytes.

    Clients with a key of one project may see ``whole`` only: the form in which a blob is stored
    may reveal that another tenant pushed it earlier.
    """

    at_rest: int
    """Size as stored, which may be compressed."""
    whole: int
    """Size of the blob itself."""


async def size_of(txn: Transaction, sha: bytes) -> Size:
    """Return the sizes of a claimed blob. Raises Corrupt."""
    blob = await blob_rows.require(txn, sha)
    return Size(blob.stored, blob.size)


async def _by_image(
    txn: Transaction, shas: Iterable[bytes], image_key: bytes, project: bytes | None
) -> int:
    """Count the bytes that are freed when an image loses its rights to some blobs."""
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
    while rows := await txn.scan(start, after(prefix), limit=_ROWS_PER_SCAN):
        for key, value in rows:
            async for sha in _claimed(txn, unseal(key, value)):
                if sha not in seen:
                    seen.add(sha)
                    freed += await _if_sole(txn, sha, layout.NAMESPACE_AT, namespace_id)
        start = rows[-1][0] + b"\0"
    return freed


async def _claimed(txn: Transaction, image_key: bytes) -> AsyncIterator[bytes]:
    """Yield the sha256s of all blobs that an image has a claim on."""
    prefix = layout.claimed(image_key)
    start = prefix
    while rows := await txn.scan(start, after(prefix), limit=_ROWS_PER_SCAN):
        for key, _ in rows:
            yield key[-SHA_BYTES:]
        start = rows[-1][0] + b"\0"


async def _if_sole(txn: Transaction, sha: bytes, offset: int, owner_id: bytes) -> int:
    """Return the blob's bytes at rest if every reference has ``owner_id`` at ``offset``, else 0."""
    prefix = layout.references(sha)
    start = prefix
    while rows := await txn.scan(start, after(prefix), limit=1):
        key = rows[0][0]
        if key[offset : offset + ID_BYTES] != owner_id:
            return 0
        # Skip the other references of this owner under this prefix.
        start = after(key[: offset + ID_BYTES])
    blob = await blob_rows.require(txn, sha)
    return blob.stored
