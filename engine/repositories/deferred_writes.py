"""Deferred writes: notes gathered in memory, and written by one transaction for many of them.

Two kinds of note need no commit of their own, since a request changes nothing else:

- Pulls. By tag, HEAD or GET of a manifest counts for that tag. By digest, GET counts for the image
  and for the tags on the manifest; and where the caller may push, HEAD or GET renews the manifest,
  since it told a pusher that there is no need to send it.
- Times of a repeated push of what is there already: all else that its answer promises is durable,
  and only the times of update of tag, image and namespace are new.

A note merges into an earlier one for the same row: counts by addition, times by maximum. So the
order of notes does not matter, also when a flush fails and puts its notes back. A process that is
killed loses what it gathered since the last flush, and nothing else. While retention decides by
these times, each note is written by itself (``depot.gate``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from holdfast.engine.blobs import blob_rows
from holdfast.engine.core import Core
from holdfast.engine.depot import gate
from holdfast.engine.depot.gate import Gathering
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Change, Transaction
from holdfast.engine.ledger.records import Image as ImageRow
from holdfast.engine.ledger.records import Manifest, load, save
from holdfast.engine.ledger.records import Tag as TagRow
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Corrupt, EngineError
from holdfast.engine.model.values import Repository
from holdfast.engine.namespaces import identity
from holdfast.engine.references import manifest_rows
from holdfast.engine.tasks import batches
from holdfast.engine.tasks.background import Background

from . import images, tags

_log: Final = logging.getLogger(__name__)

PULLS_INTERVAL_SECONDS: Final = 10.0
"""Seconds from the first pull to the flush; less where a decision waits."""

TIMES_INTERVAL_SECONDS: Final = 0.1
"""Seconds from the first repeated push to the flush, likewise."""

GATHERED_NOTES_MAX: Final = 10_000
"""Notes of one kind in memory; what needs one more is written by itself."""

TAGS_PER_PULL_MAX: Final = 100
"""Tags on one manifest whose counts move with a pull by digest."""


@dataclass(slots=True)
class Note:
    """What came for one row since the last flush. Times are in microseconds since 1970, or 0."""

    pulls: int = 0
    pulled: int = 0
    """Time of the last pull."""
    pushed: int = 0
    """Time of the last repeated push, or when a pusher learned last that the row is there."""

    def merge(self, other: Note) -> None:
        """Add the count of another note, and take the maximum of each time."""
        self.pulls += other.pulls
        self.pulled = max(self.pulled, other.pulled)
        self.pushed = max(self.pushed, other.pushed)


Key = tuple[bytes, str, bytes]
"""Image key; tag, digest, or "" for the image itself; id of what was pushed to, b"" for pulls.

