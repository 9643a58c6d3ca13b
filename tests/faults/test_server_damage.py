"""Permission lost, files vanished, bits flipped under a running server: right answers, never wrong
bytes, and a push heals."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from support.api import Reply, digest_of
from support.common import require_tool
from support.images import noise
from support.load import (
    OWNER,
    TEAM,
    Memory,
    Picture,
    Wire,
    failing_disk,
    loaded,
    make_namespace,
    problems,
    push,
    push_blob,
    put_manifest,
    remount,
    small_disk,
    wired,
)
from support.server import HOLDFAST, WAIT_SECONDS, ServerProcess

from holdfast.engine import Store, StoreConfig

ORDINARY: Final = ("--bounding-set=-dac_override,-dac_read_search",)
"""Options of setpriv for a root whom permissions bind, as they do other users."""

IMAGE: Final = f"{TEAM}/image"
PICTURE: Final = Picture(IMAGE, 1)
TEXT: Final = b"a line that compresses\n" * 40_000


@pytest.fixture
def bound() -> tuple[str, ...]:
    """A prefix for a server that permissions bind."""
    return () if os.geteuid() else (require_tool("setpriv"), *ORDINARY)


@pytest.fixture
async def server(tmp_path: Path, bound: tuple[str, ...]) -> AsyncIterator[ServerProcess]:
    """It has one image; nothing is wrong at the end, and its workers are those of the start."""
    with loaded(tmp_path / "data", prefix=bound) as running:
        workers = running.workers()
        await make_namespace(running.address)
        async with wired(running.address) as wire:
            assert (await push(wire, PICTURE, "v1")).status == 201
        yield running
        assert await intact(running)
        assert running.workers() == workers
    assert await problems(tmp_path / "data") == []


async def intact(server: ServerProcess) -> bool:
    memory = Memory()
    memory.tags[IMAGE, "v1"] = {1}
    return await memory.verify(server.address) == 1


async def blob(wire: Wire, content: bytes, method: str = "GET") -> Reply:
    return await wire.ask(method, f"/v2/{IMAGE}/blobs/{digest_of(content)}")


def file_of(data: Path, content: bytes) -> Path:
    """Where the blob lies that is at rest as it was pushed."""
    [found] = [path for path in blob_files(data) if path.read_bytes() == content]
    return found


def blob_files(data: Path) -> list[Path]:
    return [path for path in (data / "files").rglob("*") if path.is_file()]


def flip(path: Path, place: int) -> None:
    """Change one bit, in place: who has the file open or mapped sees it."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes((byte[0] ^ 1,)))


# --- permission -------------------------------------------------------------------------------


@pytest.mark.promise("SECURITY.md", "the server")
@pytest.mark.parametrize(("mode", "readable"), [(0o000, False), (0o500, True)])
async def test_permission_is_lost_and_comes_back(
    server: ServerProcess, mode: int, readable: bool
) -> None:
    large = PICTURE.layers[1]
    directories = sorted(path for path in (server.data / "files").rglob("*") if path.is_dir())
    async with wired(server.address) as wire:
        for directory in reversed(directories):
            directory.chmod(mode)
        got = await blob(wire, large)
        if readable:
            assert (got.status, got.body) == (200, large)
        else:
            # Not 404: a client that was told so would push it again, or give up an image.
            assert (got.status, got.code) == (503, "UNAVAILABLE")
        # What lies in the ledger is served, and taken.
        assert (await blob(wire, PICTURE.config)).body == PICTURE.config
        reply = await wire.ask("GET", f"/v2/{IMAGE}/manifests/v1")
        assert reply.body == PICTURE.manifest
        await push_blob(wire, IMAGE, b"small")
        content = noise("new", 100_000)
        path = f"/v2/{IMAGE}/blobs/uploads/?digest={digest_of(content)}"
        reply = await wire.ask("POST", path, content)
        assert (reply.status, reply.code) == (503, "UNAVAILABLE")
        assert str(server.data) not in reply.body.decode()
        for directory in directories:
            directory.chmod(0o700)
        got = await blob(wire, large)
        assert (got.status, got.body) == (200, large)
        assert (await blob(wire, content)).status == 404
        await push_blob(wire, IMAGE, content)
        assert (await blob(wire, content)).body == content


def refused(data: Path, prefix: tuple[str, ...], reason: str) -> None:
    """A server that cannot start says why in one line."""
    options = ("serve", f"--data={data}", "--listen=127.0.0.1:0", "--workers=1")
    done = subprocess.run(
        [*prefix, *HOLDFAST, *options],
        env={**os.environ, **OWNER},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("place", ["", "ledger", "ledger/data.mdb", "files", "run"])
async def test_no_start_without_permission(
    tmp_path: Path, bound: tuple[str, ...], place: str
) -> None:
    data = tmp_path / "data"
    async with Store.open(data, StoreConfig(background=False)):
        pass
    (data / place).chmod(0)
    refused(data, bound, "ermission denied")
    (data / place).chmod(0o700)
    with loaded(data, prefix=bound):
        pass


async def test_no_start_on_a_read_only_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path, 16) as disk:
        async with Store.open(disk / "data", StoreConfig(background=False)):
            pass
        with ExitStack() as stack:
            remount(disk, "ro")
            stack.callback(remount, disk, "rw")
            refused(disk / "data", (), "ead-only file system")
        assert await problems(disk / "data") == []


