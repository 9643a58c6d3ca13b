"""Bodies of uploads, on a server with the fast path and on one without: slow, cut off, chunked in
every way, broken, refused."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from support.api import ORGANIZATION, PROJECT, digest_of
from support.fast_path import Stage, World
from support.wire import SECONDS, Client, connected, masked, request

from holdfast.api.http import slow_clients
from holdfast.api.http.bodies import chunks

READ_BYTES: Final = 256 * 1024
"""Bytes that the server receives at once at most."""

DATA = os.urandom(6 * READ_BYTES + 4321)
_SESSION = re.compile(rb"[0-9a-f]{8}-[0-9a-f-]{27}")


@dataclass
class Uploader:
    """A caller who may push to ``app/web``, on one of the two servers."""

    client: Client
    credentials: str

    def head(self, line: str, *headers: str) -> bytes:
        lines = (line, "Host: localhost", f"Authorization: Basic {self.credentials}", *headers)
        return "\r\n".join((*lines, "", "")).encode()

    async def ask(self, *pieces: bytes) -> bytes:
        await self.client.send(*pieces)
        return await self.client.answer()

    async def session(self) -> str:
        answer = await self.ask(
            self.head("POST /v2/app/web/blobs/uploads/ HTTP/1.1", "Content-Length: 0")
        )
        assert answer.startswith(b"HTTP/1.1 202 "), answer
        return field(answer, b"Location")

    async def offset(self, location: str) -> str:
        answer = await self.ask(self.head(f"GET {location} HTTP/1.1"))
        return field(answer, b"Range")

    async def finish(self, location: str, data: bytes) -> bytes:
        mark = "&" if "?" in location else "?"
        path = f"{location}{mark}digest={digest_of(data)}"
        return await self.ask(self.head(f"PUT {path} HTTP/1.1", "Content-Length: 0"))

    async def content(self, data: bytes) -> bytes:
        path = f"/v2/app/web/blobs/{digest_of(data)}"
        answer = await self.ask(self.head(f"GET {path} HTTP/1.1"))
        return answer.partition(b"\r\n\r\n")[2]


async def credentials(world: World) -> str:
    _, secret = await world.store.keys.create(
        project_id=PROJECT,
        default_project_id=PROJECT,
        organization_id=ORGANIZATION,
        permission="full",
    )
    return base64.b64encode(f"nologin:{secret}".encode()).decode()


@asynccontextmanager
async def uploader(port: int, secret: str) -> AsyncIterator[Uploader]:
    async with connected(port) as client:
        yield Uploader(client, secret)


def field(answer: bytes, name: bytes) -> str:
    found = re.search(rb"\r\n" + name + rb": ([^\r]*)\r\n", answer)
    assert found is not None, answer
    return found[1].decode()


def alike(answer: bytes) -> bytes:
    return _SESSION.sub(b"-", masked(answer))


def chunked(data: bytes, sizes: Sequence[int], *, extra: bool = False) -> bytes:
    """``data`` in chunks of these sizes, taken in turn."""
    parts, at, turn = [], 0, 0
    while at < len(data):
        piece = data[at : at + sizes[turn % len(sizes)]]
        size = f"{len(piece):X}" if turn % 3 else f"000{len(piece):x}"
        parts += [size.encode(), b';note="a;b"' if extra else b"", b"\r\n", piece, b"\r\n"]
        at, turn = at + len(piece), turn + 1
    parts += [b"0\r\n", b"X-Check: 1\r\n" if extra else b"", b"\r\n"]
    return b"".join(parts)


def cuts(data: bytes, source: random.Random) -> list[bytes]:
    places = sorted(source.randrange(len(data) + 1) for _ in range(source.randrange(12)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_chunks_and_the_packets(stage: Stage, seed: int) -> None:
    source = random.Random(seed)
    around = source.choice([READ_BYTES, 2 * READ_BYTES, 4 * READ_BYTES, 100_000])
    data = DATA[: around + source.choice([-1, 0, 1, 1000])]
    extra = source.random() < 0.5
    sizes = [source.choice([1, 17, 4096, 32_768, 300_000, 2_000_000]) for _ in range(4)]
    if max(sizes) < 4096:
        sizes.append(32_768)
    sizes = [size for size in sizes if size > 1 or source.random() < 0.3] or [50_000]
    body = data if seed % 3 == 0 else chunked(data, sizes, extra=extra)
    framing = f"Content-Length: {len(data)}" if seed % 3 == 0 else "Transfer-Encoding: chunked"

    async def story(port: int) -> list[bytes]:
        async with uploader(port, await credentials(stage.world)) as up:
            location = await up.session()
            follow = up.head(f"GET {location} HTTP/1.1")
            sent = up.head(f"PATCH {location} HTTP/1.1", framing) + body + follow
            await up.client.send(*cuts(sent, source))
            answers = [await up.client.answer(), await up.client.answer()]
            assert answers[0].startswith(b"HTTP/1.1 202 "), answers
            assert field(answers[1], b"Range") == f"0-{len(data) - 1}"
            answers.append(await up.finish(location, data))
            assert await up.content(data) == data
            return [alike(answer) for answer in answers]

    plain, fast = stage.world.ports
    expected = stage.run(story(plain))
    assert stage.run(story(fast)) == expected


def test_a_blob_in_one_request(stage: Stage) -> None:
    path = f"/v2/app/web/blobs/uploads/?digest={digest_of(DATA)}"

    async def story(port: int) -> bytes:
        async with uploader(port, await credentials(stage.world)) as up:
            head = up.head(f"POST {path} HTTP/1.1", f"Content-Length: {len(DATA)}")
            answer = await up.ask(head + DATA[:10], DATA[10:])
            assert answer.startswith(b"HTTP/1.1 201 ")
            assert await up.content(DATA) == DATA
            return alike(answer)

    plain, fast = stage.world.ports
    assert stage.run(story(plain)) == stage.run(story(fast))


def test_the_last_chunk_may_come_with_the_digest(stage: Stage) -> None:
    async def story(port: int) -> list[bytes]:
        async with uploader(port, await credentials(stage.world)) as up:
            location = await up.session()
            half = len(DATA) // 2
            headers = (f"Content-Length: {half}", f"Content-Range: 0-{half - 1}")
            first = await up.ask(up.head(f"PATCH {location} HTTP/1.1", *headers), DATA[:half])
            path = f"{location}?digest={digest_of(DATA)}"
            body = chunked(DATA[half:], [100_000])
            headers = ("Transfer-Encoding: chunked", "X-Last: 1")
            second = await up.ask(up.head(f"PUT {path} HTTP/1.1", *headers), body)
            assert await up.content(DATA) == DATA
            return [alike(first), alike(second)]

    plain, fast = stage.world.ports
    assert stage.run(story(plain)) == stage.run(story(fast))


@pytest.mark.parametrize("length", [100_000, 20_000_000])
@pytest.mark.parametrize("refused", ["no session", "wrong place", "no right", "no digest"])
def test_refusals_that_do_not_wait_for_the_body(stage: Stage, refused: str, length: int) -> None:
    """The answer arrives, and the connection goes on or ends as it does on the plain path."""

    async def story(port: int) -> list[bytes]:
        async with uploader(port, await credentials(stage.world)) as up:
            location = await up.session()
            line, headers = f"PATCH {location} HTTP/1.1", [f"Content-Length: {length}"]
            if refused == "no session":
                line = "PATCH /v2/app/web/blobs/uploads/" + "0" * 8 + "-0000" * 3 + "-" + "0" * 12
                line += " HTTP/1.1"
            elif refused == "wrong place":
                headers.append(f"Content-Range: 7-{length + 6}")
            elif refused == "no digest":
                line = f"PUT {location} HTTP/1.1"
            head = up.head(line, *headers)
            if refused == "no right":
                head = head.replace(b"Basic ", b"Basic eDp4")
            sending = asyncio.ensure_future(up.client.send(head, bytes(length)))
            answers = [alike(await up.client.answer())]
            try:
                await sending
                answers.append(alike(await up.ask(up.head("GET /v2/ HTTP/1.1"))))
            except ConnectionError:
                answers.append(b"")
            return answers

    plain, fast = stage.world.ports
    assert stage.run(story(plain)) == stage.run(story(fast))


BROKEN = {
    "no size": b"\r\nabc\r\n",
    "sign": b"+5\r\nabcde\r\n",
    "prefix": b"0x5\r\nabcde\r\n",
    "blank": b" 5\r\nabcde\r\n",
    "huge": b"1" * 20 + b"\r\nabc\r\n",
    "no end": b"3\r\nabcdef\r\n",
    "bare LF": b"3\nabc\r\n",
    "bare LF at the end": b"3\r\nabc\n0\r\n\r\n",
    "control in the extension": b"3;a=\x00\r\nabc\r\n",
    "endless extension": b"3;" + b"a" * 100_000,
    "bad trailer": b"0\r\nno field\r\n\r\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BROKEN)
def test_broken_framing(stage: Stage, case: str) -> None:
    """Refused; nothing that follows is taken for a request; what came before is kept."""
    good = DATA[:200_000]

    async def story(port: int) -> None:
        secret = await credentials(stage.world)
        async with uploader(port, secret) as up:
            location = await up.session()
            head = up.head(f"PATCH {location} HTTP/1.1", "Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n" % (len(good), good) + BROKEN[case]
            await up.client.send(head + body + b"\r\n\r\n" + up.head("GET /v2/ HTTP/1.1") * 3)
            answers = await up.client.rest()
            assert answers.startswith(b"HTTP/1.1 400 ")
            assert answers.count(b"HTTP/1.1 ") == 1
            assert b"BLOB_UPLOAD_INVALID" in answers
        async with uploader(port, secret) as up:
            end = int((await up.offset(location)).partition("-")[2]) + 1
            assert len(good) <= end <= len(good) + 5
            if end == len(good):
                assert (await up.finish(location, good)).startswith(b"HTTP/1.1 201 ")
                assert await up.content(good) == good

    for port in stage.world.ports:
        stage.run(story(port))


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 99_999, READ_BYTES, READ_BYTES + 1, len(DATA)])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_one_that_vanishes(stage: Stage, framing: str, length: int) -> None:
    """All that came is kept, and the rest completes it."""

    async def story(port: int) -> None:
        secret = await credentials(stage.world)
        async with uploader(port, secret) as up:
            location = await up.session()
            if framing == "length":
                header, body = f"Content-Length: {len(DATA) + 1}", DATA[:length]
            else:
                header = "Transfer-Encoding: chunked"
                body = chunked(DATA[:length], [65_536]).removesuffix(b"0\r\n\r\n")
            await up.client.send(up.head(f"PATCH {location} HTTP/1.1", header), body)
        rest = DATA[length:]
        async with uploader(port, secret) as up, asyncio.timeout(SECONDS):
            # Until the end of the connection was seen, the session is at work.
            while not (answer := await up.ask(up.head(f"PATCH {location} HTTP/1.1"))).startswith(
                b"HTTP/1.1 202 "
            ):
                assert answer.startswith(b"HTTP/1.1 429 "), answer
            assert await up.offset(location) == f"0-{length - 1}"
            head = up.head(f"PATCH {location} HTTP/1.1", f"Content-Length: {len(rest)}")
            assert (await up.ask(head, rest)).startswith(b"HTTP/1.1 202 ")
            assert (await up.finish(location, DATA)).startswith(b"HTTP/1.1 201 ")
            assert await up.content(DATA) == DATA

    for port in stage.world.ports:
        stage.run(story(port))


@pytest.mark.slow
@pytest.mark.parametrize("begun", [0, 100, 300_000])
@pytest.mark.parametrize("length", [1, 99_999, READ_BYTES + 1])
@pytest.mark.parametrize("framing", ["chunked", "length", "broken"])
def test_a_last_one_that_vanishes(stage: Stage, framing: str, length: int, begun: int) -> None:
    """A PUT that did not come whole leaves nothing, on either path: it is sent again as it was."""

    async def story(port: int) -> None:
        secret = await credentials(stage.world)
        data = bytes([port % 256]) + DATA[1:]
        async with uploader(port, secret) as up:
            location = await up.session()
            head = up.head(f"PATCH {location} HTTP/1.1", f"Content-Length: {begun}")
            assert (await up.ask(head, data[:begun])).startswith(b"HTTP/1.1 202 ")
        before = f"0-{max(begun - 1, 0)}"
        line = f"PUT {location}?digest={digest_of(data)} HTTP/1.1"
        body = data[begun : begun + length]
        if framing == "length":
            header = f"Content-Length: {len(data) - begun}"
        else:
            header = "Transfer-Encoding: chunked"
            body = chunked(body, [65_536]).removesuffix(b"0\r\n\r\n")
        async with uploader(port, secret) as up:
            await up.client.send(up.head(line, header), body + b"zz\r\n" * (framing == "broken"))
            if framing == "broken":
                assert (await up.client.rest()).startswith(b"HTTP/1.1 400 ")
        whole = f"Content-Length: {len(data) - begun}"
        answers: list[bytes] = []
        async with asyncio.timeout(SECONDS):
            # Until the end of the connection was seen, the session is at work. The second time it
            # is as after an answer that was lost.
            while len(answers) < 2:
                async with uploader(port, secret) as up:
                    if not answers:
                        assert await up.offset(location) == before
                    answer = await up.ask(up.head(line, whole), data[begun:])
                if not answer.startswith(b"HTTP/1.1 429 "):
                    assert answer.startswith(b"HTTP/1.1 201 "), answer
                    answers.append(answer)
        async with uploader(port, secret) as up:
            assert await up.content(data) == data

    for port in stage.world.ports:
        stage.run(story(port))


def test_one_that_waits_for_a_go_ahead(stage: Stage) -> None:
    async def story(port: int) -> list[bytes]:
        async with uploader(port, await credentials(stage.world)) as up:
            location = await up.session()
            headers = (f"Content-Length: {len(DATA)}", "Expect: 100-continue")
            go_ahead = await up.ask(up.head(f"PATCH {location} HTTP/1.1", *headers))
            answer = await up.ask(DATA)
            return [go_ahead, alike(answer), alike(await up.finish(location, DATA))]

    plain, fast = stage.world.ports
    expected = stage.run(story(plain))
    assert expected[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert stage.run(story(fast)) == expected


def test_one_that_stalls_keeps_what_came(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "GRACE_SECONDS", 0.1)

    async def story(port: int) -> None:
        secret = await credentials(stage.world)
        async with uploader(port, secret) as up:
            location = await up.session()
            head = up.head(f"PATCH {location} HTTP/1.1", f"Content-Length: {len(DATA)}")
            await up.client.send(head, DATA[:300_000])
            assert (await up.client.rest()).startswith(b"HTTP/1.1 408 ")
        async with uploader(port, secret) as up:
            assert await up.offset(location) == "0-299999"

    for port in stage.world.ports:
        stage.run(story(port))


def test_over_tls(stage: Stage, tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=certificate)

    async def story(*, fast: bool) -> None:
        port = await stage.world.another(tls=server, fast=fast)
        secret = await credentials(stage.world)
        repository = await stage.world.store.locate("fr-par", "app/web")
        upload = await stage.world.store.uploads.begin(repository)
        reader, writer = await asyncio.open_connection(
            "localhost", port, ssl=trusting, limit=1 << 20
        )
        async with asyncio.timeout(SECONDS):
            for framing in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
                body = DATA[:1_000_000]
                if framing.startswith("T"):
                    body = chunked(DATA[1_000_000:], [50_000])
                lines = (
                    f"PATCH /v2/app/web/blobs/uploads/{upload.id} HTTP/1.1",
                    "Host: localhost",
                    f"Authorization: Basic {secret}",
                    framing,
                )
                writer.write("\r\n".join((*lines, "", "")).encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 202 "), answer
            blob = await stage.world.store.uploads.finish(repository, upload.id, digest_of(DATA))
            assert blob.size == len(DATA)
            writer.close()
            await writer.wait_closed()

    for fast in (False, True):
        stage.run(story(fast=fast))


def test_a_body_that_waits_for_its_handler_stays_with_the_client(stage: Stage) -> None:
    size = 64 << 20

    async def story(*, fast: bool) -> None:
        go_on = asyncio.Event()

        async def late(request: web.Request) -> web.Response:
            await go_on.wait()
            total = 0
            async for piece in chunks(request):
                total += len(piece)
            return web.Response(text=str(total))

        def prepare(app: web.Application) -> None:
            app.router.add_patch("/late", late)

        port = await stage.world.another(fast=fast, prepare=prepare)
        async with connected(port) as client:
            sent = 0
            await client.send(request("PATCH /late HTTP/1.1", f"Content-Length: {size}"))
            loop = asyncio.get_running_loop()
            piece = memoryview(bytes(1 << 20))
            with suppress(TimeoutError):
                while sent < size:
                    async with asyncio.timeout(0.3):
                        await wait_writable(client.sock)
                    sent += client.sock.send(piece[: size - sent])
            # The buffers of the two sockets, and what the server reads ahead.
            assert sent < 16 << 20
            go_on.set()
            await loop.sock_sendall(client.sock, bytes(size - sent))
            assert (await client.answer()).endswith(b"\r\n\r\n%d" % size)

    for fast in (False, True):
        stage.run(story(fast=fast))


async def wait_writable(sock: socket.socket) -> None:
    """Wait until ``sock`` takes bytes."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)
