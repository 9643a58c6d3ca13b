"""What is pushed over `/v2/` is in the management API's next answer, and the other way round."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import encode_basic_auth
from support.api import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, OWNER_SECRET, digest_of
from support.management import REGISTRY, Server, disk_store, serving
from yarl import URL

from holdfast.api import AppSettings

SETTINGS = AppSettings(endpoints={"nl-ams": "nl.registry.test"}, default_endpoint="fr.test:5000")
LAYER = b"layer" * 1000
CONFIG = b'{"architecture":"amd64"}'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(disk_store(tmp_path), SETTINGS) as running:
        yield running


async def send(server: Server, host: str, method: str, path: str, **more: object) -> int:
    """A request to `/v2/` of the region whose endpoint is ``host``."""
    async with server.http.request(
        method,
        URL(server.url + path, encoded=True),
        headers={
            "Host": host,
            "Authorization": encode_basic_auth("nologin", OWNER_SECRET),
            "Content-Type": str(more.get("media_type", "")),
        },
        data=more.get("data"),
    ) as response:
        await response.read()
        return response.status


async def push(server: Server, host: str, name: str, tag: str) -> str:
    """Push an image as plain clients do; the digest of its manifest."""
    blobs = []
    for data, media_type in ((CONFIG, CONFIG_TYPE), (LAYER, LAYER_TYPE)):
        digest = digest_of(data)
        path = f"/v2/{name}/blobs/uploads/?digest={digest.replace(':', '%3A')}"
        blob_type = "application/octet-stream"
        assert await send(server, host, "POST", path, data=data, media_type=blob_type) == 201
        blobs.append({"mediaType": media_type, "digest": digest, "size": len(data)})
    body = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": blobs[0], "layers": blobs[1:]}
    ).encode()
    path = f"/v2/{name}/manifests/{tag}"
    assert await send(server, host, "PUT", path, data=body, media_type=MANIFEST_TYPE) == 201
    return digest_of(body)


async def test_a_push_is_listed_and_a_delete_is_seen_by_the_next_pull(server: Server) -> None:
    namespace = await server.create("n1")
    digest = await push(server, "fr.test:5000", "n1/app", "latest")
    images = await server.ok("GET", REGISTRY + "/images")
    image = images["images"][0]
    assert (image["name"], image["tags"]) == ("app", ["latest"])
    assert image["size"] == len(CONFIG) + len(LAYER)
    tag = (await server.ok("GET", f"{REGISTRY}/images/{image['id']}/tags"))["tags"][0]
    assert tag["digest"] == digest
    manifest = "/v2/n1/app/manifests/latest"
    assert await send(server, "fr.test:5000", "GET", manifest) == 200
    await server.ok("DELETE", f"{REGISTRY}/tags/{tag['id']}")
    assert await send(server, "fr.test:5000", "GET", manifest) == 404
    await server.ok("DELETE", f"{REGISTRY}/namespaces/{namespace['id']}")
    assert await send(server, "fr.test:5000", "GET", "/v2/n1/app/tags/list") == 404


async def test_the_same_name_in_two_regions_is_two_namespaces(server: Server) -> None:
    for region, host in (("fr-par", "fr.test:5000"), ("nl-ams", "nl.registry.test")):
        made = await server.create("n1", region=region)
        assert made["endpoint"] == f"{host}/n1"
    await push(server, "nl.registry.test", "n1/app", "latest")
    base = "/registry/v1/regions/{}/images"
    assert (await server.ok("GET", base.format("fr-par")))["images"] == []
    images = await server.ok("GET", base.format("nl-ams"))
    assert [image["name"] for image in images["images"]] == ["app"]
    assert (await server.ok("GET", "/holdfast/v1/stats"))["blobs"] == 3
    await push(server, "fr.test:5000", "n1/app", "latest")
    assert (await server.ok("GET", "/holdfast/v1/stats"))["blobs"] == 3
    for region in ("fr-par", "nl-ams"):
        path = f"/registry/v1/regions/{region}/namespaces"
        listed = (await server.ok("GET", path))["namespaces"]
        assert [item["size"] for item in listed] == [len(CONFIG) + len(LAYER)]
