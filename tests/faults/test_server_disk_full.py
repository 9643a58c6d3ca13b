"""The disk is full: by what was pushed, and by somebody else. The server goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
from support.api import digest_of
from support.depot import python
from support.engine import manifest
from support.images import noise
from support.load import (
    IMAGES,
    NAMESPACES,
    TEAM,
    Memory,
    Picture,
    Wire,
    delete_image,
    eventually,
    fill_disk,
    loaded,
    make_namespace,
    problems,
    put_manifest,
    small_disk,
    wired,
)
from support.server import ServerProcess

from holdfast.engine import Store, StoreConfig

MEGABYTES: Final = 40
LAYER_BYTES: Final = 3_000_000


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, MEGABYTES):
        yield disk / "data"


@pytest.fixture
async def server(data: Path) -> AsyncIterator[ServerProcess]:
    """It has one image, and at the end the workers that it started with."""
    with loaded(data) as running:
        workers = running.workers()
        await make_namespace(running.address)
        yield running
        assert running.workers() == workers
    assert await problems(data) == []


async def fill(wire: Wire, image: str) -> list[bytes]:
    """Push layers until one is refused."""
    layers: list[bytes] = []
    while True:
        content = noise(f"layer {len(layers)}", LAYER_BYTES)
        path = f"/v2/{image}/blobs/uploads/?digest={digest_of(content)}"
        reply = await wire.ask("POST", path, content)
        if reply.status != 201:
            assert (reply.status, reply.code) == (507, "UNAVAILABLE")
            assert reply.json["errors"][0]["message"] == "no space is left"
            return layers
        layers.append(content)


async def takes_uploads(wire: Wire) -> bool:
    reply = await wire.ask("POST", f"/v2/{TEAM}/probe/blobs/uploads/")
    assert reply.status in {202, 507}, reply
    if reply.status == 202:
        assert (await wire.ask("DELETE", reply.headers["location"])).status == 204
    return reply.status == 202


async def until_it_takes_uploads(wire: Wire) -> None:
    async with asyncio.timeout(30):
        while not await takes_uploads(wire):  # noqa: ASYNC110 - the sweep tells nobody
            await asyncio.sleep(0.1)


async def test_a_disk_that_pushes_filled(server: ServerProcess) -> None:
    memory = Memory()
    async with wired(server.address) as wire:
        kept = Picture(f"{TEAM}/kept", 1)
        await memory.push(wire, kept, "v1")
        session = await wire.ask("POST", f"/v2/{TEAM}/kept/blobs/uploads/")
        place = session.headers["location"]
        filling = await fill(wire, f"{TEAM}/filling")
        assert len(filling) * LAYER_BYTES > MEGABYTES / 2 * 1_000_000
        # An upload that runs may go on for a while, and stands where it was when it is refused.
        content = noise("session", 2 * LAYER_BYTES)
        offset = 0
        while (
            reply := await wire.ask("PATCH", place, content[offset : offset + 200_000])
        ).status == 202:
            offset += 200_000
        assert (reply.status, reply.code) == (507, "UNAVAILABLE")
        stands = await wire.ask("GET", place)
        assert stands.headers["range"] == f"0-{max(offset - 1, 0)}"
        assert not await takes_uploads(wire)
        # What needs the ledger only goes on: manifests of what is there, pulls, and deletes.
        document = manifest(b"{}", filling)
        assert (await push_inline(wire, f"{TEAM}/filling")) == 507
        document = manifest(filling[0], filling[1:])
        assert (await put_manifest(wire, f"{TEAM}/filling", "v1", document)).status == 201
        await memory.verify(server.address)
        await delete_image(wire, "filling")
        await until_it_takes_uploads(wire)
        # The space is used again, by the upload that was refused too.
        reply = await wire.ask("PATCH", place, content[offset:])
        assert reply.status == 202, reply
        reply = await wire.ask("PUT", f"{place}?digest={digest_of(content)}")
        assert reply.status == 201, reply
        got = await wire.ask("GET", f"/v2/{TEAM}/kept/blobs/{digest_of(content)}")
        assert got.body == content
        again = await fill(wire, f"{TEAM}/again")
        assert len(again) >= len(filling) - 3
    assert await memory.verify(server.address) == 1


async def push_inline(wire: Wire, image: str) -> int:
    """The status of an upload of two bytes."""
    path = f"/v2/{image}/blobs/uploads/?digest={digest_of(b'{}')}"
    return (await wire.ask("POST", path, b"{}")).status


async def test_a_disk_that_somebody_else_filled(server: ServerProcess) -> None:
    """Not even the ledger can grow."""
    memory = Memory()
    image = f"{TEAM}/kept"
    async with wired(server.address) as wire:
        for version in (1, 2, 3):
            await memory.push(wire, Picture(image, version), f"v{version}")
        kept = Picture(image, 1)
        path = fill_disk(server.data.parent)
        assert not await takes_uploads(wire)
        documents = {}
        for number in range(1000):
            tag = f"more{number}"
            document = manifest(kept.config, kept.layers, annotations={"note": f"{number} " * 5000})
            reply = await put_manifest(wire, image, tag, document)
            if reply.status != 201:
                break
            documents[tag] = document
        else:
            raise AssertionError("the ledger grows on a full disk")
        assert (reply.status, reply.code) == (507, "UNAVAILABLE")
        # A delete writes rows too. What it is refused for is not done.
        deleted = await wire.ask("DELETE", f"/v2/{image}/manifests/v3")
        if deleted.status == 202:
            memory.tags[image, "v3"] = {None}
        else:
            assert (deleted.status, deleted.code) == (507, "UNAVAILABLE")
        assert await memory.verify(server.address) >= 2
        path.unlink()
        await until_it_takes_uploads(wire)
        await memory.push(wire, Picture(image, 4), "v4")
        reply = await wire.ask("DELETE", f"/v2/{image}/manifests/v2")
        assert reply.status == 202, reply
        memory.tags[image, "v2"] = {None}
        for tag, document in documents.items():
            found = await wire.ask("GET", f"/v2/{image}/manifests/{tag}")
            assert found.body == document
    assert await memory.verify(server.address) >= 2


async def test_deletes_go_on_where_another_program_took_the_last_byte(
    data: Path, server: ServerProcess
) -> None:
    """Out of what the ledger's file has set aside; and they give the server room again."""
    ledger = data / "ledger" / "data.mdb"
    async with wired(server.address) as wire:
        memory = Memory()
        for version in range(1, 31):
            image = f"{TEAM}/image{version % 3}"
            await memory.push(wire, Picture(image, version), f"v{version}")
        session = await wire.ask("POST", f"/v2/{TEAM}/image0/blobs/uploads/")
        await eventually(lambda: ledger.stat().st_blocks * 512 >= ledger.stat().st_size + 250_000)
        fill_disk(data.parent)
        refused = await wire.ask("POST", f"/v2/{TEAM}/image0/blobs/uploads/")
        assert (refused.status, refused.code) == (507, "UNAVAILABLE")
        made = 0
        while (await create(wire, f"more{made}")) == 200:
            made += 1
        assert (await wire.ask("DELETE", session.headers["location"])).status == 204
        for version in range(1, 31, 3):
            path = f"/v2/{TEAM}/image1/manifests/v{version}"
            assert (await wire.ask("DELETE", path)).status == 202, version
        tags = (await wire.ask("GET", f"{IMAGES}?name=image2")).json["images"]
        listed = (await wire.ask("GET", f"{IMAGES}/{tags[0]['id']}/tags")).json["tags"]
        for tag in listed:
            reply = await wire.ask("DELETE", f"/registry/v1/regions/fr-par/tags/{tag['id']}")
            assert reply.status == 200, reply
        for number in range(3):
            await delete_image(wire, f"image{number}")
        spaces = (await wire.ask("GET", NAMESPACES)).json["namespaces"]
        assert (await wire.ask("DELETE", f"{NAMESPACES}/{spaces[0]['id']}")).status == 200
        # The trash is emptied early, and what that frees is used again.
        await make_room(wire)

    def refusals() -> list[str]:
        told = [line for line in server.said if "CreateNamespace failed" in line]
        return [line for line in told if "no space is left" in line]

    await eventually(lambda: bool(refusals()))
    assert "Traceback" not in "".join(server.said)


