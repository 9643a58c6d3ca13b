"""Crowds: as many connections as a server takes, and a thousand uploads at one time. Everybody is
answered, memory is bounded by what they are many of, and nothing of them stays."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from support.api import digest_of
from support.images import noise
from support.load import (
    TEAM,
    Wire,
    descriptors,
    eventually,
    kibibytes,
    loaded,
    make_namespace,
    problems,
    read_reply,
    wired,
)
from support.server import WAIT_SECONDS, ServerProcess

from holdfast.api.http.connection_limits import connections_of_process

WORKERS: Final = 2
CROWD: Final = 10_000
"""The default of ``--max-connections``."""

OURS: Final = 500
"""Descriptors of this process that are no connections."""

BATCH: Final = 200
"""Connections that are opened before the server has accepted some: fewer than its queue has."""

KIBIBYTES_EACH: Final = 24
"""Of memory for a connection that waits; its parser, buffers and tasks."""

UPLOADS: Final = 1000
UPLOAD_BYTES: Final = 96 * 1024
POOL_KIBIBYTES: Final = 2 * 64 * 1024
"""What the buffers of bodies have in a worker (``taken_body.POOL_BYTES``), and as much for what
a thousand requests have beside them."""


@pytest.fixture
def files() -> Iterator[int]:
    """How many descriptors this process may have: as many as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(server: ServerProcess) -> int:
    """In KiB, of all workers."""
    return sum(kibibytes(pid) for pid in server.workers())


def open_files(server: ServerProcess) -> int:
    return sum(descriptors(pid) for pid in server.workers())


def answered(sock: socket.socket) -> bytes:
    """The status line of one answer without content of interest."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(4096)
        assert more, data
        data += more
    return data.partition(b"\r\n")[0]


def crowd(address: str, count: int) -> list[socket.socket]:
    """So many connections, each of which was answered once and is kept."""
    host, port = address.rsplit(":", 1)
    request = f"GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
    connected: list[socket.socket] = []
    while len(connected) < count:
        batch = [
            socket.create_connection((host, int(port)), timeout=WAIT_SECONDS)
            for _ in range(min(BATCH, count - len(connected)))
        ]
        connected += batch
        for sock in batch:
            sock.sendall(request)
        for sock in batch:
            assert answered(sock) == b"HTTP/1.1 200 OK"
    return connected


def end(connected: Sequence[socket.socket]) -> None:
    for sock in connected:
        sock.close()


async def test_as_many_connections_as_there_may_be(tmp_path: Path, files: int) -> None:
    """Ten thousand, where the system gives a process so many descriptors."""
    # The kernel spreads connections over the workers, though not to the last one.
    count = min(CROWD, files - OURS, int(0.8 * WORKERS * connections_of_process(files)))
    assert count > 300
    with loaded(tmp_path / "data", f"--max-connections={count}", workers=WORKERS) as server:
        await make_namespace(server.address)
        before, files_before = memory(server), open_files(server)
        workers = server.workers()
        connected = crowd(server.address, count)
        assert memory(server) - before < KIBIBYTES_EACH * count
        # One more is told that it is one too many.
        async with wired(server.address) as wire:
            reply = await wire.ask("GET", "/v2/")
            assert (reply.status, reply.code) == (503, "UNAVAILABLE")
        # Each of them is served still.
        request = f"GET /v2/ HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode()
        for sock in connected[:: max(1, count // 500)]:
            sock.sendall(request)
            assert answered(sock) == b"HTTP/1.1 401 Unauthorized"
        end(connected)
        await eventually(lambda: open_files(server) <= files_before)
        full = memory(server)
        # A second crowd uses what the first one had.
        again = crowd(server.address, count // 5)
        assert memory(server) - full < KIBIBYTES_EACH * count // 20
        end(again)
        await eventually(lambda: open_files(server) <= files_before)
        assert server.workers() == workers


async def test_a_thousand_uploads_at_one_time(tmp_path: Path, files: int) -> None:
    """All of them in the middle of their bodies at one moment."""
    count = min(UPLOADS, files - OURS)
    contents = [noise(f"upload {number}", UPLOAD_BYTES) for number in range(count)]
    half = UPLOAD_BYTES // 2
    with loaded(tmp_path / "data", workers=WORKERS) as server:
        await make_namespace(server.address)
        async with wired(server.address) as wire:
            assert (await wire.ask("GET", "/v2/")).status == 200
        before, files_before = memory(server), open_files(server)
        wires = [Wire(server.address) for _ in contents]
        streams = []
        for at in range(0, count, BATCH):
            streams += await asyncio.gather(*(wire.open() for wire in wires[at : at + BATCH]))
        path = f"/v2/{TEAM}/crowd/blobs/uploads/"
        begun = await asyncio.gather(*(wire.ask("POST", path) for wire in wires))
        assert {reply.status for reply in begun} == {202}
        # One over the limit of a namespace is refused, and no body is needed for it.
        async with wired(server.address) as wire:
            refused = await wire.ask("POST", path)
            assert (refused.status, refused.code) == (429, "TOOMANYREQUESTS")
        places = [reply.headers["location"] for reply in begun]
        for (_, writer), wire, place, content in zip(streams, wires, places, contents, strict=True):
            writer.write(wire.head("PATCH", place, UPLOAD_BYTES) + content[:half])
        await asyncio.gather(*(writer.drain() for _, writer in streams))
        # Others are served meanwhile.
        async with wired(server.address) as wire:
            reply = await wire.ask("GET", f"/v2/{TEAM}/crowd/blobs/{digest_of(b'none')}")
            assert reply.status == 404
        assert memory(server) - before < WORKERS * POOL_KIBIBYTES
        for (_, writer), content in zip(streams, contents, strict=True):
            writer.write(content[half:])
        replies = await asyncio.gather(*(read_reply(reader) for reader, _ in streams))
        assert {reply.status for reply in replies} == {202}
        assert memory(server) - before < WORKERS * POOL_KIBIBYTES
        # Half of them end well, a part is given up, and the rest just goes.
        done, given_up = range(count // 2), range(count // 2, 3 * count // 4)
        replies = await asyncio.gather(
            *(
                wires[at].ask("PUT", f"{places[at]}?digest={digest_of(contents[at])}")
                for at in done
            ),
            *(wires[at].ask("DELETE", places[at]) for at in given_up),
        )
        assert [reply.status for reply in replies] == [201] * len(done) + [204] * len(given_up)
        for at in done[:: count // 50]:
            reply = await wires[at].ask("GET", f"/v2/{TEAM}/crowd/blobs/{digest_of(contents[at])}")
            assert reply.body == contents[at]
        for wire in wires:
            await wire.close()
        # Files stay open for some seconds after a read.
        await eventually(lambda: open_files(server) <= files_before)
    assert await problems(tmp_path / "data") == []
