"""Long reads of the management API: they end with their clients, and leave others their part."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from support.api import ORGANIZATION, OWNER_SECRET, PROJECT, Reply
from support.edge import Edge, edge_of
from support.load import eventually
from support.rows import Row, said
from support.wire import Client, connected, request, serving

from holdfast.engine import Store, StoreConfig
from holdfast.engine.ledger.slow_reads import THREADS_PER_OWNER, Stopped

TOKEN: Final = f"X-Auth-Token: {OWNER_SECRET}"
BEYOND: Final = "/holdfast/v1/regions/fr-par/namespaces"


class Endless:
    """A read of the ledger that goes on until it is let through, or given up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.begun = 0
        self.stopped = 0
        monkeypatch.setattr("holdfast.engine.namespaces.namespaces.would_free", self)

    async def __call__(self, txn: Any, namespace_id: bytes) -> int:
        self.begun += 1
        try:
            while not self.open.is_set():
                await txn.get(namespace_id)
                time.sleep(0.001)  # noqa: ASYNC251 - in a thread
        except Stopped:
            self.stopped += 1
            raise
        return 4711


class Tenants:
    """A server, and read-only keys of all projects and of one."""

    def __init__(self) -> None:
        self.usage = b""
        """Asks for what a delete of a namespace would free, as the first of them."""
        self.trash: list[bytes] = []
        """Asks for the trash, as each of them."""
        self.port = 0

    async def start(self, stack: AsyncExitStack, edge: Edge) -> Tenants:
        opening = Store.open(edge.path / "store", StoreConfig(background=False))
        store = await stack.enter_async_context(opening)
        namespace = await store.namespaces.create(
            "fr-par", "one", project_id=PROJECT, organization_id=ORGANIZATION
        )
        for project in (None, PROJECT):
            _, secret = await store.keys.create(
                project_id=project,
                default_project_id=PROJECT,
                organization_id=ORGANIZATION,
                permission="read",
            )
            token = f"X-Auth-Token: {secret}"
            path = f"{BEYOND}/{namespace.id}/usage?would_free=true"
            self.usage = self.usage or request(f"GET {path} HTTP/1.1", token)
            self.trash.append(request("GET /holdfast/v1/trash HTTP/1.1", token))
        self.port = await stack.enter_async_context(serving(store))
        return self


@pytest.mark.slow
@pytest.mark.row("limits.md", "a read of the management API whose client has ended its side")
async def test_a_read_ends_after_its_client_has_ended_its_side(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(monkeypatch)
    async with AsyncExitStack() as stack:
        tenants = await Tenants().start(stack, edge_of("asyncio", tmp_path))
        client = await stack.enter_async_context(connected(tenants.port))
        await client.send(tenants.usage)
        await eventually(lambda: endless.begun == 1)
        client.end()
        begun = time.monotonic()
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert row.number <= time.monotonic() - begun < row.number + 5
        await eventually(lambda: endless.stopped == 1)
        answer = Reply(int(head.split(b" ")[1]), {}, body)
        row.says(beyond_it=f"{said(answer)}, and the read ends")


@pytest.mark.row("limits.md", "long reads of one project at one time, of four in a worker")
async def test_long_reads_wait_for_their_turn(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(monkeypatch)
    async with AsyncExitStack() as stack:
        tenants = await Tenants().start(stack, edge_of("asyncio", tmp_path))
        crowd = []
        for _ in range(row.limit() + 2):
            crowd.append(await stack.enter_async_context(connected(tenants.port)))
            await crowd[-1].send(tenants.usage)
        await eventually(lambda: endless.begun == row.limit())
        await asyncio.sleep(0.1)
        assert endless.begun == row.limit()
        endless.open.set()
        for client in crowd:
            assert b":4711" in await client.answer()
    row.says(beyond_it="further reads wait for their turn")


@pytest.mark.parametrize("how", ["half", "whole", "reset"])
def test_a_read_ends_with_its_client(edge: Edge, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A client that was killed ends its side as one does that waits for its last answer."""
    monkeypatch.setattr("holdfast.api.http.connection.GONE_SECONDS", 0.1)
    endless = Endless(monkeypatch)

    async def story() -> None:
        async with AsyncExitStack() as stack:
            tenants = await Tenants().start(stack, edge)
            async with connected(tenants.port) as client:
                await client.send(tenants.usage)
                await eventually(lambda: endless.begun == 1)
                if how == "half":
                    client.end()
                    assert (await client.rest()).startswith(b"HTTP/1.1 503 ")
                elif how == "whole":
                    client.sock.close()
                else:
                    client.sock.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    client.sock.close()
                await eventually(lambda: endless.stopped == 1)
            # Nothing of it is left on the server.
            endless.open.set()
            async with connected(tenants.port) as client:
                await client.send(tenants.usage)
                assert b":4711" in await client.answer()

    edge.run(story())


def test_a_client_that_ends_its_side_has_the_answer_of_a_short_read(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(monkeypatch)

    async def story() -> None:
        async with AsyncExitStack() as stack:
            tenants = await Tenants().start(stack, edge)
            async with connected(tenants.port) as client:
                await client.send(tenants.usage)
                client.end()
                await eventually(lambda: endless.begun == 1)
                endless.open.set()
                assert (await client.rest()).startswith(b"HTTP/1.1 200 ")
        assert not endless.stopped

    edge.run(story())


def test_many_long_reads_leave_other_projects_their_part(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(monkeypatch)

    async def story() -> None:
        async with AsyncExitStack() as stack:
            tenants = await Tenants().start(stack, edge)

            async def ask(sent: bytes) -> Client:
                client = await stack.enter_async_context(connected(tenants.port))
                await client.send(sent)
                return client

            crowd = [await ask(tenants.usage) for _ in range(12)]
            await eventually(lambda: endless.begun == THREADS_PER_OWNER)
            for _ in range(3):
                other = await ask(tenants.trash[1])
                answer = await asyncio.wait_for(other.answer(), 5)
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["total_count"] == 0
            assert endless.begun == THREADS_PER_OWNER
            own = await ask(tenants.trash[0])
            endless.open.set()
            for client in (*crowd, own):
                assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
            assert endless.begun == len(crowd)

    edge.run(story())


def test_a_check_ends_with_its_client(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a POST, and changes nothing."""
    monkeypatch.setattr("holdfast.api.http.connection.GONE_SECONDS", 0.1)
    seen: list[str] = []

    async def endless(_: Store) -> AsyncGenerator[None, None]:
        seen.append("begun")
        try:
            await asyncio.Event().wait()
            yield
        finally:
            seen.append("ended")

    monkeypatch.setattr(Store, "check", endless)

    async def story() -> None:
        async with edge.server() as port:
            asked = request("POST /holdfast/v1/check HTTP/1.1", TOKEN, "Content-Length: 0")
            for _ in range(2):
                # It is not taken for one that still runs.
                async with connected(port) as client:
                    await client.send(asked)
                    await eventually(lambda: seen[-1:] == ["begun"])
                    client.end()
                    assert (await client.rest()).startswith(b"HTTP/1.1 503 ")
                assert seen[-1] == "ended"

    edge.run(story())
