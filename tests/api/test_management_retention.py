"""Retention and pull counts through the management API."""

from __future__ import annotations

from typing import Any

import pytest
from support import api_fixtures
from support.management import BEYOND, REGISTRY, Server

server = api_fixtures.management_server


def path(namespace: Any, *parts: str) -> str:
    return "/".join((f"{BEYOND}/namespaces/{namespace['id']}/retention", *parts))


async def test_rules_plan_and_apply(server: Server) -> None:
    space = await server.create("n1")
    for number in range(3):
        await server.push("n1/a", f"v{number}", bytes(100 + number))
    assert await server.ok("GET", path(space)) == {"namespace_id": space["id"], "rules": []}
    rule = {
        "images": ["a"],
        "tags": ["v*"],
        "keep_last": 1,
        "older_than_days": None,
        "not_pulled_for_days": None,
        "untagged_older_than_days": None,
    }
    asked = {"rules": [{"images": ["a"], "tags": ["v*"], "keep_last": 1}]}
    answer = await server.ok("PATCH", path(space), payload=asked)
    assert answer == {"namespace_id": space["id"], "rules": [rule]}
    plan = await server.ok("GET", path(space, "plan"))
    assert [item["tag"] for item in plan["expired"]] == ["v0", "v1"]
    assert plan["freed_bytes"] >= 201
    images = (await server.ok("GET", REGISTRY + "/images"))["images"]
    assert images[0]["tags"] == ["v0", "v1", "v2"]
    assert await server.ok("POST", path(space, "apply"), payload={}) == plan
    images = (await server.ok("GET", REGISTRY + "/images"))["images"]
    assert images[0]["tags"] == ["v2"]


async def test_a_plan_says_what_goes_with_what(server: Server) -> None:
    """Signatures are no versions; they go with what they belong to, and come back with it."""
    space = await server.create("n1")
    digests = [await server.push("n1/a", f"1.{n}", bytes(100 + n)) for n in range(2)]
    names = [digest.replace(":", "-") + ".sig" for digest in digests]
    for name in (*names, "sha256-" + 64 * "0"):
        await server.push("n1/a", name, name.encode())
    rules = {"rules": [{"keep_last": 2, "older_than_days": 0}]}
    await server.ok("PATCH", path(space), payload=rules)
    plan = await server.ok("GET", path(space, "plan"))
    (orphan,) = plan["expired"]
    assert (orphan["tag"], orphan["orphan"], orphan["belongs_to"]) == (
        "sha256-" + 64 * "0",
        True,
        None,
    )
    assert await server.ok("POST", path(space, "apply"), payload={}) == plan
    await server.ok("PATCH", path(space), payload={"rules": [{"keep_last": 1}]})
    done = await server.ok("POST", path(space, "apply"), payload={})
    told = [(item["tag"], item["belongs_to"], item["orphan"]) for item in done["expired"]]
    assert told == [("1.0", None, False), (names[0], digests[0], False)]
    image = (await server.ok("GET", REGISTRY + "/images"))["images"][0]
    assert image["tags"] == ["1.1", names[1]]
    tags = await server.ok("GET", f"{REGISTRY}/images/{image['id']}/tags")
    newest = next(tag for tag in tags["tags"] if tag["name"] == "1.1")
    await server.ok("DELETE", f"{REGISTRY}/tags/{newest['id']}")
    assert (await server.ok("GET", f"{REGISTRY}/images/{image['id']}/tags"))["tags"] == []
    await server.ok("POST", f"/holdfast/v1/trash/{newest['id']}/restore", payload={})
    image = (await server.ok("GET", REGISTRY + "/images"))["images"][0]
    assert image["tags"] == ["1.1", names[1]]


async def test_a_locked_namespace_keeps_all(server: Server) -> None:
    space = await server.create("n1")
    await server.push("n1/a", "v1", b"x" * 10)
    await server.ok("PATCH", path(space), payload={"rules": [{"keep_last": 0}]})
    settings = f"{BEYOND}/namespaces/{space['id']}/settings"
    await server.ok("PATCH", settings, payload={"locked": True})
    answer = await server.call("POST", path(space, "apply"))
    assert (answer.status, answer.json["type"]) == (423, "locked")
    assert (answer.json["resource"], answer.json["resource_id"]) == (
        "registry_namespace",
        space["id"],
    )
    assert len((await server.ok("GET", path(space, "plan")))["expired"]) == 1


@pytest.mark.parametrize(
    "rules",
    [[{}], [{"keep_last": -1}], [{"tags": ["a b"], "keep_last": 1}], [{"keep_last": "x"}], "no"],
)
async def test_bad_rules_name_the_argument(server: Server, rules: object) -> None:
    space = await server.create("n1")
    answer = await server.call("PATCH", path(space), payload={"rules": rules})
    assert answer.status == 400
    assert answer.json["type"] == "invalid_arguments"
    assert answer.json["details"][0]["argument_name"].startswith("rules")


async def test_pull_counts(server: Server) -> None:
    await server.create("n1")
    await server.push("n1/a", "v1", b"x" * 10)
    image = (await server.ok("GET", REGISTRY + "/images"))["images"][0]
    tags = await server.ok("GET", f"{REGISTRY}/images/{image['id']}/tags")
    tag = f"{BEYOND}/tags/{tags['tags'][0]['id']}/pulls"
    assert (await server.ok("GET", tag))["pulled_at"] is None
    repository = await server.store.locate("fr-par", "n1/a")
    server.store.pulls.count(repository, "v1")
    server.store.pulls.count(repository, tags["tags"][0]["digest"])
    await server.store.pulls.flush()
    answer = await server.ok("GET", tag)
    assert answer["pull_count"] == 2
    assert answer["pulled_at"].endswith("Z")
    assert (await server.ok("GET", f"{BEYOND}/images/{image['id']}/pulls"))["pull_count"] == 1
