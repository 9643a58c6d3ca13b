"""The quota of a namespace while bytes arrive for it (design §9, "quota").

What counts is the namespace's size and the bytes of its open uploads. Those of a session stand
in its row, in the scratch ledger. An upload in one request has no row: its process counts it
beside (``Quotas``). The transaction that publishes an upload looks once more; and last, the put
of a manifest compares the size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from . import layout, namespaces
from .core import Core
from .errors import QuotaExceeded
from .ledger import Transaction
from .models import Repository
from .records import Namespace

STEP_BYTES: Final = 64 * 1024 * 1024
"""Most that an upload may bring before it asks again."""

UNLIMITED: Final = 1 << 62


@dataclass(slots=True)
class Coming:
    """Uploads on their way to a namespace."""

    uploads: int = 0
    bytes: int = 0
    """What they count for: what came of them, and for sessions a step ahead of that."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a namespace has and may have, as of one moment."""

    uploads_max: int
    """Open uploads."""
    size_max: int
    """In bytes; below zero there is none."""
    size: int
    """The namespace's size in bytes; 0 where there is no quota."""
    passing: Coming
    """Uploads without a session."""

    def check_uploads(self, sessions: Coming, more: int) -> None:
        """Whether so many more uploads may be open. Raises QuotaExceeded."""
        opened = sessions.uploads + self.passing.uploads
        if opened + more > self.uploads_max:
            raise QuotaExceeded("uploads", self.uploads_max, opened, more)

    def left(self, sessions: Coming, more: int) -> int:
        """Bytes that may still come once ``more`` have. Raises QuotaExceeded if these may not."""
        if self.size_max < 0:
            return UNLIMITED
        used = self.size + sessions.bytes + self.passing.bytes
        if used + more > self.size_max:
            raise QuotaExceeded("size", self.size_max, used, more)
        return self.size_max - used - more

    def step(self, sessions: Coming, more: int) -> int:
        """How much one upload may bring after ``more`` before it asks again.

        An eighth of what is left, so that the first one that asks leaves room for others.
        Raises QuotaExceeded.
        """
        return min(STEP_BYTES, self.left(sessions, more) // 8)


async def of(txn: Transaction, namespace: Namespace, uploads_max: int, passing: Coming) -> Quota:
    """The quota of a namespace that is open to uploads. Raises Locked."""
    namespaces.check_unlocked(namespace)
    if namespace.quota < 0:
        return Quota(uploads_max, -1, 0, passing)
    size = await txn.counter(layout.counter(layout.NAMESPACE_SIZE, namespace.id))
    return Quota(uploads_max, namespace.quota, size, passing)


async def look(
    txn: Transaction, repository: Repository, uploads_max: int, passing: Coming
) -> Quota:
    """The quota of the repository's namespace. Raises NotFound, Locked."""
    namespace = await namespaces.require(txn, repository.namespace_id.bytes)
    return await of(txn, namespace, uploads_max, passing)


class Quotas:
    """The quotas of namespaces, and the uploads in one request that run in this process."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._sums: dict[UUID, Coming] = {}

    async def look(self, repository: Repository, own: int = 0) -> Quota:
        """The quota of the repository's namespace; ``own`` as ``passing`` has it.

        Raises NotFound, Locked.
        """
        uploads_max = self._core.config.uploads_per_namespace_max
        passing = self.passing(repository.namespace_id, own)
        return await self._core.ledger.read(look, repository, uploads_max, passing)

    def passing(self, namespace_id: UUID, own: int = 0) -> Coming:
        """The uploads in one request to a namespace, as of now, without the ``own`` bytes of the
        one that asks: these it asks for, so that a refusal names them."""
        now = self._sums.get(namespace_id, Coming())
        return Coming(now.uploads, now.bytes - own)

    @contextmanager
    def enter(self, namespace_id: UUID) -> Iterator[Passage]:
        """One more of them, for as long as the block lasts."""
        total = self._sums.setdefault(namespace_id, Coming())
        total.uploads += 1
        passage = Passage(total)
        try:
            yield passage
        finally:
            total.uploads -= 1
            passage.count(0)
            if not total.uploads:
                del self._sums[namespace_id]


class Passage:
    """One upload in one request."""

    def __init__(self, total: Coming) -> None:
        self._total = total
        self._bytes = 0

    def count(self, size: int) -> None:
        """It has, or will have, so many bytes."""
        self._total.bytes += size - self._bytes
        self._bytes = size
