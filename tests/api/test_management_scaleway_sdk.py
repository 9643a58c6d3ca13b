"""The `scaleway` package, unmodified, against the API: every registry method it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import pytest
from scaleway import Client, ScalewayException
from scaleway.registry.v1 import (
    ImageStatus,
    ImageVisibility,
    ListImagesRequestOrderBy,
    ListNamespacesRequestOrderBy,
    ListTagsRequestOrderBy,
    NamespaceStatus,
    RegistryV1API,
    TagStatus,
)
from scaleway_core.utils import WaitForOptions
from support import api_fixtures
from support.api import OWNER_SECRET, PROJECT
from support.management import ABSENT, Server

pytestmark = pytest.mark.slow

server = api_fixtures.management_servers

P = ParamSpec("P")
R = TypeVar("R")


def client(server: Server, **changes: object) -> RegistryV1API:
    profile: dict[str, object] = {
        "api_url": server.url,
        "access_key": "SCWXXXXXXXXXXXXXXXXX",
        "secret_key": OWNER_SECRET,
        "default_region": "fr-par",
        "default_organization_id": str(PROJECT),
        "default_project_id": str(PROJECT),
    }
    made: Client = Client(**{**profile, **changes})
    return RegistryV1API(made)


def create(api: RegistryV1API, name: str | None = None, **fields: object) -> Any:
    """The generated method wants all but the name."""
    return api.create_namespace(**{"name": name, "description": "", "is_public": False, **fields})


async def run(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The SDK blocks, and the server runs in this loop."""
    return await asyncio.to_thread(call, *args, **kwargs)


async def test_the_life_of_a_namespace(server: Server) -> None:
    api = client(server)
    made = await run(create, api, "ns1", description="d", is_public=True)
    assert made.status == NamespaceStatus.READY
    assert (made.name, made.description, made.is_public) == ("ns1", "d", True)
    assert made.endpoint == server.url.removeprefix("http://") + "/ns1"
    assert made.created_at is not None
    assert made.created_at.tzinfo is not None
    assert await run(api.get_namespace, namespace_id=made.id) == made
    changed = await run(api.update_namespace, namespace_id=made.id, description="")
    assert (changed.description, changed.is_public) == ("", True)
    await run(api.update_namespace, namespace_id=made.id)
    ready = await run(
        api.wait_for_namespace, namespace_id=made.id, options=WaitForOptions(max_delay=1)
    )
    assert ready.status == NamespaceStatus.READY
    gone = await run(api.delete_namespace, namespace_id=made.id)
    assert gone.status == NamespaceStatus.DELETING
    with pytest.raises(ScalewayException) as raised:
        await run(api.wait_for_namespace, namespace_id=made.id, options=WaitForOptions(max_delay=1))
    assert raised.value.status_code == 404


async def test_generated_names_are_good_names(server: Server) -> None:
    api = client(server)
    for _ in range(5):
        made = await run(create, api)
        assert made.name.startswith("ns-")


async def test_images_and_tags(server: Server) -> None:
    api = client(server)
    namespace = await run(create, api, "ns1")
    digest = await server.push("ns1/sebp/lighttpd", "latest", b"layer")
    await server.push("ns1/sebp/lighttpd", "v1", b"layer")
    images = await run(
        api.list_images,
        namespace_id=namespace.id,
        name="sebp/lighttpd",
        order_by=ListImagesRequestOrderBy.NAME_DESC,
    )
    assert images.total_count == 1
    image = images.images[0]
    assert (image.status, image.visibility) == (ImageStatus.READY, ImageVisibility.INHERIT)
    assert (image.tags, image.size) == (["latest", "v1"], 7)
    assert await run(api.get_image, image_id=image.id) == image
    assert (
        await run(api.wait_for_image, image_id=image.id, options=WaitForOptions(max_delay=1))
        == image
    )
    public = await run(api.update_image, image_id=image.id, visibility=ImageVisibility.PUBLIC)
    assert public.visibility == ImageVisibility.PUBLIC
    assert (await run(api.update_image, image_id=image.id)).visibility == ImageVisibility.PUBLIC

    tags = await run(
        api.list_tags, image_id=image.id, order_by=ListTagsRequestOrderBy.CREATED_AT_DESC
    )
    assert [tag.name for tag in tags.tags] == ["v1", "latest"]
    tag = tags.tags[1]
    assert (tag.status, tag.digest) == (TagStatus.READY, digest)
    assert await run(api.get_tag, tag_id=tag.id) == tag
    assert await run(api.wait_for_tag, tag_id=tag.id, options=WaitForOptions(max_delay=1)) == tag
    gone = await run(api.delete_tag, tag_id=tag.id, force=True)
    assert gone.status == TagStatus.DELETING
    assert [left.name for left in await run(api.list_tags_all, image_id=image.id)] == ["v1"]
    assert (await run(api.delete_image, image_id=image.id)).status == ImageStatus.DELETING
    assert await run(api.list_images_all) == []


@pytest.mark.parametrize("page_size", [None, 10, 25])
async def test_list_all_over_several_pages(server: Server, page_size: int | None) -> None:
    api = client(server)
    for number in range(25):
        await server.create(f"n{number:02}")
        await server.push(f"n00/app{number:02}", "latest", b"1")
        await server.push("n00/app00", f"t{number:02}", b"1")
    namespaces = await run(
        api.list_namespaces_all,
        page_size=page_size,
        order_by=ListNamespacesRequestOrderBy.NAME_DESC,
    )
    assert [item.name for item in namespaces] == [f"n{n:02}" for n in reversed(range(25))]
    images = await run(api.list_images_all, page_size=page_size, namespace_id=namespaces[-1].id)
    assert [item.name for item in images] == [f"app{n:02}" for n in range(25)]
    tags = await run(api.list_tags_all, page_size=page_size, image_id=images[0].id)
    assert [item.name for item in tags] == ["latest", *(f"t{n:02}" for n in range(25))]


async def test_defaults_of_the_profile(server: Server) -> None:
    await server.create("n1")
    sized = client(server, default_page_size=100)
    assert len((await run(sized.list_namespaces)).namespaces) == 1
    elsewhere = client(server, default_region="nl-ams")
    assert await run(elsewhere.list_namespaces_all) == []
    bare = client(server, default_organization_id=None, default_project_id=None)
    assert (await run(create, bare, "n2")).project_id == str(PROJECT)
    assert len((await run(bare.list_namespaces)).namespaces) == 2
    others = client(server, default_project_id=ABSENT)
    assert await run(others.list_namespaces_all) == []


async def test_errors_keep_their_status(server: Server) -> None:
    api = client(server)
    await run(create, api, "ns1")

    async def status(call: Callable[[], object]) -> int | None:
        with pytest.raises(ScalewayException) as raised:
            await run(call)
        status: int | None = raised.value.status_code
        return status

    wrong = client(server, secret_key=ABSENT)
    _, reader = await server.key(PROJECT, "read")
    reading = client(server, secret_key=reader)
    assert await status(lambda: create(api, "ns1")) == 409
    assert await status(lambda: create(api, "N_S")) == 400
    assert await status(lambda: api.get_namespace(namespace_id=ABSENT)) == 404
    assert await status(lambda: api.get_tag(tag_id="x")) == 400
    assert await status(lambda: api.list_namespaces(page_size=101)) == 400
    assert await status(wrong.list_namespaces) == 401
    assert await status(lambda: create(reading, "ns2")) == 403
    assert await status(lambda: api.list_namespaces(region="no-where")) == 404
