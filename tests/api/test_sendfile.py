"""Files that the kernel sends: the right bytes to everybody, and nothing left open."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from support.api import ORGANIZATION, PROJECT, digest_of
from support.wire import LOOPS, SECONDS, Client, connected, request, serving

from holdfast.api.http import sendfile, slow_clients
from holdfast.engine import Store, StoreConfig
from holdfast.engine.depot import open_files as kept_files

TURN: Final = sendfile.TURN_BYTES
BIG: Final = 24 * TURN
"""More than the kernel keeps for a socket: whoever does not read this does stop the sender."""

Story = Callable[[], Awaitable[None]]
Runner = Callable[[Story], None]


async def ask_for_ever(client: Client, asked: bytes) -> None:
    while True:
        await client.send(asked)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Run a story in either loop, and see that it leaves no file open."""

    def run(story: Story) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(story())  # type: ignore[arg-type] # an async def is called here

    return run


class ServedStore:
    """A store with a public image, behind a server."""

    def __init__(self, store: Store, port: int) -> None:
        self.store = store
        self.port = port

    async def blob(self, data: bytes) -> str:
        repository = await self.store.locate("fr-par", "open/files")
        digest = digest_of(data)
        await self.store.uploads.put(repository, digest, _stream(data))
        return f"/v2/open/files/blobs/{digest}"


async def _stream(data: bytes) -> AsyncIterator[bytes]:
    yield data


@asynccontextmanager
async def house(path: Path, **options: Any) -> AsyncIterator[ServedStore]:
    config = StoreConfig(background=False)
    async with Store.open(path / "store", config) as store:
        await store.namespaces.create(
            "fr-par", "open", project_id=PROJECT, organization_id=ORGANIZATION, is_public=True
        )
        # A manifest makes the image, which is public then.
        repository = await store.locate("fr-par", "open/files")
        config_digest = digest_of(b"{}")
        await store.uploads.put(repository, config_digest, _stream(b"{}"))
        document = (
            b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":'
            b'{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%b","size":2},'
            b'"layers":[]}' % config_digest.encode()
        )
        await store.manifests.put(
            await store.locate("fr-par", "open/files"),
            document,
            media_type="application/vnd.oci.image.manifest.v1+json",
            reference="v1",
        )
        async with serving(store, **options) as port:
            yield ServedStore(store, port)


