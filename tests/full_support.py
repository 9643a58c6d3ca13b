"""A store on a disk that another program has filled. Import it as ``full_support``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from distribution_support import OWNER_SECRET, Registry, registry
from load_support import fill_disk, small_disk
from operating_support import Reply
from rows_support import said

from holdfast.engine import Store, StoreConfig

MEGABYTES: Final = 24
IMAGES: Final = 20
WHILE_ROOM_IS_LEFT: Final = "go on, deletes while other programs leave some of the reserve"
"""What pages say of pulls (or reads) and deletes."""


def made(path: Path) -> Path:
    """A new directory there."""
    path.mkdir()
    return path


@asynccontextmanager
async def filled(path: Path) -> AsyncIterator[Registry]:
    """A registry with IMAGES namespaces of one image each, and no free byte."""
    with small_disk(made(path), MEGABYTES):
        opened = Store.open(path / "data", StoreConfig(background=False))
        async with registry(opened) as server:
            for number in range(IMAGES):
                await server.namespace(f"team{number}")
                await server.image(f"team{number}/app", "v1", b"layer")
            fill_disk(path)
            yield server


async def pulled_and_deleted(server: Registry) -> None:
    """By both APIs each read succeeds, and each delete does, or is told that no space is left."""
    url = f"{server.url}/registry/v1/regions/fr-par/namespaces"
    headers = {"X-Auth-Token": OWNER_SECRET}
    async with server.http.get(url, headers=headers) as answer:
        listed = {each["name"]: each["id"] for each in (await answer.json())["namespaces"]}
    assert len(listed) == IMAGES
    for number in range(IMAGES):
        path = f"/v2/team{number}/app/manifests/v1"
        assert (await server.call("GET", path)).status == 200
        deleted = await server.call("DELETE", path)
        assert said(deleted) in {"202", "507 UNAVAILABLE"}
        gone = (await server.call("GET", path)).status == 404
        assert gone == (deleted.status == 202)
        async with server.http.delete(
            f"{url}/{listed[f'team{number}']}", headers=headers
        ) as answer:
            reply = Reply(answer.status, dict(answer.headers), await answer.read())
        assert said(reply) in {"200", "507 `unavailable`"}
