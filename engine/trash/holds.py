"""Releases holds of a namespace before they expire, so that the sweep can free their blobs.

An upload, a mount and the last unlink of a blob leave a hold, so that clients have time to push
the manifest. A namespace at its quota may need the room of abandoned ones at once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from holdfast.engine.core import SECOND, Core
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import unseal
from holdfast.engine.model.errors import Corrupt, Invalid
from holdfast.engine.model.values import ReleasedHolds
from holdfast.engine.namespaces import namespaces
from holdfast.engine.repositories import images

from . import content
from .content import Needed

ROWS_PER_TXN: Final = 200
"""Claims and images that one transaction reads."""

_END: Final = b"\xff" * layout.SHA_BYTES


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Position in a walk over the images of a namespace and their claims."""

    began: int
    """Start of the walk (us); holds made later stay."""
    name: bytes
    """Name of the current image."""
    sha: bytes
    """sha256 of the last blob that was read there."""

    def __str__(self) -> str:
        return f"{self.began:x}.{self.sha.hex()}.{self.name.decode()}"

    @classmethod
    def parse(cls, text: str, now: int) -> _Cursor:
        """Parse what ``str`` returned. Raises Invalid (``after``)."""
        try:
            began, sha, name = text.split(".", 2)
            cursor = cls(int(began, 16), name.encode(), bytes.fromhex(sha))
        except ValueError:
            cursor = None
        if cursor is None or not 0 <= cursor.began <= now or len(cursor.sha) != len(_END):
            raise Invalid("after", "must be the ``after`` of an earlier response")
        return cursor


@dataclass(frozen=True, slots=True)
class _Released:
    released: int = 0
    size: int = 0
    kept: int = 0
    cursor: _Cursor | None = None


async def release(
    txn: Transaction,
    namespace_id: bytes,
    cursor: _Cursor,
    last: int,
    others: Needed,
    now: int,
    limit: int,
) -> _Released:
    """End the next holds that last until ``last`` (us) at most and that no manifest needs.

    Reads about ``limit`` rows. Raises NotFound, Locked.
    """
    namespace = await namespaces.require(txn, namespace_id)
    namespaces.check_unlocked(namespace)
    prefix = layout.IMAGE_NAME + namespace_id
    released = size = kept = 0
    left = limit
    for key, value in await txn.scan(prefix + cursor.name, after(prefix), limit=limit):
        name = key[len(prefix) :]
        start = cursor.sha + b"\0" if name == cursor.name else b""
        try:
            image = await images.by_key(txn, unseal(key, value))
        except Corrupt:
            # The check reports the row; its holds expire.
            image = None
        claimed = [] if image is None else await _claimed(txn, image.key, start, left)
        for sha in claimed:
            assert image is not None
            owner = images.owner_of(image, namespace)
            stays, count = await content.end_hold(txn, owner, sha, last, others, now)
            kept += stays
            if count >= 0:
                released, size = released + 1, size + count
        if image is not None and len(claimed) < left:
            # All of its claims were read: a draft that holds nothing any more goes.
            await images.drop_draft(txn, image.key)
        left -= len(claimed) + 1
        if left <= 0:
            # Below 0 the limit fell among the image's claims; at 0 the image is finished.
            sha = claimed[-1] if left < 0 else _END
            return _Released(released, size, kept, replace(cursor, name=name, sha=sha))
    return _Released(released, size, kept)


async def _claimed(txn: Transaction, image_key: bytes, start: bytes, limit: int) -> list[bytes]:
    """Return sha256 of blobs that an image has a claim on, from ``start`` on."""
    prefix = layout.claimed(image_key)
    rows = await txn.scan(prefix + start, after(prefix), limit=limit)
    return [key[len(prefix) :] for key, _ in rows]


class Holds:
    """The holds of a store's namespaces."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def release(
        self, namespace_id: UUID, *, after: str | None = None, seconds: float = 1.0
    ) -> ReleasedHolds:
        """End the holds of a namespace on blobs that none of its manifests needs.

        Leaves what deleted tags need for a restore (``Trash.purge`` ends those), and holds made
        after this began. A client that uploaded such a blob, and has not pushed the manifest yet,
        must upload it again. Works for about ``seconds``; the result has the ``after`` to
        continue with, or None if all is done. Raises NotFound, Locked, Invalid (``after``).
        """
        core = self._core
        now = core.now()
        cursor: _Cursor | None = _Cursor(now, b"", bytes(layout.SHA_BYTES))
        if after is not None:
            cursor = _Cursor.parse(after, now)
        assert cursor is not None
        last = cursor.began + int(core.config.hold_seconds * SECOND)
        namespace = await core.ledger.read(namespaces.require, namespace_id.bytes)
        others = await content.needed(core, namespace.project, namespace.id)
        clock = asyncio.get_running_loop().time
        stop = clock() + seconds
        total = ReleasedHolds(0, 0, 0, None)
        while cursor is not None:
            done = await core.ledger.transact(
                release, namespace.id, cursor, last, others, core.now(), ROWS_PER_TXN
            )
            cursor = done.cursor
            total = ReleasedHolds(
                total.released + done.released,
                total.size + done.size,
                total.kept + done.kept,
                None if cursor is None else str(cursor),
            )
            if clock() >= stop:
                break
        return total
