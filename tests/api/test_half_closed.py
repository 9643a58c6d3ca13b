"""Clients that end their side of a connection after their requests (RFC 9112 section 9.6)."""

from __future__ import annotations

import asyncio
import os

import pytest
from support.api import digest_of
from support.edge import OWNER, Edge
from support.wire import connected, request

from holdfast.api.http.connection_limits import ConnectionLimits

NAMESPACES = "/registry/v1/regions/fr-par/namespaces"
LARGE = os.urandom(8_000_000)


def upload(content: bytes) -> bytes:
    path = f"/v2/app/web/blobs/uploads/?digest={digest_of(content)}"
    return request(f"POST {path} HTTP/1.1", OWNER, f"Content-Length: {len(content)}") + content


def pull(content: bytes, *headers: str) -> bytes:
    return request(f"GET /v2/app/web/blobs/{digest_of(content)} HTTP/1.1", OWNER, *headers)


def test_a_whole_request_is_answered(edge: Edge) -> None:
    asked = {
        request("GET /healthz HTTP/1.1"): b"200",
        request("GET /v2/app/web/manifests/none HTTP/1.1", OWNER): b"404",
        request(f"GET {NAMESPACES} HTTP/1.1"): b"401",
        upload(b"in the ledger"): b"201",
        upload(os.urandom(400_000)): b"201",
    }

    async def story() -> None:
        async with edge.server() as port:
            for sent, status in asked.items():
                async with connected(port) as client:
                    await client.send(sent)
                    client.end()
                    answer = await client.rest()
                    assert answer[9:12] == status, sent[:80]
                    assert answer.count(b"HTTP/1.1 ") == 1

    edge.run(story())


def test_all_requests_in_a_row_are_answered(edge: Edge) -> None:
    """More than are parsed at once, with a body among them."""
    row = [request("GET /healthz HTTP/1.1")] * 40 + [upload(b"abc")]
    row += [request("GET /v2/ HTTP/1.1")] * 40

    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            await client.send(b"".join(row))
            client.end()
            answers = await client.rest()
            statuses = [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]]
            assert statuses == [b"200"] * 40 + [b"201"] + [b"401"] * 40

    edge.run(story())


@pytest.mark.parametrize("later", [False, True])
def test_a_large_pull_is_not_cut_off(edge: Edge, later: bool) -> None:
    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            await client.send(upload(LARGE))
            assert (await client.answer()).startswith(b"HTTP/1.1 201 ")
            await client.send(pull(LARGE))
            if later:
                await client.more()
            client.end()
            answer = await client.rest()
            assert answer.partition(b"\r\n\r\n")[2] == LARGE

    edge.run(story())


def test_a_pull_in_parts_is_not_cut_off(edge: Edge) -> None:
    """These go through the transport's own buffer."""

    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            await client.send(upload(LARGE))
            assert (await client.answer()).startswith(b"HTTP/1.1 201 ")
            await client.send(pull(LARGE, "Range: bytes=0-3999999,4000000-7999999"))
            client.end()
            answer = await client.rest()
            assert LARGE[:4_000_000] in answer
            assert LARGE[4_000_000:] in answer

    edge.run(story())


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("declared", [10, 1_000_000])
def test_half_a_body_is_kept_and_answered(edge: Edge, declared: int, at_once: bool) -> None:
    """All that came of it, also where its end is there before anybody reads it."""

    async def story() -> None:
        async with edge.server() as port:
            async with connected(port) as client:
                begin = "POST /v2/app/web/blobs/uploads/ HTTP/1.1"
                await client.send(request(begin, OWNER, "Content-Length: 0"))
                head = await client.answer()
                place = head.partition(b"\r\nLocation: ")[2].partition(b"\r\n")[0].decode()
                patch = request(f"PATCH {place} HTTP/1.1", OWNER, f"Content-Length: {declared}")
                content = b"abc" * (declared // 5)
                if at_once:
                    # With no turn of the server's between the last byte and the end.
                    await asyncio.get_running_loop().sock_sendall(client.sock, patch + content)
                else:
                    await client.send(patch, content)
                client.end()
                answer = await client.rest()
                assert answer.startswith(b"HTTP/1.1 400 ")
                assert b"BLOB_UPLOAD_INVALID" in answer
            async with connected(port) as client:
                await client.send(request(f"GET {place} HTTP/1.1", OWNER))
                assert f"\r\nRange: 0-{declared // 5 * 3 - 1}\r\n".encode() in await client.answer()

    edge.run(story())


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HTT", request("GET /healthz HTTP/1.1") + b"GET /hea"]
)
def test_half_a_request_is_none(edge: Edge, sent: bytes) -> None:
    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            await client.send(sent)
            client.end()
            answer = await client.rest()
            assert answer.count(b"HTTP/1.1 200 ") == sent.count(b"\r\n\r\n")
            assert answer.count(b"HTTP/") == sent.count(b"\r\n\r\n")

    edge.run(story())


def test_an_idle_connection_ends_with_its_client(edge: Edge) -> None:
    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            for line in ("GET /healthz HTTP/1.1", "GET /v2/app/web/manifests/none HTTP/1.1"):
                await client.send(request(line, OWNER))
                await client.answer()
            client.end()
            assert await client.rest() == b""

    edge.run(story())


def test_one_that_ends_its_side_and_vanishes_is_noticed(edge: Edge) -> None:
    """Its connection is the only one that there may be."""

    async def story() -> None:
        async with edge.server(house=ConnectionLimits(1, 0, 1)) as port:
            async with connected(port) as client:
                await client.send(upload(LARGE))
                assert (await client.answer()).startswith(b"HTTP/1.1 201 ")
                await client.send(pull(LARGE))
                await client.more()
                client.end()
            while True:
                async with connected(port) as client:
                    await client.send(request("GET /healthz HTTP/1.1"))
                    if (await client.answer()).startswith(b"HTTP/1.1 200 "):
                        break

    edge.run(story())
