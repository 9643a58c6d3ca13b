"""A server that may open few files: idle clients do not keep the others from being served."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from support.api import Reply, basic, digest_of
from support.operating import (
    SECRET,
    ask,
    call,
    connect,
    eventually,
    make_namespace,
    metrics_address,
    operated,
    push,
)
from support.server import WAIT_SECONDS, ServerProcess

pytestmark = pytest.mark.slow

FILES = 256
LAYER = os.urandom(2_000_000)
PLENTY = "--max-connections=1000"


@contextmanager
def confined(data: Path) -> Iterator[ServerProcess]:
    """A server with a public image, whose processes may have FILES files."""
    script = f'ulimit -n {FILES} && exec "$@"'
    with operated(
        data, PLENTY, "--metrics=127.0.0.1:0", prefix=("sh", "-c", script, "sh")
    ) as server:
        assert make_namespace(server, "team", is_public=True).status == 200
        push(server, "team/app", LAYER)
        yield server


def opened(server: ServerProcess, stack: ExitStack) -> socket.socket:
    host, port = server.address.split(":")
    sock = socket.create_connection((host, int(port)), timeout=WAIT_SECONDS)
    return stack.enter_context(sock)


def asked(sock: socket.socket, path: str) -> bytes:
    """The beginning of an answer."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return sock.recv(1000)


def test_a_full_house_of_idle_clients(tmp_path: Path) -> None:
    with confined(tmp_path / "data") as server, ExitStack() as stack, ExitStack() as stay:
        held = stay.enter_context(closing(connect(server.address)))
        assert ask(held, "GET", "/readyz").status == 200
        idle = []
        while True:
            sock = opened(server, stack)
            answer = asked(sock, "/healthz")
            if not answer.startswith(b"HTTP/1.1 200 "):
                break
            idle.append(sock)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"UNAVAILABLE"' in answer
        assert len(idle) >= FILES // 2 - 10
        # Whoever is connected is served: files are left.
        assert ask(held, "GET", "/readyz").status == 200
        assert ask(held, "GET", f"/v2/team/app/blobs/{digest_of(LAYER)}").body == LAYER
        assert another_blob(held).status == 201
        body = call(metrics_address(server), "GET", "/metrics").body.decode()
        assert '\nholdfast_refused_connections_total{reason="full"} 1\n' in body
        for sock in idle:
            sock.close()
        eventually(lambda: call(server, "GET", "/readyz").status == 200)
        server.stop()
        said = server.errors().splitlines()
    reason = "half of its open file limit"
    assert said == [f"each worker accepts {FILES // 2} connections, not 1000: {reason}"]


def another_blob(held: HTTPConnection) -> Reply:
    content = os.urandom(300_000)
    path = f"/v2/team/app/blobs/uploads/?digest={digest_of(content)}"
    return ask(held, "POST", path, content, Authorization=basic(SECRET))


def test_a_full_house_of_pulls(tmp_path: Path) -> None:
    """Each has three descriptors. What finds none left is told so, and so is whoever asks whether
    the server is ready; all is well when they are gone."""
    with confined(tmp_path / "data") as server, ExitStack() as stack, ExitStack() as stay:
        held = stay.enter_context(closing(connect(server.address)))
        assert ask(held, "GET", "/readyz").status == 200
        answers = []
        for _ in range(FILES // 2 - 8):
            sock = opened(server, stack)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            answers.append(asked(sock, f"/v2/team/app/blobs/{digest_of(LAYER)}")[:13])
        assert set(answers) <= {b"HTTP/1.1 200 ", b"HTTP/1.1 503 "}
        ready = ask(held, "GET", "/readyz").status
        assert ready == (503 if b"HTTP/1.1 503 " in answers else 200)
        assert ask(held, "GET", "/healthz").status == 200
        stack.close()
        eventually(lambda: ask(held, "GET", "/readyz").status == 200)
        assert ask(held, "GET", f"/v2/team/app/blobs/{digest_of(LAYER)}").body == LAYER
        assert another_blob(held).status == 201
