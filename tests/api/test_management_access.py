"""Who may do what: 401, 403 and 404 of the management API (contract §4 and §5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support import api_fixtures
from support.management import (
    ABSENT,
    BEYOND,
    OTHER_PROJECT,
    OWNER_SECRET,
    PROJECT,
    REGISTRY,
    Server,
)

server = api_fixtures.management_server


async def everything(server: Server, name: str, **fields: Any) -> dict[str, str]:
    """A namespace with an image and a tag: paths of each by kind."""
    namespace = await server.create(name, **fields)
    await server.push(f"{name}/app", "latest", b"1")
    listed = await server.ok("GET", REGISTRY + "/images", params={"namespace_id": namespace["id"]})
    image = listed["images"][0]
    tags = await server.ok("GET", f"{REGISTRY}/images/{image['id']}/tags")
    return {
        "namespaces": namespace["id"],
        "images": image["id"],
        "tags": tags["tags"][0]["id"],
    }


def requests_for(ids: dict[str, str]) -> list[tuple[str, str]]:
    """Every request that names one of the objects by id."""
    made = [
        (method, f"{REGISTRY}/{kind}/{id_}")
        for kind, id_ in ids.items()
        for method in ("GET", "DELETE")
    ]
    made += [("PATCH", f"{REGISTRY}/{kind}/{ids[kind]}") for kind in ("namespaces", "images")]
    made += [("GET", f"{REGISTRY}/images/{ids['images']}/tags")]
    made += [("GET", f"{BEYOND}/namespaces/{ids['namespaces']}/usage")]
    made += [
        (method, f"{BEYOND}/namespaces/{ids['namespaces']}/settings") for method in ("GET", "PATCH")
    ]
    return made


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        (None, "invalid_argument"),
        ("", "invalid_argument"),
        ("x" * 257, "invalid_argument"),
        ("not a key", "not_found"),
        (ABSENT, "not_found"),
        (OWNER_SECRET + "0", "not_found"),
    ],
)
async def test_without_a_valid_key_everything_is_401(
    server: Server, secret: str | None, reason: str
) -> None:
    for method, path in (
        ("GET", REGISTRY + "/namespaces"),
        ("POST", REGISTRY + "/namespaces"),
        ("GET", f"{REGISTRY}/namespaces/{ABSENT}"),
        ("GET", "/registry/v1/regions/nowhere/namespaces"),
        ("GET", f"{REGISTRY}/tags/no-uuid"),
        ("GET", "/holdfast/v1/stats"),
        ("GET", "/holdfast/v1/keys"),
    ):
        answer = await server.call(method, path, secret=secret)
        assert answer.status == 401
        assert answer.json == {
            "message": "authentication is denied",
            "type": "denied_authentication",
            "method": "api_key",
            "reason": reason,
        }


async def test_an_expired_or_revoked_key_is_401(server: Server) -> None:
    path = REGISTRY + "/namespaces"
    _, late = await server.key(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    answer = await server.call("GET", path, secret=late)
    assert (answer.status, answer.json["reason"]) == (401, "expired")
    key, secret = await server.key(expires_at=datetime.now(UTC) + timedelta(hours=1))
    await server.ok("GET", path, secret=secret)
    await server.store.keys.revoke(key.access_key)
    answer = await server.call("GET", path, secret=secret)
    assert (answer.status, answer.json["reason"]) == (401, "not_found")


async def test_a_read_only_key_reads_and_writes_nothing(server: Server) -> None:
    ids = await everything(server, "n1")
    _, reader = await server.key(PROJECT, "read")
    for method, path in requests_for(ids):
        answer = await server.call(method, path, secret=reader)
        assert answer.status == (200 if method == "GET" else 403), (method, path)
        if method != "GET":
            assert answer.json["type"] == "permissions_denied"
            assert answer.json["details"] == [{"resource": "registry", "action": "write"}]
    answer = await server.call(
        "POST", REGISTRY + "/namespaces", payload={"name": "n2"}, secret=reader
    )
    assert answer.status == 403
    # Nor does it learn what exists from a refused write.
    absent = await server.call("DELETE", f"{REGISTRY}/tags/{ABSENT}", secret=reader)
    present = await server.call("DELETE", f"{REGISTRY}/tags/{ids['tags']}", secret=reader)
    assert (absent.status, absent.body) == (present.status, present.body)


async def test_private_things_of_strangers_answer_as_absent_ones(server: Server) -> None:
    ids = await everything(server, "n1")
    gone = dict.fromkeys(ids, ABSENT)
    _, stranger = await server.key()
    for (method, path), (_, absent_path) in zip(requests_for(ids), requests_for(gone), strict=True):
        private = await server.call(method, path, secret=stranger)
        absent = await server.call(method, absent_path, secret=stranger)
        assert private.status == absent.status == 404, (method, path)
        asked = next(id_ for id_ in ids.values() if id_ in path)
        assert private.body.replace(asked.encode(), ABSENT.encode()) == absent.body
        assert private.json["type"] == "not_found"
    for kind in ("namespaces", "images"):
        listed = await server.ok("GET", f"{REGISTRY}/{kind}", secret=stranger)
        assert listed == {kind: [], "total_count": 0}
        for name in ("project_id", "organization_id"):
            await server.ok(
                "GET", f"{REGISTRY}/{kind}", secret=stranger, params={name: str(PROJECT)}
            )
    filtered = await server.ok(
        "GET",
        REGISTRY + "/images",
        secret=stranger,
        params={"namespace_id": ids["namespaces"]},
    )
    assert filtered["total_count"] == 0


async def test_the_body_of_404(server: Server) -> None:
    for kind, name in (("namespaces", "namespace"), ("images", "image"), ("tags", "tag")):
        answer = await server.call("GET", f"{REGISTRY}/{kind}/{ABSENT}")
        assert answer.status == 404
        assert answer.json == {
            "message": f"{name.capitalize()} was not found",
            "type": "not_found",
            "resource": f"registry_{name}",
            "resource_id": ABSENT,
        }


async def test_public_things_of_strangers_are_forbidden_not_hidden(server: Server) -> None:
    ids = await everything(server, "n1", is_public=True)
    _, stranger = await server.key()
    for method, path in requests_for(ids):
        answer = await server.call(method, path, secret=stranger)
        assert answer.status == 403, (method, path)
        assert answer.json["type"] == "permissions_denied"
    assert (await server.ok("GET", REGISTRY + "/namespaces", secret=stranger))["total_count"] == 0


async def test_an_images_own_visibility_decides_for_it_and_its_tags(server: Server) -> None:
    public = await everything(server, "n1", is_public=True)
    private = await everything(server, "n2")
    _, stranger = await server.key()
    for ids, visibility, status in ((public, "private", 404), (private, "public", 403)):
        await server.ok(
            "PATCH", f"{REGISTRY}/images/{ids['images']}", payload={"visibility": visibility}
        )
        for kind in ("images", "tags"):
            answer = await server.call("GET", f"{REGISTRY}/{kind}/{ids[kind]}", secret=stranger)
            assert answer.status == status
    answer = await server.call(
        "GET", f"{REGISTRY}/namespaces/{private['namespaces']}", secret=stranger
    )
    assert answer.status == 404


async def test_lists_hold_what_the_keys_project_has(server: Server) -> None:
    await everything(server, "mine")
    theirs = await everything(server, "theirs", project_id=str(OTHER_PROJECT))
    _, stranger = await server.key()
    namespaces = await server.ok("GET", REGISTRY + "/namespaces", secret=stranger)
    assert [item["id"] for item in namespaces["namespaces"]] == [theirs["namespaces"]]
    assert namespaces["total_count"] == 1
    images = await server.ok("GET", REGISTRY + "/images", secret=stranger)
    assert [item["id"] for item in images["images"]] == [theirs["images"]]
    for method, path in requests_for(theirs):
        if method == "GET":
            await server.ok(method, path, secret=stranger)
    assert (await server.ok("GET", REGISTRY + "/namespaces"))["total_count"] == 2


@pytest.mark.promise("SECURITY.md", "ids of another region")
async def test_ids_of_another_region_are_absent_whatever_the_kind(server: Server) -> None:
    ids = await everything(server, "n1")
    for method, path in requests_for(ids):
        answer = await server.call(method, path.replace("fr-par", "nl-ams"))
        assert answer.status == 404, (method, path)
    still = await server.ok("GET", f"{REGISTRY}/namespaces/{ids['namespaces']}")
    assert still["id"] == ids["namespaces"]
