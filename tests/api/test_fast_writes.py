"""Pushes on the fast lane: answered as on the plain path, whatever comes in which pieces."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.api import CONFIG_TYPE, MANIFEST_TYPE, digest_of
from support.distribution import descriptor
from support.fast_path import Stage, World
from support.wire import LAST, Client, connected, masked

from holdfast.api.fast import connection

NAME: Final = "app/web"
_ID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LOCATION: Final = re.compile(rb"\r\nLocation: (/v2/\S+)\r\n")
CONFIG: Final = b"{}"
LAYER: Final = b"a small layer"
LARGE: Final = bytes(range(256)) * 200
"""More than lies in the ledger, and less than what is received past the parser."""


def push(
    world: World, line: str, body: bytes = b"", *headers: str, chunks: Sequence[int] | None = None
) -> bytes:
    """A request of somebody who may push; ``chunks`` are the places where the body is cut."""
    lines = [line + " HTTP/1.1", "Host: localhost", world.bearer("pusher"), *headers]
    if chunks is None:
        lines.append(f"Content-Length: {len(body)}")
    else:
        lines.append("Transfer-Encoding: chunked")
        ends = [*chunks, len(body)]
        parts = [body[a:b] for a, b in zip([0, *chunks], ends, strict=True)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
        body += b"0\r\n\r\n"
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


def shown(answer: bytes) -> bytes:
    """An answer without what is new each time."""
    return _ID.sub(b"ID", masked(answer))


async def begun(world: World, client: Client) -> str:
    """Where a new session is."""
    await client.send(push(world, f"POST /v2/{NAME}/blobs/uploads/"))
    answer = await client.answer()
    found = _LOCATION.search(answer)
    assert found is not None, answer
    return found[1].decode()


async def both(world: World, pieces: Sequence[bytes], count: int = 1) -> list[bytes]:
    """Send to both, with a session of its own for ``SESSION``; the same answers of both."""
    found = []
    for port in world.ports:
        async with connected(port) as client:
            where = await begun(world, client)
            answers = []
            try:
                await client.send(*(piece.replace(b"SESSION", where.encode()) for piece in pieces))
                answers = [shown(await client.answer()) for _ in range(count)]
                await client.send(LAST)
            except ConnectionError:
                pass  # the server ended the connection, and said so before
            answers.append(shown(await client.rest()))
        found.append(answers)
    assert found[1] == found[0]
    return found[0]


def manifest(*layers: bytes) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(digest_of(CONFIG), len(CONFIG), CONFIG_TYPE),
        "layers": [descriptor(digest_of(layer), len(layer)) for layer in layers],
    }
    return msgspec.json.encode(document)


def test_a_whole_push_is_on_the_lane(stage: Stage) -> None:
    world = stage.world

    async def image(client: Client) -> list[bytes]:
        answers = []

        async def ask(sent: bytes) -> bytes:
            await client.send(sent)
            answer = await client.answer()
            answers.append(shown(answer))
            return answer

        for blob in (CONFIG, LAYER, LARGE):
            where = await begun(world, client)
            await ask(push(world, f"PATCH {where}", blob, chunks=[]))
            digest = digest_of(blob).replace(":", "%3A")
            assert (await ask(push(world, f"PUT {where}?digest={digest}"))).startswith(
                b"HTTP/1.1 201 "
            )
        where = await begun(world, client)
        await ask(push(world, f"PUT {where}?digest={digest_of(LAYER)}", LAYER))
        await ask(push(world, f"POST /v2/{NAME}/blobs/uploads/?digest={digest_of(LAYER)}", LAYER))
        mount = f"mount={digest_of(LAYER)}&from={NAME}"
        await ask(push(world, f"POST /v2/app/else/blobs/uploads/?{mount}"))
        body, kind = manifest(LAYER, LARGE), f"Content-Type: {MANIFEST_TYPE}"
        assert (await ask(push(world, f"PUT /v2/{NAME}/manifests/v9", body, kind))).startswith(
            b"HTTP/1.1 201 "
        )
        return answers

    async def story() -> None:
        async with AsyncExitStack() as stack:
            plain, fast = [await image(client) for client in await world.pair(stack)]
        assert fast == plain

    stage.run(story())
    # The mount names a repository that the token does not cover.
    assert world.lane.written == 4 + 6 + 1 + 1 + 1


LINES: Final = (
    "POST /v2/app/web/blobs/uploads/",
    "POST /v2/app/web/blobs/uploads",
    "POST /v2/app/web/blobs/uploads/?digest=DIGEST",
    "POST /v2/app/web/blobs/uploads/?mount=DIGEST&from=open/web",
    "POST /v2/app/web/blobs/uploads/?digest-algorithm=md5",
    "POST /v2/other/web/blobs/uploads/",
    "POST /v2/none/web/blobs/uploads/",
    "PATCH SESSION",
    "PATCH SESSION",
    "PATCH SESSION/",
    "PATCH /v2/app/web/blobs/uploads/nonsense",
    "PATCH /v2/app/web/blobs/uploads/00000000-0000-4000-8000-000000000000",
    "PUT SESSION?digest=DIGEST",
    "PUT SESSION?digest=DIGEST",
    "PUT SESSION?digest=sha256:abc",
    "PUT SESSION",
    "PUT SESSION?digest=OTHER",
    "PUT /v2/app/web/manifests/v7",
    "PUT /v2/app/web/manifests/DIGEST",
    "PUT /v2/app/web/manifests/-bad",
    "PUT /v2/app/web/manifests/v7?tag=v8",
    "DELETE SESSION",
    "PATCH /v2/app/web/manifests/v7",
    "PUT /v2/app//web/manifests/v7",
    "PUT http://nl.example:5000/v2/app/web/manifests/v7",
    "POST http://localhost/v2/app/web/blobs/uploads/",
)
HEADERS: Final = (
    "Content-Type: application/octet-stream",
    f"Content-Type: {MANIFEST_TYPE}",
    "User-Agent: docker/27.0 (linux)",
    "Accept-Encoding: gzip",
    "Content-Range: 0-3",
    "Content-Encoding: gzip",
    "If-Match: *",
    "If-None-Match: *",
    "Expect: 100-continue",
    "Connection: close",
    "Content-Length: 3",
    "Transfer-Encoding: chunked",
    "X-Space:  \t value \t",
    " folded",
)
BODIES: Final = (b"", LAYER, CONFIG, manifest(), manifest(LAYER), b"{", LARGE, b"x" * 70_000)


@st.composite
def wild(draw: st.DrawFn, world: World) -> list[bytes]:
    """One push of any kind, or two good ones, cut into pieces.

    (What the parser does with a good request that is followed by a bad one depends on the cuts.)
    """
    requests, count = [], draw(st.integers(1, 2))
    for _ in range(count):
        plain = count > 1 or draw(st.booleans())
        body = draw(st.sampled_from(BODIES))
        line = draw(st.sampled_from(LINES)).replace("DIGEST", digest_of(body))
        some = st.sampled_from(HEADERS[:4] if plain else HEADERS)
        headers = draw(st.lists(some, max_size=2, unique_by=lambda header: header.split(":")[0]))
        cuts = draw(st.none() | st.lists(st.integers(0, len(body)), max_size=2).map(sorted))
        line = line.replace("OTHER", digest_of(b"?"))
        requests.append(push(world, line, body, *headers, chunks=cuts))
    if draw(st.booleans()):
        return requests
    sent = b"".join(requests)
    places = st.lists(st.integers(1, len(sent) - 1), max_size=2)
    ends = sorted(draw(places))
    return [sent[a:b] for a, b in zip([0, *ends], [*ends, len(sent)], strict=True)]


@pytest.mark.slow
def test_whatever_is_pushed_is_answered_alike(stage: Stage) -> None:
    world = stage.world

    @settings(max_examples=70, deadline=None, database=None)
    @given(wild(world))
    def check(pieces: list[bytes]) -> None:
        stage.run(both(world, pieces, 0))

    stage.run(world.blob(NAME, CONFIG))
    check()
    assert world.lane.written > 70, "it must not decline everything but the beginnings"


def test_a_chunk_that_is_none(stage: Stage) -> None:
    world = stage.world
    sent = push(world, "PATCH SESSION", LAYER, chunks=[4]).replace(b"\r\n0\r\n", b"\r\n0x\r\n")

    async def story() -> None:
        end = sent.index(b"\r\n\r\n") + 4
        answers = await both(world, [sent[:end], sent[end:]])
        assert b" 400 " in answers[0]
        assert answers[1] == b"", "nothing that follows has a meaning"

    stage.run(story())


@pytest.mark.slow
def test_a_push_cut_at_every_byte(stage: Stage) -> None:
    world = stage.world
    head = push(world, "PATCH SESSION", b"12345", chunks=[2])
    whole = push(world, f"PUT SESSION?digest={digest_of(LAYER)}", LAYER)

    async def story() -> None:
        # Around the end of the head and in the body; cuts in heads are the parser's.
        for sent, answer in ((head, b"202"), (whole, b"201")):
            for cut in range(sent.index(b"\r\n\r\n"), len(sent), 5):
                answers = await both(world, [sent[:cut], sent[cut:]])
                assert answers[0].startswith(b"HTTP/1.1 " + answer)

    stage.run(story())


def test_a_request_that_comes_while_a_push_runs_waits(stage: Stage) -> None:
    world = stage.world
    read = world.get(f"/v2/{NAME}/manifests/v1")

    async def story() -> None:
        patch, put = (
            push(world, "PATCH SESSION", LAYER, chunks=[]),
            push(world, f"PUT SESSION?digest={digest_of(LAYER)}"),
        )
        for pieces in (
            [patch, put, read],
            [patch + put + read],
            [patch, put + read[:20], read[20:]],
        ):
            answers = await both(world, pieces, 3)
            assert [answer[9:12] for answer in answers[:3]] == [b"202", b"201", b"200"]

    stage.run(story())


def test_answers_come_in_the_order_of_requests(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the second one could be answered first."""
    world, uploads = stage.world, stage.world.store.uploads
    real, may_end = uploads.begin, asyncio.Event()

    async def late(*args: Any, **options: Any) -> Any:
        await may_end.wait()
        return await real(*args, **options)

    async def story() -> None:
        async with connected(world.ports[1]) as client:
            monkeypatch.setattr(uploads, "begin", late)
            await client.send(push(world, f"POST /v2/{NAME}/blobs/uploads/"))
            for _ in range(3):
                await client.send(world.get(f"/v2/{NAME}/manifests/v1"))
            asyncio.get_running_loop().call_later(0.05, may_end.set)
            answers = [await client.answer() for _ in range(4)]
        assert [answer[9:12] for answer in answers] == [b"202", b"200", b"200", b"200"]
        assert world.lane.written == 1

    stage.run(story())


