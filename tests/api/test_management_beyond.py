"""What the management API has beyond Scaleway's: usage, settings, keys, statistics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from support import api_fixtures
from support.api import OTHER_PROJECT, OWNER_SECRET, PROJECT
from support.management import ABSENT, BEYOND, REGISTRY, TIMESTAMP, Server

server = api_fixtures.management_server

KEYS = "/holdfast/v1/keys"
TRASH = "/holdfast/v1/trash"


async def usage(server: Server, namespace: Any, secret: str = OWNER_SECRET) -> dict[str, int]:
    answer: dict[str, int] = await server.ok(
        "GET", f"{BEYOND}/namespaces/{namespace['id']}/usage", secret=secret
    )
    return answer


async def test_usage_tells_sizes_unique_and_exclusive(server: Server) -> None:
    first = await server.create("n1")
    second = await server.create("n2")
    await server.push("n1/a", "latest", b"s" * 100, b"1" * 10)
    await server.push("n1/b", "latest", b"s" * 100)
    bodies = 0
    for name in ("n1/a", "n1/b"):
        where = await server.store.locate("fr-par", name)
        bodies += len((await server.store.manifests.get(where, "latest")).body)
    assert await usage(server, first) == {
        "namespace_id": first["id"],
        "size": 2 + 110 + 2 + 100,
        "image_count": 2,
        "unique_size": 112,
        "exclusive_size": 112,
        "project_exclusive_size": 112,
        "kept_size": 112 + bodies,
        "content": 112,
        "manifests": bodies,
        "held": 0,
        "uploads": 0,
        "trash": 0,
        "would_free": None,
    }
    path = f"{BEYOND}/namespaces/{first['id']}/usage?would_free=true"
    assert (await server.ok("GET", path))["would_free"] >= 112
    await server.push("n2/a", "latest", b"s" * 100)
    both = await usage(server, first)
    assert (both["unique_size"], both["exclusive_size"]) == (112, 10)
    assert (await usage(server, second))["exclusive_size"] == 0


async def test_usage_tells_nobody_what_strangers_store(server: Server) -> None:
    _, secret = await server.key(OTHER_PROJECT)
    mine = await server.create("n1", project_id=str(OTHER_PROJECT))
    await server.push("n1/a", "latest", b"s" * 100)
    before = await usage(server, mine, secret)
    assert before["exclusive_size"] == 102
    await server.create("n2")
    await server.push("n2/a", "latest", b"s" * 100)
    assert await usage(server, mine, secret) == before
    owners = await usage(server, mine)
    assert (owners["exclusive_size"], owners["project_exclusive_size"]) == (0, 102)
    image = (await server.ok("GET", REGISTRY + "/images", secret=secret))["images"][0]
    tags = await server.ok("GET", f"{REGISTRY}/images/{image['id']}/tags", secret=secret)
    for path in (f"{BEYOND}/images/{image['id']}", f"{BEYOND}/tags/{tags['tags'][0]['id']}"):
        theirs = (await server.ok("GET", path + "/usage", secret=secret))["would_free"]
        everybodys = (await server.ok("GET", path + "/usage"))["would_free"]
        # Both pushed the same manifest too: nothing is freed as long as the stranger has it.
        assert theirs > 102
        assert everybodys == 0


async def test_what_deleting_an_image_or_a_tag_would_free(server: Server) -> None:
    await server.create("n1")
    await server.push("n1/a", "1", b"s" * 100, b"1" * 10)
    await server.push("n1/a", "2", b"s" * 100, b"2" * 20)
    image = (await server.ok("GET", REGISTRY + "/images"))["images"][0]
    of_image = await server.ok("GET", f"{BEYOND}/images/{image['id']}/usage")
    assert (of_image["size"], of_image["tag_count"]) == (132, 2)
    assert of_image["would_free"] >= 132
    tags = await server.ok("GET", f"{REGISTRY}/images/{image['id']}/tags?name=2")
    of_tag = await server.ok("GET", f"{BEYOND}/tags/{tags['tags'][0]['id']}/usage")
    assert 20 <= of_tag["would_free"] < of_image["would_free"]


async def test_settings_are_kept_and_enforced(server: Server) -> None:
    made = await server.create("n1")
    path = f"{BEYOND}/namespaces/{made['id']}/settings"
    assert await server.ok("GET", path) == {
        "namespace_id": made["id"],
        "immutable_tags": [],
        "quota": None,
        "locked": False,
        "sparse_indexes": None,
    }
    changed = await server.ok("PATCH", path, payload={"immutable_tags": ["v*"], "quota": 10**6})
    assert (changed["immutable_tags"], changed["quota"]) == (["v*"], 10**6)
    assert await server.ok("PATCH", path, payload={}) == changed
    assert await server.ok("PATCH", path, payload={"immutable_tags": None}) == changed
    freed = await server.ok("PATCH", path, payload={"quota": None, "immutable_tags": []})
    assert (freed["quota"], freed["immutable_tags"]) == (None, [])


async def test_whether_indexes_may_be_sparse_is_a_setting(server: Server) -> None:
    made = await server.create("n1")
    path = f"{BEYOND}/namespaces/{made['id']}/settings"
    for value in (True, False, None, True):
        told = await server.ok("PATCH", path, payload={"sparse_indexes": value})
        assert told["sparse_indexes"] is value
        assert await server.ok("PATCH", path, payload={"quota": 10}) == {**told, "quota": 10}
    answer = await server.call("PATCH", path, payload={"sparse_indexes": "maybe"})
    assert (answer.status, answer.json["details"][0]["argument_name"]) == (400, "sparse_indexes")


async def test_only_the_operator_locks_and_unlocks(server: Server) -> None:
    made = await server.create("n1")
    path = f"{BEYOND}/namespaces/{made['id']}/settings"
    _, secret = await server.key(PROJECT)
    for locked in (True, False):
        answer = await server.call("PATCH", path, payload={"locked": locked}, secret=secret)
        assert answer.status == 403
    assert (await server.ok("PATCH", path, payload={"locked": True}))["locked"] is True
    assert (await server.call("PATCH", path, payload={"quota": 1}, secret=secret)).status == 423
    assert (await server.ok("PATCH", path, payload={"locked": "false"}))["locked"] is False
    await server.ok("PATCH", path, payload={"quota": 1}, secret=secret)


async def test_a_key_is_shown_once_works_and_is_revoked(server: Server) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    made = await server.ok(
        "POST",
        KEYS,
        payload={
            "project_id": str(OTHER_PROJECT),
            "permission": "read",
            "description": "ci",
            "expires_at": later.isoformat(),
        },
    )
    secret = made.pop("secret_key")
    assert TIMESTAMP.fullmatch(made["created_at"])
    assert made == {
        "access_key": made["access_key"],
        "project_id": str(OTHER_PROJECT),
        "default_project_id": str(OTHER_PROJECT),
        "organization_id": str(PROJECT),
        "permission": "read",
        "description": "ci",
        "created_at": made["created_at"],
        "expires_at": later.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    assert len(made["access_key"]) == 20
    await server.ok("GET", REGISTRY + "/namespaces", secret=secret)
    listed = await server.ok("GET", KEYS)
    assert listed["total_count"] == 2
    assert made in listed["keys"]
    assert secret not in str(listed)
    one = f"{KEYS}/{made['access_key']}"
    assert await server.ok("GET", one) == made
    assert await server.ok("DELETE", one) == made
    assert (await server.call("GET", REGISTRY + "/namespaces", secret=secret)).status == 401
    assert (await server.call("DELETE", one)).status == 404


async def test_a_key_of_all_projects_does_not_revoke_itself(server: Server) -> None:
    owner = (await server.ok("GET", KEYS))["keys"][0]
    answer = await server.call("DELETE", f"{KEYS}/{owner['access_key']}")
    assert answer.status == 412
    second = await server.ok("POST", KEYS, payload={})
    assert second["project_id"] is None
    assert second["default_project_id"] == str(PROJECT)
    await server.ok("DELETE", f"{KEYS}/{owner['access_key']}", secret=second["secret_key"])
    assert (await server.call("GET", KEYS)).status == 401


async def test_keys_come_in_pages(server: Server) -> None:
    for _ in range(4):
        await server.key(OTHER_PROJECT)
    listed = await server.ok("GET", KEYS)
    names = [key["access_key"] for key in listed["keys"]]
    assert names == sorted(names)
    pages = [await server.ok("GET", f"{KEYS}?page={page}&page_size=2") for page in (1, 2, 3, 4)]
    assert [key["access_key"] for page in pages for key in page["keys"]] == names
    assert {page["total_count"] for page in pages} == {5}
    project = {"project_id": str(OTHER_PROJECT), "page_size": "1", "page": "4"}
    theirs = await server.ok("GET", KEYS, params=project)
    assert (len(theirs["keys"]), theirs["total_count"]) == (1, 4)


async def test_a_key_is_given_another_end(server: Server) -> None:
    made = await server.ok("POST", KEYS, payload={"project_id": str(OTHER_PROJECT)})
    secret = made.pop("secret_key")
    path = f"{KEYS}/{made['access_key']}"
    later = {"expires_at": "2999-01-01T02:00:00+02:00"}
    changed = await server.ok("PATCH", path, payload={**later, "description": "ci"})
    assert changed == {**made, "expires_at": "2999-01-01T00:00:00.000000Z", "description": "ci"}
    assert await server.ok("PATCH", path, payload={}) == changed
    await server.ok("PATCH", path, payload={"expires_at": "2001-01-01T00:00:00Z"})
    answer = await server.call("GET", KEYS, secret=secret)
    assert (answer.status, answer.json["reason"]) == (401, "expired")
    assert (await server.ok("PATCH", path, payload={"expires_at": None}))["expires_at"] is None
    await server.ok("GET", KEYS, secret=secret)


async def test_nobody_gives_a_key_more_than_he_has(server: Server) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    key, secret = await server.key(OTHER_PROJECT, expires_at=soon)
    stranger, _ = await server.key(PROJECT)
    own = f"{KEYS}/{key.access_key}"
    for more in (None, (soon + timedelta(hours=1)).isoformat()):
        answer = await server.call("PATCH", own, payload={"expires_at": more}, secret=secret)
        assert answer.status == 400
        assert answer.json["details"][0]["argument_name"] == "expires_at"
    path = f"{KEYS}/{stranger.access_key}"
    assert (await server.call("PATCH", path, payload={}, secret=secret)).status == 404
    owner = [key for key in (await server.ok("GET", KEYS))["keys"] if key["project_id"] is None]
    itself = f"{KEYS}/{owner[0]['access_key']}"
    assert (await server.call("PATCH", itself, payload={"expires_at": None})).status == 412
    await server.ok("PATCH", itself, payload={"description": "the operator's"})


async def test_statistics_are_for_keys_of_all_projects(server: Server) -> None:
    await server.create("n1")
    await server.push("n1/a", "latest", b"x" * 100)
    stats = await server.ok("GET", "/holdfast/v1/stats")
    assert (stats["namespaces"], stats["images"]) == (1, 1)
    assert stats["blob_bytes"] >= 102
    assert (stats["trash"], stats["aside"]) == (0, 0)
    _, secret = await server.key(PROJECT)
    answer = await server.call("GET", "/holdfast/v1/stats", secret=secret)
    assert (answer.status, answer.json["type"]) == (403, "permissions_denied")


async def test_what_was_deleted_comes_back_from_the_trash(server: Server) -> None:
    made = await server.create("n1")
    await server.push("n1/a", "latest", b"x" * 100)
    before = await server.ok("GET", f"{REGISTRY}/namespaces/{made['id']}")
    await server.ok("DELETE", f"{REGISTRY}/namespaces/{made['id']}")
    item = (await server.ok("GET", "/holdfast/v1/trash"))["items"][0]
    assert TIMESTAMP.fullmatch(item["purge_at"])
    assert item == {
        "id": made["id"],
        "kind": "namespace",
        "name": "n1",
        "region": "fr-par",
        "project_id": str(PROJECT),
        "namespace_id": made["id"],
        "namespace": "n1",
        "image": None,
        "purge_at": item["purge_at"],
    }
    path = f"/holdfast/v1/trash/{made['id']}/restore"
    second = await server.create("n1")
    assert (await server.call("POST", path)).status == 409
    await server.ok("DELETE", f"{REGISTRY}/namespaces/{second['id']}")
    assert await server.ok("POST", path) == item
    back = await server.ok("GET", f"{REGISTRY}/namespaces/{made['id']}")
    assert back == {**before, "updated_at": back["updated_at"]}
    assert (await server.call("POST", path)).status == 404


async def test_a_projects_key_sees_and_brings_back_its_own(server: Server) -> None:
    _, secret = await server.key(OTHER_PROJECT)
    _, reader = await server.key(OTHER_PROJECT, "read")
    for name, project, region in (
        ("mine", OTHER_PROJECT, "fr-par"),
        ("mine", OTHER_PROJECT, "nl-ams"),
        ("theirs", PROJECT, "fr-par"),
    ):
        made = await server.create(name, region=region, project_id=str(project))
        path = f"/registry/v1/regions/{region}/namespaces/{made['id']}"
        await server.ok("DELETE", path)
    every = await server.ok("GET", TRASH)
    assert every["total_count"] == 3
    strangers = every["items"][2]
    listed = await server.ok("GET", TRASH, secret=reader)
    assert listed == {"items": every["items"][:2], "total_count": 2}
    for wanted, count in (
        ({"region": "nl-ams"}, 1),
        ({"namespace": "mine"}, 2),
        ({"namespace": "theirs"}, 0),
        ({"project_id": str(PROJECT)}, 0),
        ({"kind": "tag"}, 0),
        ({"page": "2", "page_size": "1"}, 1),
    ):
        page = await server.ok("GET", TRASH, secret=secret, params=wanted)
        assert len(page["items"]) == count, wanted
    one = listed["items"][0]["id"]
    assert (await server.call("POST", f"{TRASH}/{one}/restore", secret=reader)).status == 403
    hidden = await server.call("POST", f"{TRASH}/{strangers['id']}/restore", secret=secret)
    absent = await server.call("POST", f"{TRASH}/{ABSENT}/restore", secret=secret)
    assert hidden.status == absent.status == 404
    assert hidden.body.replace(strangers["id"].encode(), ABSENT.encode()) == absent.body
    assert (await server.ok("POST", f"{TRASH}/{one}/restore", secret=secret))["id"] == one
