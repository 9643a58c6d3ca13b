"""The OpenAPI document: valid, complete, and kept by every answer to generated requests."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support import api_fixtures
from support.api import OWNER_SECRET, listening
from support.management import REGISTRY, Server, known_ids

from holdfast.api import create_app
from holdfast.api.management.operations import OPERATIONS

server = api_fixtures.management_server

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


async def test_the_document_is_served_to_anyone(server: Server) -> None:
    served = await server.ok("GET", "/openapi.json", secret=None)
    assert served == server.contract.document
    assert served["openapi"] == "3.1.0"
    assert len([path for path in served["paths"] if path.startswith("/registry/v1/")]) == 6


async def test_a_mounted_application_says_where_it_is(server: Server) -> None:
    parent = web.Application()
    parent.add_subapp("/reg", create_app(server.store))
    async with listening(parent) as port:
        base = f"http://127.0.0.1:{port}/reg"
        async with server.http.get(base + "/openapi.json") as response:
            served = await response.json()
        assert served == {**server.contract.document, "servers": [{"url": "/reg"}]}
        async with server.http.get(
            f"{base}{REGISTRY}/namespaces", headers={"X-Auth-Token": OWNER_SECRET}
        ) as response:
            assert await response.json() == {"namespaces": [], "total_count": 0}
        async with server.http.get(base + "/registry/nothing") as response:
            assert (response.status, (await response.json())["type"]) == (404, "not_found")


@pytest.mark.slow
async def test_the_document_is_whole(server: Server) -> None:
    document = server.contract.document
    schemathesis.openapi.from_dict(document).validate()
    text = str(document)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in document["components"]["schemas"]
    ids = [operation.id for operation in OPERATIONS]
    assert len(set(ids)) == len(ids)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = {item["name"] for item in operation["parameters"] if item["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def bombard(
    server: Server, operation: Any, mode: schemathesis.GenerationMode, known: dict[str, str]
) -> set[int]:
    """Send generated requests to one operation: with generated ids, and with known ones.

    The statuses that it answered with. Raises when an answer breaks the document.
    """
    names = re.findall(r"{(\w+)}", operation.path)
    fixed = {name: known[name] for name in names}
    strategies = [
        operation.as_strategy(generation_mode=mode),
        operation.as_strategy(generation_mode=mode, path_parameters=fixed),
    ]
    statuses: set[int] = set()

    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(strategies))
    def send(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=server.url, headers={"X-Auth-Token": OWNER_SECRET})
        case.validate_response(response, checks=list(CHECKS))
        statuses.add(response.status_code)

    send()
    return statuses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "met"),
    [
        (schemathesis.GenerationMode.POSITIVE, 200),
        (schemathesis.GenerationMode.NEGATIVE, 400),
    ],
)
async def test_answers_to_generated_requests_keep_to_the_document(
    server: Server, mode: schemathesis.GenerationMode, met: int
) -> None:
    schema = schemathesis.openapi.from_dict(server.contract.document)
    operations: list[Any] = [
        result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)
    ]
    assert len(operations) == len(OPERATIONS)
    answered: dict[int, int] = {}
    for number, operation in enumerate(operations):
        known = await known_ids(server, f"n{number}")
        for status in await asyncio.to_thread(bombard, server, operation, mode, known):
            answered[status] = answered.get(status, 0) + 1
    # A good part of all operations were answered so: the requests did not fail at the door. How
    # many depends on what is generated: a wrong id in the path is a 404, a wrong type in an
    # argument that does not exist is ignored.
    assert answered[met] >= len(operations) // 4