def test_what_comes_slowly_is_left_to_the_plain_path(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "GATHER_SECONDS", 0.02)
    world = stage.world

    async def story() -> None:
        async with connected(world.ports[1]) as client:
            where = await begun(world, client)
            sent = push(world, f"PATCH {where}", LAYER)
            written = world.lane.written
            await client.send(sent[:-4])
            await asyncio.sleep(0.1)
            await client.send(sent[-4:])
            assert (await client.answer()).startswith(b"HTTP/1.1 202 ")
            assert world.lane.written == written
            await client.send(push(world, f"PUT {where}?digest={digest_of(LAYER)}"))
            assert (await client.answer()).startswith(b"HTTP/1.1 201 ")
            await begun(world, client)
            assert world.lane.written == written + 1, "after an empty line it takes over again"

    stage.run(story())


def test_tokens_end_while_a_push_comes(stage: Stage) -> None:
    """Its head was read when the token counted; it is decided when it is whole."""
    world = stage.world
    sent = push(world, f"POST /v2/{NAME}/blobs/uploads/?digest={digest_of(LAYER)}", LAYER)

    async def story() -> None:
        async with connected(world.ports[1]) as client:
            await begun(world, client)
            written = world.lane.written
            await client.send(sent[:-4])
            await asyncio.sleep(0.05)
            await world.store.keys.renew_signing_key()
            await client.send(sent[-4:])
            assert (await client.answer()).startswith(b"HTTP/1.1 401 ")
            assert world.lane.written == written

    stage.run(story())


