"""Roots: names under which an embedder keeps blobs, apart from any image."""

from __future__ import annotations

from . import blobs, claims, layout
from .blobs import Arrival, Outcome
from .claims import Owner
from .digest import Digest
from .errors import NotFound
from .ledger import Transaction, after
from .records import payloads, put_payload


async def keep(txn: Transaction, root: str, arrival: Arrival, now: int) -> Outcome:
    """Publish a blob and keep it under a root."""
    outcome = await blobs.publish(txn, arrival, now)
    if outcome != "recheck":
        owner = Owner(layout.root_owner(root))
        claim = await claims.get(txn, owner.key, arrival.sha256)
        if claim is None or not claim.bodies:
            if await txn.get(layout.ROOT + owner.key) is None:
                await put_payload(txn, layout.ROOT + owner.key, root.encode())
            await claims.link(txn, owner, arrival.sha256, arrival.size, "bodies", now)
        await claims.name(txn, owner.key, arrival.sha256, arrival.alias)
    return outcome


async def unroot(txn: Transaction, root: str, digest: Digest, now: int) -> None:
    """Take a blob from a root. Raises NotFound."""
    owner = Owner(layout.root_owner(root))
    sha = await blobs.canonical(txn, digest.key, owner.key)
    claim = None if sha is None else await claims.get(txn, owner.key, sha)
    if sha is None or claim is None:
        raise NotFound("blob", str(digest))
    await claims.release(txn, owner, sha, claim, now)
    prefix = layout.CLAIM + owner.key
    if not await txn.scan(prefix, after(prefix), limit=1):
        await txn.delete(layout.ROOT + owner.key)


async def names(txn: Transaction, limit: int) -> list[str]:
    """Names of all roots that keep something."""
    rows = await txn.scan(layout.ROOT, after(layout.ROOT), limit=limit)
    return sorted(name.decode() for _, name in payloads(rows))