async def create(wire: Wire, name: str) -> int:
    """The status of a new namespace, 200 or 507."""
    reply = await wire.ask("POST", NAMESPACES, json.dumps({"name": name}).encode())
    assert reply.status in {200, 507}, reply
    return reply.status


async def make_room(wire: Wire) -> None:
    """Wait until a new namespace takes uploads."""
    async with asyncio.timeout(30):
        while await create(wire, "room") != 200:  # noqa: ASYNC110 - the sweep tells nobody
            await asyncio.sleep(0.1)
        path = "/v2/room/app/blobs/uploads/"
        while (await wire.ask("POST", path)).status != 202:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.1)


MANY_READERS: Final = """
import sys
from pathlib import Path
from holdfast.engine.ledger.lmdb import LmdbLedger

ledger = LmdbLedger.open(Path(sys.argv[1]), map_bytes=1 << 30, create=False)

async def nothing(txn):
    return None

def nested(depth):
    async def inside(txn):
        return nested(depth - 1)
    return ledger.read_now(inside if depth else nothing)

nested(150)
"""


async def test_readers_need_no_space(data: Path) -> None:
    """Slots of readers that were never used lie in pages that LMDB only promised itself."""
    async with Store.open(data, StoreConfig(background=False)):
        pass
    fill_disk(data.parent)
    python(MANY_READERS, str(data / "ledger"))
