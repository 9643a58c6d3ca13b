"""What bounds a namespace and a project, and what counts, as tenants see it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support import api_fixtures
from support.api import MANIFEST_TYPE, OTHER_PROJECT, digest_of
from support.engine import once
from support.management import BEYOND, Server

from holdfast.engine import QuotaExceeded

server = api_fixtures.management_server

PARTS = ("content", "manifests", "held", "uploads", "trash")
PROJECT_LIMITS = f"/holdfast/v1/projects/{OTHER_PROJECT}/limits"


async def tenant(server: Server, name: str = "team", **limits: Any) -> tuple[str, str]:
    """A namespace of another project, with limits; the path of it, and a full key's secret."""
    _, secret = await server.key()
    made = await server.create(name, project_id=str(OTHER_PROJECT))
    path = f"{BEYOND}/namespaces/{made['id']}"
    if limits:
        await server.ok("PATCH", f"{path}/limits", payload=limits)
    return path, secret


async def usage(server: Server, path: str) -> Any:
    told = await server.ok("GET", f"{path}/usage")
    assert told["kept_size"] == sum(told[part] for part in PARTS)
    return told


def noise(size: int, seed: int) -> bytes:
    return (seed.to_bytes(4, "big") * (size // 4 + 1))[:size]


async def upload(server: Server, name: str, data: bytes) -> None:
    where = await server.store.locate("fr-par", name)
    await server.store.uploads.put(where, digest_of(data), once(data))


async def annotated(server: Server, name: str, text: str, tag: str) -> None:
    """Push a manifest that is large by itself, and needs two bytes."""
    await upload(server, name, b"{}")
    where = await server.store.locate("fr-par", name)
    config = {"mediaType": "application/json", "digest": digest_of(b"{}"), "size": 2}
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config,
            "layers": [],
            "annotations": {"text": text},
        }
    ).encode()
    await server.store.manifests.put(where, body, media_type=MANIFEST_TYPE, reference=tag)


async def image_id(server: Server, name: str) -> str:
    where = await server.store.locate("fr-par", name)
    return str(where.image_id)


async def delete_image(server: Server, name: str, **more: Any) -> Any:
    path = f"/registry/v1/regions/fr-par/images/{await image_id(server, name)}"
    return await server.call("DELETE", path, **more)


@pytest.mark.slow
async def test_bodies_of_manifests_count(server: Server) -> None:
    path, _ = await tenant(server, quota=1_000_000)
    for number in range(3):
        await annotated(server, "team/web", str(number) * 300_000, f"v{number}")
        assert (await server.store.namespaces.list("fr-par")).items[0].size == 2
    with pytest.raises(QuotaExceeded) as over:
        await annotated(server, "team/web", "x" * 300_000, "v3")
    told = await usage(server, path)
    assert told["manifests"] > 900_000
    assert told["kept_size"] <= 1_000_000
    assert over.value.resource == "kept_size"


async def test_blobs_that_nothing_needs_count(server: Server) -> None:
    path, _ = await tenant(server, quota=1_000_000)
    await upload(server, "team/web", noise(600_000, 1))
    with pytest.raises(QuotaExceeded):
        await upload(server, "team/other", noise(600_000, 2))
    told = await usage(server, path)
    assert (told["size"], told["held"]) == (0, 600_000)


async def test_a_mount_counts_and_one_within_the_namespace_does_not(server: Server) -> None:
    data = noise(600_000, 1)
    path, _ = await tenant(server, quota=500_000)
    await server.create("wide", project_id=str(OTHER_PROJECT))
    await upload(server, "wide/web", data)
    source = await server.store.locate("fr-par", "wide/web")
    with pytest.raises(QuotaExceeded, match="600000 more are asked for, and 0 of 500000"):
        await server.store.mount(
            await server.store.locate("fr-par", "team/web"), digest_of(data), source
        )
    await server.ok("PATCH", f"{path}/limits", payload={"quota": 600_000})
    for name in ("team/web", "team/more"):
        where = await server.store.locate("fr-par", name)
        assert await server.store.mount(where, digest_of(data), source) is not None
    assert (await usage(server, path))["kept_size"] == 600_000


async def test_the_trash_counts_and_a_restore_adds_nothing(server: Server) -> None:
    path, secret = await tenant(server, quota=1_000_000)
    await server.push("team/web", "v1", noise(900_000, 1))
    assert (await delete_image(server, "team/web", secret=secret)).status == 200
    told = await usage(server, path)
    assert (told["size"], told["trash"]) == (0, told["kept_size"])
    with pytest.raises(QuotaExceeded, match=r"in trash: holdfast trash delete"):
        await upload(server, "team/web", noise(900_000, 2))
    trash = await server.ok("GET", "/holdfast/v1/trash", secret=secret)
    [entry] = trash["items"]
    await server.ok("POST", f"/holdfast/v1/trash/{entry['id']}/restore", secret=secret)
    after = await usage(server, path)
    assert (after["kept_size"], after["trash"]) == (told["kept_size"], 0)


