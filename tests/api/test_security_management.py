"""Every management operation, for every kind of caller, on what is theirs and what is not.

A new operation is tested without a word here, as long as the objects in its path are known.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from support import api_fixtures
from support.api import PROJECT, Reply, make_key
from support.management import Server
from support.tenants import (
    CALLERS,
    PLACES,
    READERS,
    REGION,
    STRANGERS,
    Caller,
    Place,
    Thing,
    World,
    covers,
    is_valid,
    read_table,
)

from holdfast.api.management.operation import AnyOperation
from holdfast.api.management.operations import OPERATIONS

server = api_fixtures.management_server

READ: Final = read_table("""
caller                          private public strangers_private strangers_public region absent
owner                           200     200    200               200              404    404
full,read                       200     200    404               403              404    404
other,other_read                404     403    200               200              404    404
expired,revoked,unknown,nobody  401     401    401               401              401    401
""")
WRITE: Final = read_table("""
caller                          private public strangers_private strangers_public region absent
owner                           200     200    200               200              404    404
full                            200     200    404               403              404    404
other                           404     403    200               200              404    404
read,other_read                 403     403    403               403              403    403
expired,revoked,unknown,nobody  401     401    401               401              401    401
""")
OWNER: Final = read_table("""
caller                          private public strangers_private strangers_public region absent
owner                           200     200    200               200              404    404
full,read,other,other_read      403     403    403               403              403    403
expired,revoked,unknown,nobody  401     401    401               401              401    401
""")

MAKING: Final = {
    ("owner", PROJECT): 200, ("owner", STRANGERS): 200,
    ("full", PROJECT): 200, ("full", STRANGERS): 403,
    ("other", PROJECT): 403, ("other", STRANGERS): 200,
}  # fmt: skip
"""Who makes something in which project. Readers get 403, whoever has no valid key 401."""

REGIONLESS: Final[dict[Caller, int]] = {"nobody": 401, "expired": 401, "full": 404}
"""What is answered in a region that does not exist."""

OBJECTS: Final = {"namespace_id", "image_id", "tag_id", "access_key", "item_id", "upload_id"}
"""Parameters of paths that name an object. Whoever adds one says here what it is."""

BODIES: Final[dict[str, dict[str, Any]]] = {"UpdateRetention": {"rules": []}}
"""Bodies of operations that need one."""


def parameters(operation: AnyOperation) -> set[str]:
    return set(re.findall(r"{(\w+)}", operation.path)) - {"region"}


OF_PROJECTS: Final = [
    operation for operation in OPERATIONS if parameters(operation) == {"project_id"}
]
"""Any UUID is a project, so none is absent."""
ON_OBJECTS: Final = [
    operation for operation in OPERATIONS if parameters(operation) and operation not in OF_PROJECTS
]
MAKERS: Final = [
    operation
    for operation in OPERATIONS
    if not parameters(operation) and "project_id" in operation.body.__struct_fields__
]
LISTINGS: Final = [
    operation for operation in OPERATIONS if not parameters(operation) and operation.method == "GET"
]

UPKEEP: Final = [
    operation
    for operation in OPERATIONS
    if not parameters(operation) and operation.owner and operation.writes
]


def by_id(operation: AnyOperation) -> str:
    return operation.id


def test_every_operation_is_of_a_kind_that_is_tested() -> None:
    kinds = (*ON_OBJECTS, *OF_PROJECTS, *MAKERS, *LISTINGS, *UPKEEP)
    tested = {operation.id for operation in kinds}
    assert {operation.id for operation in OPERATIONS} == tested
    for operation in (*ON_OBJECTS, *MAKERS, *LISTINGS, *UPKEEP):
        assert parameters(operation) <= OBJECTS, operation


@pytest.fixture
async def world(server: Server) -> World:
    made = World(server.store)
    await made.add_callers()
    await made.revoke()
    return made


async def ask(server: Server, world: World, operation: AnyOperation, caller: Caller, thing: Thing
) -> Reply:  # fmt: skip
    """Send the operation for one thing, as one caller, in the default region."""
    path = operation.path.format(
        region=REGION,
        namespace_id=thing.namespace_id,
        image_id=thing.image_id,
        tag_id=thing.tag_id,
        access_key=thing.access_key,
        item_id=thing.namespace_id,
        upload_id=thing.upload_id,
    )
    payload = BODIES.get(operation.id, {}) if operation.method in ("POST", "PATCH") else None
    return await server.call(operation.method, path, secret=world.secrets[caller], payload=payload)


def expected(operation: AnyOperation, caller: Caller, place: Place) -> int:
    """What the tables say. Keys and trash are in no region, and neither is ever public."""
    seen: Place = place
    if "{region}" not in operation.path and place == "region":
        seen = "private"
    if parameters(operation) in ({"access_key"}, {"item_id"}):
        if place == "strangers_public":
            seen = "strangers_private"
        elif place == "public":
            seen = "private"
    table = OWNER if operation.owner else WRITE if operation.writes else READ
    return table[caller, seen]


def fingerprint(thing: Thing, answer: Reply) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """All that a client sees, but for the time, the request's own id, and what it asked for."""
    kept = [
        (name.lower(), value)
        for name, value in answer.headers.items()
        if name.lower() not in ("date", "x-request-id")
    ]
    return thing.without_names(answer.body), tuple(sorted(kept))