async def test_the_disk_becomes_read_only_under_a_server(tmp_path: Path) -> None:
    """Pulls go on, changes are refused and not half done, and all is there on a disk that is well
    again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    memory = Memory()
    new, large = b"new", noise("new", 100_000)
    uploads = f"/v2/{IMAGE}/blobs/uploads/"
    manifest = f"/v2/{IMAGE}/manifests/v1"
    with failing_disk(disk, tmp_path / "image") as fail, loaded(disk / "data") as server:
        workers = server.workers()
        await make_namespace(server.address)
        async with wired(server.address) as wire:
            await memory.push(wire, PICTURE, "v1")
            begun = (await wire.ask("POST", uploads)).headers["location"]
            fail()
            for method, path, body in (
                ("POST", uploads, b""),
                ("POST", f"{uploads}?digest={digest_of(new)}", new),
                ("POST", f"{uploads}?digest={digest_of(large)}", large),
                ("PATCH", begun, large),
                ("DELETE", begun, b""),
                ("DELETE", manifest, b""),
            ):
                reply = await wire.ask(method, path, body)
                assert (reply.status, reply.code) == (503, "UNAVAILABLE"), (method, path, reply)
            reply = await put_manifest(wire, IMAGE, "v2", PICTURE.manifest)
            assert (reply.status, reply.code) == (503, "UNAVAILABLE")
            for content, status in ((new, 404), (large, 404), (PICTURE.config, 200)):
                assert (await blob(wire, content)).status == status
        for _ in workers:
            assert await memory.verify(server.address) == 1
        assert server.workers() == workers
    with failing_disk(disk, tmp_path / "image"), loaded(disk / "data", workers=1) as server:
        assert await memory.verify(server.address) == 1
        async with wired(server.address) as wire:
            assert (await wire.ask("GET", f"/v2/{IMAGE}/manifests/v2")).status == 404
            await memory.push(wire, Picture(IMAGE, 2), "v2")
        assert await memory.verify(server.address) == 2
        assert server.stop() == 0
        assert await problems(disk / "data") == []


# --- damage -----------------------------------------------------------------------------------


def vanish(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def flip_middle(path: Path) -> None:
    flip(path, path.stat().st_size // 2)


async def scrub(data: Path) -> None:
    """Beside the server, as its background does."""
    async with Store.open(data, StoreConfig(background=False), create=False) as store:
        await store.scrubber.run()


@pytest.mark.promise("SECURITY.md", "the bytes on the disk")
@pytest.mark.parametrize("harm", [vanish, cut, grow, flip_middle])
async def test_a_blob_file_is_harmed(server: ServerProcess, harm: Callable[[Path], None]) -> None:
    large = PICTURE.layers[1]
    harm(file_of(server.data, large))
    assert await problems(server.data) != []
    async with wired(server.address) as wire:
        if harm is flip_middle:
            # A plain file is served as it is until it is scrubbed: clients verify the digest.
            await scrub(server.data)
        for method in ("GET", "HEAD", "GET"):
            assert (await blob(wire, large, method)).status == 404
        assert (await blob(wire, large, "GET")).code == "BLOB_UNKNOWN"
        # A client that pushes finds it missing, and heals it.
        assert (await push(wire, PICTURE, "v1")).status == 201
        got = await blob(wire, large)
        assert (got.status, got.body) == (200, large)


async def test_a_push_heals_what_nobody_noticed_yet(server: ServerProcess) -> None:
    large = PICTURE.layers[1]
    flip_middle(file_of(server.data, large))
    async with wired(server.address) as wire:
        await push_blob(wire, f"{TEAM}/other", large)
        got = await blob(wire, large)
        assert (got.status, got.body) == (200, large)


async def test_a_compressed_file_is_harmed(server: ServerProcess) -> None:
    async with wired(server.address) as wire:
        await push_blob(wire, IMAGE, TEXT)
        path = file_of(server.data, TEXT)
        for _ in range(600):
            # The file is a new one from another block once the first is done.
            if not path.exists():
                break
            await recompress(server.data)
        [path] = [each for each in blob_files(server.data) if each.stat().st_size < 10_000]
        assert (await blob(wire, TEXT)).body == TEXT
        flip_middle(path)
        try:
            got = await blob(wire, TEXT)
        except ConnectionError:
            # It broke off in the middle: nobody takes that for the whole.
            pass
        else:
            assert got.status == 404
        await push_blob(wire, IMAGE, TEXT)
        got = await blob(wire, TEXT)
        assert (got.status, got.body) == (200, TEXT)


async def recompress(data: Path) -> None:
    async with Store.open(data, StoreConfig(background=False), create=False) as store:
        await store.recompressor.run()


@pytest.mark.promise("SECURITY.md", "the bytes on the disk")
async def test_a_bit_flips_in_rows_of_the_ledger(server: ServerProcess) -> None:
    """Of the manifest, the configuration, and a small layer, which lie there."""
    ledger = server.data / "ledger" / "data.mdb"
    contents = (PICTURE.manifest, PICTURE.config, PICTURE.layers[0])
    async with wired(server.address) as wire:
        stored = ledger.read_bytes()
        for content in contents:
            # Also where older pages still have it.
            start = stored.find(content)
            assert start >= 0
            while start >= 0:
                flip(ledger, start + len(content) // 2)
                start = stored.find(content, start + 1)
        found = await problems(server.data)
        assert len(found) >= len(contents), found
        for method in ("GET", "HEAD"):
            for reference in ("v1", digest_of(PICTURE.manifest)):
                path = f"/v2/{IMAGE}/manifests/{reference}"
                got = await wire.ask(method, path)
                assert got.status == 404
                assert method == "HEAD" or got.code == "MANIFEST_UNKNOWN"
        for content in contents[1:]:
            got = await blob(wire, content)
            assert (got.status, got.code) == (404, "BLOB_UNKNOWN")
        assert (await blob(wire, PICTURE.layers[1])).body == PICTURE.layers[1]
        assert (await push(wire, PICTURE, "v1")).status == 201
