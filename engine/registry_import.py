"""Migrating from the storage directory of a docker-registry (CNCF distribution).

    docker/registry/v2/blobs/ALG/H2/HEX/data
    docker/registry/v2/repositories/NAME/_manifests/tags/TAG/current/link
    docker/registry/v2/repositories/NAME/_manifests/revisions/ALG/HEX/link
    docker/registry/v2/repositories/NAME/_layers/ALG/HEX/link

A ``link`` holds a digest. That registry may run meanwhile; what is pushed to it then may be
missed, and comes with another import. What was imported before is not read again.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from .digest import ALGORITHMS, Digest
from .errors import AlreadyExists, Conflict, EngineError, Invalid, MissingContent, NotFound
from .foreign_files import ForeignFiles, Names
from .image_import import Entry, Transferred, import_images
from .models import Repository
from .names import FULL_NAME_CHARS_MAX, check_tag_name

if TYPE_CHECKING:
    from .store import Store

_TOP: Final = ("docker", "registry", "v2")
_LINK_BYTES_MAX: Final = 256
_ENTRIES_MAX: Final = 1_000_000
"""Tags or revisions of one repository, or repositories side by side."""

_REFUSALS: Final = (Invalid, MissingContent, NotFound, Conflict)
"""What is wrong with one manifest or name, and not with the store."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """What became of one manifest of the old registry, or of a whole repository."""

    repository: str
    """Its name there."""
    digest: str
    """Empty where a tag leads to none, or the whole repository (no tags) was refused."""
    tags: tuple[str, ...]
    done: Transferred | None
    error: EngineError | None
    """Why it was left out; the rest goes on."""


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


async def import_registry(
    store: Store,
    path: Path,
    *,
    region: str,
    project_id: UUID,
    organization_id: UUID,
    default_namespace: str | None = None,
    untagged: bool = True,
) -> AsyncGenerator[Migrated, None]:
    """Bring all images of another registry's storage into a store; iterate to do it.

    The first component of a name is the namespace, made in that project where it is missing;
    images whose name has one component go to ``default_namespace``. With ``untagged``, manifests
    without a tag come too. What is refused (a name, a manifest of Docker's schema 1, one whose
    content is gone) is told of in what is yielded. Raises NotFound where there is no registry's
    storage; StorageFull, StorageFailed.
    """
    files = ForeignFiles(path)
    top = await _find(files)
    async for name in _repositories(files, top):
        full_name = "/".join(name)
        source = _RepositoryFiles(files, top, name)
        try:
            if len(name) == 1 and default_namespace is not None:
                full_name = f"{default_namespace}/{full_name}"
            here = await _locate(store, region, full_name, project_id, organization_id)
            tags, bad = await source.tags()
        except _REFUSALS as error:
            yield Migrated("/".join(name), "", (), None, error)
            continue
        for tag, refusal in bad:
            yield Migrated("/".join(name), "", (tag,), None, refusal)
        for digest, names in tags.items():
            yield await _manifest(store, here, source, name, Entry(digest, tuple(names)))
        if untagged:
            async for digest in source.revisions():
                if digest not in tags:
                    yield await _manifest(store, here, source, name, Entry(digest))


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
    store: Store, here: Repository, source: _RepositoryFiles, name: Names, entry: Entry
) -> Migrated:
    try:
        steps = [step async for step in import_images(store, here, source, [entry])]
    except _REFUSALS as error:
        return Migrated("/".join(name), entry.digest, entry.tags, None, error)
    return Migrated("/".join(name), entry.digest, entry.tags, steps[-1], None)
