"""A real server under mixed load, and a memory of what it acknowledged.

Every request goes over a connection whose end of the server can be found, so a test can say which
worker it belongs to. What was acknowledged is a fact; what was asked for on a connection that was
lost is a possibility; the re-read at the end accepts nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from holdfast.engine import check_directory
from support.api import MANIFEST_TYPE, Reply, basic, digest_of
from support.common import require_tool, unavailable
from support.engine import manifest
from support.images import noise
from support.server import WAIT_SECONDS, ServerProcess, running

SECRET: Final = "11111111-2222-4333-8444-555555555555"
OWNER: Final = {
    "HOLDFAST_ACCESS_KEY": "SCW0123456789ABCDEFG",
    "HOLDFAST_SECRET_KEY": SECRET,
    "HOLDFAST_PROJECT_ID": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
    "HOLDFAST_ORGANIZATION_ID": "99999999-8888-4777-8666-555555555555",
}
BASIC: Final = basic(SECRET)
NAMESPACES: Final = "/registry/v1/regions/fr-par/namespaces"
IMAGES: Final = "/registry/v1/regions/fr-par/images"
TEAM: Final = "team"


Headers = Mapping[str, str]


# --- the server -------------------------------------------------------------------------------


@contextmanager
def loaded(
    data: Path, *options: str, workers: int = 2, prefix: Sequence[str] = ()
) -> Iterator[ServerProcess]:
    """A server whose owner is ``OWNER``. A bug that it met fails the test at the end."""
    with running(data, *options, workers=workers, environment=OWNER, prefix=prefix) as server:
        yield server
        if server.process.poll() is None:
            assert server.stop() == 0
        said = server.errors()
        for word in ("unexpected error", "never retrieved", "Exception in", "ResourceWarning"):
            assert word not in said, said


async def problems(data: Path) -> list[str]:
    """All that is wrong in a data directory, whose every byte is read."""
    return [str(each) async for each in check_directory(data, deep=True)]


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A file system of that size at ``path``, which must exist."""
    options = f"size={megabytes}m,mode=700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        unavailable("mounting is not permitted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True, timeout=WAIT_SECONDS)


@contextmanager
def failing_disk(path: Path, image: Path) -> Iterator[Callable[[], None]]:
    """An ext4 at ``path``, kept in ``image``. To call what this gives makes it read-only under
    whoever writes to it, as the kernel does when a disk fails."""
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run([require_tool("mkfs.ext4"), "-q", "-F", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(path)], check=False).returncode:
        unavailable("mounting is not permitted here")
    try:
        # ext4(5) has it for debugging. A plain "ro" is refused while files are open.
        yield lambda: remount(path, "abort")
    finally:
        subprocess.run(["umount", str(path)], check=True, timeout=WAIT_SECONDS)


def remount(path: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(path)], check=True, timeout=WAIT_SECONDS)


def fill_disk(path: Path) -> Path:
    """A file of somebody else's that takes all the space there is."""
    ballast = path / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    assert os.statvfs(path).f_bavail == 0
    return ballast


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another process does; fails when it never does it."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - nothing could set an event
            await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process ended (one that nobody waited for yet has ended, too)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kibibytes(pid: int, field: str = "VmRSS") -> int:
    """Memory of a process as the kernel counts it; ``VmHWM`` is the most there ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(field)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def owners(server: ServerProcess, ports: set[int]) -> dict[int, int]:
    """Worker by the client's port, for connections that a worker has accepted."""
    port = int(server.address.rpartition(":")[2])
    inodes = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        here, there = (int(fields[at].rpartition(":")[2], 16) for at in (1, 2))
        if here == port and there in ports:
            inodes[f"socket:[{fields[9]}]"] = there
    found = {}
    for pid in server.workers():
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if (client := inodes.get(str(entry.readlink()))) is not None:
                    found[client] = pid
    return found


# --- a connection -----------------------------------------------------------------------------


