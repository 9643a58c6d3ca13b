"""Bad input: every wrong thing gets a typed error that names it, and leaves nothing behind."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support import api_fixtures
from support.management import ABSENT, BEYOND, REGISTRY, Answer, Server

server = api_fixtures.management_server

NAMESPACES = REGISTRY + "/namespaces"
LISTS = ("/namespaces", "/images", "/images/{image}/tags")


def assert_names(answer: Answer, argument: str, reason: str | None = None) -> None:
    assert answer.status == 400, answer
    assert answer.json["type"] == "invalid_arguments"
    assert answer.json["message"] == "invalid argument(s)"
    details = {item["argument_name"]: item["reason"] for item in answer.json["details"]}
    assert argument in details
    assert reason in (None, details[argument])


@pytest.mark.parametrize("listing", LISTS)
@pytest.mark.parametrize(
    ("argument", "value", "reason"),
    [
        ("page", "0", "constraint"),
        ("page", "-1", "constraint"),
        ("page", "99999999999", "constraint"),
        ("page", "9" * 4000, "format"),
        ("page", "one", "format"),
        ("page", "1.5", "format"),
        ("page", "\u0661", "format"),
        ("page_size", "0", "constraint"),
        ("page_size", "101", "constraint"),
        ("page_size", "x", "format"),
        ("order_by", "status_asc", "constraint"),
        ("order_by", "CREATED_AT_ASC", "constraint"),
    ],
)
async def test_parameters_of_lists(
    server: Server, listing: str, argument: str, value: str, reason: str
) -> None:
    path = REGISTRY + listing.format(image=ABSENT)
    assert_names(await server.call("GET", path, params={argument: value}), argument, reason)


async def test_descriptions_order_namespaces_only(server: Server) -> None:
    for listing in LISTS[1:]:
        path = REGISTRY + listing.format(image=ABSENT)
        answer = await server.call("GET", path, params={"order_by": "description_asc"})
        assert_names(answer, "order_by", "constraint")


@pytest.mark.parametrize("value", ["x", "1", ABSENT[:-1], ABSENT + "0", "g" * 36])
async def test_ids_of_filters(server: Server, value: str) -> None:
    for listing, arguments in (
        ("/namespaces", ("project_id", "organization_id")),
        ("/images", ("project_id", "organization_id", "namespace_id")),
    ):
        for argument in arguments:
            answer = await server.call("GET", REGISTRY + listing, params={argument: value})
            assert_names(answer, argument, "format")


async def test_a_query_that_is_not_utf8(server: Server) -> None:
    from yarl import URL

    async with server.http.get(
        URL(f"{server.url}{NAMESPACES}?name=%ff", encoded=True),
        headers={"X-Auth-Token": "33333333-3333-4333-8333-333333333333"},
    ) as response:
        assert response.status == 400
        assert (await response.json())["details"][0]["argument_name"] == "name"


@pytest.mark.parametrize("value", ["x", "1", ABSENT[:-1], "..%2f..", "%ff", "%00", "a" * 4000])
async def test_ids_of_paths(server: Server, value: str) -> None:
    for path, argument in (
        (f"{REGISTRY}/namespaces/{value}", "namespace_id"),
        (f"{REGISTRY}/images/{value}", "image_id"),
        (f"{REGISTRY}/images/{value}/tags", "image_id"),
        (f"{REGISTRY}/tags/{value}", "tag_id"),
        (f"{BEYOND}/namespaces/{value}/usage", "namespace_id"),
    ):
        assert_names(await server.call("GET", path), argument, "format")


@pytest.mark.parametrize(
    ("argument", "value", "reason"),
    [
        ("name", 5, "format"),
        ("name", ["x"], "format"),
        ("name", {}, "format"),
        ("name", None, "required"),
        ("name", "", "constraint"),
        ("name", "a", "constraint"),
        ("name", "a" * 64, "constraint"),
        ("name", "a" * 60000, "constraint"),
        ("name", "-ab", "constraint"),
        ("name", "ab-", "constraint"),
        ("name", "a_b", "constraint"),
        ("name", "Ab", "constraint"),
        ("name", "a/b", "constraint"),
        ("name", "ab\n", "constraint"),
        ("name", "\u00e4\u00e4", "constraint"),
        ("description", 5, "format"),
        ("description", ["x"], "format"),
        ("description", "x" * 1001, "constraint"),
        ("is_public", "yes", "format"),
        ("is_public", 2, "format"),
        ("is_public", [], "format"),
        ("project_id", "x", "format"),
        ("project_id", 5, "format"),
        ("project_id", {}, "format"),
        ("organization_id", "x", "format"),
        ("organization_id", False, "format"),
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


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"x",
        b"[]",
        b"null",
        b'"name"',
        b"5",
        b'{"name": "ab"} trailing',
        b'{"name": NaN}',
        b'{"name": "\\ud800"}',
        b'{"name": "a\x00b"}',
        b"\xff\xfe{\x00}\x00",
        b'\xef\xbb\xbf{"name": "ab"}',
        b"[" * 60000,
        b'{"a":' * 12000,
        b'{"name": 1e999}',
        b"name=ab",
    ],
)
async def test_bodies_that_are_no_json_object(server: Server, body: bytes) -> None:
    argument = "body" if body else "name"
    assert_names(await server.call("POST", NAMESPACES, body=body), argument)


async def test_fields_that_are_not_utf8_are_named(server: Server) -> None:
    answer = await server.call("POST", NAMESPACES, body=b'{"name": "ab", "description": "\xff"}')
    assert_names(answer, "description", "format")
    answer = await server.call("POST", NAMESPACES, body=b'{"name": "ab", "\xff": "c"}')
    assert_names(answer, "body", "format")


async def test_ten_megabytes_are_not_read(server: Server) -> None:
    body = json.dumps({"name": "ab", "description": "x" * 10_000_000}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    answer = await server.call("POST", NAMESPACES, body=io.BytesIO(body))
    assert answer.status == 413
    assert answer.json["details"][0]["argument_name"] == "body"
    async with server.http.post(
        server.url + NAMESPACES,
        data=chunks(),
        headers={"X-Auth-Token": "33333333-3333-4333-8333-333333333333"},
    ) as response:
        assert response.status == 413
    assert (await server.ok("GET", NAMESPACES))["total_count"] == 0


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("description", 5),
        ("description", "x" * 1001),
        ("is_public", "maybe"),
        ("is_public", {}),
    ],
)
async def test_fields_of_a_changed_namespace(server: Server, argument: str, value: object) -> None:
    made = await server.create("n1")
    path = f"{NAMESPACES}/{made['id']}"
    assert_names(await server.call("PATCH", path, payload={argument: value}), argument)
    assert await server.ok("GET", path) == made


@pytest.mark.parametrize("value", ["", "PUBLIC", "secret", 1, True, []])
async def test_visibility_of_an_image(server: Server, value: object) -> None:
    await server.create("n1")
    await server.push("n1/a", "latest", b"1")
    image = (await server.ok("GET", REGISTRY + "/images"))["images"][0]
    path = f"{REGISTRY}/images/{image['id']}"
    assert_names(await server.call("PATCH", path, payload={"visibility": value}), "visibility")
    assert await server.ok("GET", path) == image


async def test_force_must_be_a_boolean(server: Server) -> None:
    answer = await server.call("DELETE", f"{REGISTRY}/tags/{ABSENT}", params={"force": "maybe"})
    assert_names(answer, "force", "format")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("immutable_tags", "v*"),
        ("immutable_tags", [1]),
        ("immutable_tags", ["[bad"]),
        ("immutable_tags", [""]),
        ("immutable_tags", ["x" * 129]),
        ("immutable_tags", ["x"] * 33),
        ("quota", -1),
        ("quota", "1"),
        ("quota", 1.5),
        ("quota", 2**63),
        ("quota", True),
        ("locked", "maybe"),
    ],
)
async def test_settings_of_a_namespace(server: Server, argument: str, value: object) -> None:
    made = await server.create("n1")
    path = f"{BEYOND}/namespaces/{made['id']}/settings"
    before = await server.ok("GET", path)
    assert_names(await server.call("PATCH", path, payload={argument: value}), argument)
    assert await server.ok("GET", path) == before


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("project_id", "x"),
        ("default_project_id", 3),
        ("permission", "admin"),
        ("permission", 1),
        ("description", "x" * 1001),
        ("expires_at", "tomorrow"),
        ("expires_at", "2020-01-01T00:00:00Z"),
        ("expires_at", "2099-01-01T00:00:00"),
        ("expires_at", []),
    ],
)
async def test_fields_of_a_new_key(server: Server, argument: str, value: object) -> None:
    before: Any = await server.ok("GET", "/holdfast/v1/keys")
    answer = await server.call("POST", "/holdfast/v1/keys", payload={argument: value})
    assert_names(answer, argument)
    assert await server.ok("GET", "/holdfast/v1/keys") == before
