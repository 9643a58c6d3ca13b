"""A ``Registry`` over the distribution API, for export from and import to a running server.

It pushes and pulls in the order of the OCI distribution-spec; the engine's export and import
choose what to copy. Each request carries the credentials, and only this registry gets them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

from holdfast.api.management.settings import get_namespace_settings
from holdfast.engine import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Digest,
    DigestMismatch,
    Manifest,
    NotFound,
    Referrer,
    Registry,
    Repository,
    StoreConfig,
    TooLarge,
    is_digest,
)

from . import remote
from .client import Management, Named
from .errors import Failure, Misused
from .session import Target, management_of

CHUNK_BYTES: Final = 1024 * 1024
DOCUMENT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Limit in bytes of a tag list, a referrers list or an error body."""

_ACCEPT: Final = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))


@asynccontextmanager
async def remote_images(target: Target, name: str) -> AsyncIterator[tuple[Registry, Repository]]:
    """Open the registry of ``namespace/image`` on a server. Raises Failure or ApiError."""
    async with management_of(target) as api:
        url, repository = await _find(api, target, name)
    credentials = {"Authorization": aiohttp.encode_basic_auth("nologin", target.secret)}
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=remote.CONNECT_SECONDS, sock_read=remote.READ_SECONDS
    )
    async with aiohttp.ClientSession(headers=credentials, timeout=timeout) as http:
        yield RemoteRegistry(http, url, repository), repository


async def _find(api: Management, target: Target, name: str) -> tuple[str, Repository]:
    """Return the URL of the region's registry and the repository, which a push may yet create."""
    named = Named.parse(name)
    if named.image is None:
        raise NotFound("image", name)
    namespace = await api.namespace_named(named)
    settings = await api.ask(get_namespace_settings, namespace_id=namespace.id_)
    assert target.url is not None, target
    host = namespace.endpoint.rpartition("/")[0]
    repository = Repository(
        namespace_id=namespace.id_,
        region=namespace.region,
        project_id=namespace.project_id,
        namespace=namespace.name,
        is_public=namespace.is_public,
        name=named.image,
        key=None,
        image_id=None,
        visibility="inherit",
        sparse_indexes=settings.sparse_indexes,
    )
    return f"{urlsplit(target.url).scheme}://{host}", repository


