"""Requests that ask for another protocol, which is not switched to: what comes behind one passes
the same checks as any request, or the connection ends first (RFC 9110 sections 7.8 and 9.3.6)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from support import tls as tls_support
from support.edge import OWNER, Edge
from support.wire import connected, request

from holdfast.api.http import connection

HEALTH: Final = "GET /healthz HTTP/1.1"
BODY: Final = "Content-Length: 5"
LAST: Final = request(HEALTH, "Connection: close")
END: Final = b"\r\n\r\n"
CHUNKED: Final = "Transfer-Encoding: chunked"


def asking(protocol: str, line: str = "GET /v2/ HTTP/1.1", *headers: str) -> bytes:
    return request(line, "Connection: Upgrade", f"Upgrade: {protocol}", *headers)


TOLD: Final = {
    "websocket": (asking("websocket"), 401),
    "in capitals": (asking("WebSocket"), 401),
    "websocket, with a length": (asking("websocket", HEALTH, BODY) + b"hello", 200),
    "websocket, chunked": (asking("websocket", HEALTH, CHUNKED) + b"2\r\nab\r\n0\r\n\r\n", 200),
    "connect": (request("CONNECT a:443 HTTP/1.1"), 404),
    "websocket, allowed": (asking("websocket", "GET /v2/ HTTP/1.1", OWNER), 200),
}
"""Whatever follows these in a packet, the parser says where it begins."""

UNTOLD: Final = {
    "h2c": (asking("h2c"), 401),
    "h2c, as clients ask": (
        request(HEALTH, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: A"),
        200,
    ),
    "tcp": (asking("tcp"), 401),
    "several": (asking("h2c, websocket"), 401),
    "no ascii": (asking("\xe9"), 401),
    "h2c, with a length": (asking("h2c", HEALTH, BODY) + b"hello", 200),
    "h2c, chunked": (asking("h2c", HEALTH, CHUNKED) + b"2\r\nab\r\n0\r\n\r\n", 200),
}
"""What follows these it drops."""

BEHIND: Final = {
    "good": (request(HEALTH), 200),
    "fragment": (request("GET /healthz#x HTTP/1.1"), 400),
    "coding": (request(HEALTH, "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 501),
    "noise": (b"\x00\xff\x01 what is this\r\n\r\n", 400),
}


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Requests that were open on a connection after each answer."""
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.01)
    found: list[int] = []
    answered = connection.Connection.on_answered

    def spy(one: Any, *, idle: bool) -> None:
        answered(one, idle=idle)
        found.append(one._open_requests)

    monkeypatch.setattr(connection.Connection, "on_answered", spy)
    yield found
    assert not [count for count in found if count < 0]


async def statuses(port: int, *pieces: bytes) -> list[int]:
    """Of all answers until the server ends the connection, as LAST and errors have it do."""
    async with connected(port) as client:
        with suppress(ConnectionError):  # where it has ended already
            await client.send(*pieces)
        return told(await client.rest())


def told(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+) ", answers)]


@pytest.mark.slow
@pytest.mark.parametrize("first", [*TOLD, *UNTOLD])
@pytest.mark.parametrize("behind", BEHIND)
def test_what_comes_behind(edge: Edge, first: str, behind: str) -> None:
    """In one packet, in two, and cut in the middle of either."""
    sent, status = (TOLD | UNTOLD)[first]
    more, following = BEHIND[behind]
    whole, at = sent + more, len(sent)
    last = LAST if following == 200 else b""
    ways = {
        "one": [whole + last],
        "two": [sent, more + last],
        "head": [sent[: sent.find(END) + 4], sent[sent.find(END) + 4 :] + more + last],
        "late": [whole[: at - 3], whole[at - 3 : at + 9], whole[at + 9 :] + last],
    }

    async def story() -> None:
        async with edge.server() as port:
            for way, pieces in ways.items():
                found = await statuses(port, *pieces)
                every = [status, following] + [200] * bool(last)
                if (first in TOLD and way == "one") or (way == "two" and sent.find(END) == at - 4):
                    assert found == every, (way, found)
                else:
                    # Answered, or closed.
                    assert found in (every, [status]), (way, found)

    edge.run(story())


def test_many_in_a_row(edge: Edge) -> None:
    answers = [200, 200, 404] * 60
    row = [asking("websocket", HEALTH), request(HEALTH), request("CONNECT a:1 HTTP/1.1")] * 60

    async def story() -> None:
        async with edge.server() as port:
            assert await statuses(port, b"".join([*row, LAST])) == [*answers, 200]
            row[100:100] = [request("GET /healthz#x HTTP/1.1")]
            assert await statuses(port, b"".join(row)) == [*answers[:100], 400]

    edge.run(story())


def test_a_connection_stays_that_asked_for_an_unknown_protocol(edge: Edge) -> None:
    """Java's client does with each connection."""

    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            for _ in range(3):
                for sent in (asking("h2c", HEALTH), request(HEALTH)):
                    await client.send(sent)
                    answer = await client.answer()
                    assert answer.startswith(b"HTTP/1.1 200 "), answer
                    assert b"connection: close" not in answer.lower()

    edge.run(story())


def test_under_tls(edge: Edge, tmp_path: Path) -> None:
    async def story() -> None:
        tls = tls_support.serving(tmp_path)
        async with edge.server(tls=tls) as port:
            for first, (sent, status) in (TOLD | UNTOLD).items():
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=tls_support.trusting(0), server_hostname="localhost"
                )
                async with asyncio.timeout(20):
                    writer.write(sent + request("GET /healthz#x HTTP/1.1"))
                    found = told(await reader.read())
                assert found in ([status, 400], [status]), first
                assert first not in TOLD or len(found) == 2
                writer.close()

    edge.run(story())
