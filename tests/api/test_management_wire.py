"""Bytes on the wire: requests as each official client sends them, and what they need back."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support import api_fixtures
from support.api import OWNER_SECRET
from support.management import ABSENT, REGISTRY, Server
from yarl import URL

server = api_fixtures.management_server

JSON_UTF8 = "application/json; charset=utf-8"
CREATE = f"POST {REGISTRY}/namespaces HTTP/1.1"


@asynccontextmanager
async def sent(
    server: Server, *lines: str, body: bytes = b""
) -> AsyncIterator[asyncio.StreamReader]:
    """Send exactly these bytes as the owner; the connection ends with the block."""
    url = URL(server.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = [*lines, f"Host: {url.host}:{url.port}", f"X-Auth-Token: {OWNER_SECRET}", "", ""]
    writer.write("\r\n".join(head).encode("latin-1") + body)
    await writer.drain()
    try:
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


async def exchange(server: Server, *lines: str, body: bytes = b"") -> tuple[int, list[str], bytes]:
    """Return status, header lines and body of the answer to exactly these bytes."""
    async with sent(server, *lines, "Connection: close", body=body) as reader:
        top, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    status, *headers = top.decode("latin-1").split("\r\n")
    return int(status.split()[1]), headers, rest


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Length: 2"], b"{}"),
        (["Content-Length: 2", f"Content-Type: {JSON_UTF8}"], b"{}"),
        (["Content-Length: 9"], b"not \xff json"[:9]),
        (["Content-Length: 0"], b""),
        (["Transfer-Encoding: chunked"], b"2\r\n{}\r\n0\r\n\r\n"),
        ([], b""),
    ],
)
async def test_bodies_on_get_and_delete_are_ignored(
    server: Server, method: str, headers: list[str], body: bytes
) -> None:
    made = await server.create("n1")
    status, _, answer = await exchange(
        server,
        f"{method} {REGISTRY}/namespaces/{made['id']} HTTP/1.1",
        *headers,
        body=body,
    )
    assert status == 200
    assert json.loads(answer)["id"] == made["id"]


async def test_success_is_json_without_parameters_and_without_a_count_header(
    server: Server,
) -> None:
    status, headers, body = await exchange(server, f"GET {REGISTRY}/namespaces HTTP/1.1")
    assert status == 200
    assert "Content-Type: application/json" in headers
    assert "X-Content-Type-Options: nosniff" in headers
    assert not [line for line in headers if line.lower().startswith("x-total-count")]
    assert body == b'{"namespaces":[],"total_count":0}'


async def test_the_published_quick_start_sends_a_string_for_is_public(server: Server) -> None:
    made = await server.ok(
        "POST",
        REGISTRY + "/namespaces",
        body=b'{"name": "namespace1", "is_public": "true", "x": {"y": [1]}}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert made["is_public"] is True
    path = f"{REGISTRY}/namespaces/{made['id']}"
    assert (await server.ok("PATCH", path, payload={"is_public": "False"}))["is_public"] is False


async def test_routes_and_methods_that_do_not_exist_are_typed_json(server: Server) -> None:
    for path in (
        "/registry",
        "/registry/",
        "/holdfast",
        "/registry/v1/regions/fr-par",
        "/registry/v1/regions/fr-par/namespaces/",
        f"{REGISTRY}/namespaces/{ABSENT}/images",
        "/registry/v2/regions/fr-par/namespaces",
        "/holdfast/v1/nothing",
    ):
        for method in ("GET", "POST", "PUT"):
            answer = await server.call(method, path)
            assert (answer.status, answer.json["type"]) == (404, "not_found"), path
    for method, path, allowed in (
        ("PUT", f"{REGISTRY}/namespaces/{ABSENT}", "DELETE, GET, HEAD, PATCH"),
        ("DELETE", f"{REGISTRY}/namespaces", "GET, HEAD, POST"),
        ("POST", f"{REGISTRY}/tags/{ABSENT}", "DELETE, GET, HEAD"),
        ("OPTIONS", f"{REGISTRY}/images", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ):
        answer = await server.call(method, path)
        assert answer.status == 405
        assert answer.json["type"] == "method_not_allowed"
        assert answer.headers["Allow"] == allowed


async def test_head_is_get_without_the_body(server: Server) -> None:
    got = await server.call("GET", REGISTRY + "/namespaces")
    head = await server.call("HEAD", REGISTRY + "/namespaces")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(got.body))


async def test_a_body_over_the_limit_is_refused_and_not_asked_for(server: Server) -> None:
    headers = ("Content-Length: 10000000", "Expect: 100-continue")
    async with sent(server, CREATE, *headers) as reader:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
        assert b'"argument_name":"body"' in await reader.readuntil(b"]}")


async def test_a_client_that_waits_for_100_continue_gets_it(server: Server) -> None:
    body = b'{"name": "n1"}'
    for expectation, first in (("100-continue", 100), ("something", 409)):
        status, _, answer = await exchange(
            server,
            CREATE,
            f"Content-Length: {len(body)}",
            f"Expect: {expectation}",
            body=body,
        )
        assert status == first
        assert b'"n1"' in answer


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (["Content-Encoding: gzip"], gzip.compress(b'{"name": "n1"}', mtime=0), 200),
        (["Content-Encoding: gzip"], b"no gzip", 400),
        (["Content-Encoding: gzip"], gzip.compress(b"x" * 20_000_000, mtime=0), 413),
        (["Content-Encoding: deflate"], zlib.compress(b"[" * 100), 400),
    ],
)
async def test_encoded_bodies_are_bounded_and_checked(
    server: Server, headers: list[str], body: bytes, status: int
) -> None:
    got, _, answer = await exchange(
        server,
        CREATE,
        f"Content-Length: {len(body)}",
        *headers,
        body=body,
    )
    assert got == status
    if status != 200:
        assert json.loads(answer)["details"][0]["argument_name"] == "body"


async def test_a_client_that_goes_away_leaves_nothing_behind(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with sent(server, CREATE, "Content-Length: 20", body=b'{"name": "n1"'):
        pass
    assert (await server.ok("GET", REGISTRY + "/namespaces"))["total_count"] == 0
    assert "failed" not in caplog.text
