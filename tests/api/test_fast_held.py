"""What a connection holds while it answers a push: bounded, and answered to its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.fast_path import World
from support.wire import connected, request

from holdfast.api.fast.connection import HELD_BYTES_MAX, FastConnection
from holdfast.api.fast.records import Answer
from holdfast.api.fast.writes import Write, Writes

READ_BYTES_MAX = 256 * 1024
"""Bytes of one read of the loop."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World()
    await world.start(tmp_path)
    yield world
    await world.stop()


def push(world: World) -> bytes:
    line = "POST /v2/app/web/blobs/uploads/ HTTP/1.1"
    return request(line, world.bearer("pusher"), "Content-Length: 0")


async def test_many_pushes_hold_no_more_than_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each held push that is answered lets nothing more in while the rest is over the limit."""
    peak = 0
    may_answer = asyncio.Event()
    hold, answer = FastConnection._hold, Writes.answer

    def measured(self: FastConnection, data: bytes) -> None:
        nonlocal peak
        hold(self, data)
        peak = max(peak, self._held_bytes)

    async def slow(self: Writes, write: Write) -> Answer:
        await may_answer.wait()
        await asyncio.sleep(0.01)
        return await answer(self, write)

    monkeypatch.setattr(FastConnection, "_hold", measured)
    monkeypatch.setattr(Writes, "answer", slow)
    async with connected(world.ports[1]) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Packets of their own, each of which is a push.
        for _ in range(40):
            await client.send(push(world))
            await asyncio.sleep(0.002)
        flood = asyncio.ensure_future(client.send(request("GET /v2/ HTTP/1.1") * 200_000))
        await asyncio.sleep(0.1)
        may_answer.set()
        await asyncio.sleep(0.6)
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
    assert 0 < peak <= HELD_BYTES_MAX + READ_BYTES_MAX


async def test_half_a_body_behind_a_push_is_answered(world: World) -> None:
    """The client ends its side while the push is answered."""
    upload = request(
        "POST /v2/app/web/blobs/uploads/?digest=sha256:" + "0" * 64 + " HTTP/1.1",
        world.bearer("pusher"),
        "Content-Length: 100000",
    )
    for _ in range(5):
        async with connected(world.ports[1]) as client, asyncio.timeout(5):
            await client.send(push(world) + b"", upload + b"0123456789")
            client.sock.shutdown(socket.SHUT_WR)
            assert (await client.answer())[:12] == b"HTTP/1.1 202"
            rest = await client.rest()
            assert rest[:12] in (b"HTTP/1.1 400", b""), rest
