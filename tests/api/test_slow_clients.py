"""Clients that send or read too slowly, and too many of them: bounded time, and an answer."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

import msgspec
import pytest
from support.api import digest_of
from support.edge import OWNER, Edge
from support.wire import LAST, Client, connected, request

from holdfast.api.http import bodies, slow_clients
from holdfast.api.http.connection_limits import (
    DESCRIPTORS_RESERVED_MIN,
    LINGERING_MAX,
    Admission,
    ConnectionLimits,
    connections_of_process,
)
from holdfast.api.http.slow_clients import Pace
from holdfast.api.limits.shared_memory import SharedMemory
from holdfast.api.limits.worker_table import WorkerTable

LARGE = os.urandom(8_000_000)
UPLOAD = f"POST /v2/app/web/blobs/uploads/?digest={digest_of(b'x' * 100_000)} HTTP/1.1"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute takes a moment."""
    monkeypatch.setattr(slow_clients, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(slow_clients, "READER_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(bodies, "WHOLE_SECONDS", 0.2)


SLOW = {
    "upload": request(UPLOAD, OWNER, "Content-Length: 100000"),
    "chunked upload": request(UPLOAD, OWNER, "Transfer-Encoding: chunked") + b"186a0\r\n",
    "manifest": request(
        "PUT /v2/app/web/manifests/v1 HTTP/1.1",
        OWNER,
        "Content-Type: application/vnd.oci.image.manifest.v1+json",
        "Content-Length: 100000",
    ),
    "token": request("POST /token HTTP/1.1", "Content-Length: 1000"),
    "trailer": request(UPLOAD, OWNER, "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nX: ",
}


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", SLOW)
def test_a_trickling_body_is_given_up(edge: Edge, name: str) -> None:
    """However often a byte of it comes: it has a time in all."""

    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            await client.send(SLOW[name])
            answer = asyncio.create_task(client.rest())
            while not answer.done():
                await trickle_once(client)
            head, _, body = (await answer).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 "), head
            assert msgspec.json.decode(body)["errors"][0]["code"] == "BLOB_UPLOAD_INVALID"

    edge.run(story())


async def trickle_once(client: Client) -> None:
    with suppress(ConnectionError):  # it was given up; its answer is there
        await client.send(b"x")
    await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_body_that_moves_takes_as_long_as_it_takes(edge: Edge) -> None:
    """Five times the grace, at a rate that is slow and enough."""
    content = os.urandom(20_000)
    path = f"/v2/app/web/blobs/uploads/?digest={digest_of(content)}"

    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            await client.send(request(f"POST {path} HTTP/1.1", OWNER, "Content-Length: 20000"))
            for at in range(0, len(content), 400):
                await client.send(content[at : at + 400])
                await asyncio.sleep(0.02)
            assert (await client.answer()).startswith(b"HTTP/1.1 201 ")

    edge.run(story())


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_trickling_reader_is_given_up(edge: Edge) -> None:
    """Of an answer that goes through the transport's buffer."""
    path = f"/v2/app/web/blobs/uploads/?digest={digest_of(LARGE)}"
    put = request(f"POST {path} HTTP/1.1", OWNER, f"Content-Length: {len(LARGE)}") + LARGE
    get = request(
        f"GET /v2/app/web/blobs/{digest_of(LARGE)} HTTP/1.1",
        OWNER,
        "Range: bytes=0-3999999,4000000-7999999",
    )

    async def story() -> None:
        async with edge.server() as port:
            async with connected(port) as client:
                await client.send(put)
                assert (await client.answer()).startswith(b"HTTP/1.1 201 ")
            async with connected(port, buffer=4096) as client:
                await client.send(get)
                client.step = 10
                for _ in range(100):
                    await asyncio.sleep(0.01)
                    assert await client.more()
                client.step = 1 << 18
                assert len(await client.rest()) < len(LARGE)

    edge.run(story())


async def test_patience() -> None:
    slow = Pace(grace=1.0, rate=100)
    slow.waited(0.9)
    slow.moved(50)
    assert slow.left == pytest.approx(0.6)
    # Nobody saves up for later.
    slow.moved(1_000_000)
    assert slow.left == 1.0
    slow.waited(2.0)
    with pytest.raises(TimeoutError):
        await slow.within(asyncio.sleep(10))
    # What is there already is taken in any case.
    assert await slow.within(_at_once()) == 7


async def _at_once() -> int:
    return 7


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        (ConnectionLimits(total=100, of_address=2, of_process=100), 429, "TOOMANYREQUESTS"),
        (ConnectionLimits(total=2, of_address=0, of_process=1000), 503, "UNAVAILABLE"),
    ],
)
def test_too_many_connections(edge: Edge, limits: ConnectionLimits, status: int, code: str) -> None:
    """The others go on, and the answer reaches a client that is in the middle of a request."""

    async def story() -> None:
        async with edge.server(house=limits) as port:
            async with connected(port) as first, connected(port) as second:
                for client in (first, second):
                    await client.send(request("GET /healthz HTTP/1.1"))
                    assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
                async with connected(port) as third:
                    await third.send(request(UPLOAD, OWNER, "Content-Length: 100000"), b"x" * 1000)
                    head, _, body = (await third.rest()).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 %d " % status)
                assert b"\r\nRetry-After: 1" in head
                assert b"\r\nServer: holdfast\r\n" in head
                assert msgspec.json.decode(body)["errors"][0]["code"] == code
                if limits.of_address:
                    async with connected(port, source="127.0.0.2") as other:
                        await other.send(LAST)
                        assert (await other.rest()).startswith(b"HTTP/1.1 401 ")
                await first.send(LAST)
                assert (await first.rest()).startswith(b"HTTP/1.1 401 ")
            while True:
                async with connected(port) as again:
                    await again.send(LAST)
                    if (await again.rest()).startswith(b"HTTP/1.1 401 "):
                        break

    edge.run(story())


def test_a_flood_is_refused_without_waiting_for_it(edge: Edge) -> None:
    """Only a few of the refused may stay for a moment to read why."""

    async def story() -> None:
        house = ConnectionLimits(total=1, of_address=0, of_process=1)
        async with edge.server(house=house) as port, connected(port) as first:
            await first.send(request("GET /healthz HTTP/1.1"))
            await first.answer()
            flood = [
                await asyncio.open_connection("127.0.0.1", port) for _ in range(2 * LINGERING_MAX)
            ]
            for reader, writer in flood:
                assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
                writer.close()
            await first.send(LAST)
            assert (await first.rest()).startswith(b"HTTP/1.1 401 ")

    edge.run(story())


def test_what_a_process_takes() -> None:
    assert connections_of_process(20_000) == 10_000
    assert connections_of_process(100) == 100 - DESCRIPTORS_RESERVED_MIN
    assert connections_of_process(10) == 1


def test_the_roster_adds_up_over_processes() -> None:
    memory = SharedMemory(3)
    first, second = WorkerTable(memory), WorkerTable(memory)
    told: list[str] = []
    house = ConnectionLimits(total=5, of_address=3, of_process=4)
    doors = [
        Admission(house, first, 0, is_proxy=lambda host: host == "10.0.0.9", on_event=told.append),
        Admission(house, second, 2, on_event=told.append),
    ]
    here, there, proxy = ("10.0.0.1", 1), ("10.0.0.2", 1), ("10.0.0.9", 1)
    assert [doors[n % 2].enter(here) for n in range(4)] == [None, None, None, "address"]
    assert first.connections_of("10.0.0.1") == second.connections_of("10.0.0.1") == 3
    assert [doors[0].enter(proxy) for _ in range(2)] == [None, None]
    assert doors[0].enter(proxy) == "full", "a process has a bound of its own"
    assert doors[1].enter(there) == "full", "and all have one together"
    doors[0].leave(here)
    assert doors[1].enter(there) is None
    assert told == ["refused_address", "refused_full", "refused_full"]
    # Whoever follows a process that died begins with nothing.
    first.clear(0)
    assert (first.connections(), first.connections(2)) == (2, 2)
    assert first.connections_of("10.0.0.9") == 0
    before = first.pulse(2)
    second.beat(2)
    assert first.pulse(2) != before
