"""A store behind a real registry on loopback, and a client that holds every answer against the
rules that all answers share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from aiohttp import ClientSession, DummyCookieJar, web
from multidict import CIMultiDictProxy
from yarl import URL

from holdfast.api import AppSettings, create_app
from holdfast.api.http.oci_errors import CODES
from holdfast.api.server.worker import FIELD_BYTES_MAX, LINE_BYTES_MAX
from holdfast.engine import Key, Namespace, Permission, Store, StoreConfig
from support.api import (
    CONFIG_TYPE,
    LAYER_TYPE,
    MANIFEST_TYPE,
    ORGANIZATION,
    OWNER_SECRET,
    PROJECT,
    Reply,
    basic,
    digest_of,
    listening,
    make_key,
    make_owner,
)

CACHING = ("max-age=31536000, immutable", "no-cache")


@dataclass(frozen=True)
class Answer(Reply):
    """An answer whose headers may come more than once."""

    headers: CIMultiDictProxy[str]

    @property
    def location(self) -> str:
        return self.headers["Location"]

    @property
    def fingerprint(self) -> tuple[int, bytes, list[tuple[str, str]]]:
        """All that a client sees, but for the time and the request's own id."""
        passing = ("date", "x-request-id")
        kept = [
            (name, value) for name, value in self.headers.items() if name.lower() not in passing
        ]
        return self.status, self.body, sorted(kept)


@dataclass
class Registry:
    """A running registry, and a client of it that is the owner unless told otherwise."""

    url: str
    port: int
    store: Store
    http: ClientSession

    async def call(
        self,
        method: str,
        path: str,
        *,
        secret: str | None = OWNER_SECRET,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
    ) -> Answer:
        """Send a request with exactly this path; check what all answers share; return it."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        elif secret is not None:
            sent.setdefault("Authorization", basic(secret))
        async with self.http.request(
            method,
            URL(self.url + path, encoded=True),
            data=data,
            headers=sent,
            allow_redirects=False,
            skip_auto_headers=("Content-Type", "Accept-Encoding"),
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        check(method, path, answer)
        return answer

    async def token(
        self, *scopes: str, secret: str | None = OWNER_SECRET, **parameters: str
    ) -> str:
        """A bearer token."""
        pairs = [f"scope={scope}" for scope in scopes]
        pairs += [f"{name}={value}" for name, value in parameters.items()]
        answer = await self.call("GET", "/token?service=holdfast&" + "&".join(pairs), secret=secret)
        assert answer.status == 200, answer
        token: str = answer.json["token"]
        return token

    async def namespace(self, name: str, project: UUID = PROJECT, **more: Any) -> Namespace:
        """A new namespace in the default region."""
        region = more.pop("region", "fr-par")
        return await self.store.namespaces.create(
            region, name, project_id=project, organization_id=ORGANIZATION, **more
        )

    async def key(
        self, project: UUID | None = PROJECT, permission: Permission = "full", **more: Any
    ) -> tuple[Key, str]:
        """A new key and its secret."""
        return await make_key(self.store, project, permission, **more)

    async def blob(self, name: str, data: bytes, **more: Any) -> str:
        """Upload a blob in one request; its digest."""
        digest = digest_of(data)
        path = f"/v2/{name}/blobs/uploads/?digest={digest}"
        answer = await self.call("POST", path, data=data, **more)
        assert answer.status == 201, answer
        return digest

    async def session(self, name: str) -> str:
        """Open an upload; its Location."""
        answer = await self.call("POST", f"/v2/{name}/blobs/uploads/")
        assert answer.status == 202, answer
        return answer.location

    async def put_manifest(
        self, name: str, reference: str, document: Mapping[str, Any] | bytes, **more: Any
    ) -> Answer:
        """PUT a manifest with the type it says."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        kind = json.loads(body)["mediaType"]
        headers = {"Content-Type": kind, **more.pop("headers", {})}
        return await self.call(
            "PUT", f"/v2/{name}/manifests/{reference}", data=body, headers=headers, **more
        )

    async def image(self, name: str, reference: str, *layers: bytes, **more: Any) -> str:
        """Push a whole image; the digest of its manifest."""
        config = await self.blob(name, b"{}")
        digests = [await self.blob(name, layer) for layer in layers]
        document = manifest(config, zip(digests, map(len, layers), strict=True), **more)
        answer = await self.put_manifest(name, reference, document)
        assert answer.status == 201, answer
        return answer.headers["Docker-Content-Digest"]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A socket of one's own; what is done with it must not take longer than 20 seconds."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(20):
                yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def raw(self, request: bytes) -> bytes:
        """Send bytes over a socket of their own; everything that comes back until it closes."""
        received = b""
        async with self.connection() as (reader, writer):
            writer.write(request)
            # The server may close with bytes of ours unread; what it said before that counts.
            with suppress(ConnectionResetError):
                while data := await reader.read(65536):
                    received += data
        return received


