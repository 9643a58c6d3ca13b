"""Which blobs there are, for the operator or through the rights of one image."""

from __future__ import annotations

from dataclasses import replace

from holdfast.engine.blobs import blob_rows, claims
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import INLINE, readable
from holdfast.engine.ledger.records import Blob as Row
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Corrupt, NotFound
from holdfast.engine.model.values import Blob, Repository, moment

from . import images, reader


async def stat(txn: Transaction, digest: Digest, repository: Repository | None, floor: int) -> Blob:
    """The blob, if it may be read and is not damaged. Raises NotFound, Corrupt."""
    owner = await _reader(txn, digest, repository)
    sha = await blob_rows.readable(txn, digest.key, owner, floor)
    row = await blob_rows.require(txn, sha)
    if row.damaged:
        raise Corrupt("blob", str(digest), "it is in quarantine; push it again")
    if row.place == INLINE and await blob_rows.inline_content(txn, sha, row) is None:
        # A pusher who is told so sends the bytes again, and that heals it.
        raise Corrupt("blob", str(digest), "its content is damaged; push it again")
    claim = None if owner is None else await claims.get(txn, owner, sha)
    held = None if claim is None or claim.needed else moment(claim.hold)
    return Blob(digest, row.size, held)


async def brought(txn: Transaction, digest: Digest, repository: Repository, floor: int) -> Blob:
    """As ``stat``, also where the image was made after the repository was located.

    Raises NotFound, Corrupt.
    """
    image = await images.by_name(txn, repository.namespace_id.bytes, repository.name)
    key = None if image is None else image.key
    return await stat(txn, digest, replace(repository, key=key), floor)


async def small(
    txn: Transaction, digest: Digest, repository: Repository, now: int
) -> tuple[Blob, bytes | None]:
    """A blob that the image may read; its content too, where that needs no file.

    Raises NotFound, Corrupt.
    """
    owner = await _reader(txn, digest, repository)
    sha, row, data = await reader.locate(txn, digest.key, owner, now)
    claim = None if owner is None else await claims.get(txn, owner, sha)
    held = None if claim is None or claim.needed else moment(claim.hold)
    return Blob(digest, row.size, held), data


async def _reader(txn: Transaction, digest: Digest, repository: Repository | None) -> bytes | None:
    """The owner whose rights count: the image, or None for the operator."""
    if repository is None:
        return None
    try:
        image, _ = await images.current(txn, repository)
    except NotFound:
        raise NotFound("blob", str(digest)) from None
    return image.key


async def present(
    txn: Transaction, digests: tuple[Digest, ...], repository: Repository | None, floor: int
) -> set[str]:
    """Those of the digests that ``stat`` finds."""
    found = set()
    for digest in digests:
        try:
            await stat(txn, digest, repository, floor)
        except (NotFound, Corrupt):
            continue
        found.add(str(digest))
    return found


async def listing(txn: Transaction, last: bytes, limit: int) -> list[Blob]:
    """Blobs in order of their sha256, after one; those whose rows can be read."""
    found: list[Blob] = []
    while rows := await blob_rows.rows_after(txn, last, limit - len(found)):
        found += [Blob(Digest.sha256(key[1:]), row.size) for key, row in readable(Row, rows)]
        last = rows[-1][0][1:]
    return found


async def holders(
    txn: Transaction, region: str, digest: Digest, now: int, limit: int
) -> list[Repository]:
    """Images of a region that may read the blob."""
    sha = await blob_rows.canonical(txn, digest.key, None)
    if sha is None:
        return []
    prefix = layout.references(sha)
    seen: dict[bytes, None] = {}
    for key, _ in await txn.scan(prefix, after(prefix), limit=limit):
        seen[key[-layout.ID_BYTES :]] = None
    found = []
    for owner in seen:
        try:
            # Also where others named it so: see ``canonical``.
            await blob_rows.readable(txn, digest.key, owner, now)
            place = await images.repository_at(txn, owner)
        except (NotFound, Corrupt):
            continue
        if place.region == region:
            found.append(place)
    return found
