"""Each row of the tables in docs/management-api.md, as a server answers it: what is asked wrongly,
and which keys each operation takes."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from support import api_fixtures
from support.api import OTHER_PROJECT, PROJECT, Reply
from support.full import GO_ON, filled, pulled_and_deleted
from support.management import ABSENT, BEYOND, REGISTRY, Server, disk_store, serving
from support.operating import NAMESPACES, SECRET, call, operated
from support.rows import Row, rows_of, said

server = api_fixtures.management_server

LISTED: Final = REGISTRY + "/namespaces"


@pytest.mark.row("management-api.md", "no key, a wrong, an expired or a revoked one")
async def test_no_valid_key(row: Row, server: Server) -> None:
    _, expired = await server.key(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    key, revoked = await server.key(expires_at=datetime.now(UTC) + timedelta(hours=1))
    await server.store.keys.revoke(key.access_key)
    reasons = {
        None: "invalid_argument",
        "wrong": "not_found",
        expired: "expired",
        revoked: "not_found",
    }
    answers = []
    for secret, reason in reasons.items():
        for method in ("GET", "POST"):
            answer = await server.call(method, LISTED, secret=secret)
            assert answer.json["reason"] == reason
            answers.append(answer)
    row.says(answer=f"{said(*answers)}, with the reason")


@pytest.mark.row("management-api.md", "a key that may not do this")
async def test_a_key_that_may_not(row: Row, server: Server) -> None:
    _, reader = await server.key(PROJECT, "read")
    _, full = await server.key(PROJECT)
    other = {"name": "ab", "project_id": str(OTHER_PROJECT)}
    answers = [
        await server.call("POST", LISTED, secret=reader, payload={"name": "ab"}),
        await server.call("POST", LISTED, secret=full, payload=other),
        await server.call("GET", "/holdfast/v1/stats", secret=full),
    ]
    for answer in answers:
        assert answer.json["details"]
        for missing in answer.json["details"]:
            assert set(missing) == {"resource", "action"}
    row.says(answer=f"{said(*answers)}, with what is missing")


@pytest.mark.row(
    "management-api.md",
    "a malformed id, an unknown `order_by`, `page` under 1, `page_size` over 100, a wrong body",
)
async def test_wrong_arguments(row: Row, server: Server) -> None:
    asked: list[tuple[str, Reply]] = [
        ("namespace_id", await server.call("GET", LISTED + "/no-uuid")),
        ("order_by", await server.call("GET", LISTED + "?order_by=size")),
        ("page", await server.call("GET", LISTED + "?page=0")),
        ("page_size", await server.call("GET", LISTED + "?page_size=101")),
        ("name", await server.call("POST", LISTED, payload={"name": 1})),
        ("name", await server.call("POST", LISTED, payload={})),
        ("name", await server.call("POST", LISTED, payload={"name": "UPPER"})),
        ("body", await server.call("POST", LISTED, body=b"{")),
    ]
    for name, answer in asked:
        assert [each["argument_name"] for each in answer.json["details"]] == [name]
    both = await server.call("GET", LISTED + "?page=0&order_by=size")
    assert {each["argument_name"] for each in both.json["details"]} == {"page", "order_by"}
    row.says(answer=f"{said(both, *(answer for _, answer in asked))}, naming each argument")


@pytest.mark.row("management-api.md", "what does not exist, or is private to strangers")
async def test_what_is_hidden(row: Row, server: Server) -> None:
    made = await server.create("mine")
    _, stranger = await server.key(OTHER_PROJECT)
    answers = [
        await server.call("GET", f"{LISTED}/{ABSENT}"),
        await server.call("DELETE", f"{REGISTRY}/tags/{ABSENT}"),
        await server.call("GET", f"{LISTED}/{made['id']}", secret=stranger),
        await server.call("PATCH", f"{LISTED}/{made['id']}", secret=stranger, payload={}),
        await server.call("GET", f"{LISTED}/{made['id']}".replace("fr-par", "nl-ams")),
        await server.call("GET", LISTED.replace("fr-par", "no-where")),
    ]
    row.says(answer=said(*answers))


@pytest.mark.row("management-api.md", "a name that is taken")
async def test_a_taken_name(row: Row, server: Server) -> None:
    await server.create("taken")
    _, stranger = await server.key(OTHER_PROJECT)
    row.says(
        answer=said(
            await server.call("POST", LISTED, payload={"name": "taken"}),
            await server.call("POST", LISTED, payload={"name": "taken"}, secret=stranger),
        )
    )


async def settings(server: Server, name: str, **fields: Any) -> str:
    """The id of the namespace of that name, whose settings are changed."""
    found = await server.store.namespaces.find("fr-par", name)
    await server.ok("PATCH", f"{BEYOND}/namespaces/{found.id}/settings", payload=fields)
    return str(found.id)


@pytest.mark.row("management-api.md", "a namespace that was locked")
async def test_a_locked_namespace(row: Row, server: Server) -> None:
    await server.create("shut")
    await server.push("shut/app", "v1", b"layer")
    images = await server.ok("GET", REGISTRY + "/images")
    identity = await settings(server, "shut", locked=True)
    row.says(
        answer=said(
            await server.call("PATCH", f"{LISTED}/{identity}", payload={"description": "x"}),
            await server.call("DELETE", f"{LISTED}/{identity}"),
            await server.call("DELETE", f"{REGISTRY}/images/{images['images'][0]['id']}"),
        )
    )


@pytest.mark.row("management-api.md", "too many requests")
def test_too_many_requests(row: Row, tmp_path: Path) -> None:
    with operated(tmp_path / "data", "--rate-address=0.01") as server:
        for _ in range(10):
            assert call(server, "GET", NAMESPACES, X_Auth_Token=SECRET).status == 200
        row.says(answer=said(call(server, "GET", NAMESPACES, X_Auth_Token=SECRET)))


@pytest.mark.row("management-api.md", "the disk is full")
async def test_a_full_disk(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(disk_store(tmp_path, background=False)) as server:
        made = await server.create("kept")
        real = os.statvfs(tmp_path)
        full = SimpleNamespace(f_bavail=0, f_frsize=real.f_frsize, f_blocks=real.f_blocks)
        monkeypatch.setattr(os, "statvfs", lambda _: full)
        refused = [
            await server.call("POST", LISTED, payload={"name": "more"}),
            await server.call("POST", "/holdfast/v1/keys", payload={}),
        ]
        await server.ok("GET", f"{LISTED}/{made['id']}")
        await server.ok("DELETE", f"{LISTED}/{made['id']}")
    monkeypatch.undo()
    async with filled(tmp_path / "disk") as filled_one:
        await pulled_and_deleted(filled_one)
    row.says(answer=f"{said(*refused)}; reads and deletes {GO_ON}")


# --- which key an operation takes ---------------------------------------------------------------

KEYS: Final = {
    "any": ("read", "full", "owner_read", "owner"),
    "full": ("full", "owner"),
    "all projects": ("owner_read", "owner"),
    "all projects, full": ("owner",),
}
"""What the column ``key`` says, and whose requests are then not refused for want of a right."""

TABLES: Final = {"scaleway": REGISTRY, "beyond": ""}
OPERATIONS: Final = [
    (row, prefix) for mark, prefix in TABLES.items() for row in rows_of("management-api.md", mark)
]


@pytest.fixture
async def secrets(server: Server) -> dict[str, str]:
    made = {}
    for name, project, permission in (
        ("read", PROJECT, "read"),
        ("full", PROJECT, "full"),
        ("owner_read", None, "read"),
        ("owner", None, "full"),
    ):
        kind: Any = permission
        _, made[name] = await server.key(project, kind)
    return made


@pytest.mark.parametrize(
    ("operation", "prefix"), OPERATIONS, ids=[row.cells["operation"] for row, _ in OPERATIONS]
)
async def test_the_key_of_an_operation(
    server: Server, secrets: dict[str, str], operation: Row, prefix: str
) -> None:
    """An allowed one is told that nothing is there, or what is wrong with an empty body."""
    method, _, path = operation.name.strip("`").partition(" ")
    path = path.replace("{region}", "fr-par").replace("{project_id}", str(PROJECT))
    path = prefix + re.sub(r"{\w+}", ABSENT, path)
    takes = KEYS[operation.cells["key"]]
    for name, secret in secrets.items():
        payload: Any = None if method in ("GET", "DELETE") else {}
        answer = await server.call(method, path, secret=secret, payload=payload)
        if name in takes:
            assert answer.status in {200, 400, 404}, (name, answer)
        else:
            assert said(answer) == "403 `permissions_denied`", (name, answer)
    refused = await server.call(method, path, secret=None)
    assert said(refused) == "401 `denied_authentication`"
