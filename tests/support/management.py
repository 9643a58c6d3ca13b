"""A store behind a real management API on loopback, and a client that holds every answer against
the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from aiohttp import ClientSession
from jsonschema_rs import Draft202012Validator

from holdfast.api import AppSettings, create_app
from holdfast.api.management.openapi import document
from holdfast.api.management.operations import OPERATIONS
from holdfast.engine import Key, Permission, Store, StoreConfig
from support.api import OTHER_PROJECT, OWNER_SECRET, PROJECT, Reply, listening, make_key, make_owner
from support.engine import push

ABSENT = "99999999-9999-4999-8999-999999999999"

REGISTRY = "/registry/v1/regions/fr-par"
BEYOND = "/holdfast/v1/regions/fr-par"

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


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
    ) -> Reply:
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
            answer = Reply(response.status, response.headers, await response.read())
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
        return await make_key(self.store, project, permission, **more)

    async def push(
        self, name: str, tag: str, *layers: bytes, region: str = "fr-par", config: bytes = b"{}"
    ) -> str:
        """Push an image straight into the store; the digest of its manifest."""
        pushed = await push(self.store, name, tag, layers, config=config, region=region)
        return str(pushed.digest)


@dataclass
class Contract:
    """The OpenAPI document, as a judge of answers."""

    document: dict[str, Any]
    seen: set[tuple[str, int]] = field(default_factory=set)
    """Operations and statuses that were judged."""

    def check(self, method: str, path: str, answer: Reply) -> None:
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


async def known_ids(server: Server, name: str) -> dict[str, str]:
    """Make an object for each parameter of a path; return the ids by parameter."""
    namespace = await server.create(name)
    trashed = await server.create(name + "-trash")
    await server.ok("DELETE", f"{REGISTRY}/namespaces/{trashed['id']}")
    await server.push(f"{name}/app", "latest", b"1")
    images = await server.ok("GET", f"{REGISTRY}/images?namespace_id={namespace['id']}")
    image = images["images"][0]
    tag = (await server.ok("GET", f"{REGISTRY}/images/{image['id']}/tags"))["tags"][0]
    key, _ = await server.key()
    here = await server.store.locate("fr-par", f"{name}/app")
    upload = await server.store.uploads.begin(here)
    return {
        "region": "fr-par",
        "namespace_id": namespace["id"],
        "image_id": image["id"],
        "tag_id": tag["id"],
        "item_id": trashed["id"],
        "upload_id": str(upload.id),
        "project_id": str(PROJECT),
        "access_key": key.access_key,
    }


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
        await make_owner(store)
        contract = Contract(document(OPERATIONS, settings.regions))
        async with listening(create_app(store, settings)) as port, ClientSession() as http:
            yield Server(f"http://127.0.0.1:{port}", store, http, contract)