@pytest.mark.slow
@pytest.mark.promise("SECURITY.md", "the owner key, and other keys of all projects")
@pytest.mark.promise("SECURITY.md", "keys of projects")
@pytest.mark.promise("SECURITY.md", "absent objects")
@pytest.mark.promise("SECURITY.md", "ids of another region")
@pytest.mark.parametrize("operation", ON_OBJECTS, ids=by_id)
async def test_an_operation_on_an_object(
    server: Server, world: World, operation: AnyOperation
) -> None:
    named = parameters(operation)
    for caller in CALLERS:
        answers: dict[Place, tuple[Thing, Reply]] = {}
        for place in PLACES:
            thing = await world.add(place)
            if named == {"item_id"} and place != "absent":
                await server.store.namespaces.delete(thing.namespace_id)
                before: object = await server.store.trash.list()
            else:
                before = await world.state(thing)
            answer = await ask(server, world, operation, caller, thing)
            where = (operation.id, caller, place, answer)
            assert answer.status == expected(operation, caller, place), where
            answers[place] = thing, answer
            if answer.status == 200:
                continue
            # It tells no more than was asked, and does nothing.
            asked = {str(getattr(thing, name, thing.namespace_id)) for name in named}
            told = [mark for mark in set(thing.marks()) - asked if mark in answer.body.decode()]
            assert not told, where
            if named == {"item_id"} and place != "absent":
                assert await server.store.trash.list() == before, where
            else:
                assert await world.state(thing) == before, where
        # Refusals of one status are the same bytes: absent, and private of strangers.
        refusals: dict[int, set[object]] = {}
        for thing, answer in answers.values():
            if answer.status != 200:
                refusals.setdefault(answer.status, set()).add(fingerprint(thing, answer))
        assert all(len(seen) == 1 for seen in refusals.values()), (operation.id, caller, refusals)


@pytest.mark.parametrize("operation", OF_PROJECTS, ids=by_id)
async def test_an_operation_on_a_project(
    server: Server, world: World, operation: AnyOperation
) -> None:
    """A key reads of its own project, and keys of all projects may change it."""
    places: tuple[tuple[Place, UUID], ...] = (
        ("private", PROJECT),
        ("strangers_private", STRANGERS),
    )
    for caller in CALLERS:
        for place, project in places:
            path = operation.path.format(project_id=project)
            payload: dict[str, Any] | None = {} if operation.method == "PATCH" else None
            answer = await server.call(
                operation.method, path, secret=world.secrets[caller], payload=payload
            )
            allowed = is_valid(caller) and covers(caller, place)
            if operation.owner:
                allowed = caller == "owner"
            status = 200 if allowed else 403 if is_valid(caller) else 401
            assert answer.status == status, (operation.id, caller, place, answer)


@pytest.mark.parametrize("operation", MAKERS, ids=by_id)
async def test_an_operation_that_makes_something(
    server: Server, world: World, operation: AnyOperation
) -> None:
    number = 0
    for caller in CALLERS:
        for project in (PROJECT, STRANGERS):
            number += 1
            payload: dict[str, Any] = {"project_id": str(project)}
            if "name" in operation.body.__struct_fields__:
                payload["name"] = f"made-{number}"
            answer = await server.call(
                operation.method,
                operation.path.format(region=REGION),
                secret=world.secrets[caller],
                payload=payload,
            )
            status = MAKING.get((caller, project), 403 if caller in READERS else 401)
            assert answer.status == status, (operation.id, caller, project, answer)
            if status == 200:
                assert answer.json["project_id"] == str(project)


