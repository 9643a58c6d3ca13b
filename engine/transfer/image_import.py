"""Imports images into a repository from a source that has their content by digest.

The import first reads and parses every manifest, compares it with its digest, and finds missing
content, before it changes anything. Then it pushes blobs, which verifies their digests, then
manifests, children first, then tags. A source with altered content therefore lists nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from holdfast.engine.model import documents
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.documents import Document, Need
from holdfast.engine.model.errors import (
    DigestMismatch,
    InvalidDigest,
    MissingContent,
    NotFound,
    SizeMismatch,
    TooLarge,
)
from holdfast.engine.model.values import Repository

from .interface import Registry

ITEMS_MAX: Final = 1_000_000
"""Manifests and blobs of one import together: about 300 bytes of memory each."""

_DIGESTS_PER_READ: Final = 1000
"""Digests in one call of ``exists``."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """Progress of an import or an export."""

    manifests: int
    blobs: int
    bytes: int
    """Size of these blobs in bytes."""
    present: int
    """Blobs that the target had already, so that they were not copied."""
    tags: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A manifest to import, with the tags that it gets."""

    digest: str
    tags: tuple[str, ...] = ()
    media_type: str | None = None
    """Media type that the source declares; None if it declares none."""
    size: int | None = None
    """Size in bytes that the source declares; None if it declares none."""


class Source(Protocol):
    """Content by digest."""

    async def size(self, digest: Digest) -> int:
        """Return the size in bytes. Raises NotFound, and what reading raises."""

    async def read(self, digest: Digest, limit: int) -> bytes:
        """Read the whole content. Raises NotFound, TooLarge over ``limit`` bytes."""

    def pieces(self, digest: Digest) -> AsyncIterator[bytes]:
        """Read the content in pieces. They are not compared with the digest."""


@dataclass(slots=True)
class _Plan:
    """The content to import."""

    manifests: list[tuple[Digest, str]] = field(default_factory=list)
    """Digest and media type, children before the index that lists them."""
    blobs: dict[Digest, int] = field(default_factory=dict)
    """Size in bytes by digest."""
    seen: set[Digest] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)


async def import_images(
    store: Registry, repository: Repository, source: Source, entries: Sequence[Entry]
) -> AsyncGenerator[Transferred, None]:
    """Import manifests with all that they need, and tag them; iterate to run it.

    Content that the repository has is not read again. Children of an index that the source lacks
    are left out if the store accepts sparse indexes; missing foreign layers always are. Raises
    InvalidManifest, InvalidDigest, DigestMismatch, SizeMismatch, MissingContent, TooLarge; what
    a push raises (QuotaExceeded, Locked, Immutable, StorageFull, …).
    """
    here = await store.locate(repository.region, repository.full_name)
    plan = await _Planner(store, here, source).plan(entries)
    blobs = size = tags = 0
    present = await _present(store, here, plan.blobs)
    for digest, expected in plan.blobs.items():
        if str(digest) in present:
            continue
        await store.uploads.put(here, digest, source.pieces(digest), length=expected)
        blobs, size = blobs + 1, size + expected
        yield Transferred(0, blobs, size, len(present), tags)
    limit = store.config.manifest_bytes_max
    count = 0
    for digest, media_type in plan.manifests:
        body = await source.read(digest, limit)
        await store.manifests.put(here, body, media_type=media_type, reference=str(digest))
        count += 1
        yield Transferred(count, blobs, size, len(present), tags)
    # Tags last, so that none points to an image without all its content. The image may be new.
    here = await store.locate(repository.region, repository.full_name)
    for entry in entries:
        if entry.tags:
            manifest = await store.manifests.get(here, entry.digest)
            await store.manifests.put(
                here,
                manifest.body,
                media_type=manifest.media_type,
                reference=entry.digest,
                tags=entry.tags,
            )
            tags += len(entry.tags)
    yield Transferred(count, blobs, size, len(present), tags)


async def _present(store: Registry, here: Repository, digests: Iterable[Digest]) -> set[str]:
    """Return those of the digests that the repository has."""
    every = list(digests)
    found: set[str] = set()
    for start in range(0, len(every), _DIGESTS_PER_READ):
        found |= await store.exists(every[start : start + _DIGESTS_PER_READ], repository=here)
    return found


