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
from support.bench import serving

from holdfast.bench.load import drive
from holdfast.bench.load.client_pool import ClientPool
from holdfast.bench.load.drive import Outcome, open_loop
from holdfast.bench.load.endpoint import ANONYMOUS, Endpoint, Login, Unreachable, reach
from holdfast.bench.load.jobs import Ask, Requests
from holdfast.bench.load.latencies import Latencies
from holdfast.bench.load.registry import Moved, Registry, reason
from holdfast.bench.load.small_requests import RequestTemplate, SmallRequests
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


@pytest.mark.slow
def test_a_volley_counts_and_checks() -> None:
    shot = RequestTemplate(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", 200, False)
    head = RequestTemplate(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n", 200, True)
    with serving(lambda method, target: (200, {}, b"x" * 3000)) as port:
        volley = SmallRequests(Address("127.0.0.1", port), [shot, head], 4)
        volley.run(0.2)
    assert volley.operations >= 4
    assert volley.latencies.count == volley.operations
    assert volley.size % 3000 == 0
    assert not volley.wrong
    with serving(lambda method, target: (500, {}, b"")) as port:
        volley = SmallRequests(Address("127.0.0.1", port), [shot], 2)
        volley.run(5)
    assert volley.wrong


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


@pytest.mark.slow
def test_client_processes_report_a_wrong_answer() -> None:
    body = b"manifest"
    right = f"sha256:{hashlib.sha256(body).hexdigest()}"
    with serving(lambda method, target: (200, {}, body)) as port, ClientPool(2) as crew:
        where = Endpoint("127.0.0.1", port, False, "a/b", "")
        asks = (Ask("GET", "/v2/a/b/manifests/x", 200, digest=right),)
        assert not crew.prepare(where, Requests(asks), seed="s", clients=4, seconds=0.2)
        result = crew.run()
        assert result.operations == result.requests >= 4
        assert not result.wrong
        assert not crew.check()
        for bad in (
            Ask("GET", "/v2/a/b/manifests/x", 404),
            Ask("GET", "/v2/a/b/manifests/x", 200, digest="sha256:00"),
        ):
            wrong = crew.prepare(where, Requests((bad,)), seed="s", clients=1, seconds=0.1)
            assert wrong
            crew.restart()


@pytest.mark.slow
def test_targets_that_cannot_be_measured_say_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = free.getsockname()[1]
    challenges = {
        "needs a login": (401, {"WWW-Authenticate": "Basic realm=x"}, b""),
        "no registry": (404, {}, b""),
        "names no token service": (401, {"WWW-Authenticate": "Bearer x"}, b""),
    }
    for text, answer in challenges.items():
        with (
            serving(lambda method, target, answer=answer: answer) as port,  # type: ignore[misc]
            pytest.raises(Unreachable, match=text) as error,
        ):
            reach(f"http://127.0.0.1:{port}", "a/b", ANONYMOUS)
        assert "\n" not in str(error.value)
    with pytest.raises(Unreachable, match="does not answer"):
        reach(f"http://127.0.0.1:{closed}", "a/b", ANONYMOUS)
    for url in ("ftp://x", "http://", "http://x:port"):
        with pytest.raises(Unreachable, match="not a URL"):
            reach(url, "a/b", ANONYMOUS)


@pytest.mark.slow
def test_a_login_is_turned_into_a_header() -> None:
    login = Login("user", "secret")

    def answer(method: str, target: str) -> tuple[int, dict[str, str], bytes]:
        if target == "/v2/":
            realm = f'Bearer realm="http://127.0.0.1:{port}/token",service="s"'
            return 401, {"WWW-Authenticate": realm}, b""
        assert target == "/token?service=s&scope=repository:a/b:pull,push"
        return 200, {}, b'{"token": "abc"}'

    with serving(answer) as port:
        found = reach(f"http://127.0.0.1:{port}", "a/b", login)
    assert found.authorization == "Bearer abc"
    assert found.token_target.startswith("/token?")
    assert login.basic() == "Basic dXNlcjpzZWNyZXQ="


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"errors": [{"code": "DENIED", "message": "not\\n you"}]}', "DENIED: not you"),
        (b'{"errors": []}', '{"errors": []}'),
        (b'{"errors": [1]}', '{"errors": [1]}'),
        (b"[]", "[]"),
        (b"<html>\nno", "<html> no"),
        (b"\xff" * 500, "\ufffd" * 200),
        (b"", ""),
    ],
)
def test_a_refusal_is_told_in_a_line(body: bytes, says: str) -> None:
    assert reason(body) == says
