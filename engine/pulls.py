"""Pull counts: gathered in memory, and written now and then, so that a pull is never a write.

By tag: HEAD or GET of a manifest counts for that tag. By digest: GET counts for the image and for
the tags on the manifest. A process that is killed loses what it gathered since the last time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import msgspec

from . import blobs, entries, images, layout, manifest_rows, tags
from .background import Background
from .core import SECOND, Core
from .digest import Digest
from .errors import Corrupt
from .ledger import Transaction
from .models import Repository
from .quiet import Change
from .records import save

_log: Final = logging.getLogger(__name__)

REST: Final = 10.0
"""Seconds between two writes."""

GATHERED_MAX: Final = 10_000
"""Different references gathered before counts of further ones are dropped until the next write."""

TAGS_MAX: Final = 100
"""Tags on one manifest whose counts move with a pull by digest."""


@dataclass(slots=True)
class Pull:
    """Pulls of one reference since the last write."""

    count: int
    last: float
    """Seconds since 1970: what the clock says, since every pull asks it."""


Gathered = tuple[tuple[bytes, str, int, int], ...]
"""Image key, tag or digest, how many pulls, when the last one was."""


async def write(txn: Transaction, gathered: Gathered) -> None:
    """Add what was gathered to the rows of tags and images that are still there."""
    txn.changes_only(Change.TIMES)
    for image_key, reference, count, last in gathered:
        if ":" not in reference:
            await _count_tag(txn, image_key, reference, count, last)
            continue
        sha = await blobs.canonical(txn, Digest.parse(reference).key, image_key)
        image = await images.by_key(txn, image_key)
        if sha is None or image is None:
            continue
        if not await manifest_rows.present(txn, image_key, sha):
            continue
        row = msgspec.structs.replace(
            image, pulls=image.pulls + count, pulled=max(image.pulled, last)
        )
        await save(txn, layout.IMAGE + image_key, row)
        for name in await manifest_rows.tags_of(txn, image_key, sha, TAGS_MAX):
            await _count_tag(txn, image_key, name, count, last)


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
        self.background = Background("pulls", self._turn)

    def count(self, repository: Repository, reference: str) -> None:
        """Note one pull of a manifest by a tag or a digest that was found. Never waits."""
        if repository.key is None:
            return
        pull = self._gathered.get((repository.key, reference))
        if pull is None:
            self._add(repository.key, reference, 1, self._clock())
        else:
            pull.count += 1
            pull.last = self._clock()

    def _add(self, image_key: bytes, reference: str, count: int, last: float) -> None:
        key = (image_key, reference)
        pull = self._gathered.get(key)
        if pull is not None:
            pull.count += count
            pull.last = max(pull.last, last)
        elif len(self._gathered) < GATHERED_MAX:
            self._gathered[key] = Pull(count, last)

    async def flush(self) -> None:
        """Write what was gathered; what cannot be written now is kept for the next time.

        Pulls of what has a damaged row are not counted.
        """
        gathered, self._gathered = self._gathered, {}
        waiting = [(*key, pull.count, int(pull.last * SECOND)) for key, pull in gathered.items()]
        await entries.write_gathered(self._write, waiting, self._refused, self._keep)

    def _keep(self, entry: tuple[bytes, str, int, int]) -> None:
        """Put back what was not written."""
        key, reference, count, last = entry
        self._add(key, reference, count, last / SECOND)

    async def _write(self, some: Gathered) -> None:
        await self._core.ledger.transact(write, some)

    async def _refused(self, entry: tuple[bytes, str, int, int], error: Corrupt) -> None:
        _log.error("pulls of %s are not counted: %s", entry[1], error)

    async def _turn(self) -> float:
        await self.flush()
        return REST

    async def close(self) -> None:
        """Write what is left, and end the background."""
        try:
            await self.background.stop()
        finally:
            await self.flush()
