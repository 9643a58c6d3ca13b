"""The manifests of an image in the management API, those without a tag included."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.api import MANIFEST_TYPE, digest_of
from support.management import ABSENT, BEYOND, REGISTRY, TIMESTAMP, Server, memory_store, serving

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(memory_store()) as running:
        await running.create("n1")
        yield running


async def put(server: Server, document: dict[str, Any], *tags: str) -> str:
    here = await server.store.locate("fr-par", "n1/app")
    body = json.dumps(document).encode()
    await server.store.manifests.put(here, body, media_type=document["mediaType"], tags=tags)
    return digest_of(body)


async def number(server: Server, count: int, *tags: str) -> str:
    """An index that differs from others by its number only."""
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}
    return await put(server, {**index, "annotations": {"n": str(count)}}, *tags)


async def path_of(server: Server) -> str:
    image = (await server.ok("GET", f"{REGISTRY}/images"))["images"][0]
    return f"{BEYOND}/images/{image['id']}/manifests"


async def test_each_manifest_is_told_with_tags_and_subject(server: Server) -> None:
    first = await server.push("n1/app", "v1", b"1" * 10)
    config = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": digest_of(b"{}"),
        "size": 2,
    }
    signature = await put(
        server,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": "application/x.signature",
            "config": config,
            "layers": [config],
            "subject": {"mediaType": MANIFEST_TYPE, "digest": first, "size": 10},
        },
    )
    await number(server, 1, *(f"t{count:03}" for count in range(101)))
    path = await path_of(server)
    told = await server.ok("GET", path)
    assert told["after"] is None
    items = {item["digest"]: item for item in told["manifests"]}
    assert list(items) == sorted(items)
    assert len(items) == 3
    assert items[first]["tags"] == ["v1"]
    assert TIMESTAMP.fullmatch(items[first].pop("created_at"))
    size = items[first].pop("size")
    assert items[first] == {
        "digest": first,
        "media_type": MANIFEST_TYPE,
        "artifact_type": items[first]["artifact_type"],
        "tags": ["v1"],
        "more_tags": False,
        "subject": None,
    }
    here = await server.store.locate("fr-par", "n1/app")
    assert size == len((await server.store.manifests.get(here, first)).body)
    signed = items[signature]
    assert (signed["artifact_type"], signed["subject"]) == ("application/x.signature", first)
    assert signed["tags"] == []
    (many,) = [item for item in items.values() if item["more_tags"]]
    assert many["tags"] == [f"t{count:03}" for count in range(100)]
    for tagged, wanted in (("true", set(items) - {signature}), ("false", {signature})):
        told = await server.ok("GET", path, params={"tagged": tagged})
        assert {item["digest"] for item in told["manifests"]} == wanted


async def walk(server: Server, path: str, **params: str) -> tuple[list[str], int]:
    """All that a listing tells, and in how many answers."""
    seen: list[str] = []
    answers = 0
    while True:
        told = await server.ok("GET", path, params=params)
        seen += [item["digest"] for item in told["manifests"]]
        answers += 1
        if told["after"] is None:
            return seen, answers
        params["after"] = told["after"]


async def test_a_listing_goes_on_where_it_stopped(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    untagged = {await number(server, count) for count in range(17)}
    tagged = {await number(server, count, f"t{count}") for count in range(20, 25)}
    path = await path_of(server)
    for size in ("1", "4", "22", "100"):
        for word, wanted in ((None, untagged | tagged), ("true", tagged), ("false", untagged)):
            asked = {"page_size": size} if word is None else {"page_size": size, "tagged": word}
            seen, _ = await walk(server, path, **asked)
            assert seen == sorted(wanted)
    # What one request looks at is bounded, whatever a filter lets pass.
    monkeypatch.setattr("holdfast.engine.repositories.manifest_listing.SCANNED_MAX", 5)
    seen, answers = await walk(server, path, tagged="true", page_size="100")
    assert seen == sorted(tagged)
    assert answers == 5


async def test_what_is_asked_wrongly(server: Server) -> None:
    await number(server, 1)
    path = await path_of(server)
    for after in ("sha256:zz", "v1", "sha512:" + "0" * 128, ABSENT):
        answer = await server.call("GET", path, params={"after": after})
        assert (answer.status, answer.json["details"][0]["argument_name"]) == (400, "after")
    told = await server.ok("GET", path, params={"after": "sha256:" + "f" * 64})
    assert told == {"manifests": [], "after": None}
    answer = await server.call("GET", f"{BEYOND}/images/{ABSENT}/manifests")
    assert answer.status == 404