async def test_a_deleted_namespace_counts_for_its_successor(server: Server) -> None:
    path, secret = await tenant(server, quota=1_000_000)
    await server.push("team/web", "v1", noise(900_000, 1))
    old = f"/registry/v1/regions/fr-par/namespaces/{path.rpartition('/')[2]}"
    assert (await server.call("DELETE", old, secret=secret)).status == 200
    new = await server.ok(
        "POST", "/registry/v1/regions/fr-par/namespaces", payload={"name": "team"}, secret=secret
    )
    there = f"{BEYOND}/namespaces/{new['id']}"
    limits = await server.ok("GET", f"{there}/limits", secret=secret)
    assert (limits["quota"], limits["in_force"]["quota"]) == (1_000_000, 1_000_000)
    told = await usage(server, there)
    assert told["size"] == 0
    assert told["trash"] == told["kept_size"] > 900_000
    with pytest.raises(QuotaExceeded):
        await upload(server, "team/web", noise(900_000, 2))


async def test_a_namespace_of_that_name_elsewhere_is_another_one(server: Server) -> None:
    await tenant(server, quota=10)
    made = await server.create("team", region="nl-ams", project_id=str(OTHER_PROJECT))
    path = f"/holdfast/v1/regions/nl-ams/namespaces/{made['id']}/limits"
    assert (await server.ok("GET", path))["in_force"]["quota"] is None


@pytest.mark.parametrize("change", [{"quota": None}, {"immutable_tags": []}, {"quota": 2**40}])
async def test_a_tenant_does_not_lift_what_binds_it(server: Server, change: Any) -> None:
    path, secret = await tenant(server, quota=1000, immutable_tags=["v*"])
    await server.ok("PATCH", f"{path}/settings", payload=change, secret=secret)
    for target in (f"{path}/limits", PROJECT_LIMITS):
        denied = await server.call("PATCH", target, payload={"quota": None}, secret=secret)
        assert (denied.status, denied.json["type"]) == (403, "permissions_denied")
    told = await server.ok("GET", f"{path}/limits", secret=secret)
    assert told["in_force"] == {"quota": 1000, "immutable_tags": ["v*"], "locked": False}
    with pytest.raises(QuotaExceeded):
        await upload(server, "team/web", noise(1001, 1))


async def test_the_smaller_quota_and_all_patterns_are_in_force(server: Server) -> None:
    path, secret = await tenant(server, quota=1000, immutable_tags=["v*"])
    settings = {"quota": 500, "immutable_tags": ["r*", "v*"]}
    told = await server.ok("PATCH", f"{path}/settings", payload=settings, secret=secret)
    assert (told["quota"], told["immutable_tags"]) == (500, ["r*", "v*"])
    in_force = (await server.ok("GET", f"{path}/limits", secret=secret))["in_force"]
    assert in_force == {"quota": 500, "immutable_tags": ["v*", "r*"], "locked": False}


async def test_immutable_tags_protect_what_holds_them(server: Server) -> None:
    path, secret = await tenant(server, immutable_tags=["v*"])
    await server.push("team/web", "v1", b"layer")
    await server.push("team/free", "latest", b"layer")
    namespace = f"/registry/v1/regions/fr-par/namespaces/{path.rpartition('/')[2]}"
    callers: list[dict[str, Any]] = [{}, {"secret": secret}]
    for who in callers:
        for answer in (
            await delete_image(server, "team/web", **who),
            await server.call("DELETE", namespace, **who),
        ):
            assert (answer.status, answer.json["precondition"]) == (412, "protected_resource")
            assert "v1" in answer.json["help_message"]
    assert (await delete_image(server, "team/free", secret=secret)).status == 200
    await server.ok("PATCH", f"{path}/limits", payload={"immutable_tags": []})
    assert (await server.call("DELETE", namespace, secret=secret)).status == 200


async def test_limits_outlive_the_namespace_and_its_settings_do_not(server: Server) -> None:
    path, secret = await tenant(server, quota=1000, immutable_tags=["v*"])
    await server.ok("PATCH", f"{path}/settings", payload={"quota": 10}, secret=secret)
    namespace = f"/registry/v1/regions/fr-par/namespaces/{path.rpartition('/')[2]}"
    await server.call("DELETE", namespace, secret=secret)
    await server.ok("POST", "/holdfast/v1/sweep", payload={"early": True})
    new = await server.ok(
        "POST", "/registry/v1/regions/fr-par/namespaces", payload={"name": "team"}, secret=secret
    )
    there = f"{BEYOND}/namespaces/{new['id']}"
    assert (await server.ok("GET", f"{there}/settings"))["quota"] is None
    told = await server.ok("GET", f"{there}/limits", secret=secret)
    assert told["in_force"] == {"quota": 1000, "immutable_tags": ["v*"], "locked": False}


