"""Room that a namespace gives back at once: its trash, its holds. In the management API."""

from __future__ import annotations

from typing import Any

import pytest
from support import api_fixtures
from support.api import OTHER_PROJECT, digest_of
from support.engine import once
from support.management import BEYOND, REGISTRY, Server

from holdfast.engine import QuotaExceeded

server = api_fixtures.management_server

TRASH = "/holdfast/v1/trash"
LAYER = b"l" * 100_000


async def blobs(server: Server) -> int:
    await server.ok("POST", "/holdfast/v1/sweep", payload={})
    count: int = (await server.ok("GET", "/holdfast/v1/stats"))["blobs"]
    return count


async def the_tag(server: Server) -> Any:
    image = (await server.ok("GET", f"{REGISTRY}/images"))["images"][0]
    return (await server.ok("GET", f"{REGISTRY}/images/{image['id']}/tags"))["tags"][0]


@pytest.mark.parametrize("kind", ["tag", "image", "namespace"])
async def test_what_was_deleted_is_given_up_for_good(server: Server, kind: str) -> None:
    space = await server.create("n1")
    await server.push("n1/app", "v1", LAYER)
    tag = await the_tag(server)
    path, gone = {
        "tag": (f"{REGISTRY}/tags/{tag['id']}", tag["id"]),
        "image": (f"{REGISTRY}/images/{tag['image_id']}", tag["image_id"]),
        "namespace": (f"{REGISTRY}/namespaces/{space['id']}", space["id"]),
    }[kind]
    assert (await server.call("DELETE", f"{TRASH}/{gone}")).status == 404
    await server.ok("DELETE", path)
    (item,) = (await server.ok("GET", TRASH))["items"]
    assert await blobs(server) == 3
    assert await server.ok("DELETE", f"{TRASH}/{gone}") == {**item, "finished": True}
    assert await blobs(server) == 0
    assert (await server.ok("GET", TRASH))["total_count"] == 0
    for method, last in (("DELETE", ""), ("POST", "/restore")):
        answer = await server.call(method, f"{TRASH}/{gone}{last}")
        assert (answer.status, answer.json["resource"]) == (404, "trash")


async def test_a_locked_namespace_gives_nothing_up(server: Server) -> None:
    space = await server.create("n1")
    await server.push("n1/app", "v1", LAYER)
    tag = await the_tag(server)
    await server.ok("DELETE", f"{REGISTRY}/tags/{tag['id']}")
    settings = f"{BEYOND}/namespaces/{space['id']}/settings"
    await server.ok("PATCH", settings, payload={"locked": True})
    for path in (f"{TRASH}/{tag['id']}", f"{BEYOND}/namespaces/{space['id']}/holds"):
        answer = await server.call("DELETE", path)
        assert (answer.status, answer.json["type"]) == (423, "locked")
    await server.ok("PATCH", settings, payload={"locked": False})
    await server.ok("POST", f"{TRASH}/{tag['id']}/restore")


async def test_what_no_manifest_needs_is_given_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = await server.create("n1")
    await server.push("n1/app", "v1", LAYER)
    for number in range(4):
        here = await server.store.locate("fr-par", f"n1/draft{number}")
        left = bytes([number]) * 1000
        await server.store.uploads.put(here, digest_of(left), once(left))
    path = f"{BEYOND}/namespaces/{space['id']}/holds"
    assert await blobs(server) == 3 + 4
    told = await server.ok("DELETE", path)
    assert told == {"released": 4, "released_size": 4000, "kept": 0, "after": None}
    assert await blobs(server) == 3
    assert (await server.ok("DELETE", path))["released"] == 0
    answer = await server.call("DELETE", path, params={"after": "x"})
    assert (answer.status, answer.json["details"][0]["argument_name"]) == (400, "after")


@pytest.mark.parametrize("kind", ["upload", "hold", "tag", "image", "namespace"])
async def test_at_a_quota_room_is_made_at_once(server: Server, kind: str) -> None:
    """By what the refusal names, with a key of the project."""
    space = await server.create("n1", project_id=str(OTHER_PROJECT))
    _, secret = await server.key(OTHER_PROJECT)
    path = f"{BEYOND}/namespaces/{space['id']}"
    here = await server.store.locate("fr-par", "n1/app")
    freed: list[str] = []
    if kind == "upload":
        upload = await server.store.uploads.begin(here)
        await server.store.uploads.append(here, upload.id, once(LAYER))
        freed, named = [f"{path}/uploads/{upload.id}"], "upload delete"
    elif kind == "hold":
        await server.store.uploads.put(here, digest_of(LAYER), once(LAYER))
        freed, named = [f"{path}/holds"], "hold release"
    else:
        await server.push("n1/app", "v1", LAYER)
        tag = await the_tag(server)
        gone = {"tag": tag["id"], "image": tag["image_id"], "namespace": space["id"]}[kind]
        await server.ok("DELETE", f"{REGISTRY}/{kind}s/{gone}", secret=secret)
        freed, named = [f"{TRASH}/{gone}"], "trash delete"
        if kind == "namespace":
            # What a deleted one keeps counts for the next one of its name.
            space = await server.create("n1", project_id=str(OTHER_PROJECT))
            path = f"{BEYOND}/namespaces/{space['id']}"
        here = await server.store.locate("fr-par", "n1/app")
    await server.ok("PATCH", f"{path}/settings", payload={"quota": 150_000}, secret=secret)
    other = LAYER[1:] + b"."
    with pytest.raises(QuotaExceeded, match=named):
        await server.store.uploads.put(here, digest_of(other), once(other))
    for each in freed:
        await server.ok("DELETE", each, secret=secret)
    await server.store.uploads.put(here, digest_of(other), once(other))
    usage = await server.ok("GET", f"{path}/usage", secret=secret)
    assert usage["kept_size"] == usage["held"] == len(other)
