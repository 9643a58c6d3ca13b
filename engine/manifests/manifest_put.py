"""The transaction that stores a manifest: checks its needs, links them, moves tags, counts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from holdfast.engine.blobs import blob_rows, claims
from holdfast.engine.blobs.blob_rows import Arrival, Outcome
from holdfast.engine.blobs.claims import Owner
from holdfast.engine.core import SECOND
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Change, Transaction
from holdfast.engine.ledger.records import INLINE, Blob, delete_long, load, put_long, save
from holdfast.engine.ledger.records import Image as ImageRow
from holdfast.engine.ledger.records import Manifest as Row
from holdfast.engine.ledger.records import Referrer as ReferrerRow
from holdfast.engine.ledger.records import Tag as TagRow
from holdfast.engine.model.conditions import ALWAYS, Condition
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.documents import Document, Need
from holdfast.engine.model.errors import DescriptorMismatch, InvalidDigest, MissingContent, NotFound
from holdfast.engine.model.values import Pushed, Repository
from holdfast.engine.namespaces import identity, limit_rows, namespaces, quota
from holdfast.engine.namespaces.open_uploads import OtherUploads
from holdfast.engine.references.manifest_rows import (
    BODY,
    CHILD,
    CONTENT,
    NEED_KINDS,
    manifest_row,
    needs_of,
    present,
    remove,
    require,
)
from holdfast.engine.repositories import images, tags

DEFERRED_AGE_MAX: Final = 24 * 3600 * SECOND
"""Oldest ``updated`` time (us) that a push may renew later: interfaces show ages in days."""


@dataclass(frozen=True, slots=True)
class Push:
    """A push, parsed and checked as far as possible without the ledger."""

    digest: Digest
    document: Document
    tags: tuple[str, ...]
    sparse: bool
    """True if indexes may lack children; a setting of the namespace overrides it."""
    only_if: Condition
    guarded: str | None
    """Tag that the condition applies to; None if to the manifest itself."""


async def put(
    txn: Transaction,
    repository: Repository,
    push: Push,
    arrival: Arrival,
    now: int,
    random: bytes,
    others: OtherUploads,
) -> tuple[Outcome, Pushed | None]:
    """Store a manifest, link what it needs and move its tags, all or nothing.

    Raises NotFound, Locked, PreconditionFailed, Immutable, MissingContent, DescriptorMismatch,
    QuotaExceeded.
    """
    outcome = await blob_rows.publish(txn, arrival, now)
    if outcome == "recheck":
        return outcome, None
    image, namespace = await images.enter(
        txn, repository.namespace_id.bytes, repository.name, random[:16], now
    )
    await _check_condition(txn, image, push)
    time = await identity.tick(txn, now)
    if not image.listed:
        image = await images.enlist(txn, image, namespace, time, random[16:24])
    else:
        # The catalog stays as it is, so caches of names and rights stay valid.
        txn.declare_change(Change.CONTENT)
    owner = images.owner_of(image, namespace)
    limits = await quota.of(txn, namespace, others.uploads_max, others.sessionless)
    sparse = namespaces.takes_sparse(namespace, push.sparse)
    size = arrival.size
    await store_manifest(
        txn, owner, push.document, arrival.sha256, size, now, time, sparse=sparse, exact=True
    )
    await claims.name(txn, owner.key, arrival.sha256, arrival.alias)
    await limits.check_growth(txn, others.sessions, 0)
    for index, name in enumerate(push.tags):
        # A function of the arguments only: a transaction that runs again must choose the same ids.
        entropy = hashlib.sha256(random + index.to_bytes(2, "big")).digest()
        await tags.point(txn, (image, namespace), name, push.digest, arrival.sha256, time, entropy)
    await images.touch(txn, image, await identity.tick(txn, now))
    return outcome, pushed(push, image)


def pushed(push: Push, image: ImageRow) -> Pushed:
    """Return the result of a push."""
    subject = push.document.subject
    return Pushed(
        digest=push.digest,
        subject=None if subject is None else Digest.parse(subject),
        tags=push.tags,
        image_id=UUID(bytes=image.id),
    )


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Rows of a push that changes nothing but their times of update."""

    image: ImageRow
    tags: tuple[TagRow, ...]


async def unchanged(
    txn: Transaction, repository: Repository, push: Push, now: int
) -> Unchanged | None:
    """Return the rows of a push if every row that ``put`` might write is already as it should be.

    None if ``put`` has something to write or to refuse, if the namespace has retention rules
    (they go by the time of update), or if that time is over DEFERRED_AGE_MAX old and so must not
    be lost. Raises what reading raises; ``put`` then repairs the rows or reports the error.
    """
    if push.only_if is not ALWAYS or push.digest.algorithm != "sha256":
        return None
    namespace = await namespaces.require(txn, repository.namespace_id.bytes)
    if limit_rows.locked(namespace) or await txn.get(layout.RETENTION + namespace.id) is not None:
        return None
    image = await images.by_name(txn, namespace.id, repository.name)
    if image is None or not image.listed:
        return None
    sha = push.digest.raw
    row = await load(txn, Row, manifest_row(image.key, sha))
    if row is None or row.media_type != push.document.media_type or row.unfinished:
        return None
    # The list has the body and all needs; a shorter one lacks content that may be here by now.
    if len(await needs_of(txn, image.key, sha)) <= len(push.document.needs):
        return None
    blob = await load(txn, Blob, layout.BLOB + sha)
    if blob is None or blob.damaged or blob.place != INLINE:
        return None
    if await blob_rows.inline_content(txn, sha, blob) is None:
        return None
    rows = []
    for name in push.tags:
        tag = await tags.by_name(txn, image.key, name)
        if tag is None or (tag.digest, tag.sha) != (push.digest.key, sha):
            return None
        # In both directions: a clock that was ahead leaves times in the future.
        if not -DEFERRED_AGE_MAX <= now - tag.updated <= DEFERRED_AGE_MAX:
            return None
        rows.append(tag)
    return Unchanged(image, tuple(rows))


