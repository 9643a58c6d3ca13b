"""Conditional requests on manifests: 304, 412, and races with one winner (contract 3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from distribution_support import (
    Registry,
    digest_of,
    manifest,
    registry,
)

NAME = "team/app"


@pytest.fixture
async def server() -> AsyncIterator[Registry]:
    async with registry() as running:
        await running.namespace("team")
        yield running


def encoded(document: object) -> bytes:
    """JSON that no serializer would write the same way, so that bytes must be kept verbatim."""
    return json.dumps(document, indent=3, sort_keys=True).encode() + b"\n"


async def simple(server: Registry) -> bytes:
    config = await server.blob(NAME, b"{}")
    layer = await server.blob(NAME, b"layer")
    return encoded(manifest(config, [(layer, 5)]))


async def test_if_none_match(server: Registry) -> None:
    body = await simple(server)
    await server.put_manifest(NAME, "v1", body)
    for method in ("GET", "HEAD"):
        answer = await server.call(
            method, f"/v2/{NAME}/manifests/v1", headers={"If-None-Match": f'"{digest_of(body)}"'}
        )
        assert (answer.status, answer.body) == (304, b"")
        answer = await server.call(
            method, f"/v2/{NAME}/manifests/v1", headers={"If-None-Match": '"else"'}
        )
        assert answer.status == 200


async def test_conditional_puts(server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    bodies = [encoded(manifest(config, annotations={"n": str(n)})) for n in range(5)]

    async def put(number: int, **headers: str) -> tuple[int, str | None]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await server.put_manifest(NAME, "v1", bodies[number], headers=sent)
        if answer.status == 412:
            assert answer.code == "DENIED"
            current: str | None = answer.json["errors"][0]["detail"]["current"]
            return 412, current
        return answer.status, None

    zero, one = f'"{digest_of(bodies[0])}"', f'"{digest_of(bodies[1])}"'
    assert await put(0, If_Match=zero) == (412, None)
    assert await put(0, If_Match="*") == (412, None)
    assert await put(0, If_None_Match="*") == (201, None)
    assert await put(1, If_None_Match="*") == (412, digest_of(bodies[0]))
    assert await put(1, If_Match=one) == (412, digest_of(bodies[0]))
    assert await put(1, If_Match=f"W/{zero}") == (412, digest_of(bodies[0]))
    assert await put(1, If_Match='"nonsense"') == (412, digest_of(bodies[0]))
    assert await put(1, If_Match=zero) == (201, None)
    assert await put(2, If_Match=f"{zero}, {one}") == (201, None)
    assert await put(3, If_Match="*") == (201, None)
    assert (await put(3, If_None_Match=zero))[0] == 400


async def test_of_racing_writers_exactly_one_wins(server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    headers = {"If-None-Match": "*"}
    for attempt in range(3):
        answers = await asyncio.gather(
            *(
                server.put_manifest(
                    NAME,
                    "v1",
                    manifest(config, annotations={"n": f"{attempt}.{number}"}),
                    headers=headers,
                )
                for number in range(8)
            )
        )
        assert sorted(answer.status for answer in answers) == [201] + [412] * 7
        won = next(answer for answer in answers if answer.status == 201)
        etag = (await server.call("HEAD", f"/v2/{NAME}/manifests/v1")).headers["ETag"]
        assert etag == f'"{won.headers["Docker-Content-Digest"]}"'
        headers = {"If-Match": etag}
