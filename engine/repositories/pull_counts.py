"""Pull counts: gathered in memory, and written now and then, so that a pull is never a write.

By tag: HEAD or GET of a manifest counts for that tag. By digest: GET counts for the image and for
the tags on the manifest; and where the caller may push, HEAD or GET renews the manifest, since it
told a pusher that there is no need to send it. A process that is killed loses what it gathered
since the last time. While retention decides, each note is written by itself (``gate``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from holdfast.engine.blobs import blob_rows
from holdfast.engine.core import SECOND, Core
from holdfast.engine.depot import gate
from holdfast.engine.depot.gate import Gathering
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Change, Transaction
from holdfast.engine.ledger.records import Manifest, load, save
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Corrupt, EngineError
from holdfast.engine.model.values import Repository
from holdfast.engine.namespaces import identity
from holdfast.engine.references import manifest_rows
from holdfast.engine.tasks import batches
from holdfast.engine.tasks.background import Background

from . import images, tags

_log: Final = logging.getLogger(__name__)

FLUSH_INTERVAL_SECONDS: Final = 10.0
"""Seconds from the first pull to the write of all gathered ones; less where a decision waits."""

GATHERED_REFERENCES_MAX: Final = 10_000
"""Different references gathered; a pull of one more is written by itself."""

TAGS_PER_PULL_MAX: Final = 100
"""Tags on one manifest whose counts move with a pull by digest."""


@dataclass(slots=True)
class Pull:
    """Pulls of one reference since the last write."""

    count: int = 0
    last: float = 0.0
    """Seconds since 1970: what the clock says, since every pull asks it."""
    renewed: float = 0.0
    """Likewise, when a pusher was told of it; 0 where none was."""


Entry = tuple[bytes, str, int, int, int]
"""Image key, tag or digest, how many pulls, when the last one was, when it was renewed."""


async def write(txn: Transaction, gathered: tuple[Entry, ...], now: int) -> None:
    """Add what was gathered to the rows of tags and images that are still there."""
    txn.declare_change(Change.TIMES)
    # Tells that the clock was ahead, if it was.
    await identity.tick(txn, now)
    for image_key, reference, count, pulled, told in gathered:
        last, renewed = min(pulled, now), min(told, now)
        if ":" not in reference:
            await _count_tag(txn, image_key, reference, count, last)
            continue
        sha = await blob_rows.canonical(txn, Digest.parse(reference).key, image_key)
        image = await images.by_key(txn, image_key)
        if sha is None or image is None:
            continue
        if not await manifest_rows.present(txn, image_key, sha):
            continue
        if renewed:
            await renew(txn, image_key, sha, await identity.tick(txn, renewed))
        if not count:
            continue
        row = msgspec.structs.replace(
            image, pulls=image.pulls + count, pulled=max(image.pulled, last)
        )
        await save(txn, layout.IMAGE + image_key, row)
        for name in await manifest_rows.tags_of(txn, image_key, sha, TAGS_PER_PULL_MAX):
            await _count_tag(txn, image_key, name, count, last)


async def renew(txn: Transaction, image_key: bytes, sha: bytes, time: int) -> None:
    """Let the age of a manifest count from that time of the ledger, if it is there."""
    key = manifest_rows.manifest_row(image_key, sha)
    row = await load(txn, Manifest, key)
    if row is not None:
        await save(txn, key, msgspec.structs.replace(row, renewed=time))


async def _count_tag(txn: Transaction, image_key: bytes, name: str, count: int, last: int) -> None:
    tag = await tags.by_name(txn, image_key, name)
    if tag is not None:
        row = msgspec.structs.replace(tag, pulls=tag.pulls + count, pulled=max(tag.pulled, last))
        await save(txn, tags.tag_row(image_key, name), row)


class Pulls:
    """The pulls that this process served."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._clock = core.clock
        self._gathered: dict[tuple[bytes, str], Pull] = {}
        self.gathering = Gathering(core.gate)
        """Where nothing is gathered yet, what was found before may be gone: see ``passing``."""
        self._flushing = asyncio.Lock()
        self._noted = asyncio.Event()
        self._full = False
        self.background = Background("pulls", self._turn)

    def begin(self) -> bool:
        """Get ready to gather; False while each pull has to be written. Never waits."""
        if not self.gathering.begin():
            return False
        self._noted.set()
        return True

    @contextmanager
    def passing(self) -> Iterator[bool]:
        """Look up inside this context what ``count`` gets: then no decision comes in between.

        Yields False during a decision: see ``write``.
        """
        with self._core.gate.passing() as inside:
            yield inside

    def count(
        self, repository: Repository, reference: str, *, pulled: bool = True, renews: bool = False
    ) -> bool:
        """Note that a manifest was found by a tag or a digest. Never waits.

        ``pulled``: it counts as a pull. ``renews``: by digest, for a caller who may push. False,
        and nothing noted, where that has to be written at once: see ``write``.
        """
        if repository.key is None:
            return True
        key = repository.key, reference
        if not (self.gathering.inside or self.gathering.begin()):
            return False
        pull = self._gathered.get(key)
        if pull is None:
            if len(self._gathered) >= GATHERED_REFERENCES_MAX:
                self._full = True
                return False
            pull = self._gathered[key] = Pull()
            self._noted.set()
        now = self._clock()
        if pulled:
            pull.count += 1
            pull.last = now
        if renews:
            pull.renewed = now
        return True

    async def write(
        self, repository: Repository, reference: str, *, pulled: bool = True, renews: bool = False
    ) -> None:
        """Count a pull as ``count`` does, and write it before returning; the caller looks again.

        A pull that cannot be written now is noted: no pull is refused for that.
        """
        if repository.key is None:
            return
        now = self._core.now()
        entry = (repository.key, reference, int(pulled), now * pulled, now * renews)
        try:
            await batches.flush_batched(self._write, [entry], self._refused, self._keep)
        except EngineError as error:
            _log.error("a pull of %s is written later: %s", reference, error)

    async def flush(self) -> None:
        """Write what was gathered; what cannot be written now is kept for the next time.

        Pulls of what has a damaged row are not counted.
        """
        # What another flush is writing at this moment is written when this returns, too.
        async with self._flushing:
            with self.gathering.writing(lambda: bool(self._gathered)):
                gathered, self._gathered = self._gathered, {}
                self._noted.clear()
                self._full = False
                waiting = [
                    (*key, pull.count, int(pull.last * SECOND), int(pull.renewed * SECOND))
                    for key, pull in gathered.items()
                ]
                await batches.flush_batched(self._write, waiting, self._refused, self._keep)

    def _keep(self, entry: Entry) -> None:
        """Put back what was not written."""
        key, reference, count, last, renewed = entry
        if len(self._gathered) < GATHERED_REFERENCES_MAX or (key, reference) in self._gathered:
            pull = self._gathered.setdefault((key, reference), Pull())
            pull.count += count
            pull.last = max(pull.last, last / SECOND)
            pull.renewed = max(pull.renewed, renewed / SECOND)
        self._noted.set()

    async def _write(self, some: tuple[Entry, ...]) -> None:
        await self._core.ledger.transact(write, some, self._core.now())

    async def _refused(self, entry: Entry, error: Corrupt) -> None:
        _log.error("pulls of %s are not counted: %s", entry[1], error)

    async def _turn(self) -> float:
        await self._noted.wait()
        until = time.monotonic() + FLUSH_INTERVAL_SECONDS
        while time.monotonic() < until and not (self._full or self.gathering.wanted()):
            await self.background.rest(gate.POLL_SECONDS)
        await self.flush()
        return 0.0

    async def close(self) -> None:
        """Write what is left, and end the background."""
        try:
            await self.background.stop()
        finally:
            await self.flush()
