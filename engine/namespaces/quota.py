"""The quotas of a namespace and its project (design, "Numbers": ``kept_size``).

What counts is what the namespace keeps, which its references tell exactly, and the bytes of its
open uploads. Those of a session stand in its row, in the scratch ledger. An upload in one request
has no row: its process counts it beside (``Quotas``). So that part is as of a moment before the
transaction. Bytes are compared while they come, so that few come for nothing; what decides is the
transaction that makes the namespace keep more. What does not is never refused.
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
"""Most that an upload may bring before it asks again."""

UNLIMITED: Final = 1 << 62

CACHED_NAMESPACES_MAX: Final = 1024
"""Namespaces that are remembered to be bound by nothing."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One quota in force, and what is kept under it."""

    resource: Literal["kept_size", "project_kept_size"]
    most: int
    """Bytes."""
    key: bytes
    """Of the counter."""
    kept: int

    def used(self, sessions: UploadTotals, sessionless: UploadTotals) -> int:
        """Bytes that count, those of open uploads too."""
        if self.resource == "kept_size":
            return self.kept + sessions.bytes + sessionless.bytes
        return self.kept + sessions.project_bytes + sessionless.bytes


@dataclass(frozen=True, slots=True)
class Quota:
    """What a namespace has and may have, as of one moment."""

    uploads_max: int
    """Open uploads."""
    bounds: tuple[Bound, ...]
    """None where nothing bounds what it keeps."""
    sessionless: UploadTotals
    """Uploads without a session."""
    room: int = UNLIMITED
    """Bytes that may come where nothing bounds them: more are not what they are said to be."""

    def check_uploads(self, sessions: UploadTotals, more: int) -> None:
        """Whether so many more uploads may be open. Raises QuotaExceeded."""
        opened = sessions.uploads + self.sessionless.uploads
        if opened + more > self.uploads_max:
            raise QuotaExceeded("uploads", self.uploads_max, opened, more)

    def left(self, sessions: UploadTotals, more: int) -> int:
        """Bytes that may still come once ``more`` have. Raises QuotaExceeded if these may not."""
        left = self.room
        for bound in self.bounds:
            used = bound.used(sessions, self.sessionless)
            if used + more > bound.most:
                raise QuotaExceeded(bound.resource, bound.most, used, more)
            left = min(left, bound.most - used - more)
        return left

    def allowance(self, sessions: UploadTotals, more: int) -> int:
        """How much one upload may bring after ``more`` before it asks again.

        An eighth of what is left, so that the first one that asks leaves room for others.
        Raises QuotaExceeded.
        """
        left = self.left(sessions, more)
        return min(ALLOWANCE_BYTES_MAX, left // 8 if self.bounds else left)

    async def check_growth(self, txn: Transaction, sessions: UploadTotals, own: int) -> None:
        """See that what this transaction made the namespace keep fits. Raises QuotaExceeded.

        ``own`` of the bytes of sessions are of the one that it makes a blob of. Uploads without
        a session do not count here, since each of them comes to this point itself: else those
        that come at once would all be refused, though some fit. A transaction that keeps no
        more than before is never refused, whatever was kept then.
        """
        for bound in self.bounds:
            grown = await txn.counter(bound.key) - bound.kept
            # Another one may have ended its session since.
            used = max(bound.used(sessions, UploadTotals()) - own, bound.kept)
            if grown > 0 and used + grown > bound.most:
                raise QuotaExceeded(bound.resource, bound.most, used, grown)


async def of(
    txn: Transaction, namespace: Namespace, uploads_max: int, sessionless: UploadTotals
) -> Quota:
    """The quotas in force of a namespace that is open to uploads. Raises Locked, Corrupt."""
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
    """The quotas of the repository's namespace for an upload of that digest, where it is known,
    and of that size at least.

    Raises NotFound, Locked, Corrupt.
    """
    namespace = await namespaces.require(txn, repository.namespace_id.bytes)
    quota = await of(txn, namespace, uploads_max, sessionless)
    if not quota.bounds or digest is None or digest.algorithm != "sha256":
        return quota
    # What it keeps already adds nothing; what is larger is something else.
    known = await kept.keeps(txn, namespace, digest.raw)
    if known is None or size > known:
        return quota
    return Quota(uploads_max, (), sessionless, known - size)


class Quotas:
    """The quotas of namespaces, and the uploads in one request that run in this process."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._sums: dict[UUID, UploadTotals] = {}
        self._versioned = core.ledger if isinstance(core.ledger, VersionedLedger) else None
        self._unbounded: dict[UUID, int] = {}
        """The version of the ledger in which a namespace was seen open, and bound by nothing."""

    async def quota_for(
        self, repository: Repository, own: int = 0, digest: Digest | None = None, size: int = 0
    ) -> Quota:
        """The quota of the repository's namespace for an upload of that digest, where it is
        known, and of that size at least; ``own`` as in ``sessionless``. Raises NotFound, Locked.
        """
        uploads_max = self._core.config.uploads_per_namespace_max
        sessionless = self.sessionless(repository.namespace_id, own)
        version = None if self._versioned is None else self._versioned.last_txn()
        if version is not None and self._is_unbounded(repository.namespace_id, version):
            return Quota(uploads_max, (), sessionless)
        found = await self._core.ledger.read(
            read_quota, repository, uploads_max, sessionless, digest, size
        )
        # With a digest, what comes may only be known already.
        if version is not None and digest is None and not found.bounds:
            self._unbounded[repository.namespace_id] = version
            if len(self._unbounded) > CACHED_NAMESPACES_MAX:
                self._unbounded.pop(next(iter(self._unbounded)))
        return found

    def _is_unbounded(self, namespace_id: UUID, version: int) -> bool:
        """Whether nothing bound a namespace when it was looked at last, and nothing that could
        (a quota, a lock, a deletion) was committed since: what most uploads ask, and pushes of
        content to images that are there do not change."""
        seen = self._unbounded.get(namespace_id)
        if seen is None or self._versioned is None:
            return False
        if seen != version and self._versioned.changed(seen, version) is Change.ANY:
            return False
        self._unbounded[namespace_id] = version
        return True

    async def others(self, repository: Repository, own: int = 0) -> OtherUploads:
        """The uploads beside one to the repository; ``own`` as ``sessionless`` has it."""
        sessions = await self._core.scratch.read(
            session_totals, repository.namespace_id.bytes, repository.project_id.bytes
        )
        sessionless = self.sessionless(repository.namespace_id, own)
        return OtherUploads(self._core.config.uploads_per_namespace_max, sessions, sessionless)

    def sessionless(self, namespace_id: UUID, own: int = 0) -> UploadTotals:
        """The uploads in one request to a namespace, as of now, without the ``own`` bytes of the
        one that asks: these it asks for, so that a refusal names them."""
        now = self._sums.get(namespace_id, UploadTotals())
        return UploadTotals(now.uploads, now.bytes - own)

    @contextmanager
    def enter(self, namespace_id: UUID) -> Iterator[UploadCounter]:
        """One more of them, for as long as the block lasts."""
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
    """One upload in one request."""

    def __init__(self, total: UploadTotals) -> None:
        self._total = total
        self._bytes = 0

    def count(self, size: int) -> None:
        """It has, or will have, so many bytes."""
        self._total.bytes += size - self._bytes
        self._bytes = size
