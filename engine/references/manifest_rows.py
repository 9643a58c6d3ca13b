"""Manifest rows: read and remove the rows of a manifest, its links, tags and referrers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from holdfast.engine.blobs import blob_rows, claims
from holdfast.engine.blobs.claims import Owner
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Manifest as Row
from holdfast.engine.ledger.records import delete_long, get_long, load
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import NotFound

CONTENT, CHILD, BODY = b"c", b"k", b"b"
NEED_KINDS: Final = {CONTENT: "content", CHILD: "children", BODY: "bodies"}
"""Kind of a need as stored with a manifest -> field of the claim that counts it."""

_REFERRERS_PER_SCAN: Final = 1000

_NEED_BYTES: Final = 1 + layout.SHA_BYTES


def manifest_row(image_key: bytes, sha: bytes) -> bytes:
    """Return the key of a manifest of an image."""
    return layout.MANIFEST + image_key + sha


def tagged_row(image_key: bytes, sha: bytes, name: str) -> bytes:
    """Return the key of the row that lists a tag under the manifest that it points to."""
    return layout.TAGGED + image_key + sha + name.encode()


async def tags_of(
    txn: Transaction, image_key: bytes, sha: bytes, limit: int, *, last: str = ""
) -> list[str]:
    """Return names of tags that point to a manifest, in byte order, after the name ``last``."""
    prefix = layout.TAGGED + image_key + sha
    start = prefix + last.encode() + b"\0" if last else prefix
    rows = await txn.scan(start, after(prefix), limit=limit)
    return [key[len(prefix) :].decode() for key, _ in rows]


async def require(txn: Transaction, image_key: bytes, digest: Digest) -> tuple[bytes, Row]:
    """Return the sha256 and the row of a manifest of the image. Raises NotFound."""
    sha = await blob_rows.canonical(txn, digest.key, image_key)
    row = None if sha is None else await load(txn, Row, manifest_row(image_key, sha))
    if sha is None or row is None:
        raise NotFound("manifest", str(digest))
    return sha, row


async def needs_of(txn: Transaction, image_key: bytes, sha: bytes) -> list[tuple[bytes, bytes]]:
    """Return kind and sha256 of every blob that a manifest links, its own body first."""
    packed = await get_long(txn, layout.NEEDS + image_key + sha)
    return [
        (packed[start : start + 1], packed[start + 1 : start + _NEED_BYTES])
        for start in range(0, len(packed), _NEED_BYTES)
    ]


async def remove(
    txn: Transaction, owner: Owner, sha: bytes, row: Row, now: int, hold_until: int
) -> list[tuple[bytes, bytes]]:
    """Remove a manifest from its image; return what it linked, as ``needs_of``.

    The image keeps a hold until ``hold_until`` on blobs that no other manifest of it needs.
    """
    needs = await needs_of(txn, owner.key, sha)
    for kind, needed in needs:
        await claims.unlink(txn, owner, needed, NEED_KINDS[kind], now, hold_until)
    await delete_long(txn, layout.NEEDS + owner.key + sha)
    await txn.delete(manifest_row(owner.key, sha))
    if row.subject:
        await txn.delete(layout.referrers_of(owner.key, row.subject) + sha)
    return needs


async def present(txn: Transaction, image_key: bytes, sha: bytes) -> bool:
    """Return True if the image has that manifest."""
    return await txn.get(manifest_row(image_key, sha)) is not None


async def has_subject(
    txn: Transaction, image_key: bytes, sha: bytes, gone: Collection[bytes]
) -> bool:
    """Return True if a manifest has a subject that the image has and that is not in ``gone``."""
    row = await load(txn, Row, manifest_row(image_key, sha))
    if row is None or not row.subject:
        return False
    subject = await blob_rows.canonical(txn, row.subject, image_key)
    if subject is None or subject in gone:
        return False
    return await present(txn, image_key, subject)


async def referrers_of(txn: Transaction, image_key: bytes, sha: bytes) -> list[bytes]:
    """Return all manifests that name this one as their subject, in either algorithm."""
    found = []
    for key in await names_of(txn, image_key, sha):
        start = prefix = layout.referrers_of(image_key, key)
        while rows := await txn.scan(start, after(prefix), limit=_REFERRERS_PER_SCAN):
            found += [row[-layout.SHA_BYTES :] for row, _ in rows]
            start = rows[-1][0] + b"\0"
    return found


async def names_of(txn: Transaction, image_key: bytes, sha: bytes) -> list[bytes]:
    """Return the digest keys by which an image knows a blob, sha256 first."""
    claim = await claims.get(txn, image_key, sha)
    return [Digest.sha256(sha).key, *(claim.aliases if claim else ())]
