"""Bad input: every wrong thing gets a typed error that names it, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from support import api_fixtures
from support.api import OWNER_SECRET, Reply
from support.management import ABSENT, BEYOND, REGISTRY, Server

server = api_fixtures.management_server

NAMESPACES = REGISTRY + "/namespaces"


def assert_names(answer: Reply, argument: str, reason: str | None = None) -> None:
    assert answer.status == 400, answer
    assert answer.json["type"] == "invalid_arguments"
    assert answer.json["message"] == "invalid argument(s)"
    details = {item["argument_name"]: item["reason"] for item in answer.json["details"]}
    assert argument in details
    assert reason in (None, details[argument])


@pytest.mark.parametrize(
    ("argument", "value", "reason"),
    [
        ("name", 5, "format"),
        ("name", ["x"], "format"),
        ("name", None, "required"),
        ("name", "", "constraint"),
        ("name", "a", "constraint"),
        ("name", "a" * 64, "constraint"),
        ("name", "ab\n", "constraint"),
        ("name", "\u00e4\u00e4", "constraint"),
        ("description", 5, "format"),
        ("description", "x" * 1001, "constraint"),
        ("is_public", "yes", "format"),
        ("project_id", "x", "format"),
        ("organization_id", "x", "format"),
    ],
)
async def test_fields_of_a_new_namespace(
    server: Server, argument: str, value: object, reason: str
) -> None:
    body = {"name": "good-name", argument: value}
    assert_names(await server.call("POST", NAMESPACES, payload=body), argument, reason)
    assert (await server.ok("GET", NAMESPACES))["total_count"] == 0


async def test_all_wrong_fields_are_named_at_once(server: Server) -> None:
    answer = await server.call(
        "POST", NAMESPACES, payload={"description": 1, "is_public": "?", "project_id": "x"}
    )
    for argument in ("name", "description", "is_public", "project_id"):
        assert_names(answer, argument)


async def test_fields_that_are_not_utf8_are_named(server: Server) -> None:
    answer = await server.call("POST", NAMESPACES, body=b'{"name": "ab", "description": "\xff"}')
    assert_names(answer, "description", "format")
    answer = await server.call("POST", NAMESPACES, body=b'{"name": "ab", "\xff": "c"}')
    assert_names(answer, "body", "format")


async def test_ten_megabytes_of_no_told_length_are_not_read(server: Server) -> None:
    body = json.dumps({"name": "ab", "description": "x" * 10_000_000}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    headers = {"X-Auth-Token": OWNER_SECRET}
    url = server.url + NAMESPACES
    async with server.http.post(url, data=chunks(), headers=headers) as response:
        assert response.status == 413
    assert (await server.ok("GET", NAMESPACES))["total_count"] == 0


async def test_images_and_tags_are_not_ordered_by_descriptions(server: Server) -> None:
    for path in (f"{REGISTRY}/images", f"{REGISTRY}/images/{ABSENT}/tags"):
        answer = await server.call("GET", path, params={"order_by": "description_asc"})
        assert_names(answer, "order_by", "constraint")


@pytest.mark.parametrize(
    ("argument", "value", "reason"),
    [
        ("page", "0", "constraint"),
        ("page", "9" * 4000, "format"),
        ("page", "\u0661", "format"),
        ("page_size", "101", "constraint"),
        ("order_by", "CREATED_AT_ASC", "constraint"),
        ("project_id", ABSENT + "0", "format"),
    ],
)
async def test_reasons_of_wrong_parameters(
    server: Server, argument: str, value: str, reason: str
) -> None:
    assert_names(await server.call("GET", NAMESPACES, params={argument: value}), argument, reason)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("immutable_tags", ["[bad"]), ("immutable_tags", [""]), ("quota", 2**63), ("quota", True)],
)
async def test_a_refused_change_changes_nothing(
    server: Server, argument: str, value: object
) -> None:
    made = await server.create("n1")
    path = f"{BEYOND}/namespaces/{made['id']}/settings"
    before = await server.ok("GET", path)
    payload = {"immutable_tags": ["v*"], "quota": 5, argument: value}
    assert_names(await server.call("PATCH", path, payload=payload), argument)
    assert await server.ok("GET", path) == before


@pytest.mark.parametrize(
    "value",
    ["tomorrow", "2020-01-01T00:00:00Z", "2099-01-01T00:00:00", "9999-12-31T23:59:59-12:00"],
)
async def test_ends_of_keys(server: Server, value: str) -> None:
    """Not a time, one that is past, one of no zone, and one beyond all clocks."""
    key, _ = await server.key()
    before = await server.ok("GET", "/holdfast/v1/keys")
    for method, path in (("POST", ""), ("PATCH", f"/{key.access_key}")):
        if method == "PATCH" and value.startswith("2020"):
            continue  # an end in the past ends an existing key
        answer = await server.call(
            method, f"/holdfast/v1/keys{path}", payload={"expires_at": value}
        )
        assert_names(answer, "expires_at")
    assert await server.ok("GET", "/holdfast/v1/keys") == before
