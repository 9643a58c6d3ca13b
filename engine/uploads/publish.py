"""Publishes an upload: one transaction makes its bytes a blob that the image holds."""

from __future__ import annotations

from holdfast.engine.blobs import blob_rows, claims
from holdfast.engine.blobs.blob_rows import Arrival, Outcome
from holdfast.engine.ledger.interface import Change, Transaction
from holdfast.engine.model.values import Repository
from holdfast.engine.namespaces import quota
from holdfast.engine.namespaces.open_uploads import OtherUploads
from holdfast.engine.repositories import images


async def deliver(
    txn: Transaction,
    repository: Repository,
    arrival: Arrival,
    now: int,
    hold_until: int,
    random: bytes,
    *,
    others: OtherUploads,
    own: int,
) -> Outcome:
    """Publish an upload's bytes as a blob held by its image; create the image as a draft if needed.

    ``own`` is the number of its bytes that ``others`` counts already. Raises NotFound, Locked,
    QuotaExceeded.
    """
    row, namespace = await images.enter(
        txn, repository.namespace_id.bytes, repository.name, random, now
    )
    if row.listed:
        # No name changes, so caches of names and rights stay valid. A draft may be new: ANY.
        txn.declare_change(Change.CONTENT)
    limits = await quota.of(txn, namespace, others.uploads_max, others.sessionless)
    limits.check_uploads(others.sessions, 0)
    outcome = await blob_rows.publish(txn, arrival, now)
    if outcome != "recheck":
        owner = images.owner_of(row, namespace)
        await claims.hold(txn, owner, arrival.sha256, arrival.size, hold_until, now)
        await claims.name(txn, owner.key, arrival.sha256, arrival.alias)
        # After the claims are counted: this raises, and so rolls back all of the above.
        await limits.check_growth(txn, others.sessions, own)
    return outcome
