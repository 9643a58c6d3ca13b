"""Holds of a namespace: ended before their time, so that what they keep makes room.

An upload, a mount and the last unlink leave a hold, so that whoever pushes has time for the
manifest. At its quota a namespace may need the room of those that were left behind at once.
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

STEP: Final = 200
"""Claims and images looked at in one transaction."""

_END: Final = b"\xff" * layout.SHA_BYTES


@dataclass(frozen=True, slots=True)
class _Place:
    """How far a walk over the images of a namespace and their claims has come."""

    began: int
    """When; later holds stay."""
    name: bytes
    """The image that it is at."""
    sha: bytes
    """The last blob that it looked at there."""

    def __str__(self) -> str:
        return f"{self.began:x}.{self.sha.hex()}.{self.name.decode()}"

    @classmethod
    def parse(cls, text: str, now: int) -> _Place:
        """The inverse of ``str``. Raises Invalid (``after``)."""
        try:
            began, sha, name = text.split(".", 2)
            place = cls(int(began, 16), name.encode(), bytes.fromhex(sha))
        except ValueError:
            place = None
        if place is None or not 0 <= place.began <= now or len(place.sha) != len(_END):
            raise Invalid("after", "is not what an answer said")
        return place


@dataclass(frozen=True, slots=True)
class _Done:
    released: int = 0
    size: int = 0
    kept: int = 0
    rest: _Place | None = None


async def release(
    txn: Transaction,
    namespace_id: bytes,
    place: _Place,
    last: int,
    others: Needed,
    now: int,
    limit: int,
) -> _Done:
    """End some holds that last until ``last`` at most, of what no manifest needs.

    Raises NotFound, Locked.
    """
    namespace = await namespaces.require(txn, namespace_id)
    namespaces.check_unlocked(namespace)
    prefix = layout.IMAGE_NAME + namespace_id
    released = size = kept = 0
    left = limit
    for key, value in await txn.scan(prefix + place.name, after(prefix), limit=limit):
        name = key[len(prefix) :]
        start = place.sha + b"\0" if name == place.name else b""
        try:
            image = await images.by_key(txn, unseal(key, value))
        except Corrupt:
            # The check tells of it; its holds end by themselves.
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
            await images.drop_draft(txn, image.key)
        left -= len(claimed) + 1
        if left <= 0:
            sha = claimed[-1] if left < 0 else _END
            return _Done(released, size, kept, replace(place, name=name, sha=sha))
    return _Done(released, size, kept)


async def _claimed(txn: Transaction, image_key: bytes, start: bytes, limit: int) -> list[bytes]:
    """Blobs that an image has a claim on, from one on."""
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
        """End the holds of a namespace on what no manifest of it needs.

        What deleted tags need to come back stays (``Trash.purge`` gives that up), and so do holds
        that are taken after this began. A client that was told of such a blob, and has not put the
        manifest yet, has to push the blob again. Works for some ``seconds``; the answer has the
        ``after`` with which to go on, or None. Raises NotFound, Locked, Invalid (``after``).
        """
        core = self._core
        now = core.now()
        place: _Place | None = _Place(now, b"", bytes(layout.SHA_BYTES))
        if after is not None:
            place = _Place.parse(after, now)
        assert place is not None
        last = place.began + int(core.config.hold_seconds * SECOND)
        namespace = await core.ledger.read(namespaces.require, namespace_id.bytes)
        others = await content.needed(core, namespace.project, namespace.id)
        clock = asyncio.get_running_loop().time
        stop = clock() + seconds
        total = ReleasedHolds(0, 0, 0, None)
        while place is not None:
            done = await core.ledger.transact(
                release, namespace.id, place, last, others, core.now(), STEP
            )
            place = done.rest
            total = ReleasedHolds(
                total.released + done.released,
                total.size + done.size,
                total.kept + done.kept,
                None if place is None else str(place),
            )
            if clock() >= stop:
                break
        return total