async def _check_condition(txn: Transaction, image: ImageRow, push: Push) -> None:
    """Compare the push's condition with the current state. Raises PreconditionFailed."""
    if push.only_if is ALWAYS:
        return
    if push.guarded is not None:
        tag = await tags.by_name(txn, image.key, push.guarded)
        current = None if tag is None else str(Digest.from_key(tag.digest))
        push.only_if.check("tag", push.guarded, current)
        return
    try:
        await require(txn, image.key, push.digest)
    except NotFound:
        push.only_if.check("manifest", str(push.digest), None)
    else:
        push.only_if.check("manifest", str(push.digest), str(push.digest))


async def store_manifest(
    txn: Transaction,
    owner: Owner,
    document: Document,
    sha: bytes,
    size: int,
    now: int,
    time: int,
    *,
    sparse: bool,
    exact: bool = False,
    unfinished: bytes = b"",
) -> None:
    """Write a manifest's row, its links, and its entry among the referrers of its subject.

    Its age counts from ``time`` (of the ledger), also if it existed before. With ``exact``, a
    descriptor whose size differs from the content's raises DescriptorMismatch; without, it counts
    as missing. Raises MissingContent. The caller ensures that the image may have the body. A
    restore in several transactions passes the id of its list as ``unfinished``; manifests that
    clients have pushed meanwhile are then left alone.
    """
    row_key = manifest_row(owner.key, sha)
    old = await load(txn, Row, row_key)
    if old is not None and old.media_type == document.media_type:
        if not unfinished:
            row = msgspec.structs.replace(old, unfinished=b"", renewed=time)
            await save(txn, row_key, row)
        await _link_late(txn, owner, document, sha, now)
        return
    needs = await _resolve(txn, owner.key, document.needs, sparse, now, exact=exact)
    if old is not None:
        # Another media type means other needs. The hold of a second covers the links made below.
        await remove(txn, owner, sha, old, now, now + SECOND)
    listed = []
    for kind, needed, length in ((BODY, sha, size), *needs):
        await claims.link(txn, owner, needed, length, NEED_KINDS[kind], now)
        listed.append(kind + needed)
    subject = b"" if document.subject is None else Digest.parse(document.subject).key
    artifact_type = document.artifact_type or ""
    row = Row(document.media_type, size, subject, artifact_type, time, unfinished)
    await save(txn, row_key, row)
    await put_long(txn, layout.NEEDS + owner.key + sha, b"".join(listed))
    if subject:
        referrer = ReferrerRow(document.media_type, size, artifact_type)
        await save(txn, layout.referrers_of(owner.key, subject) + sha, referrer)


async def _link_late(
    txn: Transaction, owner: Owner, document: Document, sha: bytes, time: int
) -> None:
    """Link optional content (foreign layers, missing children) that arrived after the manifest."""
    listed = await needs_of(txn, owner.key, sha)
    # The list has the body besides the needs: if it is longer than these, nothing is missing.
    if len(listed) > len(document.needs):
        return
    needs = await _resolve(txn, owner.key, document.needs, True, time)
    more = [need for need in needs if need[:2] not in listed]
    for kind, needed, length in more:
        await claims.link(txn, owner, needed, length, NEED_KINDS[kind], time)
        listed.append((kind, needed))
    if more:
        prefix = layout.NEEDS + owner.key + sha
        await delete_long(txn, prefix)
        await put_long(txn, prefix, b"".join(kind + needed for kind, needed in listed))


async def _resolve(
    txn: Transaction,
    image_key: bytes,
    needs: Sequence[Need],
    sparse: bool,
    now: int,
    *,
    exact: bool = False,
) -> list[tuple[bytes, bytes, int]]:
    """Return kind, sha256 and size of the content to link for the needs of a document.

    Raises MissingContent with all missing digests; with ``exact``, first DescriptorMismatch with
    all digests of another size, since pushing the missing ones would not help.
    """
    found: dict[tuple[bytes, bytes], int] = {}
    missing = []
    wrong = []
    for need in needs:
        kind = CHILD if need.kind == "child" else CONTENT
        try:
            sha = await blob_rows.canonical(txn, Digest.parse(need.digest).key, image_key)
        except InvalidDigest:
            sha = None
        claim = None if sha is None else await claims.get(txn, image_key, sha)
        # An expired hold does not protect content: the sweep may remove it at any time.
        good = claim is not None and bool(claim.needed or claim.hold > now)
        if good and claim is not None and claim.size != need.size:
            wrong.append((need.digest, claim.size, need.size))
            good = False
        if good and kind == CHILD and sha is not None:
            good = await present(txn, image_key, sha)
        if good and sha is not None:
            found[kind, sha] = need.size
        elif not (need.foreign or (sparse and kind == CHILD)):
            missing.append(need.digest)
    if wrong and exact:
        raise DescriptorMismatch(wrong)
    if missing:
        raise MissingContent(missing)
    return [(kind, sha, size) for (kind, sha), size in found.items()]
