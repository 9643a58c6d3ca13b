"""Images and tags through the management API: they appear by push, with exact numbers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from support import api_fixtures
from support.api import OTHER_PROJECT, PROJECT
from support.management import ABSENT, REGISTRY, TIMESTAMP, Server

server = api_fixtures.management_servers

IMAGES = REGISTRY + "/images"
TAGS = REGISTRY + "/tags"


def id_of(answer: dict[str, Any]) -> UUID:
    return UUID(answer["id"])


async def the_image(server: Server, name: str) -> dict[str, object]:
    answer = await server.ok("GET", IMAGES, params={"name": name})
    assert answer["total_count"] == 1
    image: dict[str, object] = answer["images"][0]
    return image


async def the_tags(server: Server, image_id: object) -> dict[str, dict[str, object]]:
    answer = await server.ok("GET", f"{IMAGES}/{image_id}/tags")
    assert answer["total_count"] == len(answer["tags"])
    return {tag["name"]: tag for tag in answer["tags"]}


async def test_a_push_makes_an_image_and_a_tag(server: Server) -> None:
    namespace = await server.create("n1")
    digest = await server.push("n1/sebp/lighttpd", "latest", b"x" * 2380, config=b"c" * 547)
    image = await the_image(server, "sebp/lighttpd")
    assert TIMESTAMP.fullmatch(str(image["created_at"]))
    assert image == {
        "id": image["id"],
        "name": "sebp/lighttpd",
        "namespace_id": namespace["id"],
        "status": "ready",
        "status_message": "",
        "visibility": "inherit",
        "size": 2927,
        "tags": ["latest"],
        "created_at": image["created_at"],
        "updated_at": image["updated_at"],
    }
    assert await server.ok("GET", f"{IMAGES}/{image['id']}") == image
    tags = await the_tags(server, image["id"])
    tag = tags["latest"]
    assert tag == {
        "id": tag["id"],
        "name": "latest",
        "image_id": image["id"],
        "status": "ready",
        "digest": digest,
        "created_at": tag["created_at"],
        "updated_at": tag["updated_at"],
    }
    assert await server.ok("GET", f"{TAGS}/{tag['id']}") == tag
    after = await server.ok("GET", f"{REGISTRY}/namespaces/{namespace['id']}")
    assert (after["size"], after["image_count"]) == (2927, 1)
    assert after["updated_at"] > namespace["updated_at"]


async def test_sizes_count_a_layer_once_an_image_and_once_more_in_the_next(server: Server) -> None:
    namespace = await server.create("n1")
    for name, tag in (("n1/a", "1"), ("n1/a", "2"), ("n1/b", "1")):
        await server.push(name, tag, b"shared" * 100, f"{name}:{tag}".encode() * 10)
    own = len(b"n1/a:1" * 10)
    assert (await the_image(server, "a"))["size"] == 2 + 600 + 2 * own
    assert (await the_image(server, "b"))["size"] == 2 + 600 + own
    after = await server.ok("GET", f"{REGISTRY}/namespaces/{namespace['id']}")
    assert after["size"] == 2 * (2 + 600) + 3 * own


async def test_a_tag_pushed_again_keeps_created_at_and_moves_updated_at(server: Server) -> None:
    await server.create("n1")
    first_digest = await server.push("n1/a", "latest", b"1")
    image = await the_image(server, "a")
    first = (await the_tags(server, image["id"]))["latest"]
    second_digest = await server.push("n1/a", "latest", b"2")
    second = (await the_tags(server, image["id"]))["latest"]
    assert (first["digest"], second["digest"]) == (first_digest, second_digest)
    assert (second["id"], second["created_at"]) == (first["id"], first["created_at"])
    assert str(second["updated_at"]) > str(first["updated_at"])


@pytest.mark.parametrize("force", ["", "?force=True", "?force=true", "?force=false"])
async def test_deleting_a_tag_never_takes_a_sibling(server: Server, force: str) -> None:
    await server.create("n1")
    digest = await server.push("n1/a", "one", b"same")
    assert await server.push("n1/a", "two", b"same") == digest
    image = await the_image(server, "a")
    tags = await the_tags(server, image["id"])
    gone = await server.ok("DELETE", f"{TAGS}/{tags['one']['id']}{force}")
    assert (gone["id"], gone["status"]) == (tags["one"]["id"], "deleting")
    assert (await server.call("GET", f"{TAGS}/{gone['id']}")).status == 404
    left = await the_tags(server, image["id"])
    assert left == {"two": tags["two"]}
    assert (await the_image(server, "a"))["size"] == 6
    await server.ok("DELETE", f"{TAGS}/{tags['two']['id']}")
    empty = await the_image(server, "a")
    assert (empty["size"], empty["tags"]) == (0, [])


async def test_visibility_is_set_and_unknown_means_leave_it(server: Server) -> None:
    await server.create("n1")
    await server.push("n1/a", "latest", b"1")
    image = await the_image(server, "a")
    path = f"{IMAGES}/{image['id']}"
    for asked, expected in (
        ("public", "public"),
        ("visibility_unknown", "public"),
        (None, "public"),
        ("private", "private"),
        ("inherit", "inherit"),
    ):
        before = await server.ok("GET", path)
        changed = await server.ok("PATCH", path, payload={"visibility": asked})
        assert changed["visibility"] == expected
        assert changed["updated_at"] > before["updated_at"]
        assert await server.ok("GET", path) == changed
    assert (await server.ok("PATCH", path, payload={}))["visibility"] == "inherit"


async def test_deleting_an_image_takes_its_tags_and_frees_its_name(server: Server) -> None:
    namespace = await server.create("n1")
    await server.push("n1/a", "latest", b"1")
    image = await the_image(server, "a")
    tag = (await the_tags(server, image["id"]))["latest"]
    gone = await server.ok("DELETE", f"{IMAGES}/{image['id']}")
    assert (gone["id"], gone["status"]) == (image["id"], "deleting")
    for path in (f"{IMAGES}/{image['id']}", f"{IMAGES}/{image['id']}/tags", f"{TAGS}/{tag['id']}"):
        assert (await server.call("GET", path)).status == 404
    after = await server.ok("GET", f"{REGISTRY}/namespaces/{namespace['id']}")
    assert (after["size"], after["image_count"]) == (0, 0)
    await server.push("n1/a", "latest", b"1")
    assert (await the_image(server, "a"))["id"] != image["id"]


async def test_images_are_filtered_by_all_that_is_given(server: Server) -> None:
    first = await server.create("n1")
    second = await server.create("n2", project_id=str(OTHER_PROJECT))
    for name in ("n1/a", "n1/b", "n2/a"):
        await server.push(name, "latest", b"1")

    async def found(**filters: str) -> list[tuple[str, str]]:
        answer = await server.ok("GET", IMAGES, params=filters)
        images = [(item["namespace_id"], item["name"]) for item in answer["images"]]
        assert answer["total_count"] == len(images)
        return images

    n1, n2 = first["id"], second["id"]
    assert await found() == [(n1, "a"), (n1, "b"), (n2, "a")]
    assert await found(name="a") == [(n1, "a"), (n2, "a")]
    assert await found(namespace_id=n1) == [(n1, "a"), (n1, "b")]
    assert await found(namespace_id=n2, name="b") == []
    assert await found(namespace_id=n2, project_id=str(PROJECT)) == []
    assert await found(project_id=str(OTHER_PROJECT)) == [(n2, "a")]
    assert await found(organization_id=str(PROJECT), namespace_id=n1, name="b") == [(n1, "b")]
    assert await found(organization_id=ABSENT) == []
    assert await found(namespace_id=ABSENT) == []
    assert await found(order_by="name_desc") == [(n1, "b"), (n2, "a"), (n1, "a")]
    elsewhere = await server.ok(
        "GET", "/registry/v1/regions/nl-ams/images", params={"namespace_id": n1}
    )
    assert elsewhere == {"images": [], "total_count": 0}


async def test_tags_are_paged_ordered_and_filtered(server: Server) -> None:
    await server.create("n1")
    for tag in ("b", "a", "c"):
        await server.push("n1/app", tag, b"1")
    path = f"{IMAGES}/{(await the_image(server, 'app'))['id']}/tags"

    async def names(**params: str) -> list[str]:
        return [tag["name"] for tag in (await server.ok("GET", path, params=params))["tags"]]

    assert await names() == ["b", "a", "c"]
    assert await names(order_by="created_at_desc") == ["c", "a", "b"]
    assert await names(order_by="name_asc") == ["a", "b", "c"]
    assert await names(order_by="name_desc", page="2", page_size="2") == ["a"]
    assert await names(page="1000000000") == []
    assert await names(name="c") == ["c"]
    assert await names(name="C") == []


async def test_a_locked_namespace_refuses_changes_to_all_in_it(server: Server) -> None:
    namespace = await server.create("n1")
    await server.push("n1/a", "latest", b"1")
    image = await the_image(server, "a")
    tag = (await the_tags(server, image["id"]))["latest"]
    await server.store.namespaces.update(id_of(namespace), locked=True)
    shown = await server.ok("GET", f"{REGISTRY}/namespaces/{namespace['id']}")
    assert shown["status"] == "locked"
    for method, path in (
        ("PATCH", f"{REGISTRY}/namespaces/{namespace['id']}"),
        ("DELETE", f"{REGISTRY}/namespaces/{namespace['id']}"),
        ("PATCH", f"{IMAGES}/{image['id']}"),
        ("DELETE", f"{IMAGES}/{image['id']}"),
        ("DELETE", f"{TAGS}/{tag['id']}"),
    ):
        answer = await server.call(method, path)
        assert answer.status == 423, (method, path)
        assert answer.json["type"] == "locked"
        assert answer.json["resource"] == "registry_namespace"
        assert answer.json["resource_id"] == namespace["id"]
    locked = {**tag, "status": "locked"}
    assert (await the_tags(server, image["id"]))["latest"] == locked
    assert await server.ok("GET", f"{TAGS}/{tag['id']}") == locked
    assert (await the_image(server, "a"))["status"] == "locked"


async def test_an_immutable_tag_is_not_deleted(server: Server) -> None:
    namespace = await server.create("n1")
    await server.push("n1/a", "v1", b"1")
    tag = (await the_tags(server, (await the_image(server, "a"))["id"]))["v1"]
    await server.store.namespaces.update(id_of(namespace), immutable_tags=("v*",))
    answer = await server.call("DELETE", f"{TAGS}/{tag['id']}")
    assert answer.status == 412
    assert answer.json["type"] == "precondition_failed"
    assert answer.json["precondition"] == "protected_resource"
    await server.ok("GET", f"{TAGS}/{tag['id']}")
