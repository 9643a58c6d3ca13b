"""Quotas of a namespace and its project (design, "Numbers": ``kept_size``).

Two numbers count: the bytes that the namespace keeps, exact by its references, and the bytes of
its open uploads. The bytes of a session are in its row in the scratch ledger. An upload in one
request has no row: its process counts it in memory (``Quotas``). So the bytes of open uploads are
those of a moment before the transaction.

Uploads are checked while they are received, so that few bytes are received in vain. The
transaction that makes the namespace keep more decides. One that keeps no more is never refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from holdfast.engine.core import Core
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Change, Transaction, VersionedLedger
from holdfast.engine.ledger.records import Namespace
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import QuotaExceeded
from holdfast.engine.model.values import Repository
from holdfast.engine.references import kept

from . import limit_rows, namespaces
from .open_uploads import OtherUploads, UploadTotals, session_totals

ALLOWANCE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Most bytes that an upload may receive between two checks of its quota."""

UNLIMITED: Final = 1 << 62
"""Bytes that stand for no quota."""

CACHED_NAMESPACES_MAX: Final = 1024
"""Namespaces in the cache of those without a quota."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One quota in force, and the bytes kept under it."""

    resource: Literal["kept_size", "project_kept_size"]
    most: int
    """Quota in bytes."""
    key: bytes
    """Key of the counter of kept bytes."""
    kept: int
    """Bytes kept."""

    def used(self, sessions: UploadTotals, sessionless: UploadTotals) -> int:
        """Return the bytes that count, including those of open uploads."""
        if self.resource == "kept_size":
            return self.kept + sessions.bytes + sessionless.bytes
        return self.kept + sessions.project_bytes + sessionless.bytes


