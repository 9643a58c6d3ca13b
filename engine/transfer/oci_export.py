"""Exports images to an OCI image layout, byte for byte (see ``oci_layout``)."""

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
    """Write images of a repository into a layout; iterate to run it.

    ``references`` are tags or digests; None exports all tags. Children of indexes are exported
    too, and, unless ``referrers`` is False, manifests that have an exported one as their subject.
    A tag becomes the name of its entry (``org.opencontainers.image.ref.name``). The directory
    may be new, empty, or a layout, to which the export adds; an entry of the same name is
    replaced. ``index.json`` is written last, so an interrupted export lists nothing. All bytes
    are compared with their digests, also those of blobs that the layout has already.

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
            # The tag may have been deleted since it was listed.
            with contextlib.suppress(NotFound):
                yield await store.manifests.get(repository, name)
        last = names[-1]


class _Export:
    """One running export."""

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
        """Progress so far."""
        return Transferred(self._manifests, self._blobs, self._size, self._present, self._tags)

    async def add(self, root: Manifest) -> AsyncIterator[Transferred]:
        """Write a manifest with all manifests below it, and the referrers of each."""
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
            await self._target.write(manifest.digest, _as_stream(manifest.body))
            self._manifests += 1
            if self._referrers:
                todo += await self._referring(manifest)
            yield self.done

    async def _needs(self, manifest: Manifest) -> AsyncIterator[Manifest]:
        """Write the content that a manifest needs, and yield its children."""
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
                # Foreign content may have a digest of an algorithm that the store does not support.
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
                # A verifying read raises Corrupt and puts a damaged blob in quarantine.
                async with self._store.get(digest, verify=True, repository=self._repository):
                    raise Corrupt("blob", str(digest), "a read returned other bytes") from None
        self._blobs += 1
        self._size += size

    async def _referring(self, manifest: Manifest) -> list[Manifest]:
        """Return the manifests whose subject is this one; add an entry for each."""
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


async def _as_stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


class _Different(Exception):
    """Raised if written bytes do not match their digest."""


@contextlib.asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[_Layout]:
    """Open the layout in a directory, locked against other exports.

    Raises Invalid, Busy, StorageFailed.
    """
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
    """An exclusive lock on a directory, which is created if missing."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Busy("file", str(path)) from None

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)


async def _call(path: Path, called: Awaitable[T]) -> T:
    """Await a call in a thread. Raises StorageFull, StorageFailed for an OSError."""
    try:
        return await called
    except OSError as error:
        raise refused(error, str(path)) from error


class _Layout:
    """A layout to write to. A file gets its name once it is complete and synced."""

    def __init__(self, path: Path, threads: Threads) -> None:
        self._path = path
        self._threads = threads
        self._entries: list[Descriptor] = []
        self._directories: set[Path] = {path}

    async def _run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _call(self._path, self._threads.run(fn, *args, **kwargs))

    async def begin(self) -> None:
        """Read the layout in the directory, or start one if that is empty. Raises Invalid."""
        names = await self._run(os.listdir, self._path)
        mark, index = self._path / LAYOUT_FILE, self._path / INDEX_FILE
        if LAYOUT_FILE in names:
            check_version(await self._read(mark))
            if INDEX_FILE in names:
                self._entries = read_entries(await self._read(index))
        elif set(names) - {LAYOUT_FILE + _PARTIAL}:
            raise Invalid("layout", f"{self._path} must be empty or an OCI layout")
        else:
            version = msgspec.json.encode({"imageLayoutVersion": VERSION})
            await self._write(mark, _as_stream(version), None)

    async def _read(self, path: Path) -> bytes:
        try:
            async with opened(aiofiles.open(path, "rb", opener=_read_opener)) as file:
                content = await file.read(INDEX_BYTES_MAX + 1)
        except OSError as error:
            raise refused(error, str(path)) from error
        if len(content) > INDEX_BYTES_MAX:
            raise Invalid("layout", f"{path.name} must have at most {INDEX_BYTES_MAX} bytes")
        return content

    def _blob_path(self, digest: Digest) -> Path:
        return self._path / BLOBS / digest.algorithm / digest.raw.hex()

    async def has(self, digest: Digest, size: int) -> bool:
        """Return True if the layout has the content undamaged. Raises StorageFailed."""
        return await self._run(_matches, self._blob_path(digest), digest, size)

    async def write(self, digest: Digest, content: AsyncIterator[bytes] | Any) -> None:
        """Write a blob or a manifest. Raises _Different, StorageFull, StorageFailed."""
        path = self._blob_path(digest)
        await self._run(path.parent.mkdir, parents=True, exist_ok=True)
        self._directories |= {path.parent, path.parent.parent}
        await self._write(path, content, digest)

    async def _write(self, path: Path, content: Any, digest: Digest | None) -> None:
        partial = path.with_name(path.name + _PARTIAL)
        hasher = hashlib.new(digest.algorithm) if digest else None
        try:
            async with opened(aiofiles.open(partial, "wb", opener=_write_opener)) as file:
                async for piece in content:
                    if hasher is not None:
                        await self._threads.run(hasher.update, piece)
                    await file.write(piece)
                await file.flush()
                # Synced before the rename: after a crash the name must not lead to other bytes.
                await self._threads.run(os.fsync, file.fileno())
            if digest is not None and hasher is not None and hasher.digest() != digest.raw:
                raise _Different
            await self._run(partial.replace, path)
        except OSError as error:
            await self._run(partial.unlink, missing_ok=True)
            raise refused(error, str(path)) from error
        except BaseException:
            await self._run(partial.unlink, missing_ok=True)
            raise

    async def finish(self, entries: Sequence[Descriptor]) -> None:
        """Add the entries to ``index.json`` once all that they need is durable."""
        # The files are synced already; their directory entries are not.
        for directory in sorted(self._directories, reverse=True):
            await self._run(sync_directory, directory)
        unique = {(entry["digest"], _name_of(entry)): entry for entry in entries}
        names = {_name_of(entry) for entry in entries} - {None}
        # Entries of earlier exports stay unless this one has their name or repeats them.
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
            raise Invalid(
                "layout",
                f"{INDEX_FILE} would exceed {INDEX_BYTES_MAX} bytes: export fewer images to it",
            )
        await self._write(self._path / INDEX_FILE, _as_stream(content), None)
        await self._run(sync_directory, self._path)
        await self._run(sync_directory, self._path.absolute().parent)


def _write_opener(path: str, flags: int) -> int:
    fd, _ = open_regular(path, flags, path, mode=0o644)
    return fd


def _read_opener(path: str, flags: int) -> int:
    fd, _ = open_regular(path, flags, path)
    return fd


def _matches(path: Path, digest: Digest, size: int) -> bool:
    try:
        with open(path, "rb", opener=_read_opener) as file:
            if os.fstat(file.fileno()).st_size != size:
                return False
            hasher = hashlib.new(digest.algorithm)
            while piece := file.read(_PIECE_BYTES):
                hasher.update(piece)
    except FileNotFoundError:
        return False
    return hasher.digest() == digest.raw