class Wire:
    """A connection for one request after the other, opened by the first.

    Whatever loses it is a ConnectionError; the next request opens another one.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.lost = 0
        """How often it was lost."""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            host, port = self.address.rsplit(":", 1)
            self._streams = await asyncio.open_connection(host, int(port))
        return self._streams

    @property
    def port(self) -> int:
        """Ours; 0 while it is not open."""
        if self._streams is None:
            return 0
        port: int = self._streams[1].get_extra_info("sockname")[1]
        return port

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Headers | None = None
    ) -> Reply:
        """A request as the owner."""
        return await self.send(self.head(method, path, len(body), headers) + body, method)

    def head(self, method: str, path: str, length: int, headers: Headers | None = None) -> bytes:
        """The head of a request as the owner, with a body of ``length`` bytes."""
        sent = {
            "Host": self.address,
            "Authorization": BASIC,
            "X-Auth-Token": SECRET,
            "Content-Length": str(length),
            **(headers or {}),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()

    async def send(self, data: bytes, method: str = "GET") -> Reply:
        """Bytes that are a request."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                reader, writer = await self.open()
                writer.write(data)
                # An early answer is read even if the server takes no more of the request.
                reply = await read_reply(reader, method)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.lost += 1
            await self.close()
            raise ConnectionError("the connection was lost") from error
        if reply.headers.get("connection") == "close":
            await self.close()
        return reply

    async def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            transport: Any = streams[1].transport
            transport.abort()
            with contextlib.suppress(ConnectionError):
                await streams[1].wait_closed()


