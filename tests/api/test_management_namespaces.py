"""Namespaces through the management API: contract §1 to §3, design §9."""

from __future__ import annotations

from uuid import UUID

import pytest
from support import api_fixtures
from support.api import OTHER_PROJECT, PROJECT
from support.management import ABSENT, REGISTRY, TIMESTAMP, Server, memory_store, serving

from holdfast.api import AppSettings

server = api_fixtures.management_servers

ALL = REGISTRY + "/namespaces"


async def test_a_new_namespace_is_ready_at_once_with_every_field(server: Server) -> None:
    made = await server.create("namespace1", description="mine", is_public=True)
    host = server.url.removeprefix("http://")
    assert str(UUID(made["id"])) == made["id"]
    assert TIMESTAMP.fullmatch(made["created_at"])
    assert made == {
        "id": made["id"],
        "name": "namespace1",
        "description": "mine",
        "organization_id": str(PROJECT),
        "project_id": str(PROJECT),
        "status": "ready",
        "status_message": "",
        "endpoint": f"{host}/namespace1",
        "is_public": True,
        "size": 0,
        "image_count": 0,
        "region": "fr-par",
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    assert await server.ok("GET", f"{ALL}/{made['id']}") == made


async def test_update_changes_what_is_given_and_always_moves_updated_at(server: Server) -> None:
    made = await server.create("n1", description="old")
    path = f"{ALL}/{made['id']}"
    same = await server.ok("PATCH", path, payload={})
    assert same == {**made, "updated_at": same["updated_at"]}
    assert same["updated_at"] > made["updated_at"]
    untouched = await server.ok("PATCH", path, payload={"description": None, "is_public": None})
    assert (untouched["description"], untouched["is_public"]) == ("old", False)
    changed = await server.ok("PATCH", path, payload={"description": "", "is_public": True})
    assert (changed["description"], changed["is_public"]) == ("", True)
    assert await server.ok("GET", path) == changed


async def test_delete_answers_deleting_and_frees_the_name_at_once(server: Server) -> None:
    made = await server.create("n1")
    await server.push("n1/app", "latest", b"layer")
    gone = await server.ok("DELETE", f"{ALL}/{made['id']}")
    assert (gone["id"], gone["status"]) == (made["id"], "deleting")
    assert gone["updated_at"] > made["updated_at"]
    for method in ("GET", "PATCH", "DELETE"):
        assert (await server.call(method, f"{ALL}/{made['id']}")).status == 404
    again = await server.create("n1")
    assert again["id"] != made["id"]
    assert (again["size"], again["image_count"]) == (0, 0)
    assert (await server.ok("GET", REGISTRY + "/images"))["images"] == []


async def test_a_taken_name_is_a_conflict_in_its_region_only(server: Server) -> None:
    await server.create("n1")
    answer = await server.call("POST", ALL, payload={"name": "n1"})
    assert answer.status == 409
    assert answer.json["type"] == "already_exists"
    assert answer.json["resource_id"] == "n1"
    _, stranger = await server.key()
    answer = await server.call("POST", ALL, payload={"name": "n1"}, secret=stranger)
    assert answer.status == 409
    elsewhere = await server.create("n1", region="nl-ams")
    assert elsewhere["region"] == "nl-ams"
    assert (await server.ok("GET", ALL))["total_count"] == 1


@pytest.mark.parametrize("region", ["it-mil", "fr", "FR-PAR", "fr-par%20", "%C3%A9"])
async def test_an_unknown_region_is_absent(server: Server, region: str) -> None:
    answer = await server.call("GET", f"/registry/v1/regions/{region}/namespaces")
    assert answer.status == 404
    assert answer.json["resource"] == "region"


async def test_pages_hold_everything_once_and_end_in_empty_lists(server: Server) -> None:
    names = [f"n{number:02}" for number in range(25)]
    for name in names:
        await server.create(name)
    seen: list[str] = []
    for page, count in ((1, 10), (2, 10), (3, 5), (4, 0), (10**9, 0)):
        answer = await server.ok("GET", ALL, params={"page": str(page), "page_size": "10"})
        assert answer["total_count"] == 25
        assert len(answer["namespaces"]) == count
        seen += [item["name"] for item in answer["namespaces"]]
    assert seen == names
    assert len((await server.ok("GET", ALL))["namespaces"]) == 20
    assert len((await server.ok("GET", ALL, params={"page_size": "100"}))["namespaces"]) == 25


async def test_every_order(server: Server) -> None:
    for name, description in (("bb", "x"), ("aa", "z"), ("cc", "y"), ("dd", "y")):
        await server.create(name, description=description)
    expected = {
        "created_at_asc": ["bb", "aa", "cc", "dd"],
        "created_at_desc": ["dd", "cc", "aa", "bb"],
        "name_asc": ["aa", "bb", "cc", "dd"],
        "name_desc": ["dd", "cc", "bb", "aa"],
        "description_asc": ["bb", "cc", "dd", "aa"],
        "description_desc": ["aa", "dd", "cc", "bb"],
    }
    for order, names in expected.items():
        answer = await server.ok("GET", ALL, params={"order_by": order})
        assert [item["name"] for item in answer["namespaces"]] == names, order


async def test_filters_are_combined_with_and(server: Server) -> None:
    await server.create("mine")
    await server.create("theirs", project_id=str(OTHER_PROJECT))

    async def names(**filters: str) -> list[str]:
        answer = await server.ok("GET", ALL, params=filters)
        found = [item["name"] for item in answer["namespaces"]]
        assert answer["total_count"] == len(found)
        return found

    theirs, ours = str(OTHER_PROJECT), str(PROJECT)
    assert await names() == ["mine", "theirs"]
    assert await names(name="mine") == ["mine"]
    assert await names(name="min") == []
    assert await names(name="No such name!") == []
    assert await names(project_id=theirs) == ["theirs"]
    assert await names(project_id=theirs, name="mine") == []
    assert await names(project_id=ABSENT) == []
    assert await names(organization_id=ours) == ["mine", "theirs"]
    assert await names(organization_id=ours, project_id=theirs, name="theirs") == ["theirs"]
    assert await names(organization_id=ABSENT) == []
    assert await names(per_page="100", unknown="x") == ["mine", "theirs"]
    assert await names(name="", project_id="", page="", order_by="") == ["mine", "theirs"]


async def test_who_owns_a_new_namespace(server: Server) -> None:
    theirs, ours = str(OTHER_PROJECT), str(PROJECT)
    _, stranger = await server.key()
    assert (await server.create("a1"))["project_id"] == ours
    assert (await server.create("a2", organization_id=ours))["project_id"] == ours
    both = await server.create("a3", organization_id=ours, project_id=theirs)
    assert both["project_id"] == theirs
    assert both["organization_id"] == ours
    empty = await server.create("a4", project_id="", organization_id="")
    assert empty["project_id"] == ours
    default = await server.ok("POST", ALL, payload={"name": "a5"}, secret=stranger)
    assert default["project_id"] == theirs
    for body in (
        {"name": "a6", "organization_id": ABSENT},
        {"name": "a6", "project_id": ours},
    ):
        answer = await server.call("POST", ALL, payload=body, secret=stranger)
        assert answer.status == 403
        assert answer.json["type"] == "permissions_denied"


async def test_endpoint_is_what_docker_push_takes() -> None:
    settings = AppSettings(
        endpoints={"nl-ams": "localhost:5001"}, default_endpoint="rg.fr-par.example"
    )
    async with serving(memory_store(), settings) as server:
        assert (await server.create("n1"))["endpoint"] == "rg.fr-par.example/n1"
        elsewhere = await server.create("n1", region="nl-ams")
        assert elsewhere["endpoint"] == "localhost:5001/n1"


async def test_a_configured_organization_is_the_only_one() -> None:
    settings = AppSettings(organization_id=UUID(ABSENT))
    async with serving(memory_store(), settings) as server:
        made = await server.create("n1", organization_id=ABSENT)
        assert made["organization_id"] == ABSENT
        assert made["project_id"] == str(PROJECT)
        answer = await server.call(
            "POST", ALL, payload={"name": "n2", "organization_id": str(PROJECT)}
        )
        assert answer.status == 403