def content(count: int) -> bytes:
    """Bytes that are the same nowhere else."""
    blocks = (hashlib.sha256(struct.pack("<QQ", count, n)).digest() for n in range(count // 32 + 1))
    return b"".join(blocks)[:count]


async def get(client: Client, path: str, *headers: str) -> tuple[bytes, bytes]:
    """Head and content of an answer on a connection that is kept."""
    await client.send(request(f"GET {path} HTTP/1.1", *headers))
    head, _, body = (await client.answer()).partition(b"\r\n\r\n")
    return head, body


def open_files() -> list[str]:
    """What this process has open, but for what comes and goes with event loops."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:  # the listing's own
            continue
    return sorted(name for name in found if name.startswith(("socket:", "/")))


async def until_closed(before: list[str]) -> None:
    """Wait until no more is open than before; the test's own limit of time ends it otherwise."""
    async with asyncio.timeout(SECONDS):
        while len(open_files()) > len(before):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _files_are_let_go_of_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests wait until all is closed."""
    monkeypatch.setattr(kept_files, "KEEP_SECONDS", 0.05)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much each call of the kernel's function sent: it does the work."""
    real, counts = os.sendfile, []

    def counted(out: int, file: int, offset: int, count: int) -> int:
        done = real(out, file, offset, count)
        counts.append(done)
        return done

    monkeypatch.setattr(os, "sendfile", counted)
    return counts


SIZES: Final = (32 * 1024 + 1, 64 * 1024, TURN - 1, TURN, TURN + 1, 3 * TURN + 7)


def test_every_byte_at_sizes_around_the_boundaries(
    tmp_path: Path, run: Runner, sent: list[int]
) -> None:
    async def story() -> None:
        async with house(tmp_path) as there, connected(there.port) as client:
            for size in SIZES:
                data = content(size)
                path = await there.blob(data)
                head, body = await get(client, path)
                assert head.startswith(b"HTTP/1.1 200 ")
                assert body == data
            assert sum(sent) == sum(SIZES)

    run(story)


def test_ranges(tmp_path: Path, run: Runner, sent: list[int]) -> None:
    size = 2 * TURN + 5

    async def story() -> None:
        data = content(size)
        async with house(tmp_path) as there, connected(there.port) as client:
            path = await there.blob(data)
            for first, last in (
                (0, 0),
                (0, size - 1),
                (1, TURN),
                (TURN - 1, TURN),
                (TURN, 2 * TURN - 1),
                (size - 1, size - 1),
            ):
                head, body = await get(client, path, f"Range: bytes={first}-{last}")
                assert head.startswith(b"HTTP/1.1 206 ")
                assert b"Content-Range: bytes %d-%d/%d" % (first, last, size) in head
                assert body == data[first : last + 1]
            _, body = await get(client, path, "Range: bytes=-10")
            assert body == data[-10:]
            before = sum(sent)
            _, body = await get(client, path, "Range: bytes=0-9,20-29")
            assert data[:10] in body
            assert data[20:30] in body
            assert sum(sent) == before, "several parts go another way"

    run(story)


def test_requests_in_a_row_on_one_connection(tmp_path: Path, run: Runner) -> None:
    """Nothing of an answer may overtake another, by whichever way it goes."""

    async def story() -> None:
        small, large = content(100), content(2 * TURN)
        async with house(tmp_path) as there, connected(there.port) as client:
            paths = [await there.blob(small), await there.blob(large)]
            wanted = [paths[n] for n in (0, 1, 0, 1, 1, 0)]
            await client.send(b"".join(request(f"GET {path} HTTP/1.1") for path in wanted))
            for path in wanted:
                body = (await client.answer()).partition(b"\r\n\r\n")[2]
                assert body == (small if path == paths[0] else large)

    run(story)


@pytest.mark.slow
def test_many_at_once_with_slow_ones_among_them(tmp_path: Path, run: Runner) -> None:
    async def story() -> None:
        data = content(4 * TURN)
        async with house(tmp_path) as there:
            path = await there.blob(data)
            before = open_files()

            async def pull(step: int) -> bytes:
                async with connected(there.port) as client:
                    client.step = step
                    return (await get(client, path))[1]

            pulls = [pull(4096 if n % 5 == 0 else 1 << 18) for n in range(20)]
            assert all(body == data for body in await asyncio.gather(*pulls))
            await until_closed(before)

    run(story)


def test_one_who_takes_everything_leaves_turns_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Runner
) -> None:
    """A kernel that takes whatever it is given, in small parts, is as fast as a client can be."""
    turns = 0
    most = 0
    since = 0

    def eager(_out: int, _file: int, _offset: int, count: int) -> int:
        nonlocal since, most
        done = min(count, 64 * 1024)
        since += done
        most = max(most, since)
        return done

    async def story() -> None:
        async def other() -> None:
            nonlocal turns, since
            while True:
                turns += 1
                since = 0
                await asyncio.sleep(0)

        monkeypatch.setattr(os, "sendfile", eager)
        read, write = await pair()
        watcher = asyncio.create_task(other())
        with (tmp_path / "file").open("w+b") as file:
            file.truncate(50 * TURN)
            assert await sent_to(write, file.fileno(), 50 * TURN) is None
        read.close()
        write.close()
        watcher.cancel()
        assert turns >= 50
        assert most <= TURN + 64 * 1024

    run(story)


@pytest.mark.slow
def test_clients_that_vanish_leave_nothing_open(
    tmp_path: Path, run: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        data = content(BIG)
        async with house(tmp_path) as there:
            path = await there.blob(data)
            before = open_files()
            for number in range(12):
                async with connected(there.port) as client:
                    await client.send(request(f"GET {path} HTTP/1.1"))
                    if number % 3:
                        assert await client.more()
                    if number % 2:
                        # A reset instead of an orderly end.
                        linger = struct.pack("ii", 1, 0)
                        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await until_closed(before)
            async with connected(there.port) as client:
                assert (await get(client, path))[1] == data

    with caplog.at_level(logging.INFO):
        run(story)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.slow
def test_a_client_that_takes_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Runner
) -> None:
    monkeypatch.setattr(slow_clients, "READER_GRACE_SECONDS", 0.05)

    async def story() -> None:
        data = content(BIG)
        async with house(tmp_path) as there:
            path = await there.blob(data)
            before = open_files()
            async with connected(there.port) as client:
                await client.send(request(f"GET {path} HTTP/1.1"))
                assert await client.more()
                await until_closed([*before, "socket: the client's own"])
                assert len(await client.rest()) < BIG

    run(story)


def test_one_that_does_not_read_its_small_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Runner
) -> None:
    """What goes through the transport has the same limit."""
    monkeypatch.setattr(slow_clients, "READER_GRACE_SECONDS", 0.05)

    async def story() -> None:
        data = content(30_000)
        async with house(tmp_path) as there:
            path = await there.blob(data)
            before = open_files()
            async with connected(there.port) as client:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                asked = request(f"GET {path} HTTP/1.1") * 400

                async def ask() -> None:
                    with pytest.raises(ConnectionError):
                        await ask_for_ever(client, asked)

                await ask()
                await until_closed([*before, "socket: the client's own"])

    run(story)


