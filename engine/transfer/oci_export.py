"""Exporting images to an OCI image layout, bit by bit as they are (see ``oci_layout``)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import aiofiles
import msgspec

from holdfast.engine.datadir import sync_directory
from holdfast.engine.depot.disk_file import open_regular, refused
from holdfast.engine.model import documents
from holdfast.engine.model.digest import Digest
from holdfast.engine.model.documents import OCI_INDEX, SCHEMA_VERSION
from holdfast.engine.model.errors import Busy, Corrupt, Invalid, NotFound
from holdfast.engine.model.values import Manifest, Repository
from holdfast.engine.tasks.threads import Threads, opened

from .image_import import Transferred
from .interface import Registry
from .oci_layout import (
    BLOBS,
    INDEX_BYTES_MAX,
    INDEX_FILE,
    LAYOUT_FILE,
    REF_NAME,
    VERSION,
    check_version,
    read_entries,
)

P = ParamSpec("P")
T = TypeVar("T")

_PAGE: Final = 1000
_PIECE_BYTES: Final = 1024 * 1024
_PARTIAL: Final = ".partial"

Descriptor = dict[str, Any]
"""An entry of ``index.json``."""


async def export_layout(
    store: Registry,
    repository: Repository,
    path: Path,
    *,
    references: Sequence[str] | None = None,
    referrers: bool = True,
) -> AsyncGenerator[Transferred, None]:
    """Write images of a repository into a layout; iterate to do it.

    ``references`` are tags or digests; None takes all tags. Children of indexes come along, and,
    unless ``referrers`` is False, what names one of the manifests as its subject. A tag is
    written as the name of its entry (``org.opencontainers.image.ref.name``). The directory may
    be new, empty, or a layout already: then it is added to, an entry of the same name replaced.
    ``index.json`` is written last, so what was begun and not finished adds nothing. All bytes
    are compared with their digests on the way; blobs in place already as well.

    Raises NotFound, Corrupt, Invalid (``layout``) for a directory that holds something else,
    Busy for one that is being exported to, StorageFull, StorageFailed.
    """
    async with _opened(path) as target:
        export = _Export(store, repository, target, referrers=referrers)
        async for manifest in _roots(store, repository, references):
            async for done in export.add(manifest):
                yield done
        await target.finish(export.entries)
        yield export.done


async def _roots(
    store: Registry, repository: Repository, references: Sequence[str] | None
) -> AsyncIterator[Manifest]:
    if references is not None:
        for reference in references:
            yield await store.manifests.get(repository, reference)
        return
    last = ""
    while names := await store.tags.names(repository, after=last, limit=_PAGE):
        for name in names:
            # A tag that was deleted since it was listed is not there to be exported.
            with contextlib.suppress(NotFound):
                yield await store.manifests.get(repository, name)
        last = names[-1]


class _Export:
    """One export on its way."""

    def __init__(
        self, store: Registry, repository: Repository, target: _Layout, *, referrers: bool
    ) -> None:
        self._store = store
        self._repository = repository
        self._target = target
        self._referrers = referrers
        self._seen: set[str] = set()
        self._manifests = self._blobs = self._size = self._present = self._tags = 0
        self.entries: list[Descriptor] = []

    @property
    def done(self) -> Transferred:
        """How far it is."""
        return Transferred(self._manifests, self._blobs, self._size, self._present, self._tags)

    async def add(self, root: Manifest) -> AsyncIterator[Transferred]:
        """Write a manifest with all below it, and what refers to any of that."""
        self.entries.append(_describe(root))
        self._tags += root.tag is not None
        todo = [root]
        while todo:
            manifest = todo.pop()
            if str(manifest.digest) in self._seen:
                continue
            self._seen.add(str(manifest.digest))
            async for found in self._needs(manifest):
                todo.append(found)
                yield self.done
            await self._target.write(manifest.digest, _one(manifest.body))
            self._manifests += 1
            if self._referrers:
                todo += await self._referring(manifest)
            yield self.done

    async def _needs(self, manifest: Manifest) -> AsyncIterator[Manifest]:
        """Write the content that a manifest needs, and hand out its children."""
        limit = len(manifest.body)
        document = await asyncio.to_thread(
            documents.parse, manifest.body, manifest.media_type, limit=limit
        )
        own = self._repository.sparse_indexes
        sparse = self._store.config.sparse_indexes if own is None else own
        for need in document.needs:
            try:
                if need.kind == "child":
                    yield await self._store.manifests.get(self._repository, need.digest)
                elif need.digest not in self._seen:
                    await self._blob(Digest.parse(need.digest), need.size)
                    self._seen.add(need.digest)
            except NotFound:
                if not need.foreign and not (sparse and need.kind == "child"):
                    raise
            except Invalid:
                # Foreign content may have a digest of any algorithm.
                if not need.foreign:
                    raise

    async def _blob(self, digest: Digest, size: int) -> None:
        async with self._store.get(digest, repository=self._repository) as reader:
            if await self._target.has(digest, size):
                self._present += 1
                return
            try:
                await self._target.write(digest, reader)
            except _Different:
                # Reading it whole once more puts it in quarantine.
                async with self._store.get(digest, verify=True, repository=self._repository):
                    raise Corrupt("blob", str(digest), "it was read with other bytes") from None
        self._blobs += 1
        self._size += size

    async def _referring(self, manifest: Manifest) -> list[Manifest]:
        """Manifests that name this one as their subject; each gets an entry of its own."""
        found: list[Manifest] = []
        after = None
        while page := await self._store.manifests.referrers(
            self._repository, manifest.digest, after=after, limit=_PAGE
        ):
            for referrer in page:
                after = referrer.digest
                with contextlib.suppress(NotFound):
                    found.append(
                        await self._store.manifests.get(self._repository, str(referrer.digest))
                    )
                    entry = _describe(found[-1])
                    if referrer.artifact_type:
                        entry["artifactType"] = referrer.artifact_type
                    self.entries.append(entry)
        return found


def _describe(manifest: Manifest) -> Descriptor:
    entry: Descriptor = {
        "mediaType": manifest.media_type,
        "digest": str(manifest.digest),
        "size": len(manifest.body),
    }
    if manifest.tag is not None:
        entry["annotations"] = {REF_NAME: manifest.tag}
    return entry


def _name_of(entry: Descriptor) -> str | None:
    name: str | None = (entry.get("annotations") or {}).get(REF_NAME)
    return name


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content


class _Different(Exception):
    """The bytes do not have their digest."""


@contextlib.asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[_Layout]:
    """The layout in a directory, ours alone. Raises Invalid, Busy, StorageFailed."""
    threads = Threads(1, "export")
    try:
        lock = await _call(path, threads.acquire(_Lock, path))
        try:
            layout = _Layout(path, threads)
            await layout.begin()
            yield layout
        finally:
            lock.close()
    finally:
        threads.close()


class _Lock:
    """A directory, made where it is missing, that no other export may write to meanwhile."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Busy("file", str(path)) from None

    def close(self) -> None:
        """Let others export to it."""
        os.close(self._lock)


