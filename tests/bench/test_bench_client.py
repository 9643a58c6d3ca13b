"""The client: what it takes, what it calls wrong, and what it measures."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from holdfast.bench.load import drive
from holdfast.bench.load.drive import Outcome, open_loop
from holdfast.bench.load.latencies import Latencies
from holdfast.bench.load.registry import Moved, Registry
from holdfast.bench.load.wire import Address, Client, WireError


@contextmanager
def saying(*parts: bytes) -> Iterator[Address]:
    """A server that answers its first connection's first request with these packets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                for part in parts:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Address("127.0.0.1", server.getsockname()[1])
        finally:
            thread.join()


async def test_lengths_chunks_and_connections_that_end() -> None:
    head = b"HTTP/1.1 200 OK\r\n"
    for parts in (
        (head + b"Content-Length: 5\r\n\r\nhello",),
        (head[:7], head[7:] + b"content-length: 5\r\n", b"\r\nhe", b"llo"),
        (head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=1\r\nl", b"lo\r\n0\r\n\r\n"),
        (head + b"\r\nhel", b"lo"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"Content-Length: 5\r\n\r\nhello",),
    ):
        with saying(*parts) as address:
            client = Client(address)
            answer = await client.request("GET", "/", keep=True, digest=True)
            client.close()
        assert (answer.status, answer.body, answer.size) == (200, b"hello", 5)
        assert answer.digest == f"sha256:{hashlib.sha256(b'hello').hexdigest()}"


@pytest.mark.parametrize(
    "text",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nlong",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n",
        b"",
    ],
)
async def test_a_broken_answer_is_an_error(text: bytes) -> None:
    with saying(text) as address:
        client = Client(address)
        with pytest.raises(WireError):
            await client.request("GET", "/")
        client.close()


async def test_in_an_open_loop_the_wait_for_a_slow_server_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One connection, ten operations due at once, each of 20 ms: the last one waited for 200."""
    monkeypatch.setattr(drive, "CONNECTIONS_MAX", 1)
    registry = Registry(Address("127.0.0.1", 1), "", "a/b")

    async def slow(_: Registry) -> Moved:
        await asyncio.sleep(0.02)
        return Moved(sent=1)

    latencies, outcome, wrong = Latencies(), Outcome(0, 0), list[Exception]()
    began = time.monotonic()
    plan = [(0.0, slow)] * 10
    await open_loop(plan, lambda: registry, latencies, outcome, wrong.append)
    spent = time.monotonic() - began
    assert (outcome.operations, outcome.sent, outcome.received, wrong) == (10, 10, 0, [])
    slowest, quickest = latencies.percentile(100), latencies.percentile(1)
    assert slowest is not None
    assert quickest is not None
    assert 0.2 * 0.98 <= slowest <= spent * 1.02
    assert quickest < slowest / 2
