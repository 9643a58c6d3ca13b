"""Serve a registry and routes of your own from one aiohttp application.

    python registry_in_app.py --data data --port 8080

Requests whose host is the registry's (``--registry-host``) go to the registry, all others to the
routes of this application, which read the same store: ``GET /images`` with a secret key in
X-Auth-Token lists what was pushed. The registry has a host name of its own because docker needs
``/v2/`` at the root of a host.

The first start makes a namespace and a key, and prints its secret, the
password for ``docker login``. Later starts cannot print it: the store keeps only a hash.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from aiohttp import web

from holdfast.api import AppSettings, create_app
from holdfast.engine import AlreadyExists, Store

REGION = "fr-par"
NAMESPACE = "team"
PROJECT = UUID("0b1f3c52-6b1e-4d5c-9a57-3f0d6c1f7e21")
"""Owner of the namespace and the key; a service uses the id of its tenant."""

STORE = web.AppKey("store", Store)


async def set_up(store: Store) -> str | None:
    """Make the namespace and a key; return the secret, or None if a key exists already."""
    if (await store.keys.list()).total:
        return None
    # A start that was interrupted here left the namespace without a key.
    with suppress(AlreadyExists):
        await store.namespaces.create(
            REGION, NAMESPACE, project_id=PROJECT, organization_id=PROJECT
        )
    _, secret = await store.keys.create(
        project_id=PROJECT,
        default_project_id=PROJECT,
        organization_id=PROJECT,
        description="first key",
    )
    return secret


async def images(request: web.Request) -> web.Response:
    """Answer with the first 20 images of the namespace: name, size in bytes, tags."""
    store = request.app[STORE]
    if await store.keys.authenticate(request.headers.get("X-Auth-Token", "")) is None:
        raise web.HTTPUnauthorized
    namespace = await store.namespaces.find(REGION, NAMESPACE)
    page = await store.images.list(REGION, namespace_id=namespace.id)
    found = [{"name": one.name, "size": one.size, "tags": list(one.tags)} for one in page.items]
    return web.json_response(found)


def application(data: Path, registry_host: str) -> web.Application:
    """Return the application: routes of its own, and the registry on ``registry_host``."""
    store = Store.open(data)

    async def opened(app: web.Application) -> AsyncIterator[None]:
        # The registry does not open or close the store: its owner does, around all requests.
        async with store:
            secret = await set_up(store)
            if secret is not None:
                print(f"secret key of namespace {NAMESPACE}: {secret}", flush=True)
            yield

    app = web.Application()
    app[STORE] = store
    app.cleanup_ctx.append(opened)
    app.router.add_get("/images", images)
    app.add_domain(registry_host, create_app(store, AppSettings(regions=(REGION,))))
    return app


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data", type=Path)
    parser.add_argument("--port", default=8080, type=int)
    parser.add_argument("--registry-host", default="registry.localhost")
    given = parser.parse_args()
    web.run_app(application(given.data, given.registry_host), host="127.0.0.1", port=given.port)


if __name__ == "__main__":
    main()