class RemoteRegistry:
    """One repository of a server; see ``Registry``. Every call raises Failure if it is refused."""

    def __init__(self, http: aiohttp.ClientSession, url: str, repository: Repository) -> None:
        """``url`` has neither path nor query; ``http`` adds the credentials."""
        self._http = http
        self._url = url
        self._base = f"/v2/{quote(repository.full_name)}/"
        self._repository = repository
        self.config = StoreConfig()
        self.manifests = _Manifests(self)
        self.tags = _Tags(self)
        self.uploads = _Uploads(self)

    async def locate(self, region: str, full_name: str) -> Repository:
        """Return the one repository."""
        assert (region, full_name) == (self._repository.region, self._repository.full_name)
        return self._repository

    async def exists(self, digests: Iterable[str | Digest], *, repository: Repository) -> set[str]:
        """Return the digests that exist, with one request per digest."""
        found = set()
        for digest in digests:
            async with self.request("HEAD", f"blobs/{digest}") as response:
                if response.status == 200:
                    found.add(str(digest))
        return found

    def get(
        self, digest: str | Digest, *, verify: bool = False, repository: Repository
    ) -> AbstractAsyncContextManager[AsyncIterable[bytes]]:
        """Open a blob for reading; the reader verifies the digest."""
        return self._blob(str(digest))

    @asynccontextmanager
    async def _blob(self, digest: str) -> AsyncGenerator[AsyncIterable[bytes], None]:
        async with self.request("GET", f"blobs/{digest}") as response:
            if response.status == 404:
                raise NotFound("blob", digest)
            yield response.content.iter_chunked(CHUNK_BYTES)

    @asynccontextmanager
    async def request(
        self, method: str, path: str, **more: Any
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send a request below the repository; yield the response, a success or a 404."""
        # The path is quoted already; yarl must not quote it again.
        url = URL(self._url + self._base + path, encoded=True)
        try:
            # A redirect would send the secret to another server.
            async with self._http.request(method, url, allow_redirects=False, **more) as response:
                if response.status >= 300 and response.status != 404:
                    kind = Misused if response.status == 400 else Failure
                    raise kind(f"{self._url} refuses the request: {await self._reason(response)}")
                yield response
        except TimeoutError:
            raise Failure(f"{self._url} cannot be reached: timed out") from None
        except aiohttp.ClientError as error:
            raise Failure(f"{self._url} cannot be reached: {error}") from error

    async def _reason(self, response: aiohttp.ClientResponse) -> str:
        content = await self.whole(response, DOCUMENT_BYTES_MAX)
        try:
            error = msgspec.json.decode(content)["errors"][0]
            return f"{error['code']}: {error['message']}"
        except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError):
            return f"status {response.status}"

    async def whole(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """Return the whole response body. Raises TooLarge beyond ``limit`` bytes."""
        content = bytearray()
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > limit:
                raise TooLarge("response", limit)
        return bytes(content)

    async def document(self, path: str) -> dict[str, Any]:
        """Return a JSON object below the repository. Raises NotFound."""
        async with self.request("GET", path) as response:
            if response.status == 404:
                raise NotFound("image", self._repository.full_name)
            content = await self.whole(response, DOCUMENT_BYTES_MAX)
        try:
            return msgspec.json.decode(content, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Failure(f"{self._url} does not answer like a registry") from None


class _Manifests:
    def __init__(self, registry: RemoteRegistry) -> None:
        self._registry = registry

    async def get(self, repository: Repository, reference: str) -> Manifest:
        """Return the manifest under a tag or digest, and verify its digest."""
        limit = self._registry.config.manifest_bytes_max
        path = f"manifests/{quote(reference, safe=':')}"
        async with self._registry.request("GET", path, headers={"Accept": _ACCEPT}) as response:
            if response.status == 404:
                raise NotFound("manifest", reference)
            body = await self._registry.whole(response, limit)
            header = response.headers.get("Docker-Content-Digest", "")
        by_digest = is_digest(reference)
        digest = Digest.parse(reference if by_digest else header)
        actual = Digest.of(body, digest.algorithm)
        if actual != digest:
            raise DigestMismatch(str(digest), str(actual))
        return Manifest(digest, response.content_type, body, None if by_digest else reference)

    async def put(
        self,
        repository: Repository,
        body: bytes,
        *,
        media_type: str | None,
        reference: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        """Push a manifest, with one request per name."""
        names = tags or ([reference] if reference else [])
        headers = {"Content-Type": media_type or OCI_MANIFEST}
        for name in names:
            path = f"manifests/{quote(name, safe=':')}"
            async with self._registry.request("PUT", path, data=body, headers=headers) as response:
                if response.status == 404:
                    raise NotFound("namespace", repository.namespace)

    async def referrers(
        self,
        repository: Repository,
        subject: str | Digest,
        *,
        after: str | Digest | None = None,
        limit: int = 100,
    ) -> list[Referrer]:
        """Return all referrers, whatever the limit; with ``after``, therefore none."""
        if after is not None:
            return []
        index = await self._registry.document(f"referrers/{subject}")
        return [
            Referrer(
                digest=Digest.parse(item["digest"]),
                media_type=item["mediaType"],
                size=item["size"],
                artifact_type=item.get("artifactType"),
                annotations=item.get("annotations") or {},
            )
            for item in index["manifests"]
        ]


class _Tags:
    def __init__(self, registry: RemoteRegistry) -> None:
        self._registry = registry

    async def names(
        self, repository: Repository, *, after: str = "", limit: int = 100
    ) -> list[str]:
        """Return one page of tag names after ``after``."""
        last = f"&last={quote(after, safe='')}" if after else ""
        listed = await self._registry.document(f"tags/list?n={limit}{last}")
        names: list[str] = listed["tags"] or []
        return names


class _Uploads:
    def __init__(self, registry: RemoteRegistry) -> None:
        self._registry = registry

    async def put(
        self,
        repository: Repository,
        digest: str | Digest,
        source: AsyncIterator[bytes],
        *,
        length: int | None = None,
    ) -> None:
        """Push a blob in one request (OCI distribution-spec, "Single POST").

        The server verifies the digest.
        """
        headers = {"Content-Type": "application/octet-stream"}
        if length is not None:
            headers["Content-Length"] = str(length)
        path = f"blobs/uploads/?digest={digest}"
        async with self._registry.request("POST", path, data=source, headers=headers) as response:
            if response.status == 404:
                raise NotFound("namespace", repository.namespace)
