"""Open uploads of a namespace in the management API: listed, and ended."""

from __future__ import annotations

from typing import Any

import pytest
from support import api_fixtures
from support.api import digest_of
from support.engine import once
from support.management import ABSENT, BEYOND, TIMESTAMP, Server

from holdfast.engine import NotFound, Upload

server = api_fixtures.management_server

SMALL, BIG = b"s" * 1000, b"b" * 700_000


async def begin(server: Server, name: str, data: bytes = b"", size: int | None = None) -> Upload:
    here = await server.store.locate("fr-par", name)
    upload = await server.store.uploads.begin(here, size=size)
    return await server.store.uploads.append(here, upload.id, once(data)) if data else upload


def path_of(namespace: Any) -> str:
    return f"{BEYOND}/namespaces/{namespace['id']}/uploads"


async def test_open_uploads_tell_what_they_have(server: Server) -> None:
    space = await server.create("n1")
    await server.create("n2")
    await begin(server, "n2/a", SMALL)
    made = {
        str((await begin(server, "n1/a")).id): ("a", 0, None),
        str((await begin(server, "n1/deep/b", SMALL, 5000)).id): ("deep/b", len(SMALL), 5000),
        str((await begin(server, "n1/a", BIG)).id): ("a", len(BIG), None),
    }
    told = await server.ok("GET", path_of(space))
    assert (told["total_count"], told["after"]) == (3, None)
    assert [item["id"] for item in told["uploads"]] == sorted(made)
    for item in told["uploads"]:
        image, size, declared = made[item["id"]]
        assert item == {
            "id": item["id"],
            "namespace_id": space["id"],
            "image": image,
            "size": size,
            "counted_size": size,
            "declared_size": declared,
            "created_at": item["created_at"],
            "last_byte_at": item["last_byte_at"],
            "expires_at": item["expires_at"],
        }
        assert (item["last_byte_at"] is None) == (size == 0)
        assert item["created_at"] <= (item["last_byte_at"] or item["created_at"])
        assert TIMESTAMP.fullmatch(item["expires_at"])


async def test_a_listing_goes_on_where_it_stopped(server: Server) -> None:
    space = await server.create("n1")
    made = sorted([str((await begin(server, "n1/a")).id) for _ in range(7)])
    seen: list[str] = []
    params = {"page_size": "3"}
    while True:
        told = await server.ok("GET", path_of(space), params=params)
        seen += [item["id"] for item in told["uploads"]]
        assert len(told["uploads"]) <= 3
        if told["after"] is None:
            break
        # One that went meanwhile, be it where the listing stands, moves none of the others.
        if len(seen) == 3:
            await server.ok("DELETE", f"{path_of(space)}/{told['after']}")
        params["after"] = told["after"]
    assert seen == made


@pytest.mark.parametrize("data", [SMALL, BIG], ids=["small", "big"])
async def test_an_ended_upload_gives_its_room_back(server: Server, data: bytes) -> None:
    space = await server.create("n1")
    settings = f"{BEYOND}/namespaces/{space['id']}/settings"
    await server.ok("PATCH", settings, payload={"quota": len(data) + 10})
    upload = await begin(server, "n1/a", data)
    here = await server.store.locate("fr-par", "n1/b")
    other = bytes(reversed(data)) + b"."
    with pytest.raises(Exception, match="are used"):
        await server.store.uploads.put(here, digest_of(other), once(other))
    ended = await server.ok("DELETE", f"{path_of(space)}/{upload.id}")
    assert (ended["id"], ended["size"]) == (str(upload.id), len(data))
    await server.store.uploads.put(here, digest_of(other), once(other))
    told = await server.ok("GET", path_of(space))
    assert told == {"uploads": [], "total_count": 0, "after": None}
    with pytest.raises(NotFound):
        await server.store.uploads.get(await server.store.locate("fr-par", "n1/a"), upload.id)
    again = await server.call("DELETE", f"{path_of(space)}/{upload.id}")
    assert (again.status, again.json["resource"]) == (404, "upload")


async def test_an_upload_is_ended_in_its_own_namespace_only(server: Server) -> None:
    space, other = await server.create("n1"), await server.create("n2")
    upload = await begin(server, "n1/a", SMALL)
    answer = await server.call("DELETE", f"{path_of(other)}/{upload.id}")
    assert answer.status == 404
    assert (await server.call("GET", f"{BEYOND}/namespaces/{ABSENT}/uploads")).status == 404
    assert (await server.ok("GET", path_of(space)))["total_count"] == 1