@dataclass(frozen=True, slots=True)
class Quota:
    """Usage and quotas of a namespace at one moment."""

    uploads_max: int
    """Most open uploads."""
    bounds: tuple[Bound, ...]
    """Quotas in force; empty without any."""
    sessionless: UploadTotals
    """Totals of uploads without a session, in this process."""
    room: int = UNLIMITED
    """Bytes that an upload without bounds may receive: more would not match its digest."""

    def check_uploads(self, sessions: UploadTotals, more: int) -> None:
        """Check that ``more`` further uploads may be open. Raises QuotaExceeded."""
        opened = sessions.uploads + self.sessionless.uploads
        if opened + more > self.uploads_max:
            raise QuotaExceeded("uploads", self.uploads_max, opened, more)

    def left(self, sessions: UploadTotals, more: int) -> int:
        """Return the bytes left after ``more`` bytes. Raises QuotaExceeded if these do not fit."""
        left = self.room
        for bound in self.bounds:
            used = bound.used(sessions, self.sessionless)
            if used + more > bound.most:
                raise QuotaExceeded(bound.resource, bound.most, used, more)
            left = min(left, bound.most - used - more)
        return left

    def allowance(self, sessions: UploadTotals, more: int) -> int:
        """Return how many bytes after ``more`` one upload may receive until its next check.

        At most an eighth of the rest, so that concurrent uploads get a share. Raises
        QuotaExceeded.
        """
        left = self.left(sessions, more)
        return min(ALLOWANCE_BYTES_MAX, left // 8 if self.bounds else left)

    async def check_growth(self, txn: Transaction, sessions: UploadTotals, own: int) -> None:
        """Check the growth of the kept bytes in this transaction. Raises QuotaExceeded.

        ``own`` of the bytes of sessions belong to the session that it publishes. Uploads without
        a session do not count, since each of them gets here itself: if they did, concurrent ones
        would all be refused although some fit. A transaction that keeps no more than before is
        never refused, even over the quota.
        """
        for bound in self.bounds:
            grown = await txn.counter(bound.key) - bound.kept
            # Another request may have ended the session since: never count less than the kept
            # bytes.
            used = max(bound.used(sessions, UploadTotals()) - own, bound.kept)
            if grown > 0 and used + grown > bound.most:
                raise QuotaExceeded(bound.resource, bound.most, used, grown)


async def of(
    txn: Transaction, namespace: Namespace, uploads_max: int, sessionless: UploadTotals
) -> Quota:
    """Return the quotas in force of an unlocked namespace. Raises Locked, Corrupt."""
    namespaces.check_unlocked(namespace)
    bounds = []
    if (most := limit_rows.quota(namespace)) >= 0:
        key = layout.counter(layout.PLACE_KEPT, namespaces.place(namespace))
        bounds.append(Bound("kept_size", most, key, await txn.counter(key)))
    if (most := (await limit_rows.of_project(txn, namespace.project)).quota) >= 0:
        key = layout.counter(layout.PROJECT_KEPT, namespace.project)
        bounds.append(Bound("project_kept_size", most, key, await txn.counter(key)))
    return Quota(uploads_max, tuple(bounds), sessionless)


async def read_quota(
    txn: Transaction,
    repository: Repository,
    uploads_max: int,
    sessionless: UploadTotals,
    digest: Digest | None,
    size: int,
) -> Quota:
    """Return the quotas for an upload to the repository of at least ``size`` bytes.

    ``digest`` is that of the upload, if known. Raises NotFound, Locked, Corrupt.
    """
    namespace = await namespaces.require(txn, repository.namespace_id.bytes)
    quota = await of(txn, namespace, uploads_max, sessionless)
    if not quota.bounds or digest is None or digest.algorithm != "sha256":
        return quota
    # A blob that the namespace keeps already adds nothing. Bytes beyond its size cannot be it.
    known = await kept.keeps(txn, namespace, digest.raw)
    if known is None or size > known:
        return quota
    return Quota(uploads_max, (), sessionless, known - size)


class Quotas:
    """Quotas of namespaces, and the totals of this process's uploads without a session."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._sums: dict[UUID, UploadTotals] = {}
        self._versioned = core.ledger if isinstance(core.ledger, VersionedLedger) else None
        self._unbounded: dict[UUID, int] = {}
        """Namespace -> ledger version in which it was seen unlocked and without a quota."""

    async def quota_for(
        self, repository: Repository, own: int = 0, digest: Digest | None = None, size: int = 0
    ) -> Quota:
        """Return the quota for an upload to the repository of at least ``size`` bytes.

        ``digest`` is that of the upload, if known; ``own`` as in ``sessionless``. Raises
        NotFound, Locked.
        """
        uploads_max = self._core.config.uploads_per_namespace_max
        sessionless = self.sessionless(repository.namespace_id, own)
        version = None if self._versioned is None else self._versioned.last_txn()
        if version is not None and self._is_unbounded(repository.namespace_id, version):
            return Quota(uploads_max, (), sessionless)
        found = await self._core.ledger.read(
            read_quota, repository, uploads_max, sessionless, digest, size
        )
        # With a digest, the empty bounds may mean only that the namespace keeps the blob already.
        if version is not None and digest is None and not found.bounds:
            self._unbounded[repository.namespace_id] = version
            if len(self._unbounded) > CACHED_NAMESPACES_MAX:
                self._unbounded.pop(next(iter(self._unbounded)))
        return found

    def _is_unbounded(self, namespace_id: UUID, version: int) -> bool:
        """Return True if a namespace had no quota when last read, and none can have come since.

        Any commit that could set one (a quota, a lock, a deletion) ends that. Pushes of content
        to existing images do not, so most uploads are answered from here.
        """
        seen = self._unbounded.get(namespace_id)
        if seen is None or self._versioned is None:
            return False
        if seen != version and self._versioned.changed(seen, version) is Change.ANY:
            return False
        self._unbounded[namespace_id] = version
        return True

    async def others(self, repository: Repository, own: int = 0) -> OtherUploads:
        """Return the open uploads other than the caller's; ``own`` as in ``sessionless``."""
        sessions = await self._core.scratch.read(
            session_totals, repository.namespace_id.bytes, repository.project_id.bytes
        )
        sessionless = self.sessionless(repository.namespace_id, own)
        return OtherUploads(self._core.config.uploads_per_namespace_max, sessions, sessionless)

    def sessionless(self, namespace_id: UUID, own: int = 0) -> UploadTotals:
        """Return the totals of uploads in one request to a namespace, without ``own`` bytes.

        ``own`` are the bytes of the upload that is being checked: it requests them separately, so
        that a refusal names them.
        """
        now = self._sums.get(namespace_id, UploadTotals())
        return UploadTotals(now.uploads, now.bytes - own)

    @contextmanager
    def enter(self, namespace_id: UUID) -> Iterator[UploadCounter]:
        """Count one more upload without a session while the block runs."""
        total = self._sums.setdefault(namespace_id, UploadTotals())
        total.uploads += 1
        counter = UploadCounter(total)
        try:
            yield counter
        finally:
            total.uploads -= 1
            counter.count(0)
            if not total.uploads:
                del self._sums[namespace_id]


class UploadCounter:
    """Counts the bytes of one upload in one request into the totals of its namespace."""

    def __init__(self, total: UploadTotals) -> None:
        self._total = total
        self._bytes = 0

    def count(self, size: int) -> None:
        """Set the bytes that the upload has received or is about to receive."""
        self._total.bytes += size - self._bytes
        self._bytes = size
