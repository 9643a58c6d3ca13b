"""Kept bytes of a namespace: the numbers that quotas limit (design, "Numbers").

Each blob counts once in a namespace: as content, else as a manifest, else as held. Blobs of the
trash count until the purge. ``claims`` writes the counters; this module reads them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from holdfast.engine.blobs import claims
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import Image, Namespace, Trash, load
from holdfast.engine.model.errors import Corrupt

ROWS_SCANNED_MAX: Final = 10_000
"""Most rows that one scan of a namespace's trash reads."""

_ENTRIES_PER_SCAN: Final = 500
"""Entries of the trash read at a time."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Bytes kept under a namespace's name; each blob is in one part, so the parts add up."""

    content: int
    manifests: int
    held: int
    trash: int
    """Bytes needed only by images in the trash, or by deleted namespaces of that name."""


async def keeps(txn: Transaction, row: Namespace, sha: bytes) -> int | None:
    """Return the size of a blob that the namespace already keeps.

    None if it does not keep the blob, or if damaged rows hide the answer.
    """
    for kind in claims.PARTS:
        prefix = layout.references(sha, kind) + row.project + row.id
        if rows := await txn.scan(prefix, after(prefix), limit=1):
            try:
                claim = await claims.get(txn, rows[0][0][layout.OWNER_AT :], sha)
            except Corrupt:
                continue
            return None if claim is None else claim.size
    return None


async def parts(txn: Transaction, row: Namespace) -> Parts:
    """Return the bytes kept by a living namespace and by deleted ones of its name.

    The sums come from counters. A scan of the namespace's images in the trash finds which of
    these bytes only the trash needs. It reads about ROWS_SCANNED_MAX rows; blobs beyond that, and
    those hidden by damaged rows, stay in the part in which they are counted.
    """
    sums = {
        kind: await txn.counter(layout.counter(name, row.id)) for kind, name in claims.PARTS.items()
    }
    place = layout.place(row.project, row.region, row.name)
    # The name's counter minus this namespace's is what deleted namespaces of the name keep.
    trash = await txn.counter(layout.counter(layout.PLACE_KEPT, place))
    trash -= sum(sums.values())
    scan = _TrashScan(txn, row)
    async for kind, size in scan.blobs():
        sums[kind] -= size
        trash += size
    return Parts(sums[layout.CONTENT], sums[layout.KEPT], sums[layout.HELD], trash)


class _TrashScan:
    """Bounded scan for blobs that images of a namespace in the trash need, and no living image."""

    def __init__(self, txn: Transaction, namespace: Namespace) -> None:
        self._txn = txn
        self._namespace = namespace
        self._left = ROWS_SCANNED_MAX
        self._living: dict[bytes, bool] = {}

    async def blobs(self) -> AsyncIterator[tuple[bytes, int]]:
        """Yield each of these blobs once: the part that it is counted in, and its size."""
        seen: set[bytes] = set()
        async for image_key in self._images():
            prefix = layout.claimed(image_key)
            rows = await self._txn.scan(prefix, after(prefix), limit=max(self._left, 0))
            for key, _ in rows:
                self._left -= 1
                sha = key[-layout.SHA_BYTES :]
                if sha in seen:
                    continue
                seen.add(sha)
                try:
                    found = await self._counted(image_key, sha)
                except Corrupt:
                    continue
                if found is not None:
                    yield found

    async def _images(self) -> AsyncIterator[bytes]:
        """Yield the keys of the namespace's images in the trash."""
        prefix = layout.TRASH_PROJECT + self._namespace.project
        start = prefix
        while self._left > 0 and (
            rows := await self._txn.scan(start, after(prefix), limit=_ENTRIES_PER_SCAN)
        ):
            self._left -= len(rows)
            for key, _ in rows:
                try:
                    entry = await load(self._txn, Trash, layout.TRASH + key[len(prefix) :])
                except Corrupt:
                    # Its bytes stay in the part where they are; the check reports the row.
                    continue
                if entry and entry.kind == "image" and entry.namespace == self._namespace.id:
                    yield entry.image
            start = rows[-1][0] + b"\0"

    async def _counted(self, image_key: bytes, sha: bytes) -> tuple[bytes, int] | None:
        """Return the part and the size of a blob; None if a living image needs it too."""
        first = None
        for kind in claims.PARTS:
            prefix = layout.references(sha, kind)
            prefix += self._namespace.project + self._namespace.id
            rows = await self._txn.scan(prefix, after(prefix), limit=max(self._left, 1))
            self._left -= len(rows)
            for key, _ in rows:
                if await self._lives(key[layout.OWNER_AT :]):
                    return None
            if rows and first is None:
                first = kind
        claim = await claims.get(self._txn, image_key, sha)
        return None if first is None or claim is None else (first, claim.size)

    async def _lives(self, image_key: bytes) -> bool:
        if image_key not in self._living:
            row = await load(self._txn, Image, layout.IMAGE + image_key)
            self._living[image_key] = row is not None and not row.deleted
        return self._living[image_key]
