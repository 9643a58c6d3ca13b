"""Touches: pushes that changed nothing but ``updated_at``, gathered and written once in a while.

A client that pushes again what is there already needs no commit: all that its answer promises is
durable. The one thing such a push changes is when tag, image and namespace were updated last.
That is kept here, and written for many pushes at a time, as ``pull_counts`` are. A process that is
killed loses the touches of the last moment, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

import msgspec

from holdfast.engine.core import Core
from holdfast.engine.depot.gate import Gathering
from holdfast.engine.ledger.interface import Change, Transaction
from holdfast.engine.ledger.records import Image as ImageRow
from holdfast.engine.ledger.records import Tag as TagRow
from holdfast.engine.ledger.records import save
from holdfast.engine.model.errors import Corrupt, NotFound
from holdfast.engine.namespaces import identity, namespaces
from holdfast.engine.tasks import batches
from holdfast.engine.tasks.background import Background

from . import images, pull_counts, tags

_log: Final = logging.getLogger(__name__)

FLUSH_INTERVAL_SECONDS: Final = 0.1
"""Seconds from the first touch to the commit of all that were gathered."""

GATHERED_IMAGES_MAX: Final = 10_000
"""Images that are gathered. A push to one more is committed by itself."""

TAGS_PER_IMAGE_MAX: Final = 1000
"""Tags of one image, likewise."""


@dataclass(slots=True)
class DeferredTime:
    """What was pushed again to one image since the last write."""

    when: int
    manifests: set[bytes] = field(default_factory=set)
    tags: dict[str, Pushed] = field(default_factory=dict)


Pushed = tuple[bytes, int]
"""Id of a tag, and when it was pushed to: rules go by the order of these, too."""

Entry = tuple[bytes, int, tuple[bytes, ...], tuple[tuple[str, Pushed], ...]]
"""Image key, when it was pushed to last, which manifests, and to which tags, by their names."""


async def write(txn: Transaction, gathered: tuple[Entry, ...], now: int) -> None:
    """Do for images and tags that are still there what a push does that commits by itself."""
    txn.declare_change(Change.TIMES)
    for image_key, pushed_at, manifests, pushed in gathered:
        # The clock may have gone back since.
        when = min(pushed_at, now)
        image = await images.by_key(txn, image_key)
        if image is None or image.deleted:
            continue
        try:
            await namespaces.require(txn, image.namespace)
        except NotFound:
            continue
        time = await identity.tick(txn, when)
        for sha in manifests:
            await pull_counts.renew(txn, image_key, sha, time)
        for name, (tag_id, tagged_at) in pushed:
            tag = await tags.by_name(txn, image_key, name)
            if tag is not None and tag.id == tag_id:
                # What was pushed after it, and committed before, is the newer one.
                row = msgspec.structs.replace(tag, updated=max(tag.updated, min(tagged_at, now)))
                await save(txn, tags.tag_row(image_key, name), row)
        await images.touch(txn, image, await identity.tick(txn, when))


class DeferredTimes:
    """The touches of this process."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._gathered: dict[bytes, DeferredTime] = {}
        self._gathering = Gathering(core.gate)
        self._flushing = asyncio.Lock()
        self._noted = asyncio.Event()
        self.background = Background("touches", self._turn)

    def record(self, image: ImageRow, sha: bytes, pushed: tuple[TagRow, ...], when: int) -> bool:
        """Note a push of a manifest that changed nothing else.

        Returns False where no room is left, or during a decision by such times.
        """
        if not self._gathering.begin():
            return False
        self._noted.set()
        touch = self._gathered.get(image.key)
        if touch is None:
            if len(self._gathered) >= GATHERED_IMAGES_MAX:
                return False
            touch = self._gathered[image.key] = DeferredTime(when)
        elif (
            len(touch.tags) + len(pushed) > TAGS_PER_IMAGE_MAX
            or len(touch.manifests) >= TAGS_PER_IMAGE_MAX
        ):
            return False
        touch.when = max(touch.when, when)
        touch.manifests.add(sha)
        touch.tags.update((tag.name, (tag.id, when)) for tag in pushed)
        return True

    async def flush(self) -> None:
        """Write what was gathered; what cannot be written now is kept for the next time.

        What has a damaged row is not touched.
        """
        # What another flush is writing at this moment is written when this returns, too.
        async with self._flushing:
            with self._gathering.writing(lambda: bool(self._gathered)):
                gathered, self._gathered = self._gathered, {}
                self._noted.clear()
                waiting = [
                    (key, touch.when, tuple(touch.manifests), tuple(touch.tags.items()))
                    for key, touch in gathered.items()
                ]
                await batches.flush_batched(self._write, waiting, self._refused, self._keep)

    def _keep(self, entry: Entry) -> None:
        """Put back what was not written, below what came since."""
        key, when, manifests, pushed = entry
        newer = self._gathered.get(key)
        touch = self._gathered[key] = DeferredTime(when, set(manifests), dict(pushed))
        if newer is not None:
            touch.when = max(when, newer.when)
            touch.manifests |= newer.manifests
            touch.tags.update(newer.tags)
        self._noted.set()

    async def _write(self, some: tuple[Entry, ...]) -> None:
        await self._core.ledger.transact(write, some, self._core.now())

    async def _refused(self, entry: Entry, error: Corrupt) -> None:
        _log.error("image %s keeps its time of update: %s", entry[0].hex(), error)

    async def _turn(self) -> float:
        await self._noted.wait()
        await self.background.rest(FLUSH_INTERVAL_SECONDS)
        await self.flush()
        return 0.0

    async def close(self) -> None:
        """Write what is left, and end the background."""
        try:
            await self.background.stop()
        finally:
            await self.flush()