async def _call(path: Path, called: Awaitable[T]) -> T:
    """What a call in a thread returns. Raises StorageFull, StorageFailed for an OSError."""
    try:
        return await called
    except OSError as error:
        raise refused(error, str(path)) from error


class _Layout:
    """A layout that is written to. Every file appears under its name whole, and durable."""

    def __init__(self, path: Path, threads: Threads) -> None:
        self._path = path
        self._threads = threads
        self._entries: list[Descriptor] = []
        self._directories: set[Path] = {path}

    async def _run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _call(self._path, self._threads.run(fn, *args, **kwargs))

    async def begin(self) -> None:
        """Look at what is there, and begin a layout where nothing is. Raises Invalid."""
        names = await self._run(os.listdir, self._path)
        mark, index = self._path / LAYOUT_FILE, self._path / INDEX_FILE
        if LAYOUT_FILE in names:
            check_version(await self._read(mark))
            if INDEX_FILE in names:
                self._entries = read_entries(await self._read(index))
        elif set(names) - {LAYOUT_FILE + _PARTIAL}:
            raise Invalid("layout", f"{self._path} is not empty, and no OCI layout")
        else:
            version = msgspec.json.encode({"imageLayoutVersion": VERSION})
            await self._write(mark, _one(version), None)

    async def _read(self, path: Path) -> bytes:
        try:
            async with opened(aiofiles.open(path, "rb", opener=_regular)) as file:
                content = await file.read(INDEX_BYTES_MAX + 1)
        except OSError as error:
            raise refused(error, str(path)) from error
        if len(content) > INDEX_BYTES_MAX:
            raise Invalid("layout", f"{path.name} has over {INDEX_BYTES_MAX} bytes")
        return content

    def _place(self, digest: Digest) -> Path:
        return self._path / BLOBS / digest.algorithm / digest.raw.hex()

    async def has(self, digest: Digest, size: int) -> bool:
        """Whether a good copy of that content is there. Raises StorageFailed."""
        return await self._run(_matches, self._place(digest), digest, size)

    async def write(self, digest: Digest, content: AsyncIterator[bytes] | Any) -> None:
        """Write a blob or a manifest. Raises _Different, StorageFull, StorageFailed."""
        place = self._place(digest)
        await self._run(place.parent.mkdir, parents=True, exist_ok=True)
        self._directories |= {place.parent, place.parent.parent}
        await self._write(place, content, digest)

    async def _write(self, place: Path, content: Any, digest: Digest | None) -> None:
        draft = place.with_name(place.name + _PARTIAL)
        hasher = hashlib.new(digest.algorithm) if digest else None
        try:
            async with opened(aiofiles.open(draft, "wb", opener=_no_link)) as file:
                async for piece in content:
                    if hasher is not None:
                        await self._threads.run(hasher.update, piece)
                    await file.write(piece)
                await file.flush()
                await self._threads.run(os.fsync, file.fileno())
            if digest is not None and hasher is not None and hasher.digest() != digest.raw:
                raise _Different
            await self._run(draft.replace, place)
        except OSError as error:
            await self._run(draft.unlink, missing_ok=True)
            raise refused(error, str(place)) from error
        except BaseException:
            await self._run(draft.unlink, missing_ok=True)
            raise

    async def finish(self, entries: Sequence[Descriptor]) -> None:
        """List the entries too, after all they need is durable."""
        for directory in sorted(self._directories, reverse=True):
            await self._run(sync_directory, directory)
        unique = {(entry["digest"], _name_of(entry)): entry for entry in entries}
        names = {_name_of(entry) for entry in entries} - {None}
        kept = [
            entry
            for entry in self._entries
            if _name_of(entry) not in names and (entry["digest"], _name_of(entry)) not in unique
        ]
        index = {
            "schemaVersion": SCHEMA_VERSION,
            "mediaType": OCI_INDEX,
            "manifests": [*kept, *unique.values()],
        }
        content = msgspec.json.encode(index)
        if len(content) > INDEX_BYTES_MAX:
            raise Invalid("layout", f"{INDEX_FILE} would have over {INDEX_BYTES_MAX} bytes")
        await self._write(self._path / INDEX_FILE, _one(content), None)
        await self._run(sync_directory, self._path)
        await self._run(sync_directory, self._path.absolute().parent)


def _no_link(path: str, flags: int) -> int:
    fd, _ = open_regular(path, flags, path, mode=0o644)
    return fd


def _regular(path: str, flags: int) -> int:
    fd, _ = open_regular(path, flags, path)
    return fd


def _matches(place: Path, digest: Digest, size: int) -> bool:
    try:
        with open(place, "rb", opener=_regular) as file:
            if os.fstat(file.fileno()).st_size != size:
                return False
            hasher = hashlib.new(digest.algorithm)
            while piece := file.read(_PIECE_BYTES):
                hasher.update(piece)
    except FileNotFoundError:
        return False
    return hasher.digest() == digest.raw