@pytest.mark.parametrize("whole", [True, False])
def test_a_client_that_ends_its_side_is_answered(stage: Stage, whole: bool) -> None:
    world = stage.world

    async def story() -> None:
        found = []
        for port in world.ports:
            async with connected(port) as client:
                where = await begun(world, client)
                sent = push(world, f"PATCH {where}", LAYER)
                await client.send(sent if whole else sent[:-3])
                client.end()
                found.append(shown(await client.rest()))
        assert found[1] == found[0]
        assert found[0].startswith(b"HTTP/1.1 202 ") is whole

    stage.run(story())


def test_the_last_answer_of_a_server_says_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    world, uploads = stage.world, stage.world.store.uploads
    real = uploads.begin

    async def late(*args: Any, **options: Any) -> Any:
        world.lane.close()
        return await real(*args, **options)

    async def story() -> None:
        async with connected(world.ports[1]) as client:
            await begun(world, client)
            monkeypatch.setattr(uploads, "begin", late)
            await client.send(push(world, f"POST /v2/{NAME}/blobs/uploads/"))
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 202 ")
            assert b"\r\nConnection: close\r\n" in answer
        assert world.lane.written == 2

    stage.run(story())


@pytest.mark.slow
def test_a_stop_waits_for_the_push_that_runs_and_then_ends_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, uploads = stage.world, stage.world.store.uploads
    running, ended = asyncio.Event(), asyncio.Event()

    async def stuck(*_: Any, **__: Any) -> Any:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def story() -> None:
        async with connected(world.ports[1]) as client:
            monkeypatch.setattr(uploads, "begin", stuck)
            await client.send(push(world, f"POST /v2/{NAME}/blobs/uploads/"))
            await running.wait()
            await world.stop()
            assert ended.is_set()
            assert await client.rest() == b""

    stage.run(story())


def test_a_mistake_of_ours_ends_the_connection(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no answer, nobody waits for one; the loop says what it was."""
    world = stage.world
    said: list[Any] = []

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: said.append(told))
        async with connected(world.ports[1]) as client:
            await begun(world, client)
            monkeypatch.setattr(world.lane, "render", broken)
            await client.send(push(world, f"POST /v2/{NAME}/blobs/uploads/"))
            assert await client.rest() == b""
        gc.collect()

    stage.run(story())
    (told,) = said
    assert isinstance(told["exception"], ZeroDivisionError)


def test_rights_that_end_between_two_requests(stage: Stage) -> None:
    world = stage.world

    async def story() -> None:
        async with connected(world.ports[1]) as client:
            where = await begun(world, client)
            await world.store.namespaces.update(world.own.id, locked=True)
            await client.send(push(world, f"PATCH {where}", LAYER))
            locked = await client.answer()
            await world.store.namespaces.update(world.own.id, locked=False)
            await world.store.keys.revoke(world.pusher.access_key)
            await client.send(push(world, f"PATCH {where}", LAYER))
            refused = await client.answer()
        assert locked.startswith(b"HTTP/1.1 403 ")
        assert refused.startswith(b"HTTP/1.1 401 ")

    stage.run(story())
