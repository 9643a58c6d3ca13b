"""The quota of a namespace while bytes arrive for it (design §9, "quota").

What counts is the namespace's size and the bytes of its open uploads. Those of a session stand
in its row. An upload in one request has no row: its process counts it beside (``Passing``), and
the transaction that publishes it looks once more. Last, the put of a manifest compares the size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from . import layout, namespaces
from .errors import QuotaExceeded
from .ledger import Transaction
from .models import Repository
from .records import Namespace

STEP_BYTES: Final = 64 * 1024 * 1024
"""Most that an upload may bring before it asks again."""

UNLIMITED: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Limits:
    """What a namespace is held to, beyond its row."""

    uploads_max: int
    """Open uploads."""
    uploads: int = 0
    """Uploads to it in one request that run in this process now."""
    bytes: int = 0
    """Bytes of these: what was announced, or came."""


@dataclass(slots=True)
class _Sum:
    uploads: int = 0
    bytes: int = 0


class Passing:
    """The uploads in one request that run in this process, by namespace."""

    def __init__(self, uploads_max: int) -> None:
        self._uploads_max = uploads_max
        self._sums: dict[UUID, _Sum] = {}

    def limits(self, namespace_id: UUID) -> Limits:
        """The limits of a namespace as of now."""
        total = self._sums.get(namespace_id)
        if total is None:
            return Limits(self._uploads_max)
        return Limits(self._uploads_max, total.uploads, total.bytes)

    @contextmanager
    def enter(self, namespace_id: UUID) -> Iterator[Passage]:
        """One more of them, for as long as the block lasts."""
        total = self._sums.setdefault(namespace_id, _Sum())
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

    def __init__(self, total: _Sum) -> None:
        self._total = total
        self._bytes = 0

    def count(self, size: int) -> None:
        """It has, or will have, so many bytes."""
        self._total.bytes += size - self._bytes
        self._bytes = size


async def look(txn: Transaction, repository: Repository, more: int, limits: Limits) -> int:
    """As ``left``, for an upload that is counted in the limits; its namespace must be open to it.

    Raises NotFound, Locked, QuotaExceeded.
    """
    namespace = await namespaces.require(txn, repository.namespace_id.bytes)
    namespaces.check_unlocked(namespace)
    await check_uploads(txn, namespace, 0, limits)
    return await left(txn, namespace, more, limits)


async def check_uploads(txn: Transaction, namespace: Namespace, more: int, limits: Limits) -> None:
    """Whether so many more uploads may be open. Raises QuotaExceeded."""
    opened = await txn.counter(layout.counter(layout.NAMESPACE_UPLOADS, namespace.id))
    if opened + limits.uploads + more > limits.uploads_max:
        raise QuotaExceeded("uploads", limits.uploads_max, opened + limits.uploads)


async def left(txn: Transaction, namespace: Namespace, more: int, limits: Limits) -> int:
    """Bytes that may still come once ``more`` have. Raises QuotaExceeded if these may not."""
    if namespace.quota < 0:
        return UNLIMITED
    size = await txn.counter(layout.counter(layout.NAMESPACE_SIZE, namespace.id))
    coming = await txn.counter(layout.counter(layout.NAMESPACE_UPLOAD_BYTES, namespace.id))
    used = size + coming + limits.bytes
    if used + more > namespace.quota:
        raise QuotaExceeded("size", namespace.quota, used)
    return namespace.quota - used - more


def step(rest: int) -> int:
    """How much of what is left one upload may bring before it asks again.

    An eighth, so that the first one that asks leaves room for others.
    """
    return min(STEP_BYTES, rest // 8)
