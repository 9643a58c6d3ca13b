"""What is hardly HTTP, or too much of it: a short answer in API form, one line in the log, and the
connection closes. With the fast lane and without, in both loops."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from typing import Final

import msgspec
import pytest
from support.api import digest_of
from support.edge import OWNER, Edge, trickle
from support.wire import LAST, connected, request

from holdfast.api.http import aiohttp_handler
from holdfast.api.http.connection_limits import ConnectionLimits


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged of the requests."""
    with caplog.at_level(logging.INFO):
        yield caplog


def quiet(lines: pytest.LogCaptureFixture) -> list[str]:
    """The lines, none of which is an error or has a traceback."""
    found = [line for line in lines.records if line.name.startswith(("holdfast", "aiohttp"))]
    assert all(line.levelno <= logging.INFO and not line.exc_info for line in found), found
    return [line.getMessage() for line in found]


UPLOAD: Final = "POST /v2/app/web/blobs/uploads/ HTTP/1.1"
BROKEN: Final[dict[str, tuple[int, bytes]]] = {
    "noise": (400, b"\x00\xff\x01 what is this\r\n\r\n"),
    "unknown method": (400, request("BREW /v2/ HTTP/1.1")),
    "unknown version": (400, request("GET /v2/ HTTP/3.7")),
    "another protocol": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "no host": (400, b"GET /v2/ HTTP/1.1\r\n\r\n"),
    "two hosts": (400, request("GET /v2/ HTTP/1.1", "Host: a", "Host: b")),
    "bare line feeds": (400, b"GET /v2/ HTTP/1.1\nHost: a\n\n"),
    "bad target": (400, request("GET v2 HTTP/1.1")),
    "null in the target": (400, b"GET /v2/\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "null in a header": (400, b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
    "folded header": (400, request("GET /v2/ HTTP/1.1", "X: a", " b")),
    "blank before the colon": (400, request("GET /v2/ HTTP/1.1", "X : a")),
    "no colon": (400, request("GET /v2/ HTTP/1.1", "X")),
    "both lengths": (
        400,
        request(UPLOAD, OWNER, "Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ),
    "two lengths": (400, request(UPLOAD, OWNER, "Content-Length: 3", "Content-Length: 4")),
    "signed length": (400, request(UPLOAD, OWNER, "Content-Length: +3")),
    "negative length": (400, request(UPLOAD, OWNER, "Content-Length: -3")),
    "huge length": (400, request(UPLOAD, OWNER, "Content-Length: " + "9" * 40)),
    "unknown coding": (400, request(UPLOAD, OWNER, "Transfer-Encoding: chunked, gzip")),
    "hidden coding": (400, request(UPLOAD, OWNER, "Transfer-Encoding: xchunked")),
    "twice chunked": (
        400,
        request(UPLOAD, OWNER, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    ),
    "empty coding": (400, request(UPLOAD, OWNER, "Transfer-Encoding:")),
    "empty coding and a length": (
        400,
        request(UPLOAD, OWNER, "Transfer-Encoding:", "Content-Length: 3") + b"abc",
    ),
    "another coding first": (
        501,
        request(UPLOAD, OWNER, "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    ),
    "chunked of an old version": (
        400,
        request(
            "POST /v2/app/web/blobs/uploads/ HTTP/1.0",
            OWNER,
            "Transfer-Encoding: chunked",
            "Connection: keep-alive",
        )
        + b"0\r\n\r\n",
    ),
    "fragment": (400, request("GET /v2/app/web/manifests/v1#v2 HTTP/1.1")),
    "no host in the target": (400, request("GET http:///v2/ HTTP/1.1")),
    "a port alone in the target": (400, request("GET http://:5000/v2/ HTTP/1.1")),
    "a user in the target": (400, request("GET http://user@localhost/v2/ HTTP/1.1")),
    "a target of another scheme": (400, request("GET ftp://localhost/v2/ HTTP/1.1")),
    "long target": (414, request(f"GET /v2/{'a' * 16_500} HTTP/1.1")),
    "long header": (431, request("GET /v2/ HTTP/1.1", "X: " + "a" * 33_000)),
    "long name": (431, request("GET /v2/ HTTP/1.1", "X" * 33_000 + ": a")),
    "many headers": (400, request("GET /v2/ HTTP/1.1", *(f"X{n}: a" for n in range(200)))),
    "endless headers": (
        431,
        request("GET /v2/ HTTP/1.1", *(f"X{n}: {'a' * 20_000}" for n in range(100))),
    ),
    "blank lines": (431, b"\r\n" * 40_000),
}


@pytest.mark.promise("SECURITY.md", "clients, with a key or without")
@pytest.mark.parametrize("name", BROKEN)
def test_broken_requests(edge: Edge, name: str, lines: pytest.LogCaptureFixture) -> None:
    status, sent = BROKEN[name]

    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            # In pieces, as a network would: what comes after the answer counts for nothing.
            pieces = [sent[n : n + 30_000] for n in range(0, len(sent), 30_000)]
            try:
                await client.send(*pieces)
            except ConnectionError:
                assert len(pieces) > 1
            answer = await client.rest()
            head, _, body = answer.partition(b"\r\n\r\n")
            assert int(head[9:12]) == status
            assert head.count(b"HTTP/1.") == 1
            assert b"Content-Type: application/json" in head
            (error,) = msgspec.json.decode(body)["errors"]
            assert error["code"] == "UNSUPPORTED"
            assert b"X-Request-Id: " in head
            request_id = head.partition(b"X-Request-Id: ")[2][:36].decode()
            (line,) = quiet(lines)
            assert line.startswith(f"{request_id}: malformed request from 127.0.0.1: ")
            assert line.endswith(f"; answered {status}")
            assert len(line) < 200
            assert "\n" not in line

    edge.run(story())


def test_a_tls_client_gets_an_answer_that_it_recognizes(
    edge: Edge, lines: pytest.LogCaptureFixture
) -> None:
    """Clients that try TLS first tell by it that the port is a plain one."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()

    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            await client.send(outgoing.read())
            assert (await client.rest()).startswith(b"HTTP/1.0 400 ")

    edge.run(story())
    assert len(quiet(lines)) == 1


def test_no_secret_gets_into_the_log(edge: Edge, lines: pytest.LogCaptureFixture) -> None:
    secret = "very-secret-thing"
    broken = (
        request("GET /v2/ HTTP/1.1", f"Authorization: {secret * 3000}"),
        request("GET /v2/ HTTP/1.1", f"Authorization: {secret}\0"),
        request("GET /v2/ HTTP/1.1", f"Authorization : {secret}"),
        request(f"GET /v2/?{secret}\0 HTTP/1.1"),
        request(f"GET {secret} HTTP/1.1"),
        request(f"GET {secret}://? HTTP/1.1"),
        request("GET /v2/ HTTP/1.1", f"Content-Length: {secret}"),
        request(f"{secret} / HTTP/1.1"),
    )

    async def story() -> None:
        async with edge.server() as port:
            for sent in broken:
                async with connected(port) as client:
                    try:
                        await client.send(sent)
                    except ConnectionError:
                        assert len(sent) > 30_000
                    answer = await client.rest()
                    assert answer.startswith(b"HTTP/1.0 4")
                    assert secret.encode() not in answer

    edge.run(story())
    written = quiet(lines)
    assert len(written) == len(broken)
    assert not any("secret" in line for line in written)


def test_what_was_asked_before_the_noise_is_answered(
    edge: Edge, lines: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            await client.send(request("GET /healthz HTTP/1.1"))
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
            await client.send(b"noise\r\n\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.0 400 ")

    edge.run(story())
    assert len(quiet(lines)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise",
    [
        b"zz\r\nabc\r\n",
        b"-3\r\nabc\r\n",
        b"3\r\nabcdef\r\n",
        b"3 3\r\nabc\r\n",
        b"f" * 40 + b"\r\n",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_broken_chunks_end_an_upload_at_once(
    edge: Edge, noise: bytes, method: str, lines: pytest.LogCaptureFixture
) -> None:
    """Long before the limit for bodies of which nothing comes."""

    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            path = f"/v2/app/web/blobs/uploads/?digest={digest_of(b'abcabc')}"
            if method == "PATCH":
                await client.send(request(UPLOAD, OWNER, "Content-Length: 0"))
                head = await client.answer()
                path = head.partition(b"\r\nLocation: ")[2].partition(b"\r\n")[0].decode()
            start = request(f"{method} {path} HTTP/1.1", OWNER, "Transfer-Encoding: chunked")
            await client.send(start, b"3\r\nabc\r\n")
            await client.send(noise, b"0\r\n\r\n")
            answer = await client.rest()
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert head.count(b"HTTP/1.") == 1
            assert msgspec.json.decode(body)["errors"][0]["code"] == "BLOB_UPLOAD_INVALID"

    edge.run(story())
    quiet(lines)


def test_trailing_noise_after_the_last_chunk_is_no_part_of_the_upload(
    edge: Edge, lines: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            path = f"/v2/app/web/blobs/uploads/?digest={digest_of(b'abc')}"
            start = request(f"POST {path} HTTP/1.1", OWNER, "Transfer-Encoding: chunked")
            await client.send(start, b"3\r\nabc\r\n0\r\n\r\n")
            assert (await client.answer()).startswith(b"HTTP/1.1 201 ")
            await client.send(b"noise\r\n\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.0 400 ")

    edge.run(story())
    assert len(quiet(lines)) == 1


@pytest.mark.promise("SECURITY.md", "clients, with a key or without")
def test_smuggled_requests_are_not_answered(edge: Edge) -> None:
    """A second request that one reader of the bytes could see, and another could not."""
    inner = request("GET /healthz HTTP/1.1")
    chunked = b"0\r\n\r\n" + inner
    attempts = (
        request(UPLOAD, OWNER, "Transfer-Encoding: chunked", "Content-Length: 5") + chunked,
        request(UPLOAD, OWNER, "Content-Length: 5", "Transfer-Encoding : chunked") + chunked,
        request(UPLOAD, OWNER, "Transfer-Encoding: identity, chunked2") + chunked,
        request(UPLOAD, OWNER, "Content-Length: 0, 5") + inner,
        request(UPLOAD, OWNER, "X: a\n\nGET /healthz HTTP/1.1"),
        request("GET /v2/app/web/manifests/v1 HTTP/1.1", "X: a\rContent-Length: 9") + inner,
        request(UPLOAD, OWNER, 'Transfer-Encoding: "chunked"') + chunked,
        request(UPLOAD, OWNER, "Transfer-Encoding: \x0bchunked") + chunked,
        request(UPLOAD, OWNER, "Transfer-Encoding: chunked;q=1") + chunked,
        request(UPLOAD, OWNER, "Transfer-Encoding:", " chunked") + chunked,
        request(UPLOAD, OWNER, "Content-Length: 3", "Content-Length: 3") + b"abc" + inner,
        request(UPLOAD, OWNER, "Content-Length: 3 0") + b"abc" + inner,
        request(UPLOAD, OWNER, "Content-Length: 0x3") + b"abc" + inner,
    )

    async def story() -> None:
        async with edge.server() as port:
            for attempt in attempts:
                async with connected(port) as client:
                    await client.send(attempt)
                    answer = await client.rest()
                    assert answer.startswith(b"HTTP/1.0 400 ")
                    assert answer.count(b"HTTP/1.") == 1

    edge.run(story())


def test_a_request_in_a_body_of_odd_chunks_is_not_answered(edge: Edge) -> None:
    """What another reader might take for the end of the body ends the connection here."""
    inner = request("GET /healthz HTTP/1.1")
    bodies = (
        b"3\nabc\n0\n\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"0_3\r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    )
    path = f"/v2/app/web/blobs/uploads/?digest={digest_of(b'abc')}"
    head = request(f"POST {path} HTTP/1.1", OWNER, "Transfer-Encoding: chunked")

    async def story() -> None:
        async with edge.server() as port:
            for body in bodies:
                async with connected(port) as client:
                    await client.send(head + body + inner)
                    answer = await client.rest()
                    assert answer[9:12] == b"400", body[:20]
                    assert answer.count(b"HTTP/1.") == 1, body[:20]

    edge.run(story())


@pytest.mark.promise("SECURITY.md", "clients, with a key or without")
def test_a_slow_head_is_given_up(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is that of the whole head, however often a byte of it comes; others are left."""
    monkeypatch.setattr(aiohttp_handler, "HEAD_SECONDS", 0.2)

    async def story() -> None:
        async with edge.server() as port, connected(port) as idle, connected(port) as upload:
            digest = digest_of(b"abc")
            head = request(
                f"POST /v2/app/web/blobs/uploads/?digest={digest} HTTP/1.1",
                OWNER,
                "Content-Length: 3",
            )
            await upload.send(head[:20], head[20:], b"a")
            async with connected(port) as slow:
                await slow.send(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: ")
                with pytest.raises(ConnectionError):
                    await trickle(slow)
            # By now the time of a head has passed for all of them.
            await idle.send(LAST)
            assert (await idle.rest()).startswith(b"HTTP/1.1 401 ")
            await upload.send(b"bc")
            assert (await upload.answer()).startswith(b"HTTP/1.1 201 ")

    edge.run(story())


@pytest.mark.promise("SECURITY.md", "the server")
def test_no_answer_tells_versions(edge: Edge) -> None:
    """Whoever makes it."""

    async def story() -> None:
        async with edge.server(house=ConnectionLimits(2, 0, 2)) as port:
            for sent in (
                request("GET /healthz HTTP/1.1"),
                request("GET /nowhere HTTP/1.1"),
                request("GET /v2/app/web/manifests/v1 HTTP/1.1", OWNER),
                request("GET /registry/v1/regions/fr-par/namespaces HTTP/1.1"),
                b"noise\r\n\r\n",
            ):
                async with connected(port) as client:
                    await client.send(sent)
                    head = (await client.answer()).partition(b"\r\n\r\n")[0]
                    assert head.count(b"\r\nServer: holdfast\r\n") == 1, head
                    assert b"Python" not in head
                    assert b"aiohttp" not in head

    edge.run(story())
