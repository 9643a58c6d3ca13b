"""Files in the fast lane: sent whole to everybody, counted when they end, and never left open."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from support.api import digest_of
from support.depot import descriptors, descriptors_before
from support.fast_path import FILE, Stage, World
from support.wire import SECONDS, Client, connected, masked

from holdfast.api.fast.reads import WHOLE_BYTES_MAX
from holdfast.api.http import sendfile, slow_clients
from holdfast.engine.depot import open_files

pytestmark = pytest.mark.slow

BIG = os.urandom(1 << 16) * 400
"""More than the kernel keeps for a socket."""


async def big(world: World) -> bytes:
    """A request for a large blob, which is open from now on."""
    sent = world.get(f"/v2/app/web/blobs/{await world.blob('app/web', BIG)}")
    plain, _ = world.ports
    async with connected(plain) as client:
        await client.send(sent)
        assert (await client.answer()).endswith(BIG)
    return sent


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def test_one_that_is_not_open_is_opened_elsewhere(stage: Stage) -> None:
    """Opening may wait for the disk, so the plain path does it; the next one is quick."""
    world = stage.world
    sent = world.get(f"/v2/app/web/blobs/{world.items['file']}")

    async def story() -> None:
        _, fast = world.ports
        async with connected(fast) as client:
            answers = []
            for answered in (0, 1, 2):
                await client.send(sent)
                answers.append(masked(await client.answer()))
                assert world.lane.answered == answered
            assert answers[0] == answers[1] == answers[2]
            assert body(answers[0]) == FILE

    stage.run(story())


def test_every_size_around_the_boundaries(stage: Stage) -> None:
    world = stage.world
    turn = sendfile.TURN_BYTES

    async def story() -> None:
        for size in (40_000, WHOLE_BYTES_MAX, WHOLE_BYTES_MAX + 1, turn, turn + 1, 3 * turn + 7):
            data = BIG[:size]
            sent = world.get(f"/v2/app/web/blobs/{await world.blob('app/web', data)}")
            plain, fast = await world.same([sent]), await world.same([sent])
            assert plain == fast
            assert body(plain[0]) == data

    stage.run(story())
    # Each was asked of the plain path first, which opened it.
    assert world.lane.answered == 12


def test_requests_that_wait_for_the_end_of_a_file(stage: Stage) -> None:
    """What is sent while a file goes out is answered after it, in order."""
    world = stage.world

    async def story() -> None:
        sent = await big(world)
        small = world.get(f"/v2/app/web/blobs/{world.items['small']}")
        tag = world.get("/v2/app/web/manifests/v1")
        async with AsyncExitStack() as stack:
            plain, fast = await world.pair(stack)
            for order in ((sent, small, tag), (sent, sent, small), (tag, sent, tag)):
                heard = []
                for client in (plain, fast):
                    await client.send(*order)
                    heard.append([masked(await client.answer()) for _ in order])
                assert heard[0] == heard[1]

    stage.run(story())
    assert world.lane.answered >= 3


def test_slow_clients_get_every_byte_while_others_are_served(stage: Stage) -> None:
    world = stage.world

    async def story() -> None:
        sent = await big(world)
        _, fast = world.ports
        async with AsyncExitStack() as stack:
            slow = [await stack.enter_async_context(connected(fast)) for _ in range(4)]
            for client in slow:
                client.step = 8192
                await client.send(sent)
                assert await client.more()
            async with connected(fast) as other:
                await other.send(world.get("/v2/app/web/manifests/v1"))
                assert (await other.answer()).startswith(b"HTTP/1.1 200 ")
            for client in slow:
                client.step = 1 << 20
            answers = await asyncio.gather(*(client.answer() for client in slow))
            assert all(body(answer) == BIG for answer in answers)
            # Each connection is where it should be.
            for client in slow:
                await client.send(sent)
            answers = await asyncio.gather(*(client.answer() for client in slow))
            assert all(body(answer) == BIG for answer in answers)

    stage.run(story())
    assert world.lane.answered == 9


@pytest.mark.parametrize("manner", ["reset", "close", "half"])
def test_clients_that_vanish_leave_nothing_open(stage: Stage, manner: str) -> None:
    world = stage.world

    async def leave(client: Client) -> None:
        if manner == "reset":
            linger = struct.pack("ii", 1, 0)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif manner == "half":
            client.sock.shutdown(socket.SHUT_WR)
            assert body(await client.answer()) == BIG, "it only said that it asks no more"
        client.sock.close()

    async def story() -> None:
        sent = await big(world)
        _, fast = world.ports
        before = descriptors_before()
        for number in range(6):
            async with connected(fast) as client:
                await client.send(sent)
                if number % 2:
                    assert await client.more()
                await leave(client)
        await at_most(before)

    stage.run(story())
    assert world.lane.answered == 6


async def at_most(count: int) -> None:
    """Wait until no more than so many descriptors are open."""
    async with asyncio.timeout(SECONDS):
        while descriptors() > count:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


def test_one_that_takes_nothing_is_given_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "READER_GRACE_SECONDS", 0.05)
    world = stage.world

    async def story() -> None:
        before = descriptors_before()
        sent = await big(world)
        # All that is left is the file, and later the client's own socket.
        await at_most(before + 1)
        _, fast = world.ports
        async with connected(fast) as client:
            await client.send(sent)
            assert await client.more()
            await at_most(before + 2)
            assert len(await client.rest()) < len(BIG)

    stage.run(story())


def test_an_idle_timer_does_not_end_a_transfer(stage: Stage) -> None:
    """The time for which idle connections stay runs out while a slow client is served."""
    world = stage.world

    async def story() -> None:
        sent = await big(world)
        port = await world.another(keepalive_timeout=0.05)
        async with connected(port) as client:
            client.step = 4096
            await client.send(sent)
            for _ in range(20):
                assert await client.more()
                await asyncio.sleep(0.01)
            client.step = 1 << 20
            assert body(await client.answer()) == BIG

    stage.run(story())
    assert world.lane.answered == 1


@pytest.mark.parametrize("linked", [False, True], ids=["held", "linked"])
def test_a_file_that_was_cut_off_is_not_served_as_whole(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture, linked: bool
) -> None:
    """Not even when it is open already: its size is looked at each time."""
    world = stage.world

    async def story() -> None:
        if linked:  # then the lane remembers where it lies
            await world.manifest("app/web", "big", BIG)
        sent = await big(world)
        for _ in range(2):
            (answer, _) = await world.same([sent])
            assert body(answer) == BIG
        (path,) = (
            path
            for path in (tmp_path / "store" / "files").rglob("*")
            if path.is_file() and path.stat().st_size == len(BIG)
        )
        os.truncate(path, 1000)
        (answer, _) = await world.same([sent])
        assert answer.startswith(b"HTTP/1.1 404 ")
        # A push of the same bytes brings it back.
        await world.blob("app/web", BIG)
        for _ in range(2):
            (answer, _) = await world.same([sent])
            assert body(answer) == BIG

    stage.run(story())


def test_a_swept_file_is_let_go_of(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is open for a moment after it was unlinked; its space is free after that."""
    monkeypatch.setattr(open_files, "KEEP_SECONDS", 0.05)
    world = stage.world

    def unlinked() -> list[str]:
        found = []
        for link in Path("/proc/self/fd").iterdir():
            try:
                found.append(str(link.readlink()))
            except FileNotFoundError:
                continue
        return [name for name in found if name.endswith(" (deleted)") and "/files/" in name]

    async def story() -> None:
        digest = digest_of(BIG)
        await big(world)
        await world.store.remove_blob(await world.store.locate("fr-par", "app/web"), digest)
        await world.store.sweeper.run()
        async with asyncio.timeout(SECONDS):
            while unlinked():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)

    stage.run(story())