async def read_reply(reader: asyncio.StreamReader, method: str = "GET") -> Reply:
    """One answer, which has a Content-Length unless it has no body."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")[:-4].split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    status = int(first.split()[1])
    if method == "HEAD" or status in {100, 204, 304}:
        return Reply(status, headers, b"")
    return Reply(status, headers, await reader.readexactly(int(headers["content-length"])))


@contextlib.asynccontextmanager
async def wired(address: str) -> AsyncIterator[Wire]:
    wire = Wire(address)
    try:
        yield wire
    finally:
        await wire.close()


# --- content ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """An image of which everything follows from its name and number."""

    image: str
    version: int

    @property
    def config(self) -> bytes:
        return json.dumps({"image": self.image, "version": self.version}).encode()

    @property
    def layers(self) -> tuple[bytes, ...]:
        """In the ledger; in a file; in one that other images have too; and now and then a large
        one, which compresses or does not."""
        large = (f"{self.image} {self.version} again, ".encode() * 20_000)[:400_000]
        if self.version % 2:
            large = noise(f"large {self.image} {self.version}", 400_000)
        return (
            noise(f"small {self.image} {self.version}", 900),
            noise(f"own {self.image} {self.version}", 36_000),
            noise(f"shared {self.version % 7}", 50_000),
            *((large,) if self.version % 4 < 2 else ()),
        )

    @property
    def manifest(self) -> bytes:
        return manifest(self.config, self.layers)


async def make_namespace(address: str) -> None:
    """The one that everything here is pushed to."""
    async with wired(address) as wire:
        body = json.dumps({"name": TEAM}).encode()
        reply = await wire.ask("POST", NAMESPACES, body, {"Content-Type": "application/json"})
        assert reply.status == 200, reply


async def delete_image(wire: Wire, name: str) -> None:
    """Over the management API."""
    reply = await wire.ask("GET", f"{IMAGES}?name={name}")
    assert reply.status == 200, reply
    [found] = reply.json["images"]
    reply = await wire.ask("DELETE", f"{IMAGES}/{found['id']}")
    assert reply.status == 200, reply


async def push_blob(wire: Wire, image: str, content: bytes, way: int = 0) -> None:
    """Upload a blob: in one request, in two, or in pieces."""
    digest, uploads = digest_of(content), f"/v2/{image}/blobs/uploads/"
    if way % 3 == 0:
        reply = await wire.ask("POST", f"{uploads}?digest={digest}", content)
        assert reply.status == 201, reply
        return
    reply = await wire.ask("POST", uploads)
    assert reply.status == 202, reply
    place, rest = reply.headers["location"], content
    if way % 3 == 2:
        rest = content[len(content) // 2 :]
        reply = await wire.ask("PATCH", place, content[: len(content) // 2])
        assert reply.status == 202, reply
    reply = await wire.ask("PUT", f"{place}?digest={digest}", rest)
    assert reply.status == 201, reply


async def push(wire: Wire, picture: Picture, tag: str, way: int = 0) -> Reply:
    """Push what is missing of an image, then its manifest, whose answer this is."""
    for content in (picture.config, *picture.layers):
        reply = await wire.ask("HEAD", f"/v2/{picture.image}/blobs/{digest_of(content)}")
        if reply.status != 200:
            assert reply.status == 404, reply
            await push_blob(wire, picture.image, content, way)
    return await put_manifest(wire, picture.image, tag, picture.manifest)


async def put_manifest(wire: Wire, image: str, tag: str, body: bytes) -> Reply:
    path = f"/v2/{image}/manifests/{tag}"
    return await wire.ask("PUT", path, body, {"Content-Type": MANIFEST_TYPE})


async def pull(wire: Wire, image: str, tag: str) -> tuple[bytes, list[bytes]] | None:
    """A manifest and its blobs, each of the digest and size that it must have."""
    reply = await wire.ask("GET", f"/v2/{image}/manifests/{tag}", b"", {"Accept": MANIFEST_TYPE})
    if reply.status == 404:
        return None
    assert reply.status == 200, reply
    document = reply.json
    contents = []
    for each in (document["config"], *document["layers"]):
        got = await wire.ask("GET", f"/v2/{image}/blobs/{each['digest']}")
        assert got.status == 200, got
        assert digest_of(got.body) == each["digest"]
        contents.append(got.body)
    return reply.body, contents


# --- memory and load --------------------------------------------------------------------------

Fact = tuple[str, str]
"""An image, and a tag of it or the digest of a blob."""


class Memory:
    """What each tag (a version) or blob (1) may be at; None: it may be absent."""

    def __init__(self) -> None:
        self.tags: dict[Fact, set[int | None]] = {}
        self.blobs: dict[Fact, tuple[bytes, set[int | None]]] = {}
        self.acknowledged = 0

    @contextlib.contextmanager
    def change(self, values: set[int | None], value: int | None) -> Iterator[None]:
        """From its start, ``value`` is possible; from its end without an error, it is certain."""
        values.add(value)
        yield
        values.clear()
        values.add(value)
        self.acknowledged += 1

    def tag(self, image: str, tag: str) -> set[int | None]:
        return self.tags.setdefault((image, tag), {None})

    def blob(self, image: str, content: bytes) -> set[int | None]:
        return self.blobs.setdefault((image, digest_of(content)), (content, {None}))[1]

    async def push(self, wire: Wire, picture: Picture, tag: str) -> None:
        """Push an image that is to stay."""
        with self.change(self.tag(picture.image, tag), picture.version):
            reply = await push(wire, picture, tag)
            assert reply.status == 201, reply

    async def verify(self, address: str) -> int:
        """Read everything again; how much of it was there."""
        async with wired(address) as wire:
            seen = 0
            for (image, tag), values in self.tags.items():
                found = await pull(wire, image, tag)
                value = None
                if found is not None:
                    [value] = [
                        each
                        for each in values
                        if each is not None and Picture(image, each).manifest == found[0]
                    ]
                    picture = Picture(image, value)
                    assert found[1] == [picture.config, *picture.layers]
                    seen += 1
                assert value in values, (image, tag, values)
                values &= {value}
            for (image, digest), (content, values) in self.blobs.items():
                reply = await wire.ask("GET", f"/v2/{image}/blobs/{digest}")
                value = 1 if reply.status == 200 else None
                assert reply.status in {200, 404}, reply
                assert value in values, (image, digest, values)
                assert value is None or reply.body == content
                values &= {value}
                seen += bool(value)
        return seen


class Load:
    """Clients that push, pull and delete until they are told to stop."""

    def __init__(self, address: str, memory: Memory, seed: int) -> None:
        self.memory = memory
        self.wires: list[Wire] = []
        self._address = address
        self._seed = seed
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for number in range(2):
            for work in (self._images, self._passing, self._blobs, self._sessions, self._pulls):
                self._tasks.append(asyncio.create_task(self._forever(work, number)))

    async def stop(self) -> None:
        """Let everybody end what they are at. Raises what went wrong."""
        self._stop = True
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.gather(*self._tasks)

    async def _forever(self, work: Callable[..., Any], number: int) -> None:
        chance = random.Random(f"{work.__name__} {number} {self._seed}")
        async with wired(self._address) as wire:
            self.wires.append(wire)
            count = 0
            while not self._stop:
                count += 1
                try:
                    await work(wire, chance, number, self._seed * 1000 + count)
                except ConnectionError:
                    # A server that is gone refuses; one that comes back has a queue.
                    await asyncio.sleep(0.01)

    async def _images(self, wire: Wire, chance: random.Random, number: int, count: int) -> None:
        """Push under a few tags, which move; delete some."""
        picture = Picture(f"{TEAM}/image{number}", count)
        tag = chance.choice(("latest", "a", "b", "c"))
        with self.memory.change(self.memory.tag(picture.image, tag), count):
            reply = await push(wire, picture, tag, chance.randrange(3))
            assert reply.status == 201, reply
        if chance.random() < 0.3:
            tag = chance.choice(("a", "b", "c"))
            with self.memory.change(self.memory.tag(picture.image, tag), None):
                reply = await wire.ask("DELETE", f"/v2/{picture.image}/manifests/{tag}")
                assert reply.status in {202, 404}, reply

    async def _passing(self, wire: Wire, chance: random.Random, number: int, count: int) -> None:
        """Push an image and delete it over the management API."""
        picture = Picture(f"{TEAM}/passing{number}", count)
        values = self.memory.tag(picture.image, "only")
        with self.memory.change(values, count):
            reply = await push(wire, picture, "only", chance.randrange(3))
            assert reply.status == 201, reply
        with self.memory.change(values, None):
            await delete_image(wire, f"passing{number}")

    async def _blobs(self, wire: Wire, chance: random.Random, number: int, count: int) -> None:
        """Upload blobs that no manifest needs: some new, some that others upload too."""
        image = f"{TEAM}/blobs{number}"
        size = chance.choice((500, 40_000, 200_000))
        name = f"blob {count % 8} of all" if chance.random() < 0.5 else f"{number} {count % 40}"
        content = noise(name, size)
        values = self.memory.blob(image, content)
        with self.memory.change(values, 1):
            await push_blob(wire, image, content, chance.randrange(3))
        if chance.random() < 0.4:
            with self.memory.change(values, None):
                reply = await wire.ask("DELETE", f"/v2/{image}/blobs/{digest_of(content)}")
                assert reply.status == 202, reply

    async def _sessions(self, wire: Wire, chance: random.Random, number: int, count: int) -> None:
        """An upload in pieces, which goes on where it stands when its connection is lost."""
        image = f"{TEAM}/sessions{number}"
        content = noise(f"session {number} {count}", chance.choice((30_000, 300_000, 900_000)))
        place = (await wire.ask("POST", f"/v2/{image}/blobs/uploads/")).headers["location"]
        values = self.memory.blob(image, content)
        known = 0
        step = len(content) // 5
        while known < len(content) and not self._stop:
            try:
                reply = await wire.ask("PATCH", place, content[known : known + step])
                assert reply.status == 202, reply
                known = min(known + step, len(content))
            except ConnectionError:
                if self._stop:
                    raise
                known = await self._resumed(wire, place, known)
        if known == len(content):
            with self.memory.change(values, 1):
                reply = await wire.ask("PUT", f"{place}?digest={digest_of(content)}")
                assert reply.status == 201, reply

    @staticmethod
    async def _resumed(wire: Wire, place: str, known: int) -> int:
        """Where the session stands now: not before what was acknowledged."""
        reply = await wire.ask("GET", place)
        assert reply.status == 204, reply
        stands = int(reply.headers["range"].partition("-")[2])
        stands += bool(stands)
        assert stands >= known, (reply, known)
        return stands

    async def _pulls(self, wire: Wire, chance: random.Random, number: int, count: int) -> None:
        """Nothing that is pulled is wrong, whatever happens meanwhile."""
        image = f"{TEAM}/image{chance.randrange(2)}"
        await pull(wire, image, chance.choice(("latest", "a", "b", "c")))
        reply = await wire.ask("GET", f"/v2/{image}/tags/list")
        assert reply.status in {200, 404}, reply
