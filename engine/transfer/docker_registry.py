"""Imports the storage directory of a docker-registry (CNCF distribution).

    docker/registry/v2/blobs/ALG/H2/HEX/data
    docker/registry/v2/repositories/NAME/_manifests/tags/TAG/current/link
    docker/registry/v2/repositories/NAME/_manifests/revisions/ALG/HEX/link
    docker/registry/v2/repositories/NAME/_layers/ALG/HEX/link

A ``link`` holds a digest. That registry may run meanwhile; an import may miss what is pushed to it
then, and the next import brings it. Manifests that were imported before are not read again, so an
interrupted import continues where it was.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from holdfast.engine.model.digest import ALGORITHMS, Digest
from holdfast.engine.model.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    EngineError,
    Invalid,
    MissingContent,
    NotFound,
    TooLarge,
)
from holdfast.engine.model.names import FULL_NAME_CHARS_MAX, check_tag_name
from holdfast.engine.model.values import Repository

from .image_import import Entry, Transferred, import_images
from .registry_names import Renames
from .untrusted_files import Names, UntrustedFiles

if TYPE_CHECKING:
    from holdfast.engine.store import Store

_TOP: Final = ("docker", "registry", "v2")
_LINK_BYTES_MAX: Final = 256
_ENTRIES_MAX: Final = 1_000_000
"""Tags or revisions of one repository, or repositories: about 300 bytes of memory each."""

_NO_RENAMES: Final = Renames()
_NOTHING: Final = Transferred(0, 0, 0, 0, 0)

_REFUSALS: Final = (Invalid, MissingContent, NotFound, Conflict)
"""Errors that concern one manifest or name; the import skips it. All others end the import."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """Result for one manifest of the old registry, or for a whole repository."""

    repository: str
    """Name of the repository in the old registry."""
    name: str
    """Full name in this store; empty if no valid name results."""
    digest: str
    """Empty if a tag has no valid digest, or if the whole repository (no tags) was refused."""
    tags: tuple[str, ...]
    done: Transferred | None
    """Content that was copied; no manifests if this one was here already, with its tags."""
    error: EngineError | None
    """Reason why it was skipped; the import continues."""


@dataclass(frozen=True, slots=True)
class FoundRepository:
    """A repository of the old registry, and the result that an import would have."""

    repository: str
    """Name of the repository in the old registry."""
    name: str
    """Full name in this store; empty if no valid name results."""
    tags: int
    manifests: int
    """Number of manifests with and without tags."""
    error: EngineError | None
    """Reason why an import skips it."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """A repository of the old registry, with its name in this store."""

    old_name: str
    name: str
    error: EngineError | None

    @property
    def names(self) -> Names:
        return tuple(self.old_name.split("/"))


class _RepositoryFiles:
    """A ``Source`` of one repository: it reads only content that the repository links."""

    def __init__(self, files: UntrustedFiles, top: Names, name: Names) -> None:
        self._files = files
        self._top = top
        self._directory = (*top, "repositories", *name)

    async def size(self, digest: Digest) -> int:
        """Return the size of a blob in bytes."""
        await self._check_linked(digest)
        return await self._files.size(*self._path_of(digest))

    async def read(self, digest: Digest, limit: int) -> bytes:
        """Read a whole blob."""
        await self._check_linked(digest)
        return await self._files.read(*self._path_of(digest), limit=limit)

    def pieces(self, digest: Digest) -> AsyncIterator[bytes]:
        """Read a blob in pieces. The caller has called ``size``, which checks the link."""
        return self._files.pieces(*self._path_of(digest))

    def _path_of(self, digest: Digest) -> Names:
        encoded = digest.raw.hex()
        return (*self._top, "blobs", digest.algorithm, encoded[:2], encoded, "data")

    async def _check_linked(self, digest: Digest) -> None:
        """Check that the repository links the blob. Raises NotFound.

        All repositories share one directory of blobs; the links decide which may read one.
        """
        own = (digest.algorithm, digest.raw.hex(), "link")
        # ``_layers`` links layers and configs, ``revisions`` links manifests.
        try:
            await self._files.size(*self._directory, "_layers", *own)
        except NotFound:
            await self._files.size(*self._directory, "_manifests", "revisions", *own)

    async def tags(self) -> tuple[dict[str, list[str]], list[tuple[str, EngineError]]]:
        """Return tags by digest, and tags without a valid digest with the error of each."""
        found: dict[str, list[str]] = {}
        bad: list[tuple[str, EngineError]] = []
        directory = (*self._directory, "_manifests", "tags")
        for name in await self._names(*directory):
            try:
                link = await self._files.read(
                    *directory, check_tag_name(name), "current", "link", limit=_LINK_BYTES_MAX
                )
                digest = Digest.parse(link.decode("ascii", "replace").strip())
            except NotFound:
                # A deleted tag leaves its directory behind.
                continue
            except Invalid as error:
                # A crash of the old registry can leave an empty link.
                bad.append((name, error))
                continue
            found.setdefault(str(digest), []).append(name)
        return found, bad

    async def revisions(self) -> AsyncIterator[str]:
        """Yield the digests of all manifests."""
        for algorithm in ALGORITHMS:
            directory = (*self._directory, "_manifests", "revisions", algorithm)
            for encoded in await self._names(*directory):
                try:
                    await self._files.size(*directory, encoded, "link")
                except NotFound:
                    continue
                yield f"{algorithm}:{encoded}"

    async def _names(self, *names: str) -> list[str]:
        try:
            return await self._files.entries(*names, limit=_ENTRIES_MAX)
        except NotFound:
            return []


async def list_registry(
    path: Path, *, renames: Renames = _NO_RENAMES
) -> AsyncGenerator[FoundRepository, None]:
    """List what ``import_registry`` would import, in its order, without reading content.

    Raises NotFound if the directory is not the storage of a registry; TooLarge, StorageFailed.
    """
    files = UntrustedFiles(path)
    top = await _find(files)
    for planned in await _plan(files, top, renames):
        source = _RepositoryFiles(files, top, planned.names)
        try:
            tags, bad = await source.tags()
            manifests = sum([1 async for _ in source.revisions()])
        except _REFUSALS as error:
            yield FoundRepository(planned.old_name, planned.name, 0, 0, error)
            continue
        count = len(bad) + sum(len(names) for names in tags.values())
        yield FoundRepository(planned.old_name, planned.name, count, manifests, planned.error)


async def import_registry(
    store: Store,
    path: Path,
    *,
    region: str,
    project_id: UUID,
    organization_id: UUID,
    renames: Renames = _NO_RENAMES,
    untagged: bool = True,
) -> AsyncGenerator[Migrated, None]:
    """Import all images of another registry's storage into a store; iterate to run it.

    The first component of a name, after ``renames``, is the namespace. A missing one is created
    in that project; an existing one is used, whatever its project. Tags get the manifests that
    they have in the old registry, even if they were moved here since. With ``untagged``,
    manifests without a tag are imported too. The yielded results report what is refused: a name,
    two names that would become one, a manifest of Docker's schema 1, or one whose content is
    missing. Raises NotFound if the directory is not the storage of a registry; TooLarge,
    StorageFull, StorageFailed.
    """
    files = UntrustedFiles(path)
    top = await _find(files)
    for planned in await _plan(files, top, renames):
        if planned.error is not None:
            yield Migrated(planned.old_name, planned.name, "", (), None, planned.error)
            continue
        source = _RepositoryFiles(files, top, planned.names)
        here: Repository | None = None
        try:
            tags, bad = await source.tags()
            for tag, refusal in bad:
                yield Migrated(planned.old_name, planned.name, "", (tag,), None, refusal)
            async for entry in _entries(source, tags, untagged=untagged):
                if here is None:
                    # Only now, so that a repository without manifests creates no namespace.
                    here = await _locate(store, region, planned.name, project_id, organization_id)
                yield await _manifest(store, here, source, planned, entry)
        except _REFUSALS as error:
            yield Migrated(planned.old_name, planned.name, "", (), None, error)


async def _entries(
    source: _RepositoryFiles, tags: dict[str, list[str]], *, untagged: bool
) -> AsyncIterator[Entry]:
    """Yield the manifests of a repository to import."""
    for digest, names in tags.items():
        yield Entry(digest, tuple(names))
    if untagged:
        async for digest in source.revisions():
            if digest not in tags:
                yield Entry(digest)


async def _plan(files: UntrustedFiles, top: Names, renames: Renames) -> list[_Planned]:
    """List all repositories with their new names; two with one new name get an error.

    Raises TooLarge.
    """
    found: list[_Planned] = []
    async for names in _repositories(files, top):
        old_name = "/".join(names)
        try:
            found.append(_Planned(old_name, renames.apply(old_name), None))
        except Invalid as error:
            found.append(_Planned(old_name, "", error))
        if len(found) > _ENTRIES_MAX:
            raise TooLarge("repositories", _ENTRIES_MAX, "repositories")
    counts = Counter(planned.name for planned in found if planned.name)
    return [
        planned
        if counts[planned.name] < 2
        else _Planned(
            planned.old_name,
            planned.name,
            Invalid("name", f"another repository would get the name {planned.name} too"),
        )
        for planned in found
    ]


async def _find(files: UntrustedFiles) -> Names:
    """Find the top of the storage: the directory itself or one below it. Raises NotFound."""
    # The path may be the root of the storage, or its docker, registry or v2 directory.
    for top in (_TOP, _TOP[1:], _TOP[2:], ()):
        try:
            await files.entries(*top, "repositories", limit=_ENTRIES_MAX)
        except NotFound:
            continue
        return top
    raise NotFound("file", str(files.root.joinpath(*_TOP, "repositories")))


async def _repositories(files: UntrustedFiles, top: Names) -> AsyncIterator[Names]:
    """Yield the names of all repositories in order, each as its components."""
    todo: list[Names] = [()]
    while todo:
        name = todo.pop()
        try:
            entries = await files.entries(*top, "repositories", *name, limit=_ENTRIES_MAX)
        except Invalid:
            # A file or a symbolic link among the directories is not a repository.
            continue
        if name and "_manifests" in entries:
            yield name
        # Names of repositories nest; directories with "_" are the old registry's own.
        longer = [(*name, entry) for entry in entries if not entry.startswith("_")]
        todo += [names for names in reversed(longer) if len("/".join(names)) <= FULL_NAME_CHARS_MAX]


async def _locate(
    store: Store, region: str, full_name: str, project_id: UUID, organization_id: UUID
) -> Repository:
    """Return the repository of that name; create its namespace if missing. Raises Invalid."""
    try:
        return await store.locate(region, full_name)
    except NotFound:
        namespace = full_name.partition("/")[0]
        # A concurrent client may have created it.
        with contextlib.suppress(AlreadyExists):
            await store.namespaces.create(
                region, namespace, project_id=project_id, organization_id=organization_id
            )
        return await store.locate(region, full_name)


async def _manifest(
    store: Store, here: Repository, source: _RepositoryFiles, planned: _Planned, entry: Entry
) -> Migrated:
    where = planned.old_name, planned.name, entry.digest, entry.tags
    try:
        if await _is_here(store, here, entry):
            return Migrated(*where, _NOTHING, None)
        steps = [step async for step in import_images(store, here, source, [entry])]
    except _REFUSALS as error:
        return Migrated(*where, None, error)
    return Migrated(*where, steps[-1], None)


async def _is_here(store: Store, here: Repository, entry: Entry) -> bool:
    """Return True if the manifest was imported before and all its tags point to it."""
    try:
        # An earlier manifest may have created the image since ``here`` was located.
        here = await store.locate(here.region, here.full_name)
        for reference in entry.tags or (entry.digest,):
            manifest = await store.manifests.get(here, reference)
            if str(manifest.digest) != entry.digest:
                return False
    except (NotFound, Corrupt):
        return False
    return True
