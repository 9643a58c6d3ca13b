"""Who may do what: 401, 403 and 404 of the management API (contract §4 and §5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support import api_fixtures
from support.api import OWNER_SECRET, PROJECT
from support.management import ABSENT, REGISTRY, Server

server = api_fixtures.management_server


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


async def test_the_body_of_403(server: Server) -> None:
    _, reader = await server.key(PROJECT, "read")
    answer = await server.call("DELETE", f"{REGISTRY}/tags/{ABSENT}", secret=reader)
    assert answer.status == 403
    assert answer.json["type"] == "permissions_denied"
    assert answer.json["details"] == [{"resource": "registry", "action": "write"}]


@pytest.mark.parametrize(
    ("is_public", "visibility", "status"), [(True, "private", 404), (False, "public", 403)]
)
async def test_an_images_own_visibility_decides_for_it_and_its_tags(
    server: Server, is_public: bool, visibility: str, status: int
) -> None:
    namespace = await server.create("n1", is_public=is_public)
    await server.push("n1/app", "latest", b"1")
    image = (await server.ok("GET", REGISTRY + "/images"))["images"][0]
    path = f"{REGISTRY}/images/{image['id']}"
    tag = (await server.ok("GET", f"{path}/tags"))["tags"][0]
    await server.ok("PATCH", path, payload={"visibility": visibility})
    _, stranger = await server.key()
    asked = (path, f"{REGISTRY}/tags/{tag['id']}", f"{REGISTRY}/namespaces/{namespace['id']}")
    answers = [(await server.call("GET", one, secret=stranger)).status for one in asked]
    assert answers == [status, status, 403 if is_public else 404]