async def test_a_lock_of_the_limits_locks(server: Server) -> None:
    path, secret = await tenant(server, locked=True)
    namespace = f"/registry/v1/regions/fr-par/namespaces/{path.rpartition('/')[2]}"
    assert (await server.ok("GET", namespace, secret=secret))["status"] == "locked"
    assert (await server.call("DELETE", namespace, secret=secret)).status == 423
    # An operator's unlocking means what it says.
    await server.ok("PATCH", f"{path}/settings", payload={"locked": False})
    assert (await server.ok("GET", namespace, secret=secret))["status"] == "ready"


async def test_a_project_is_bounded_over_all_its_namespaces(server: Server) -> None:
    first, secret = await tenant(server, "one")
    await tenant(server, "two")
    told = await server.ok("PATCH", PROJECT_LIMITS, payload={"quota": 1_000_000})
    assert (told["quota"], told["kept_size"]) == (1_000_000, 0)
    await upload(server, "one/web", noise(600_000, 1))
    with pytest.raises(QuotaExceeded) as over:
        await upload(server, "two/web", noise(600_000, 2))
    assert (over.value.resource, over.value.current) == ("project_kept_size", 600_000)
    assert (await server.ok("GET", PROJECT_LIMITS, secret=secret))["kept_size"] == 600_000
    await server.ok("DELETE", f"{first}/holds", secret=secret)
    await upload(server, "two/web", noise(600_000, 2))


async def test_open_uploads_of_the_whole_project_count(server: Server) -> None:
    await tenant(server, "one")
    await tenant(server, "two")
    await server.ok("PATCH", PROJECT_LIMITS, payload={"quota": 1_000_000})
    where = await server.store.locate("fr-par", "one/web")
    session = await server.store.uploads.begin(where)
    await server.store.uploads.append(where, session.id, once(noise(600_000, 1)))
    with pytest.raises(QuotaExceeded):
        await upload(server, "two/web", noise(600_000, 2))
    await server.store.uploads.abort(where, session.id)
    await upload(server, "two/web", noise(600_000, 2))


async def test_defaults_of_a_project_bind_new_names(server: Server) -> None:
    before, secret = await tenant(server, "before")
    defaults = {"quota": 1000, "immutable_tags": ["v*"]}
    await server.ok("PATCH", PROJECT_LIMITS, payload={"defaults": defaults})
    assert (await server.ok("GET", f"{before}/limits"))["quota"] is None
    made = await server.ok(
        "POST", "/registry/v1/regions/fr-par/namespaces", payload={"name": "new"}, secret=secret
    )
    path = f"{BEYOND}/namespaces/{made['id']}/limits"
    told = await server.ok("GET", path, secret=secret)
    assert (told["quota"], told["immutable_tags"]) == (1000, ["v*"])
    # Lifted for one name, it stays so.
    await server.ok("PATCH", path, payload={"quota": None})
    assert (await server.ok("GET", path))["quota"] is None


async def test_a_quota_below_what_is_kept_stops_growth_and_nothing_else(server: Server) -> None:
    path, secret = await tenant(server)
    data = noise(500_000, 1)
    digest = await server.push("team/web", "v1", data)
    await server.ok("PATCH", f"{path}/limits", payload={"quota": 1000})
    await server.push("team/web", "v1", data)
    await server.push("team/web", "v2", data)
    where = await server.store.locate("fr-par", "team/web")
    assert str((await server.store.manifests.get(where, "v2")).digest) == digest
    # A large one that is known is not even refused while it comes.
    big = noise(3_000_000, 7)
    await server.ok("PATCH", f"{path}/limits", payload={"quota": None})
    await upload(server, "team/web", big)
    await server.ok("PATCH", f"{path}/limits", payload={"quota": 1000})
    await upload(server, "team/other", big)
    with pytest.raises(QuotaExceeded):
        await upload(server, "team/web", b"one byte more")
    assert (await delete_image(server, "team/web", secret=secret)).status == 200


async def test_concurrent_pushes_share_what_is_left(server: Server) -> None:
    path, _ = await tenant(server, quota=1_000_000)
    each = [upload(server, f"team/i{number}", noise(300_000, number)) for number in range(10)]
    done = await asyncio.gather(*each, return_exceptions=True)
    assert {type(one) for one in done} == {type(None), QuotaExceeded}
    assert sum(one is None for one in done) == 3
    assert (await usage(server, path))["kept_size"] == 900_000


@pytest.mark.parametrize(
    "payload", [{"quota": -1}, {"quota": "1"}, {"immutable_tags": ["*" * 129]}]
)
async def test_defaults_that_are_none(server: Server, payload: Any) -> None:
    refused = await server.call("PATCH", PROJECT_LIMITS, payload={"defaults": payload})
    assert (refused.status, refused.json["type"]) == (400, "invalid_arguments")