def test_a_file_that_is_remembered_goes_with_its_image(stage: Stage) -> None:
    """What the lane knows of a linked file ends with any change of the store."""
    world, store = stage.world, stage.world.store
    data = BIG[:50_000]
    sent = world.get(f"/v2/app/web/blobs/{digest_of(data)}")

    async def story() -> None:
        await world.manifest("app/web", "gone", data)
        for _ in range(3):
            (answer, _) = await world.same([sent])
            assert body(answer) == data
        repository = await store.locate("fr-par", "app/web")
        assert repository.image_id is not None
        await store.images.delete(repository.image_id)
        (answer, _) = await world.same([sent])
        assert answer.startswith(b"HTTP/1.1 404 ")

    stage.run(story())
    assert world.lane.answered == 4


def test_many_files_do_not_stay_open(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "KEEP_MAX", 3)
    world = stage.world

    async def story() -> None:
        before = descriptors_before()
        for number in range(10):
            data = BIG[number : number + 50_000]
            digest = await world.blob("app/web", data)
            async with world.store.get(digest) as reader:
                assert await reader.read() == data
        async with asyncio.timeout(SECONDS):
            while descriptors() > before + 3:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)

    stage.run(story())


def certificate(path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for a server and for its clients."""
    key, cert = path / "key.pem", path / "cert.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
            "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert,
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))


def test_under_tls_small_things_are_quick_and_files_whole(stage: Stage, tmp_path: Path) -> None:
    """No file goes past the encryption; everything else is as without it."""
    world = stage.world
    server, trust = certificate(tmp_path)

    async def story() -> None:
        await big(world)
        plain = await world.another(fast=False, tls=server)
        fast = await world.another(tls=server)
        paths = (
            "/v2/app/web/manifests/v1",
            "/v2/app/web/manifests/none",
            f"/v2/app/web/blobs/{world.items['small']}",
            f"/v2/app/web/blobs/{digest_of(BIG)}",
        )
        answers = [await asked(port, trust, world, paths) for port in (plain, fast)]
        assert answers[0] == answers[1]
        assert answers[0][-1].endswith(BIG)

    stage.run(story())
    # What the handshake has to send yet may be in the way of the first one.
    assert world.lane.answered in (2, 3)


async def asked(port: int, trust: ssl.SSLContext, world: World, paths: Any) -> list[bytes]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trust, server_hostname="localhost"
    )
    answers = []
    for path in paths:
        writer.write(world.get(path))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        answers.append(masked(head + await reader.readexactly(length)))
    writer.close()
    await writer.wait_closed()
    return answers