def test_cold_files_are_read_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Runner, sent: list[int]
) -> None:
    import threading

    names: set[str] = set()
    inner = os.sendfile

    def watched(out: int, file: int, offset: int, count: int) -> int:
        names.add(threading.current_thread().name)
        return inner(out, file, offset, count)

    monkeypatch.setattr(os, "sendfile", watched)
    monkeypatch.setattr(sendfile, "_cached", lambda *_: False)

    async def story() -> None:
        data = content(3 * TURN)
        async with house(tmp_path) as there, connected(there.port) as client:
            path = await there.blob(data)
            assert (await get(client, path))[1] == data

    run(story)
    assert names
    assert threading.main_thread().name not in names


def test_whether_a_file_is_cold_is_asked_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(TURN))
    with path.open("rb") as file:
        assert sendfile._cached(file.fileno(), 0, TURN)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        # Some file systems live in memory, where nothing is ever cold; the answer is no error.
        assert sendfile._cached(file.fileno(), 0, TURN) in (True, False)


async def test_who_stops_waits_for_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread must never work on a descriptor that is somebody else's by then."""
    import threading

    begun, go_on = threading.Event(), threading.Event()
    used: list[int] = []

    def slow(out: int, *_: int) -> int:
        begun.set()
        go_on.wait(SECONDS)
        # It is open still.
        used.append(os.fstat(out).st_mode)
        return 1

    monkeypatch.setattr(os, "sendfile", slow)
    monkeypatch.setattr(sendfile, "_cached", lambda *_: False)
    read, write = await pair()
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(TURN)
        ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        sending = sendfile.Sending(write, file.fileno(), 0, TURN, ended.set_result)
        sending.start()
        await asyncio.to_thread(begun.wait, SECONDS)
        reason = ConnectionAbortedError("no more")
        for _ in range(3):
            sending.stop(reason)
            await asyncio.sleep(0)
            assert not ended.done()
        go_on.set()
        assert await ended is reason
        sending.stop(ConnectionAbortedError("too late"))
    assert used
    read.close()
    write.close()


async def pair() -> tuple[asyncio.Transport, asyncio.Transport]:
    """Two transports of which each is the other's peer."""
    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(asyncio.Protocol, sock=sock))[0]
        for sock in socket.socketpair()
    ]
    return made[0], made[1]


async def sent_to(transport: asyncio.Transport, file: int, count: int) -> Exception | None:
    """Send the start of a file; how that ended."""
    ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    sendfile.Sending(transport, file, 0, count, ended.set_result).start()
    return await ended


@pytest.mark.parametrize("number", [errno.EIO, 0])
def test_a_file_that_cannot_be_read_breaks_the_connection(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Runner,
    number: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """``number`` 0: the file ends early. The part is never taken for the whole."""
    real = os.sendfile

    def failing(out: int, file: int, offset: int, count: int) -> int:
        if offset < TURN:
            return real(out, file, offset, count)
        if number:
            raise OSError(number, os.strerror(number))
        return 0

    monkeypatch.setattr(os, "sendfile", failing)

    async def story() -> None:
        async with house(tmp_path) as there, connected(there.port) as client:
            path = await there.blob(content(3 * TURN))
            await client.send(request(f"GET {path} HTTP/1.1") * 2)
            received = await client.rest()
            assert received.count(b"HTTP/1.1 ") == 1
            assert len(received) < 3 * TURN

    with caplog.at_level(logging.INFO):
        run(story)
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(errors) == 1
    assert "closing the connection" in errors[0].getMessage()
    assert errors[0].exc_info is None


def test_a_lost_network_is_a_lost_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: int) -> int:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    monkeypatch.setattr(os, "sendfile", failing)

    async def story() -> None:
        async with house(tmp_path) as there, connected(there.port) as client:
            path = await there.blob(content(TURN))
            await client.send(request(f"GET {path} HTTP/1.1"))
            await client.rest()

    run(story)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_never_under_tls() -> None:
    class Transport:
        def __init__(self, **extra: object) -> None:
            self.get_extra_info = extra.get

    class Request:
        def __init__(self, transport: Transport | None) -> None:
            self.transport = transport

    def possible(transport: Transport | None) -> bool:
        request: Any = Request(transport)
        return sendfile.possible(request)

    assert possible(Transport(socket=object()))
    assert not possible(Transport(socket=object(), sslcontext=object()))
    assert not possible(Transport())
    assert not possible(None)
