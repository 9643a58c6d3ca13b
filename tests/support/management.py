"""A store behind a real management API on loopback, and a client that holds every answer against
the OpenAPI document."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from aiohttp import ClientSession, web
from jsonschema_rs import Draft202012Validator

from holdfast.api import AppSettings, create_app
from holdfast.api.management.openapi import document
from holdfast.api.management.operations import OPERATIONS
from holdfast.engine import Key, Permission, Store, StoreConfig

ORGANIZATION = UUID("11111111-1111-4111-8111-111111111111")
PROJECT = ORGANIZATION
"""The organization's default project has the organization's id."""
OTHER_PROJECT = UUID("22222222-2222-4222-8222-222222222222")
OWNER_SECRET = "33333333-3333-4333-8333-333333333333"
ABSENT = "99999999-9999-4999-8999-999999999999"

REGISTRY = "/registry/v1/regions/fr-par"
BEYOND = "/holdfast/v1/regions/fr-par"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@dataclass(frozen=True)
class Answer:
    """What a request got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running server, and a client of it that uses the owner's key unless told otherwise."""

    url: str
    store: Store
    http: ClientSession
    contract: Contract

    async def call(
        self,
        method: str,
        path: str,
        *,
        secret: str | None = OWNER_SECRET,
        params: Mapping[str, str] | None = None,
        payload: object = None,
        body: bytes | BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; check the answer's form; return it whatever its status."""
        sent = dict(headers or {})
        if secret is not None:
            sent["X-Auth-Token"] = secret
        if payload is not None:
            body = json.dumps(payload).encode()
            sent.setdefault("Content-Type", "application/json")
        async with self.http.request(
            method, self.url + path, params=params, data=body, headers=sent
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        self.contract.check(method, path, answer)
        return answer

    async def ok(self, method: str, path: str, **more: Any) -> Any:
        """As ``call``, for what must succeed: the answer's JSON."""
        answer = await self.call(method, path, **more)
        assert answer.status == 200, answer.body
        return answer.json

    async def create(self, name: str, *, region: str = "fr-par", **fields: Any) -> Any:
        """A new namespace."""
        path = f"/registry/v1/regions/{region}/namespaces"
        return await self.ok("POST", path, payload={"name": name, **fields})

    async def key(
        self,
        project: UUID | None = OTHER_PROJECT,
        permission: Permission = "full",
        **more: Any,
    ) -> tuple[Key, str]:
        """A new key and its secret."""
        return await self.store.keys.create(
            project_id=project,
            default_project_id=project or PROJECT,
            organization_id=ORGANIZATION,
            permission=permission,
            **more,
        )

    async def push(
        self, name: str, tag: str, *layers: bytes, region: str = "fr-par", config: bytes = b"{}"
    ) -> str:
        """Push an image straight into the store; the digest of its manifest."""
        repository = await self.store.locate(region, name)
        described = []
        for blob in (config, *layers):
            digest = digest_of(blob)
            await self.store.uploads.put(repository, digest, once(blob), length=len(blob))
            described.append({"digest": digest, "size": len(blob)})
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {"mediaType": CONFIG_TYPE, **described[0]},
                "layers": [{"mediaType": LAYER_TYPE, **item} for item in described[1:]],
            }
        ).encode()
        pushed = await self.store.manifests.put(
            repository, manifest, media_type=MANIFEST_TYPE, reference=tag
        )
        return str(pushed.digest)


@dataclass
class Contract:
    """The OpenAPI document, as a judge of answers."""

    document: dict[str, Any]
    seen: set[tuple[str, int]] = field(default_factory=set)
    """Operations and statuses that were judged."""

    def check(self, method: str, path: str, answer: Answer) -> None:
        """Every answer is JSON without parameters; those of an operation fit its schema."""
        assert answer.headers["Content-Type"] == "application/json"
        assert "X-Total-Count" not in answer.headers
        assert UUID(answer.headers["X-Request-Id"]).version == 4
        if method == "HEAD":
            return
        value = answer.json
        operation = self._operation(method, path)
        if operation is None:
            return
        self.seen.add((operation["operationId"], answer.status))
        responses = operation["responses"]
        assert str(answer.status) in responses, (operation["operationId"], answer)
        schema = responses[str(answer.status)]["content"]["application/json"]["schema"]
        validator = Draft202012Validator(
            {**schema, "components": self.document["components"]}, validate_formats=True
        )
        validator.validate(value)

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        for template, methods in self.document["paths"].items():
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
            if re.fullmatch(pattern, path.partition("?")[0]):
                found: dict[str, Any] | None = methods.get(method.lower())
                return found
        return None


def digest_of(data: bytes) -> str:
    """``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def once(data: bytes) -> AsyncIterator[bytes]:
    """Data as a stream of one piece."""
    yield data


def memory_store(**config: Any) -> AbstractAsyncContextManager[Store]:
    """A store that leaves nothing behind."""
    return Store.memory(StoreConfig(**config))


def disk_store(path: Path, **config: Any) -> AbstractAsyncContextManager[Store]:
    """A store with all its real parts."""
    return Store.open(path / "data", StoreConfig(map_bytes=64 << 20, **config))


@asynccontextmanager
async def serving(
    opened: AbstractAsyncContextManager[Store], settings: AppSettings | None = None
) -> AsyncIterator[Server]:
    """Serve a store on loopback with an owner key; stop it at the end."""
    settings = settings or AppSettings()
    async with opened as store:
        await store.keys.create(
            project_id=None,
            default_project_id=PROJECT,
            organization_id=ORGANIZATION,
            access_key="SCWXXXXXXXXXXXXXXXXX",
            secret=OWNER_SECRET,
        )
        runner = web.AppRunner(create_app(store, settings), shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        contract = Contract(document(OPERATIONS, settings.regions))
        try:
            async with ClientSession() as http:
                yield Server(f"http://{host}:{port}", store, http, contract)
        finally:
            await runner.cleanup()
