"""Delivery: an upload's bytes become a blob that its image holds."""

from __future__ import annotations

from . import blobs, claims, images, quota
from .blobs import Arrival, Outcome
from .ledger import Transaction
from .models import Repository
from .quiet import Change
from .quota import Coming


async def deliver(
    txn: Transaction,
    repository: Repository,
    arrival: Arrival,
    now: int,
    hold_until: int,
    random: bytes,
    *,
    uploads_max: int,
    passing: Coming,
    opened: Coming,
    more: int,
) -> Outcome:
    """Publish an upload, held by its image, which is a draft from now on where there was none.

    ``more`` of its bytes are counted nowhere: neither with the uploads that are ``passing``, nor
    with the sessions that are ``opened``. Raises NotFound, Locked, QuotaExceeded.
    """
    row, namespace = await images.enter(
        txn, repository.namespace_id.bytes, repository.name, random, now
    )
    if row.listed:
        txn.changes_only(Change.CONTENT)
    limits = await quota.of(txn, namespace, uploads_max, passing)
    limits.check_uploads(opened, 0)
    limits.left(opened, more)
    outcome = await blobs.publish(txn, arrival, now)
    if outcome != "recheck":
        owner = images.owner_of(row, namespace)
        await claims.hold(txn, owner, arrival.sha256, arrival.size, hold_until, now)
        await claims.name(txn, owner.key, arrival.sha256, arrival.alias)
    return outcome