@pytest.mark.parametrize("operation", UPKEEP, ids=by_id)
async def test_an_operation_on_the_whole_store(
    server: Server, world: World, operation: AnyOperation
) -> None:
    """Also without a body: nothing is asked of one who may not ask."""
    for caller in CALLERS:
        answer = await server.call(operation.method, operation.path, secret=world.secrets[caller])
        assert answer.status == OWNER[caller, "private"], (operation.id, caller)


@pytest.mark.promise("SECURITY.md", "listings and the catalog")
@pytest.mark.parametrize("operation", LISTINGS, ids=by_id)
async def test_a_listing(server: Server, world: World, operation: AnyOperation) -> None:
    """It holds what the caller's project has, and a filter by what strangers have finds nothing."""
    things = [await world.add(place) for place in PLACES]
    filters = [name for name in operation.query.__struct_fields__ if name.endswith("_id")]
    if "name" in operation.query.__struct_fields__:
        filters.append("name")

    def value(name: str, thing: Thing) -> str:
        project = STRANGERS if thing.place.startswith("strangers") else PROJECT
        values = {"name": thing.namespace, "project_id": project, "organization_id": PROJECT}
        found = getattr(thing, name, None)
        return str(values[name] if found is None else found)

    for caller in CALLERS:
        secret = world.secrets[caller]
        path = operation.path.format(region=REGION)
        answers = [await server.call(operation.method, path, secret=secret)]
        answers += [
            await server.call(
                operation.method, path, secret=secret, params={name: value(name, thing)}
            )
            for name in filters
            for thing in things
        ]
        denied = (operation.owner and caller != "owner") or (operation.writes and caller in READERS)
        status = 401 if not is_valid(caller) else 403 if denied else 200
        assert {answer.status for answer in answers} == {status}
        text = b"".join(answer.body for answer in answers).decode()
        for thing in things:
            told = [mark for mark in thing.marks() if mark in text]
            if not is_valid(caller) or not covers(caller, thing.place):
                assert not told, (operation.id, caller, thing)


async def test_listings_show_what_is_there(server: Server, world: World) -> None:
    """Without this, a listing that is always empty would pass."""
    things = {place: await world.add(place) for place in PLACES}
    paths = {"image_id": "images", "namespace_id": "namespaces"}
    for caller in ("owner", "full", "read", "other", "other_read"):
        for field, noun in paths.items():
            answer = await server.ok(
                "GET", f"/registry/v1/regions/{REGION}/{noun}", secret=world.secrets[caller]
            )
            ids = {str(getattr(things[place], field)): place for place in PLACES}
            seen = {ids[item["id"]] for item in answer[noun]}
            assert seen == {
                place
                for place in PLACES
                if place not in ("absent", "region") and covers(caller, place)
            }


async def test_an_unknown_region_tells_nothing_to_whoever_has_no_key(
    server: Server, world: World
) -> None:
    thing = await world.add("private")
    for operation in OPERATIONS:
        if "{region}" in operation.path:
            elsewhere = replace(operation, path=operation.path.replace("{region}", "xx-none"))
            for caller, status in REGIONLESS.items():
                answer = await ask(server, world, elsewhere, caller, thing)
                assert answer.status == status, (operation.id, caller)


async def test_a_key_gives_no_more_than_it_is(server: Server, world: World) -> None:
    """A full key of one project makes keys of that project only, which end when it does."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    _, secret = await make_key(world.store, PROJECT, "full", expires_at=soon)
    later = (soon + timedelta(hours=1)).isoformat()

    async def make(**fields: Any) -> Reply:
        return await server.call("POST", "/holdfast/v1/keys", secret=secret, payload=fields)

    made = (await make()).json
    assert made["project_id"] == str(PROJECT)
    assert datetime.fromisoformat(made["expires_at"]) <= soon
    made = (await make(default_project_id=str(STRANGERS))).json
    assert (made["project_id"], made["default_project_id"]) == (str(PROJECT), str(PROJECT))
    assert (await make(expires_at=later)).status == 400
    assert (await make(project_id=str(STRANGERS))).status == 403
    # What it made is no key of all projects.
    assert (await server.call("GET", "/holdfast/v1/stats", secret=made["secret_key"])).status == 403