class _Planner:
    """Reads all manifests of an import and collects the content that they need."""

    def __init__(self, store: Registry, here: Repository, source: Source) -> None:
        self._store = store
        self._here = here
        self._source = source
        self._plan = _Plan()

    async def plan(self, entries: Sequence[Entry]) -> _Plan:
        """Return the complete plan. Raises MissingContent and other errors of the source."""
        for entry in entries:
            await self._tree(entry)
        await self._find_blobs()
        if self._plan.missing:
            raise MissingContent(self._plan.missing)
        return self._plan

    async def _tree(self, entry: Entry) -> None:
        """Add a manifest and all manifests below it. Not recursive: the depth is not bounded."""
        plan = self._plan
        todo: list[tuple[Digest, str] | Entry] = [entry]
        while todo:
            item = todo.pop()
            if isinstance(item, tuple):
                # All of its children, which were pushed onto the stack above it, are done.
                plan.manifests.append(item)
                continue
            digest = Digest.parse(item.digest)
            if digest in plan.seen:
                continue
            self._count()
            plan.seen.add(digest)
            document = await self._document(digest, item, needed=item is entry)
            if document is None:
                continue
            todo.append((digest, document.media_type))
            for need in document.needs:
                if need.kind == "content":
                    await self._note_blob(need)
                elif self._is_kept(need):
                    todo.append(Entry(need.digest, size=need.size))

    def _count(self) -> None:
        if len(self._plan.seen) + len(self._plan.blobs) >= ITEMS_MAX:
            raise TooLarge("import", ITEMS_MAX, "manifests and blobs")

    async def _document(self, digest: Digest, entry: Entry, *, needed: bool) -> Document | None:
        """Read and parse a manifest that matches its digest; None if there is nothing to import.

        A manifest that the source lacks counts as missing, unless the repository has it, or it
        is not ``needed`` and indexes may be sparse.
        """
        limit = self._store.config.manifest_bytes_max
        try:
            body = await self._source.read(digest, limit)
        except NotFound:
            if not await self._has_manifest(digest) and (needed or not self._sparse):
                self._plan.missing.append(str(digest))
            return None
        if entry.size is not None and len(body) != entry.size:
            raise SizeMismatch(entry.size, len(body))
        actual = Digest.of(body, digest.algorithm)
        if actual != digest:
            raise DigestMismatch(str(digest), str(actual))
        return await asyncio.to_thread(documents.parse, body, entry.media_type, limit=limit)

    async def _has_manifest(self, digest: Digest) -> bool:
        try:
            await self._store.manifests.get(self._here, str(digest))
        except NotFound:
            return False
        return True

    def _is_kept(self, need: Need) -> bool:
        """Return True if the store supports the digest's algorithm; else note it as missing."""
        try:
            Digest.parse(need.digest)
        except InvalidDigest:
            if not need.foreign and not (need.kind == "child" and self._sparse):
                self._plan.missing.append(need.digest)
            return False
        return True

    @property
    def _sparse(self) -> bool:
        own = self._here.sparse_indexes
        return self._store.config.sparse_indexes if own is None else own

    async def _note_blob(self, need: Need) -> None:
        if not self._is_kept(need):
            return
        digest = Digest.parse(need.digest)
        if need.foreign and not await self._offers(digest, need.size):
            return
        known = self._plan.blobs.setdefault(digest, need.size)
        # Two descriptors of one digest must agree on its size.
        if known != need.size:
            raise SizeMismatch(known, need.size)
        self._count()

    async def _offers(self, digest: Digest, size: int) -> bool:
        try:
            return await self._source.size(digest) == size
        except NotFound:
            return False

    async def _find_blobs(self) -> None:
        """Note blobs as missing that neither the source nor the repository has."""
        plan = self._plan
        # An index may list a manifest as plain content; it is imported as a manifest.
        for digest in plan.seen & plan.blobs.keys():
            del plan.blobs[digest]
        present = await _present(self._store, self._here, plan.blobs)
        for digest, expected in plan.blobs.items():
            if str(digest) in present:
                continue
            try:
                size = await self._source.size(digest)
            except NotFound:
                plan.missing.append(str(digest))
                continue
            if size != expected:
                raise SizeMismatch(expected, size)
