"""The calls of Store that imports and exports make, as Protocols.

Another registry can be a source or target as well: an adapter with these calls, meanings and
errors is enough.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from holdfast.engine.model.digest import Digest
from holdfast.engine.model.values import Manifest, Referrer, Repository


class RegistryConfig(Protocol):
    """Settings of StoreConfig that a copy observes."""

    @property
    def manifest_bytes_max(self) -> int:
        """Largest manifest in bytes."""

    @property
    def sparse_indexes(self) -> bool:
        """True if indexes may lack children."""


class RegistryManifests(Protocol):
    """Calls of Manifests."""

    async def get(self, repository: Repository, reference: str) -> Manifest:
        """Return the manifest under a tag or digest. Raises NotFound."""

    async def put(
        self,
        repository: Repository,
        body: bytes,
        *,
        media_type: str | None,
        reference: str | None = None,
        tags: Sequence[str] = (),
    ) -> object:
        """Store a manifest under its digest, and under more ``tags``."""

    async def referrers(
        self,
        repository: Repository,
        subject: str | Digest,
        *,
        after: str | Digest | None = None,
        limit: int = 100,
    ) -> list[Referrer]:
        """List the manifests of the image that name ``subject``, in order of digest."""


class RegistryTags(Protocol):
    """Calls of Tags."""

    async def names(
        self, repository: Repository, *, after: str = "", limit: int = 100
    ) -> list[str]:
        """List tag names in byte order, after a name. Raises NotFound."""


class RegistryUploads(Protocol):
    """Calls of Uploads."""

    async def put(
        self,
        repository: Repository,
        digest: str | Digest,
        source: AsyncIterator[bytes],
        *,
        length: int | None = None,
    ) -> object:
        """Upload a blob."""


class Registry(Protocol):
    """Calls of Store."""

    @property
    def config(self) -> RegistryConfig:
        """Limits of the registry."""

    @property
    def manifests(self) -> RegistryManifests:
        """Manifests by tag and digest."""

    @property
    def tags(self) -> RegistryTags:
        """Names of tags."""

    @property
    def uploads(self) -> RegistryUploads:
        """Uploads of blobs."""

    async def locate(self, region: str, full_name: str) -> Repository:
        """Return the repository ``namespace/image``. Raises Invalid (``name``), NotFound."""

    async def exists(self, digests: Iterable[str | Digest], *, repository: Repository) -> set[str]:
        """Return those of the digests that the image has."""

    def get(
        self, digest: str | Digest, *, verify: bool = False, repository: Repository
    ) -> AbstractAsyncContextManager[AsyncIterable[bytes]]:
        """Read a blob of the image; entering raises NotFound."""
