"""The closure of a tag: manifests that go with it, because nothing else needs them."""

from __future__ import annotations

from . import claims, images, manifest_rows, trash
from .claims import Owner
from .errors import NotFound
from .ledger import Transaction
from .records import Manifest, load


async def prune_unneeded(
    txn: Transaction,
    owner: Owner,
    candidates: tuple[bytes, ...],
    now: int,
    hold_until: int,
    limit: int,
    *,
    untagged: bytes = b"",
) -> tuple[tuple[tuple[bytes, str], ...], tuple[bytes, ...]]:
    """Remove those candidates that no tag and no index needs, and then what only they needed.

    At most ``limit`` manifests; says which (parents first, with media type), and what is left
    to look at. A referrer counts as needed while its subject is there, unless it was the one
    that has just been ``untagged``.
    """
    gone: list[tuple[bytes, str]] = []
    waiting = list(candidates)
    while waiting and len(gone) < limit:
        sha = waiting.pop(0)
        row = await load(txn, Manifest, manifest_rows.manifest_row(owner.key, sha))
        if row is None or await is_needed(txn, owner.key, sha):
            continue
        if sha != untagged and await manifest_rows.has_subject(txn, owner.key, sha, frozenset()):
            continue
        waiting += await manifest_rows.remove(txn, owner, sha, row, now, hold_until)
        waiting += await manifest_rows.referrers_of(txn, owner.key, sha)
        gone.append((sha, row.media_type))
    return tuple(gone), tuple(waiting)


async def is_needed(txn: Transaction, image_key: bytes, sha: bytes) -> bool:
    """Whether a tag or an index of the image needs the manifest."""
    claim = await claims.get(txn, image_key, sha)
    if claim is not None and claim.children:
        return True
    return bool(await manifest_rows.tags_of(txn, image_key, sha, 1))


async def prune(
    txn: Transaction,
    image_id: bytes,
    tag_id: bytes,
    candidates: tuple[bytes, ...],
    now: int,
    hold_until: int,
    limit: int,
) -> tuple[bytes, ...]:
    """Go on with ``prune_unneeded`` in a transaction of its own; says what is left.

    What goes is remembered with the deleted tag.
    """
    try:
        image, namespace = await images.require(txn, image_id)
    except NotFound:
        return ()
    owner = images.owner_of(image, namespace)
    gone, rest = await prune_unneeded(txn, owner, candidates, now, hold_until, limit)
    await trash.add_manifests(txn, tag_id, gone)
    return rest
