"""Migrating from the storage directory of a docker-registry (CNCF distribution).

    docker/registry/v2/blobs/ALG/H2/HEX/data
    docker/registry/v2/repositories/NAME/_manifests/tags/TAG/current/link
    docker/registry/v2/repositories/NAME/_manifests/revisions/ALG/HEX/link
    docker/registry/v2/repositories/NAME/_layers/ALG/HEX/link

A ``link`` holds a digest. That registry may run meanwhile; what is pushed to it then may be
missed, and comes with another import. What was imported before is not read again, so an import
that was cut off goes on where it was.
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
from .untrusted_files import ForeignFiles, Names

if TYPE_CHECKING:
    from holdfast.engine.store import Store

_TOP: Final = ("docker", "registry", "v2")
_LINK_BYTES_MAX: Final = 256
_ENTRIES_MAX: Final = 1_000_000
"""Tags or revisions of one repository, or repositories: some 300 bytes of memory each."""

_NO_RENAMES: Final = Renames()
_NOTHING: Final = Transferred(0, 0, 0, 0, 0)

_REFUSALS: Final = (Invalid, MissingContent, NotFound, Conflict)
"""What is wrong with one manifest or name, and not with the store."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """What became of one manifest of the old registry, or of a whole repository."""

    repository: str
    """Its name there."""
    name: str
    """Its full name here; empty where it can have none."""
    digest: str
    """Empty where a tag leads to none, or the whole repository (no tags) was refused."""
    tags: tuple[str, ...]
    done: Transferred | None
    """Of no manifests where this one was here already, with its tags."""
    error: EngineError | None
    """Why it was left out; the rest goes on."""


@dataclass(frozen=True, slots=True)
class FoundRepository:
    """A repository of the old registry, and what an import would make of it."""

    repository: str
    """Its name there."""
    name: str
    """Its full name here; empty where it can have none."""
    tags: int
    manifests: int
    """With and without tags."""
    error: EngineError | None
    """Why an import leaves it out."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """A repository, and where it goes."""

    there: str
    name: str
    error: EngineError | None

    @property
    def names(self) -> Names:
        return tuple(self.there.split("/"))


class _RepositoryFiles:
    """The content of one repository: a ``Source`` that sees only what is linked there."""

    def __init__(self, files: ForeignFiles, top: Names, name: Names) -> None:
        self._files = files
        self._top = top
        self._home = (*top, "repositories", *name)

    async def size(self, digest: Digest) -> int:
        """Bytes of a blob."""
        await self._check_linked(digest)
        return await self._files.size(*self._place(digest))

    async def read(self, digest: Digest, limit: int) -> bytes:
        """A whole blob."""
        await self._check_linked(digest)
        return await self._files.read(*self._place(digest), limit=limit)

    def pieces(self, digest: Digest) -> AsyncIterator[bytes]:
        """The bytes of a blob, which ``size`` was asked for before."""
        return self._files.pieces(*self._place(digest))

    def _place(self, digest: Digest) -> Names:
        encoded = digest.raw.hex()
        return (*self._top, "blobs", digest.algorithm, encoded[:2], encoded, "data")

    async def _check_linked(self, digest: Digest) -> None:
        """Others' content lies in the same place. Raises NotFound."""
        own = (digest.algorithm, digest.raw.hex(), "link")
        try:
            await self._files.size(*self._home, "_layers", *own)
        except NotFound:
            await self._files.size(*self._home, "_manifests", "revisions", *own)

    async def tags(self) -> tuple[dict[str, list[str]], list[tuple[str, EngineError]]]:
        """Digest -> tags; and tags that lead nowhere, with what is wrong with them."""
        found: dict[str, list[str]] = {}
        bad: list[tuple[str, EngineError]] = []
        home = (*self._home, "_manifests", "tags")
        for name in await self._names(*home):
            try:
                link = await self._files.read(
                    *home, check_tag_name(name), "current", "link", limit=_LINK_BYTES_MAX
                )
                digest = Digest.parse(link.decode("ascii", "replace").strip())
            except NotFound:
                # Deleted: the directory stays.
                continue
            except Invalid as error:
                # A crash of that registry leaves empty links.
                bad.append((name, error))
                continue
            found.setdefault(str(digest), []).append(name)
        return found, bad

    async def revisions(self) -> AsyncIterator[str]:
        """Digests of all manifests."""
        for algorithm in ALGORITHMS:
            home = (*self._home, "_manifests", "revisions", algorithm)
            for encoded in await self._names(*home):
                try:
                    await self._files.size(*home, encoded, "link")
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
    """What ``import_registry`` would bring, in its order; nothing is changed, no content is read.

    Raises NotFound where there is no registry's storage; TooLarge, StorageFailed.
    """
    files = ForeignFiles(path)
    top = await _find(files)
    for planned in await _plan(files, top, renames):
        source = _RepositoryFiles(files, top, planned.names)
        try:
            tags, bad = await source.tags()
            manifests = sum([1 async for _ in source.revisions()])
        except _REFUSALS as error:
            yield FoundRepository(planned.there, planned.name, 0, 0, error)
            continue
        count = len(bad) + sum(len(names) for names in tags.values())
        yield FoundRepository(planned.there, planned.name, count, manifests, planned.error)


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
    """Bring all images of another registry's storage into a store; iterate to do it.

    The first component of a name, after ``renames``, is the namespace, made in that project
    where it is missing; one that is there is used, whatever its project. Tags lead to what they
    lead to there, even where they were moved here since. With ``untagged``, manifests without a
    tag come too. What is refused (a name, two names that would become one, a manifest of
    Docker's schema 1, one whose content is gone) is told of in what is yielded. Raises NotFound
    where there is no registry's storage; TooLarge, StorageFull, StorageFailed.
    """
    files = ForeignFiles(path)
    top = await _find(files)
    for planned in await _plan(files, top, renames):
        if planned.error is not None:
            yield Migrated(planned.there, planned.name, "", (), None, planned.error)
            continue
        source = _RepositoryFiles(files, top, planned.names)
        here: Repository | None = None
        try:
            tags, bad = await source.tags()
            for tag, refusal in bad:
                yield Migrated(planned.there, planned.name, "", (tag,), None, refusal)
            async for entry in _entries(source, tags, untagged=untagged):
                if here is None:
                    here = await _locate(store, region, planned.name, project_id, organization_id)
                yield await _manifest(store, here, source, planned, entry)
        except _REFUSALS as error:
            yield Migrated(planned.there, planned.name, "", (), None, error)


