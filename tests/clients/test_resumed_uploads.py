"""Uploads that go on after a broken connection or a dead process, by clients of bare sockets."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from support.api import Reply, basic, digest_of
from support.clients import Registry, problems, serving
from support.crash import kill_all
from support.images import noise
from support.server import WAIT_SECONDS

BLOB = noise("resumed", 3_000_000)
DIGEST = digest_of(BLOB)
ACKNOWLEDGED = 1_000_000
"""Bytes that a first PATCH brought and that were answered with 202."""
SENT = 2_000_000
"""Where the second PATCH breaks off."""


def begin(registry: Registry) -> str:
    """Open an upload and send the acknowledged part; its Location."""
    answer = registry.v2("POST", "team/app/blobs/uploads/")
    assert answer.status == 202
    location = answer.headers["Location"]
    answer = patch(registry, location, 0, ACKNOWLEDGED)
    assert answer.status == 202, answer
    assert answer.headers["Range"] == f"0-{ACKNOWLEDGED - 1}"
    return answer.headers["Location"]


def call(registry: Registry, method: str, location: str, body: bytes = b"", **more: str) -> Reply:
    """A request to a Location."""
    return registry.v2(method, location.partition("/v2/")[2], body, more)


def patch(registry: Registry, location: str, start: int, end: int) -> Reply:
    """Send a part of the blob."""
    span = {"Content-Range": f"{start}-{end - 1}", "Content-Type": "application/octet-stream"}
    return call(registry, "PATCH", location, BLOB[start:end], **span)


def start_to_send(
    registry: Registry, location: str, *, chunked: bool, method: str = "PATCH"
) -> socket.socket:
    """A PATCH, or the last PUT, that has sent bytes up to SENT of more to come."""
    host, port = registry.host.split(":")
    connection = socket.create_connection((host, int(port)), WAIT_SECONDS)
    path = "/v2/" + location.partition("/v2/")[2]
    query = f"?digest={DIGEST}" if method == "PUT" else ""
    lines = [
        f"{method} {path}{query} HTTP/1.1",
        f"Host: {registry.host}",
        f"Authorization: {basic(registry.secret)}",
        "Expect: 100-continue",
    ]
    part = BLOB[ACKNOWLEDGED:SENT]
    if chunked:
        # One chunk is whole, of the next one there is only half.
        half = len(part) // 2
        lines.append("Transfer-Encoding: chunked")
        part = (
            f"{half:x}\r\n".encode() + part[:half] + f"\r\n{len(part):x}\r\n".encode() + part[half:]
        )
    else:
        lines += [
            f"Content-Range: {ACKNOWLEDGED}-{len(BLOB) - 1}",
            f"Content-Length: {len(BLOB) - ACKNOWLEDGED}",
        ]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    # Only now it is a worker's, and not one of those that wait for any worker.
    assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(part)
    return connection


def kept(registry: Registry, location: str) -> int:
    """How many bytes the server says it has."""
    answer = call(registry, "GET", location)
    assert answer.status == 204, answer
    first, _, last = answer.headers["Range"].partition("-")
    assert first == "0"
    return int(last) + 1


def resume(registry: Registry, location: str) -> None:
    """Send the rest, and find the blob whole.

    As a client must that does not know whether the server has noticed the break yet.
    """
    offset = kept(registry, location)
    while True:
        assert ACKNOWLEDGED <= offset <= SENT
        answer = patch(registry, location, offset, len(BLOB))
        if answer.status == 202:
            break
        offset = kept(registry, answer.headers.get("Location", location))
        if answer.status == 429:
            time.sleep(int(answer.headers["Retry-After"]))
        else:
            assert answer.status == 416, answer
            assert answer.headers["Range"] == f"0-{offset - 1}"
    assert answer.headers["Range"] == f"0-{len(BLOB) - 1}"
    finish(registry, answer.headers["Location"])


def finish(registry: Registry, location: str) -> None:
    answer = call(registry, "PUT", f"{location}?digest={DIGEST}")
    assert answer.status == 201, answer
    assert registry.v2("GET", f"team/app/blobs/{DIGEST}").body == BLOB
    assert kept_nothing(registry, location)


def kept_nothing(registry: Registry, location: str) -> bool:
    return call(registry, "GET", location).status == 404


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_broken_connection(registry: Registry, chunked: bool) -> None:
    registry.namespace("team")
    location = begin(registry)
    with start_to_send(registry, location, chunked=chunked):
        pass
    resume(registry, location)
    assert registry.files() == [len(BLOB)]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_killed_worker(tmp_path: Path, chunked: bool) -> None:
    with serving(tmp_path / "data", workers=1) as registry:
        registry.namespace("team")
        location = begin(registry)
        with start_to_send(registry, location, chunked=chunked) as connection:
            [worker] = registry.server.workers()
            os.kill(worker, signal.SIGKILL)
            assert ended(connection)
        resume(registry, location)
        assert registry.server.stop() == 0
        assert "worker 0 ended: SIGKILL; restarting it" in registry.server.errors()
    assert problems(tmp_path / "data") == []


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_worker_that_was_killed_in_the_last_request(tmp_path: Path, chunked: bool) -> None:
    """It could not take back what that one brought; sent again, it comes whole."""
    with serving(tmp_path / "data", workers=2) as registry:
        registry.namespace("team")
        location = begin(registry)
        with start_to_send(registry, location, chunked=chunked, method="PUT") as connection:
            deadline = time.monotonic() + WAIT_SECONDS
            while max(registry.files(), default=0) <= ACKNOWLEDGED:
                assert time.monotonic() < deadline
            for worker in registry.server.workers():
                os.kill(worker, signal.SIGKILL)
            assert ended(connection)
        assert kept(registry, location) == ACKNOWLEDGED
        rest = BLOB[ACKNOWLEDGED:]
        for _ in range(2):
            answer = call(registry, "PUT", f"{location}?digest={DIGEST}", rest)
            assert answer.status == 201, answer
        assert registry.v2("GET", f"team/app/blobs/{DIGEST}").body == BLOB
        assert registry.server.stop() == 0
    assert problems(tmp_path / "data") == []


def test_a_killed_server(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as registry:
        registry.namespace("team")
        location = begin(registry)
        with start_to_send(registry, location, chunked=True) as connection:
            kill_all(registry.server)
            assert ended(connection)
    assert problems(data) == []
    with serving(data) as registry:
        resume(registry, location)
        assert registry.described("team")["size"] == 0


def test_a_server_that_was_stopped_between_two_requests(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as registry:
        registry.namespace("team")
        location = begin(registry)
    with serving(data) as registry:
        assert kept(registry, location) == ACKNOWLEDGED
        resume(registry, location)


def test_a_wrong_offset_keeps_the_upload(registry: Registry) -> None:
    registry.namespace("team")
    location = begin(registry)
    again = patch(registry, location, 0, ACKNOWLEDGED)
    assert again.status == 416
    assert again.headers["Range"] == f"0-{ACKNOWLEDGED - 1}"
    resume(registry, again.headers["Location"])


def ended(connection: socket.socket) -> bool:
    """Whether the other side closed without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