The id is that of the tag, otherwise that of the image.
"""

Entry = tuple[Key, Note]

R = TypeVar("R", ImageRow, TagRow)


async def write(txn: Transaction, entries: tuple[Entry, ...], now: int) -> None:
    """Merge notes into the rows of images, manifests and tags that are still there."""
    txn.declare_change(Change.TIMES)
    pushed_to = {image_key for (image_key, _, pushed_id), _ in entries if pushed_id}
    living = {key for key in pushed_to if await images.living(txn, key)}
    for (image_key, reference, pushed_id), gathered in entries:
        # A push leaves alone what was deleted since. A pull counts there too: the image may be
        # restored.
        if pushed_id and image_key not in living:
            continue
        # The clock may have gone back since.
        pulled, pushed = min(gathered.pulled, now), min(gathered.pushed, now)
        note = Note(gathered.pulls, pulled, pushed)
        if ":" in reference:
            await _write_manifest(txn, image_key, Digest.parse(reference), note)
        elif reference:
            await _write_tag(txn, image_key, reference, pushed_id, note)
        elif (image := await images.by_key(txn, image_key)) is not None:
            await images.touch(txn, image, await identity.tick(txn, pushed))
    if any(note.pulls for _, note in entries):
        # Tells that the clock was ahead, if it was. For a push, the times of its image tell.
        await identity.tick(txn, now)


async def _write_manifest(txn: Transaction, image_key: bytes, digest: Digest, note: Note) -> None:
    """Renew a manifest, and count its pulls for the image and the tags on it."""
    sha = await blob_rows.canonical(txn, digest.key, image_key)
    if sha is None:
        return
    key = manifest_rows.manifest_row(image_key, sha)
    row = await load(txn, Manifest, key)
    if row is None:
        return
    if note.pushed:
        time = await identity.tick(txn, note.pushed)
        await save(txn, key, msgspec.structs.replace(row, renewed=max(row.renewed, time)))
    image = await images.by_key(txn, image_key) if note.pulls else None
    if image is not None:
        await save(txn, layout.IMAGE + image_key, _counted(image, note))
        for name in await manifest_rows.tags_of(txn, image_key, sha, TAGS_PER_PULL_MAX):
            await _write_tag(txn, image_key, name, b"", Note(note.pulls, note.pulled))


async def _write_tag(
    txn: Transaction, image_key: bytes, name: str, pushed_id: bytes, note: Note
) -> None:
    tag = await tags.by_name(txn, image_key, name)
    # A push was to the tag with that id: one that came later under its name is another tag.
    if tag is not None and pushed_id in (b"", tag.id):
        # What was pushed after the note, and committed before it, is newer.
        row = msgspec.structs.replace(tag, updated=max(tag.updated, note.pushed))
        await save(txn, tags.tag_row(image_key, name), _counted(row, note))


def _counted(row: R, note: Note) -> R:
    """Return the row of an image or tag with the pulls of the note."""
    pulls, pulled = row.pulls + note.pulls, max(row.pulled, note.pulled)
    return msgspec.structs.replace(row, pulls=pulls, pulled=pulled)


class DeferredWrites:
    """The notes of this process that are written at one interval."""

    def __init__(self, core: Core, name: str, interval_seconds: float) -> None:
        """Gather for ``interval_seconds``; ``name`` is the label in logs."""
        self._core = core
        self._name = name
        self.interval_seconds = interval_seconds
        self._gathered: dict[Key, Note] = {}
        self._reserved = 0
        """Notes of the flush under way: room for them is kept, since it may put them back."""
        self.gathering = Gathering(core.gate)
        """Where nothing is gathered yet, what was found before may be gone: see ``passing``."""
        self._flushing = asyncio.Lock()
        self._noted = asyncio.Event()
        self._full = False
        self.background = Background(name, self._turn)

    def begin(self) -> bool:
        """Get ready to gather; False while each note has to be written. Never waits."""
        if not self.gathering.begin():
            return False
        self._noted.set()
        return True

    def passing(self) -> AbstractContextManager[bool]:
        """Look up inside this context what gets a note: then no decision comes in between.

        Yields False during a decision: see ``write_pull``.
        """
        return self._core.gate.passing()

    def count(
        self, repository: Repository, reference: str, *, pulled: bool = True, renews: bool = False
    ) -> bool:
        """Note that a manifest was found by a tag or a digest. Never waits.

        ``pulled``: it counts as a pull. ``renews``: by digest, for a caller who may push. False,
        and nothing noted, where that has to be written at once: see ``write_pull``.
        """
        if repository.key is None:
            return True
        key = repository.key, reference, b""
        if not (self.gathering.inside or self.begin()):
            return False
        note = self._gathered.get(key)
        if note is None:
            if not self._has_room((key,)):
                return False
            note = self._gathered[key] = Note()
            self._noted.set()
        now = self._core.now()
        if pulled:
            note.pulls += 1
            note.pulled = now
        if renews:
            note.pushed = now
        return True

    def record_push(
        self, image: ImageRow, digest: Digest, pushed: tuple[TagRow, ...], when: int
    ) -> bool:
        """Note a push that changed nothing but times. Never waits.

        False, and nothing noted, where it has to be committed at once.
        """
        keys: list[Key] = [(image.key, str(digest), image.id), (image.key, "", image.id)]
        keys += [(image.key, tag.name, tag.id) for tag in pushed]
        if not self.begin() or not self._has_room(keys):
            return False
        for key in keys:
            self._merge(key, Note(pushed=when))
        return True

    def _has_room(self, keys: Collection[Key]) -> bool:
        """Return True if notes for all of the keys fit; otherwise let the next flush begin."""
        if len(self._gathered) + self._reserved + len(keys) <= GATHERED_NOTES_MAX:
            return True
        self._full = True
        return all(key in self._gathered for key in keys)

    def _merge(self, key: Key, note: Note) -> None:
        """Keep a note for the next flush."""
        earlier = self._gathered.setdefault(key, note)
        if earlier is not note:
            earlier.merge(note)
        self._noted.set()

    async def write_pull(
        self, repository: Repository, reference: str, *, pulled: bool = True, renews: bool = False
    ) -> None:
        """Count a pull as ``count`` does, and write it before returning; the caller looks again.

        A pull that cannot be written now is noted: no pull is refused for that.
        """
        if repository.key is None:
            return
        now = self._core.now()
        note = Note(int(pulled), now * pulled, now * renews)
        try:
            await self._write([((repository.key, reference, b""), note)], self._keep)
        except EngineError as error:
            _log.error("a pull of %s is written later: %s", reference, error)

    async def flush(self) -> None:
        """Write what was gathered; what cannot be written now is kept for the next flush.

        A note for a damaged row is dropped.
        """
        # What another flush is writing at this moment is written when this returns, too.
        async with self._flushing:
            with self.gathering.writing(lambda: bool(self._gathered)):
                gathered, self._gathered = self._gathered, {}
                self._noted.clear()
                self._full = False
                self._reserved = len(gathered)
                try:
                    await self._write(list(gathered.items()), self._keep_unwritten)
                finally:
                    self._reserved = 0

    async def _write(self, entries: list[Entry], keep: Callable[[Entry], None]) -> None:
        async def transact(some: tuple[Entry, ...]) -> None:
            await self._core.ledger.transact(write, some, self._core.now())

        await batches.flush_batched(transact, entries, self._drop, keep)

    def _keep_unwritten(self, entry: Entry) -> None:
        """Keep a note that a flush did not write."""
        self._merge(*entry)

    def _keep(self, entry: Entry) -> None:
        """Keep a pull that was not written by itself, if there is room: otherwise it is lost."""
        if self._has_room(entry[:1]):
            self._merge(*entry)

    async def _drop(self, entry: Entry, error: Corrupt) -> None:
        (image_key, reference, _), _ = entry
        image = image_key.hex()
        _log.error("cannot write %s of %r in image %s: %s", self._name, reference, image, error)

    async def _turn(self) -> float:
        await self._noted.wait()
        until = time.monotonic() + self.interval_seconds
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