async def _entries(
    source: _RepositoryFiles, tags: dict[str, list[str]], *, untagged: bool
) -> AsyncIterator[Entry]:
    """What is to be imported of a repository."""
    for digest, names in tags.items():
        yield Entry(digest, tuple(names))
    if untagged:
        async for digest in source.revisions():
            if digest not in tags:
                yield Entry(digest)


async def _plan(files: ForeignFiles, top: Names, renames: Renames) -> list[_Planned]:
    """All repositories, and where they go: no two to one place. Raises TooLarge."""
    found: list[_Planned] = []
    async for names in _repositories(files, top):
        there = "/".join(names)
        try:
            found.append(_Planned(there, renames.apply(there), None))
        except Invalid as error:
            found.append(_Planned(there, "", error))
        if len(found) > _ENTRIES_MAX:
            raise TooLarge("repositories", _ENTRIES_MAX, "repositories")
    counts = Counter(planned.name for planned in found if planned.name)
    return [
        planned
        if counts[planned.name] < 2
        else _Planned(
            planned.there, planned.name, Invalid("name", f"others would be {planned.name} too")
        )
        for planned in found
    ]


async def _find(files: ForeignFiles) -> Names:
    """Where the storage begins: at the directory itself, or below. Raises NotFound."""
    for top in (_TOP, _TOP[1:], _TOP[2:], ()):
        try:
            await files.entries(*top, "repositories", limit=_ENTRIES_MAX)
        except NotFound:
            continue
        return top
    raise NotFound("file", str(files.root.joinpath(*_TOP, "repositories")))


async def _repositories(files: ForeignFiles, top: Names) -> AsyncIterator[Names]:
    """Names of all repositories, component by component, in order."""
    todo: list[Names] = [()]
    while todo:
        name = todo.pop()
        try:
            entries = await files.entries(*top, "repositories", *name, limit=_ENTRIES_MAX)
        except Invalid:
            # A file among the directories, or a link, is no repository.
            continue
        if name and "_manifests" in entries:
            yield name
        longer = [(*name, entry) for entry in entries if not entry.startswith("_")]
        todo += [names for names in reversed(longer) if len("/".join(names)) <= FULL_NAME_CHARS_MAX]


async def _locate(
    store: Store, region: str, full_name: str, project_id: UUID, organization_id: UUID
) -> Repository:
    """The repository of that name; its namespace is made where there is none. Raises Invalid."""
    try:
        return await store.locate(region, full_name)
    except NotFound:
        namespace = full_name.partition("/")[0]
        # Somebody else may be faster.
        with contextlib.suppress(AlreadyExists):
            await store.namespaces.create(
                region, namespace, project_id=project_id, organization_id=organization_id
            )
        return await store.locate(region, full_name)


async def _manifest(
    store: Store, here: Repository, source: _RepositoryFiles, planned: _Planned, entry: Entry
) -> Migrated:
    where = planned.there, planned.name, entry.digest, entry.tags
    try:
        if await _is_here(store, here, entry):
            return Migrated(*where, _NOTHING, None)
        steps = [step async for step in import_images(store, here, source, [entry])]
    except _REFUSALS as error:
        return Migrated(*where, None, error)
    return Migrated(*where, steps[-1], None)


async def _is_here(store: Store, here: Repository, entry: Entry) -> bool:
    """Whether the manifest was imported before, and all its tags lead to it."""
    try:
        here = await store.locate(here.region, here.full_name)
        for reference in entry.tags or (entry.digest,):
            manifest = await store.manifests.get(here, reference)
            if str(manifest.digest) != entry.digest:
                return False
    except (NotFound, Corrupt):
        return False
    return True
