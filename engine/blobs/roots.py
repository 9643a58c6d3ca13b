"""Roots: names under which an embedding program keeps blobs, independent of images."""

from __future__ import annotations

import msgspec

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import payloads, put_payload
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Corrupt, NotFound

from . import blob_rows, claims
from .blob_rows import Arrival, Outcome
from .claims import Owner


async def keep(txn: Transaction, root: str, arrival: Arrival, now: int) -> Outcome:
    """Publish a blob and keep it under a root."""
    outcome = await blob_rows.publish(txn, arrival, now)
    if outcome != "recheck":
        owner = Owner(layout.root_owner(root))
        claim = await claims.get(txn, owner.key, arrival.sha256)
        if claim is None or not claim.bodies:
            await _record_name(txn, root, owner)
            kept = msgspec.structs.replace(
                claim or claims.NOTHING, size=arrival.size, bodies=1, hold=0
            )
            await claims.change(txn, owner, arrival.sha256, claim or claims.NOTHING, kept, now)
        if arrival.alias:
            await claims.name(txn, owner.key, arrival.sha256, arrival.alias)
    return outcome


async def _record_name(txn: Transaction, root: str, owner: Owner) -> None:
    """Write the row with the name of a new root; keys hold only its hash."""
    try:
        if await txn.counter(layout.counter(layout.ROOT_BLOBS, owner.key)):
            return
    except Corrupt:
        # The row itself answers the same, at a higher cost.
        pass
    if await txn.get(layout.ROOT + owner.key) is None:
        await put_payload(txn, layout.ROOT + owner.key, root.encode())


async def unroot(txn: Transaction, root: str, digest: Digest, now: int) -> None:
    """Remove a blob from a root. Raises NotFound."""
    owner = Owner(layout.root_owner(root))
    sha = await blob_rows.canonical(txn, digest.key, owner.key)
    claim = None if sha is None else await claims.get(txn, owner.key, sha)
    if sha is None or claim is None:
        raise NotFound("blob", str(digest))
    await claims.release(txn, owner, sha, claim, now)
    try:
        left = await txn.counter(layout.counter(layout.ROOT_BLOBS, owner.key))
    except Corrupt:
        # A damaged counter must not fail a delete: the unused name stays, and the check reports it.
        return
    if not left:
        await txn.delete(layout.ROOT + owner.key)


async def names(txn: Transaction, limit: int) -> list[str]:
    """Return the names of at most ``limit`` roots that keep a blob, sorted."""
    rows = await txn.scan(layout.ROOT, after(layout.ROOT), limit=limit)
    return sorted(name.decode() for _, name in payloads(rows))
