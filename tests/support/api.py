"""What every client of a server has in common: names, answers, and the content it pushes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from aiohttp import web

from holdfast.engine import Key, Permission, Store

ORGANIZATION: Final = UUID("11111111-1111-4111-8111-111111111111")
PROJECT: Final = ORGANIZATION
"""The organization's default project has the organization's id."""
OTHER_PROJECT: Final = UUID("22222222-2222-4222-8222-222222222222")
OWNER_SECRET: Final = "33333333-3333-4333-8333-333333333333"

CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True)
class Reply:
    """An answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Code of the first error of the distribution API."""
        code: str = self.json["errors"][0]["code"]
        return code


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """Return ``sha256:<hex>``."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def basic(secret: str, user: str = "nologin") -> str:
    """Return an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


async def make_owner(store: Store) -> None:
    """Create the owner key, whose secret is OWNER_SECRET."""
    await store.keys.create(
        project_id=None,
        default_project_id=PROJECT,
        organization_id=ORGANIZATION,
        access_key="SCWXXXXXXXXXXXXXXXXX",
        secret=OWNER_SECRET,
    )


async def make_key(
    store: Store, project: UUID | None, permission: Permission = "full", **more: Any
) -> tuple[Key, str]:
    """Create a key of a project, or of all projects; return it and its secret."""
    return await store.keys.create(
        project_id=project,
        default_project_id=project or PROJECT,
        organization_id=ORGANIZATION,
        permission=permission,
        **more,
    )


@asynccontextmanager
async def listening(app: web.Application, **options: Any) -> AsyncIterator[int]:
    """Serve an application on loopback until the end of the block; yield its port."""
    runner = web.AppRunner(app, shutdown_timeout=1, **options)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
