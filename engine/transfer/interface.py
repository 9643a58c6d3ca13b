"""What images are copied from and to: a store, or (for whoever writes one) a registry elsewhere.

Just the calls of Store that export and import of layouts make, with the same meanings and errors.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from holdfast.engine.model.digest import Digest
from holdfast.engine.model.values import Manifest, Referrer, Repository


class RegistryConfig(Protocol):
    """Of StoreConfig, what a copy keeps to."""

    @property
    def manifest_bytes_max(self) -> int:
        """The largest manifest."""

    @property
    def sparse_indexes(self) -> bool:
        """Whether indexes may lack children."""


class RegistryManifests(Protocol):
    """Of Manifests."""

    async def get(self, repository: Repository, reference: str) -> Manifest:
        """The manifest under a tag or a digest. Raises NotFound."""

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
        """Manifests of the image that name ``subject``, in order of their digests."""


class RegistryTags(Protocol):
    """Of Tags."""

    async def names(
        self, repository: Repository, *, after: str = "", limit: int = 100
    ) -> list[str]:
        """Tag names in byte order, after a name. Raises NotFound."""


class RegistryUploads(Protocol):
    """Of Uploads."""

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
    """Of Store."""

    @property
    def config(self) -> RegistryConfig:
        """Its limits."""

    @property
    def manifests(self) -> RegistryManifests:
        """Manifests by name and digest."""

    @property
    def tags(self) -> RegistryTags:
        """Names of tags."""

    @property
    def uploads(self) -> RegistryUploads:
        """Blobs on their way in."""

    async def locate(self, region: str, full_name: str) -> Repository:
        """Where ``namespace/image`` leads. Raises Invalid (``name``), NotFound."""

    async def exists(self, digests: Iterable[str | Digest], *, repository: Repository) -> set[str]:
        """Those of the digests that the image has."""

    def get(
        self, digest: str | Digest, *, verify: bool = False, repository: Repository
    ) -> AbstractAsyncContextManager[AsyncIterable[bytes]]:
        """Read a blob of the image; entering raises NotFound."""
