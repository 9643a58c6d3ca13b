"""Images of a running server, for export and import: a ``Registry`` over the distribution API.

What a push and a pull do, in the order of the OCI distribution-spec; the engine's own export and
import decide what to copy. Credentials go with each request, to the one registry and no other.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

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

PIECE_BYTES: Final = 1024 * 1024
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of a list of tags or referrers, and of an error."""

_ACCEPT: Final = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))


@asynccontextmanager
async def remote_images(place: Target, name: str) -> AsyncIterator[tuple[Registry, Repository]]:
    """Where ``namespace/image`` is on a server. Raises Failure, ApiError."""
    async with management_of(place) as management:
        url, repository = await _find(management, place, name)
    credentials = {"Authorization": aiohttp.encode_basic_auth("nologin", place.secret)}
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=remote.CONNECT_SECONDS, sock_read=remote.READ_SECONDS
    )
    async with aiohttp.ClientSession(headers=credentials, timeout=timeout) as http:
        yield RemoteRegistry(http, url, repository), repository


async def _find(management: Management, place: Target, name: str) -> tuple[str, Repository]:
    """The URL of the region's registry, and the image, which a push may yet make."""
    named = Named.parse(name)
    if named.image is None:
        raise NotFound("image", name)
    namespace = await management.namespace_named(named)
    settings = await management.settings(namespace.id_)
    assert place.url is not None, place
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
    return f"{urlsplit(place.url).scheme}://{host}", repository


class RemoteRegistry:
    """See ``Registry``: one image of a server. All calls raise Failure for what it refuses."""

    def __init__(self, http: aiohttp.ClientSession, url: str, repository: Repository) -> None:
        """``url`` has neither path nor query; ``http`` brings the credentials along."""
        self._http = http
        self._url = url
        self._base = f"/v2/{quote(repository.full_name)}/"
        self._repository = repository
        self.config = StoreConfig()
        self.manifests = _Manifests(self)
        self.tags = _Tags(self)
        self.uploads = _Uploads(self)

    async def locate(self, region: str, full_name: str) -> Repository:
        """The one image."""
        assert (region, full_name) == (self._repository.region, self._repository.full_name)
        return self._repository

    async def exists(self, digests: Iterable[str | Digest], *, repository: Repository) -> set[str]:
        """Ask for one after the other."""
        found = set()
        for digest in digests:
            async with self.ask("HEAD", f"blobs/{digest}") as answer:
                if answer.status == 200:
                    found.add(str(digest))
        return found

    def get(
        self, digest: str | Digest, *, verify: bool = False, repository: Repository
    ) -> AbstractAsyncContextManager[AsyncIterable[bytes]]:
        """Read a blob; whoever reads it compares the digest."""
        return self._blob(str(digest))

    @asynccontextmanager
    async def _blob(self, digest: str) -> AsyncGenerator[AsyncIterable[bytes], None]:
        async with self.ask("GET", f"blobs/{digest}") as answer:
            if answer.status == 404:
                raise NotFound("blob", digest)
            yield answer.content.iter_chunked(PIECE_BYTES)

    @asynccontextmanager
    async def ask(
        self, method: str, path: str, **more: Any
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Ask for something of the image; the answer is a success, or says 404."""
        url = URL(self._url + self._base + path, encoded=True)
        try:
            async with self._http.request(method, url, allow_redirects=False, **more) as answer:
                if answer.status >= 300 and answer.status != 404:
                    kind = Misused if answer.status == 400 else Failure
                    raise kind(f"{self._url} refuses it: {await self._reason(answer)}")
                yield answer
        except TimeoutError:
            raise Failure(f"{self._url} cannot be reached: no answer in time") from None
        except aiohttp.ClientError as error:
            raise Failure(f"{self._url} cannot be reached: {error}") from error

    async def _reason(self, answer: aiohttp.ClientResponse) -> str:
        content = await self.whole(answer, ANSWER_BYTES_MAX)
        try:
            error = msgspec.json.decode(content)["errors"][0]
            return f"{error['code']}: {error['message']}"
        except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError):
            return f"status {answer.status}"

    async def whole(self, answer: aiohttp.ClientResponse, limit: int) -> bytes:
        """All of an answer. Raises TooLarge."""
        content = bytearray()
        async for piece in answer.content.iter_any():
            content += piece
            if len(content) > limit:
                raise TooLarge("answer", limit)
        return bytes(content)

    async def document(self, path: str) -> dict[str, Any]:
        """A JSON object. Raises NotFound."""
        async with self.ask("GET", path) as answer:
            if answer.status == 404:
                raise NotFound("image", self._repository.full_name)
            content = await self.whole(answer, ANSWER_BYTES_MAX)
        try:
            return msgspec.json.decode(content, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Failure(f"{self._url} does not answer as a registry does") from None


class _Manifests:
    def __init__(self, registry: RemoteRegistry) -> None:
        self._registry = registry

    async def get(self, repository: Repository, reference: str) -> Manifest:
        """Under a tag or a digest, compared with its digest."""
        limit = self._registry.config.manifest_bytes_max
        path = f"manifests/{quote(reference, safe=':')}"
        async with self._registry.ask("GET", path, headers={"Accept": _ACCEPT}) as answer:
            if answer.status == 404:
                raise NotFound("manifest", reference)
            body = await self._registry.whole(answer, limit)
            told = answer.headers.get("Docker-Content-Digest", "")
        by_digest = is_digest(reference)
        digest = Digest.parse(reference if by_digest else told)
        actual = Digest.of(body, digest.algorithm)
        if actual != digest:
            raise DigestMismatch(str(digest), str(actual))
        return Manifest(digest, answer.content_type, body, None if by_digest else reference)

    async def put(
        self,
        repository: Repository,
        body: bytes,
        *,
        media_type: str | None,
        reference: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        """One request a name."""
        names = tags or ([reference] if reference else [])
        headers = {"Content-Type": media_type or OCI_MANIFEST}
        for name in names:
            path = f"manifests/{quote(name, safe=':')}"
            async with self._registry.ask("PUT", path, data=body, headers=headers) as answer:
                if answer.status == 404:
                    raise NotFound("namespace", repository.namespace)

    async def referrers(
        self,
        repository: Repository,
        subject: str | Digest,
        *,
        after: str | Digest | None = None,
        limit: int = 100,
    ) -> list[Referrer]:
        """All of them at once, whatever the limit; so there is nothing after any."""
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
        """One page of them."""
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
        """In one request (OCI distribution-spec, "Single POST"), in which the server compares."""
        headers = {"Content-Type": "application/octet-stream"}
        if length is not None:
            headers["Content-Length"] = str(length)
        path = f"blobs/uploads/?digest={digest}"
        async with self._registry.ask("POST", path, data=source, headers=headers) as answer:
            if answer.status == 404:
                raise NotFound("namespace", repository.namespace)
