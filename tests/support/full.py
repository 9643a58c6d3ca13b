"""A store on a disk that another program has filled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from holdfast.engine import Store, StoreConfig
from holdfast.engine.model.config import PREALLOCATED_BYTES
from support.api import OWNER_SECRET
from support.distribution import Registry, registry
from support.load import fill_disk, small_disk

MEGABYTES: Final = 24
RESERVE_BYTES: Final = 8 << 20
"""A quarter of it is the ledger's."""

IMAGES: Final = 20
GO_ON: Final = (
    f"continue even with 0 bytes free, in up to {PREALLOCATED_BYTES >> 20} MiB"
    " that the ledger has allocated"
)
"""Words of the pages on pulls (or reads) and deletes."""


def made(path: Path) -> Path:
    """A new directory there."""
    path.mkdir()
    return path


@asynccontextmanager
async def filled(path: Path) -> AsyncIterator[Registry]:
    """A registry with IMAGES namespaces of one image each, and no free byte."""
    with small_disk(made(path), MEGABYTES):
        config = StoreConfig(background=False, disk_reserve_bytes=RESERVE_BYTES)
        opened = Store.open(path / "data", config)
        async with registry(opened) as server:
            for number in range(IMAGES):
                await server.namespace(f"team{number}")
                await server.image(f"team{number}/app", "v1", b"layer")
            # As a server's sweep does in the background.
            await server.store.core.keep_room()
            fill_disk(path)
            yield server


async def pulled_and_deleted(server: Registry) -> None:
    """By both APIs each read succeeds, and each delete."""
    url = f"{server.url}/registry/v1/regions/fr-par/namespaces"
    headers = {"X-Auth-Token": OWNER_SECRET}
    async with server.http.get(url, headers=headers) as answer:
        listed = {each["name"]: each["id"] for each in (await answer.json())["namespaces"]}
    assert len(listed) == IMAGES
    for number in range(IMAGES):
        path = f"/v2/team{number}/app/manifests/v1"
        assert (await server.call("GET", path)).status == 200
        assert (await server.call("DELETE", path)).status == 202
        assert (await server.call("GET", path)).status == 404
        async with server.http.delete(
            f"{url}/{listed[f'team{number}']}", headers=headers
        ) as answer:
            assert answer.status == 200
