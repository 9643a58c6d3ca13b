"""The same bytes with the fast path and without it, whatever carries the requests and however they
come: over TCP, TLS and a unix socket, in lockstep, in a row, in pieces, byte by byte, and from
clients that end their side."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import pytest
from support import tls
from support.api import CONFIG_TYPE, MANIFEST_TYPE, digest_of
from support.distribution import descriptor
from support.fast_path import SMALL, Stage, World
from support.wire import (
    LAST,
    Client,
    connected,
    connected_by_path,
    connected_by_tls,
    masked,
    request,
)

TRANSPORTS: Final = ("tcp", "tls", "unix")
_ID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PLACE: Final = re.compile(rb"\r\nLocation: (?:https?://[^/]*)?(/v2/\S+)\r\n")
HEALTH: Final = request("GET /healthz HTTP/1.1")
BODY: Final = b"the content of a small layer"
SCRIPTS: Final = (8, 3)
"""Scripts of a case; fewer where each byte is a packet."""
UPLOADS: Final = "/v2/app/web/blobs/uploads/"


def sent_by(world: World, method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", *headers, world.bearer("pusher"))
    return request(*lines) + body


def manifest() -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(digest_of(SMALL), len(SMALL), CONFIG_TYPE),
        "layers": [],
    }
    return msgspec.json.encode(document)


def kinds(world: World) -> dict[str, bytes]:
    """Requests by name; SESSION stands for the place of an upload."""
    length, item = f"Content-Length: {len(BODY)}", world.items
    chunks = b"7\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (BODY[:7], len(BODY) - 7, BODY[7:])
    odd = b"7;x=y\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % BODY[:7]
    chunked = "Transfer-Encoding: chunked"
    whole = manifest()
    kind = (f"Content-Type: {MANIFEST_TYPE}", f"Content-Length: {len(whole)}")
    upgrade = ("Connection: Upgrade", "Upgrade: websocket")
    return {
        "manifest": sent_by(world, "GET", "/v2/app/web/manifests/v1"),
        "no manifest": sent_by(world, "GET", "/v2/app/web/manifests/none"),
        "head": sent_by(world, "HEAD", "/v2/app/web/manifests/v1"),
        "blob": sent_by(world, "GET", f"/v2/app/web/blobs/{item['small']}"),
        "file": sent_by(world, "GET", f"/v2/app/web/blobs/{item['file']}"),
        "public": sent_by(world, "GET", f"/v2/open/web/blobs/{item['small']}"),
        "tags": sent_by(world, "GET", "/v2/app/web/tags/list"),
        "no right": sent_by(world, "GET", "/v2/other/web/manifests/v1"),
        "no token": request("GET /v2/app/web/manifests/v1 HTTP/1.1"),
        "health": HEALTH,
        "upgrade": sent_by(world, "GET", "/v2/app/web/manifests/v1", *upgrade),
        "begin": sent_by(world, "POST", UPLOADS, "Content-Length: 0"),
        "patch": sent_by(world, "PATCH", "SESSION", length, body=BODY),
        "chunks": sent_by(world, "PATCH", "SESSION", chunked, body=chunks),
        "odd chunks": sent_by(world, "PATCH", "SESSION", chunked, body=odd),
        "status": sent_by(world, "GET", "SESSION"),
        "wrong digest": sent_by(
            world, "PUT", f"SESSION?digest={digest_of(b'else')}", "Content-Length: 0"
        ),
        "blob at once": sent_by(
            world, "POST", f"{UPLOADS}?digest={digest_of(BODY)}", length, body=BODY
        ),
        "push": sent_by(world, "PUT", "/v2/app/web/manifests/new", *kind, body=whole),
        "push elsewhere": sent_by(world, "PUT", "/v2/other/web/manifests/new", *kind, body=whole),
    }


UNKNOWN: Final = request("GET /healthz HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c")
"""A request for a protocol that the parser does not know: whether it ends the connection depends
on what shares its packet."""


Script = list[bytes]
Manner = Callable[[Client, Script, random.Random], Awaitable[bytes]]
Connect = Callable[[], AbstractAsyncContextManager[Client]]


async def in_lockstep(client: Client, script: Script, source: random.Random) -> bytes:
    """Each request after the answer to the one before it."""
    answers = b""
    for sent in (*script, UNKNOWN, LAST):
        await client.send(sent)
        answers += await client.answer(head=sent.startswith(b"HEAD "))
    return answers + await client.rest()


async def one_by_one(client: Client, script: Script, source: random.Random) -> bytes:
    """Each request in a packet, without waiting for answers."""
    await client.send(*script, LAST)
    return await client.rest()


async def in_a_row(client: Client, script: Script, source: random.Random) -> bytes:
    """All in one packet."""
    await client.send(b"".join((*script, LAST)))
    return await client.rest()


async def in_pieces(client: Client, script: Script, source: random.Random) -> bytes:
    """Cut anywhere."""
    sent = b"".join((*script, LAST))
    cuts = sorted(source.sample(range(1, len(sent)), 6))
    await client.send(*(sent[a:b] for a, b in zip((0, *cuts), (*cuts, len(sent)), strict=True)))
    return await client.rest()


async def byte_by_byte(client: Client, script: Script, source: random.Random) -> bytes:
    """Each byte in a packet."""
    sent = b"".join((*script[:2], LAST))
    await client.send(*(sent[at : at + 1] for at in range(len(sent))))
    return await client.rest()


async def ending(client: Client, script: Script, source: random.Random) -> bytes:
    """The client ends its side right behind its last request."""
    await client.send(*script)
    client.end()
    return await client.rest()


async def ending_within(client: Client, script: Script, source: random.Random) -> bytes:
    """The client ends its side within a request; all before it are answered by then."""
    answers = b""
    for sent in script[:-1]:
        await client.send(sent)
        answers += await client.answer(head=sent.startswith(b"HEAD "))
    last = script[-1]
    await client.send(last[: source.randrange(1, len(last))])
    client.end()
    return answers + await client.rest()


WHOLE: Final = (in_lockstep, one_by_one, in_a_row, in_pieces, byte_by_byte)
HALF: Final = (ending, ending_within)
CASES: Final = [
    *((transport, manner) for transport in TRANSPORTS for manner in WHOLE),
    # asyncio has no half-closed connections under TLS.
    *((transport, manner) for transport in ("tcp", "unix") for manner in HALF),
]


async def servers(world: World, transport: str, path: Path) -> list[Connect]:
    """Start a server without the fast path and one with it; return a way to connect to each."""
    ways: list[Connect] = []
    for fast in (False, True):
        if transport == "unix":
            socket_path = path / f"{fast}.sock"
            await world.another(fast=fast, path=socket_path)
            ways.append(partial(connected_by_path, socket_path))
        elif transport == "tls":
            port = await world.another(fast=fast, tls=tls.serving(path))
            ways.append(partial(connected_by_tls, port, tls.trusting(0)))
        else:
            ways.append(partial(connected, world.ports[fast]))
    return ways


async def told(connect: Connect, script: Script, manner: Manner, seed: int) -> bytes:
    """Return all that a server answers to the script, without what is new each time."""
    async with connect() as client:
        # With the first request under TLS, the handshake's last bytes may wait to be sent.
        await client.send(HEALTH)
        await client.answer()
        await client.send(script[0])
        place = _PLACE.search(await client.answer())
        assert place is not None
        rest = [sent.replace(b"SESSION", place[1]) for sent in script[1:]]
        return _ID.sub(b"ID", masked(await manner(client, rest, random.Random(seed))))


@pytest.mark.slow
@pytest.mark.parametrize(("transport", "manner"), CASES)
def test_the_same_bytes(stage: Stage, tmp_path: Path, transport: str, manner: Manner) -> None:
    world = stage.world
    requests = kinds(world)

    async def story() -> None:
        plain, fast = await servers(world, transport, tmp_path)
        for seed in range(SCRIPTS[manner is byte_by_byte]):
            source = random.Random(seed)
            names = source.choices(sorted(requests), k=source.randrange(2, 9))
            script = [requests[name] for name in ("begin", *names)]
            expected = await told(plain, script, manner, seed)
            assert await told(fast, script, manner, seed) == expected, names
            assert expected or manner is ending_within

    stage.run(story())
    # Each script begins a session in one packet.
    assert world.lane.written >= SCRIPTS[manner is byte_by_byte]
