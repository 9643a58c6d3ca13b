"""A plain HTTP client of a server in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.api import MANIFEST_TYPE, Reply, basic, digest_of
from support.engine import manifest
from support.server import WAIT_SECONDS, ServerProcess, running

OWNER = {
    "HOLDFAST_ACCESS_KEY": "SCW0123456789ABCDEFG",
    "HOLDFAST_SECRET_KEY": "11111111-2222-4333-8444-555555555555",
    "HOLDFAST_PROJECT_ID": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
}
SECRET = OWNER["HOLDFAST_SECRET_KEY"]
WRONG = "00000000-0000-4000-8000-000000000000"
NAMESPACES = "/registry/v1/regions/fr-par/namespaces"


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=WAIT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(WAIT_SECONDS)
        self.sock.connect(str(self._path))


def connect(
    address: str | Path, tls: ssl.SSLContext | None = None, *, source: str = ""
) -> http.client.HTTPConnection:
    """A connection; over TCP without TLS from a ``source`` address, if that is given."""
    if isinstance(address, Path):
        return _Unix(address)
    if tls is not None:
        return http.client.HTTPSConnection(address, timeout=WAIT_SECONDS, context=tls)
    start = (source, 0) if source else None
    return http.client.HTTPConnection(address, timeout=WAIT_SECONDS, source_address=start)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    **headers: str,
) -> Reply:
    """One request on an open connection; ``X_Auth_Token=`` is the header X-Auth-Token."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    return Reply(answer.status, dict(answer.headers.items()), answer.read())


def call(
    server: ServerProcess | str | Path,
    method: str,
    path: str,
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> Reply:
    """One request on a connection of its own."""
    address = server.address if isinstance(server, ServerProcess) else server
    connection = connect(address, tls)
    try:
        return ask(connection, method, path, body, **headers)
    finally:
        connection.close()


def raw(server: ServerProcess | Path, data: bytes) -> bytes:
    """All that is answered to bytes on a connection of their own, until the server ends it."""
    if isinstance(server, Path):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        place: Any = str(server)
    else:
        sock = socket.socket()
        host, port = server.address.split(":")
        place = (host, int(port))
    with sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect(place)
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def make_namespace(
    server: ServerProcess | Path, name: str, *, tls: ssl.SSLContext | None = None, **more: object
) -> Reply:
    body = json.dumps({"name": name, **more}).encode()
    return call(server, "POST", NAMESPACES, body, tls, X_Auth_Token=SECRET)


def push(
    server: ServerProcess | Path,
    repository: str,
    layer: bytes,
    tag: str = "v1",
    *,
    tls: ssl.SSLContext | None = None,
) -> str:
    """Push an image of one layer; its digest."""
    config = b"{}"
    for content in (config, layer):
        path = f"/v2/{repository}/blobs/uploads/?digest={digest_of(content)}"
        done = call(server, "POST", path, content, tls, Authorization=basic(SECRET))
        assert done.status == 201, done.body
    body = manifest(config, [layer])
    done = call(
        server,
        "PUT",
        f"/v2/{repository}/manifests/{tag}",
        body,
        tls,
        Authorization=basic(SECRET),
        Content_Type=MANIFEST_TYPE,
    )
    assert done.status == 201, done.body
    return digest_of(body)


def holds(path: Path, text: str) -> bool:
    """Whether a file (the ledger's is sparse, and a terabyte long) has a text in its data."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        at = 0
        while at < end:
            try:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # only a hole is left
                return False
            at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            if text.encode() in os.pread(file.fileno(), at - begin, begin):
                return True
    return False


@contextmanager
def operated(
    data: Path,
    *options: str,
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[ServerProcess]:
    """A running server whose owner key has the secret SECRET."""
    with running(
        data,
        *options,
        workers=workers,
        environment={**OWNER, **(environment or {})},
        prefix=prefix,
    ) as server:
        yield server


def metrics_address(server: ServerProcess) -> str:
    """Where the server says that its metrics are."""
    for line in server.lines:
        if match := re.match(r"metrics are on http://(\S+)/metrics$", line):
            return match[1]
    raise AssertionError(server.lines)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another process does; fails when it never does it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