def check(method: str, path: str, answer: Answer) -> None:
    """What holds for every answer (contract section 0)."""
    assert answer.status != 500, answer
    if path.startswith("/v2"):
        assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    caching = answer.headers.getall("Cache-Control")
    if "ETag" in answer.headers:
        assert caching in ([f"{who}{how}"] for who in ("", "private, ") for how in CACHING), caching
    else:
        assert caching == ["no-store"], (method, path)
    assert "charset" not in answer.headers.get("Content-Type", "")
    assert "Content-Encoding" not in answer.headers
    if method == "HEAD":
        assert answer.body == b""
    elif answer.status >= 400:
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json["errors"]
        for error in answer.json["errors"]:
            assert error["code"] in CODES
            assert set(error) <= {"code", "message", "detail"}
    if answer.status == 401 and path.startswith("/v2"):
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="http')
    if answer.status == 405:
        assert answer.headers["Allow"]


def descriptor(digest: str, size: int, kind: str = LAYER_TYPE, **more: Any) -> dict[str, Any]:
    """An OCI descriptor."""
    return {"mediaType": kind, "digest": digest, "size": size, **more}


def manifest(
    config: str, layers: Any = (), config_type: str = CONFIG_TYPE, **more: Any
) -> dict[str, Any]:
    """An image manifest with the two-byte config ``{}`` and layers of (digest, size)."""
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(config, 2, config_type),
        "layers": [descriptor(digest, size) for digest, size in layers],
        **more,
    }


@asynccontextmanager
async def registry(
    opened: AbstractAsyncContextManager[Store] | None = None,
    settings: AppSettings | None = None,
    prefix: str = "",
) -> AsyncIterator[Registry]:
    """Serve a store (in memory unless given) on loopback; stop at the end."""
    if opened is None:
        opened = Store.memory(StoreConfig(background=False))
    async with opened as store:
        await make_owner(store)
        app = create_app(store, settings)
        if prefix:
            parent = web.Application()
            parent.add_subapp(prefix, app)
            app = parent
        sizes = {"max_line_size": LINE_BYTES_MAX, "max_field_size": FIELD_BYTES_MAX}
        async with (
            listening(app, **sizes) as port,
            ClientSession(cookie_jar=DummyCookieJar(), auto_decompress=False) as http,
        ):
            yield Registry(f"http://127.0.0.1:{port}", port, store, http)


async def content(server: Registry, digest: str, name: str = "team/app") -> bytes:
    """Return the bytes of a blob that an image has."""
    answer = await server.call("GET", f"/v2/{name}/blobs/{digest}")
    assert answer.status == 200
    return answer.body


def encoded(document: object) -> bytes:
    """JSON that no serializer would write the same way, so that bytes must be kept verbatim."""
    return json.dumps(document, indent=3, sort_keys=True).encode() + b"\n"


async def simple(server: Registry) -> bytes:
    """Push the blobs of a small image into ``team/app``; return its manifest."""
    config = await server.blob("team/app", b"{}")
    layer = await server.blob("team/app", b"layer")
    return encoded(manifest(config, [(layer, 5)]))
