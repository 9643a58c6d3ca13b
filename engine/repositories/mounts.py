"""Giving an image the right to a blob of another one, and taking a right away."""

from __future__ import annotations

from holdfast.engine.blobs import blob_rows, claims
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.model.conditions import Condition
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import InUse, NotFound
from holdfast.engine.model.values import Blob, Repository
from holdfast.engine.namespaces import namespaces, quota
from holdfast.engine.namespaces.open_uploads import OtherUploads

from . import images


async def remove(
    txn: Transaction, repository: Repository, digest: Digest, now: int, only_if: Condition
) -> None:
    """End an image's hold on a blob.

    Raises NotFound, Locked, PreconditionFailed, InUse where a manifest needs it.
    """
    image, namespace = await images.current(txn, repository)
    namespaces.check_unlocked(namespace)
    sha = await blob_rows.readable(txn, digest.key, image.key, now)
    claim = await claims.get(txn, image.key, sha)
    assert claim is not None
    if users := claim.content + claim.bodies + claim.children:
        raise InUse("blob", str(digest), users)
    only_if.check("blob", str(digest), str(digest))
    await claims.drop_hold(txn, images.owner_of(image, namespace), sha, now)
    await images.drop_draft(txn, image.key)


async def mount(
    txn: Transaction,
    repository: Repository,
    digest: Digest,
    source: Repository,
    now: int,
    hold_until: int,
    random: bytes,
    *,
    others: OtherUploads,
) -> Blob | None:
    """Let an image hold a blob that another one has a right to; None where that has none.

    Raises NotFound, Locked, QuotaExceeded.
    """
    try:
        origin, _ = await images.current(txn, source)
        sha = await blob_rows.readable(txn, digest.key, origin.key, now)
    except NotFound:
        return None
    row = await blob_rows.require(txn, sha)
    if row.damaged:
        return None
    image, namespace = await images.enter(
        txn, repository.namespace_id.bytes, repository.name, random, now
    )
    owner = images.owner_of(image, namespace)
    limits = await quota.of(txn, namespace, others.uploads_max, others.sessionless)
    await claims.hold(txn, owner, sha, row.size, hold_until, now)
    await limits.check_growth(txn, others.sessions, 0)
    if digest.algorithm != "sha256":
        await claims.name(txn, owner.key, sha, digest.key)
    return Blob(digest, row.size)
