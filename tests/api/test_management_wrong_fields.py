"""Every field of every operation, wrong in every way: made from the table of operations.

A new operation, and a new field of an old one, is tested without a word here.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from support import api_fixtures
from support.api import OWNER_SECRET, Reply
from support.management import ABSENT, Server, known_ids
from yarl import URL

from holdfast.api.http.defaults import REGIONS_DEFAULT
from holdfast.api.management.openapi import document
from holdfast.api.management.operation import AnyOperation, Nothing
from holdfast.api.management.operations import OPERATIONS

server = api_fixtures.management_server

TEN_MEGABYTES: Final = b'{"x": "' + b"x" * 10_000_000 + b'"}'
NO_JSON: Final = (
    *(b"{", b"[]", b"null", b"5", b'"x"', b"x=1", b"\xff", b"[" * 60_000, b"{} {}"),
    *(b'{"x": NaN}', b'{"x": "\\ud800"}', b'{"x": "a\x00b"}', b"{\x00}\x00", b'{"a":' * 12_000),
    *(b'\xef\xbb\xbf{"x": 1}', b'{"x": 1e999}'),
)
DOCUMENT: Final = document(OPERATIONS, REGIONS_DEFAULT)


@pytest.fixture
async def known(server: Server) -> dict[str, str]:
    """Make an object for each parameter of a path, so that wrong fields are looked at."""
    return await known_ids(server, "known")


def by_id(operation: AnyOperation) -> str:
    return operation.id


WITH_QUERY: Final = [operation for operation in OPERATIONS if operation.query is not Nothing]
WITH_BODY: Final = [operation for operation in OPERATIONS if operation.body is not Nothing]
WITH_IDS: Final = [operation for operation in OPERATIONS if re.search(r"_id}", operation.path)]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found: dict[str, Any] = DOCUMENT["components"]["schemas"][name]
        return found
    return schema


def alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """What a value may be; null is one of them where it is."""
    return [resolved(item) for item in schema.get("anyOf", [schema])]


OF_TYPE: Final[dict[str, tuple[object, ...]]] = {
    "integer": (1.5, "1", True, 10**400, -(2**63) - 1),
    "boolean": (2, -1, 1.5, "yes"),
    "array": ("nonsense", 5, [5], [None], [[]]),
}
"""Not of that type, though they look so."""

BEYOND_BOUND: Final[dict[str, Callable[[Any], tuple[object, ...]]]] = {
    "enum": lambda names: ("nonsense", "", names[0].upper() + "X"),
    "format": lambda _: ("nonsense", ABSENT[:-1], "x" * 10_000, "\x00"),
    "pattern": lambda _: ("\x00", "\n", "\u00e4", "A B"),
    "maxLength": lambda bound: ("x" * (bound + 1), "\u00e4" * 10_000),
    "maxItems": lambda bound: ([{} for _ in range(bound + 1)],),
    "maximum": lambda bound: (bound + 1,),
    "minimum": lambda bound: (bound - 1,),
}
"""Values that break a bound of the schema."""


def wrong(schema: dict[str, Any]) -> Iterator[object]:
    """Values that the schema does not allow, and that no leniency takes for others."""
    choices = alternatives(schema)
    kinds = {item.get("type", "string") for item in choices}
    if "object" not in kinds:
        yield from ({}, {"x": [1]})
    if "array" not in kinds:
        yield [{}]
    if not kinds & {"integer", "boolean"}:
        yield from (5, 1.5, True)
    if "string" not in kinds:
        yield from ("nonsense", "\x00", "x" * 10_000)
    for kind in kinds & OF_TYPE.keys():
        yield from OF_TYPE[kind]
    for item in choices:
        for bound in item.keys() & BEYOND_BOUND.keys():
            yield from BEYOND_BOUND[bound](item[bound])


def assert_names(answer: Reply, argument: str, *told: object) -> None:
    where = (argument, str(told)[:100], answer.status, answer.body[:300])
    assert answer.status == 400, where
    assert answer.json["type"] == "invalid_arguments", where
    assert argument in {item["argument_name"] for item in answer.json["details"]}, where


def properties(operation: AnyOperation) -> dict[str, Any]:
    component: dict[str, Any] = DOCUMENT["components"]["schemas"][operation.body.__name__]
    return component


@pytest.mark.parametrize("operation", WITH_BODY, ids=by_id)
async def test_fields_of_bodies(
    server: Server, known: dict[str, str], operation: AnyOperation
) -> None:
    path = operation.path.format(**known)
    schema = properties(operation)
    for name in schema.get("required", []):
        assert_names(await server.call(operation.method, path, payload={}), name)
        assert_names(await server.call(operation.method, path, payload={name: None}), name)
    for name, field in schema["properties"].items():
        for value in wrong(field):
            answer = await server.call(operation.method, path, payload={name: value})
            assert_names(answer, name, value)
        raw = json.dumps({name: "?"}).encode().replace(b"?", b"a\xffb")
        assert_names(await server.call(operation.method, path, body=raw), name, raw)


@pytest.mark.parametrize("operation", WITH_BODY, ids=by_id)
async def test_bodies_as_a_whole(
    server: Server, known: dict[str, str], operation: AnyOperation
) -> None:
    path = operation.path.format(**known)
    for body in NO_JSON:
        assert_names(await server.call(operation.method, path, body=body), "body", body)
    answer = await server.call(operation.method, path, body=io.BytesIO(TEN_MEGABYTES))
    assert answer.status == 413
    assert answer.json["details"][0]["argument_name"] == "body"


@pytest.mark.slow
@pytest.mark.parametrize("operation", WITH_QUERY, ids=by_id)
async def test_parameters_of_queries(
    server: Server, known: dict[str, str], operation: AnyOperation
) -> None:
    path = operation.path.format(**known)
    declared = DOCUMENT["paths"][operation.path][operation.method.lower()]["parameters"]
    fields = {item["name"]: item["schema"] for item in declared if item["in"] == "query"}
    assert set(fields) == set(operation.query.__struct_fields__)
    for name, schema in fields.items():
        plain = schema.get("type") == "string" and set(schema) <= {"type", "default"}
        for value in () if plain else wrong(schema):
            if isinstance(value, bool) or value in ("", 1, "1"):
                continue  # the same text as something good, or as nothing
            text = value if isinstance(value, str) else json.dumps(value)
            if len(text) > 4000:
                text = text[:4000]
            answer = await server.call(operation.method, path, params={name: text})
            assert_names(answer, name, text)
        url = URL(f"{server.url}{path}?{name}=%ff", encoded=True)
        async with server.http.request(
            operation.method, url, headers={"X-Auth-Token": OWNER_SECRET}
        ) as response:
            answer = Reply(response.status, response.headers, await response.read())
        assert_names(answer, name, "%ff")
    if "page" in fields:
        far = await server.ok(operation.method, path, params={"page": "1000000000"})
        assert next(iter(far.values())) == []


@pytest.mark.slow
@pytest.mark.parametrize("operation", WITH_IDS, ids=by_id)
async def test_ids_of_paths(server: Server, known: dict[str, str], operation: AnyOperation) -> None:
    for name in re.findall(r"{(\w+_id)}", operation.path):
        for value in ("x", "%00", "%ff", "a" * 4000, ABSENT[:-1]):
            path = operation.path.format(**{**known, name: value})
            assert_names(await server.call(operation.method, path), name, value)
