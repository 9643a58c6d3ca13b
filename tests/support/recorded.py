"""Requests whose records are compared with what their client saw, on the fast path or not."""

from __future__ import annotations

import http.client
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from support.api import MANIFEST_TYPE, Reply, basic, digest_of
from support.operating import SECRET, ask, call, connect, make_namespace, push
from support.server import ServerProcess

FAST = "--fast-path"
PLAIN = "--no-fast-path"

_WORKER_CHARS = 24


@dataclass(frozen=True)
class Asked:
    """A request, and the client's view of its answer."""

    method: str
    path: str
    """Without the query."""
    route: str
    body: bytes
    reply: Reply

    @property
    def facts(self) -> tuple[str, str, str, int]:
        """Request id, method, path and status."""
        reply = self.reply
        return reply.headers["X-Request-Id"], self.method, self.path, reply.status

    @property
    def size(self) -> int:
        """Bytes of the answer, with its head."""
        reply = self.reply
        lines = [f"HTTP/1.1 {reply.status} {http.client.responses[reply.status]}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        return len("\r\n".join(lines)) + 4 + len(reply.body)


def bearer(server: ServerProcess, *names: str) -> str:
    """Credentials for repositories in the one form that the fast path takes."""
    scopes = "".join(f"&scope=repository:{name}:pull,push,delete" for name in names)
    reply = call(server, "GET", f"/token?service=x{scopes}", Authorization=basic(SECRET))
    return f"Bearer {reply.json['token']}"


def fast_answers(ids: Iterable[str]) -> int:
    """How many of a worker's request ids are from its fast path: those begin alike."""
    counts = Counter(name[:_WORKER_CHARS] for name in ids)
    return sum(count for count in counts.values() if count > 1)


def prepare(server: ServerProcess) -> bytes:
    """Push an image to the repository ``team/app``; its layer, which fills every buffer."""
    layer = os.urandom(1 << 16) * 400
    make_namespace(server, "team", is_public=True)
    push(server, "team/app", layer)
    return layer


def reads_and_pushes(server: ServerProcess, layer: bytes) -> list[Asked]:
    """Some of everything on one connection, in the repository that ``prepare`` made.

    Two requests are for the plain path on any server: the first of a file, and the listing.
    """
    connection = connect(server.address)
    credentials = bearer(server, "team/app")
    done: list[Asked] = []

    def request(method: str, rest: str, route: str, body: bytes = b"") -> Reply:
        path = rest if rest.startswith("/") else f"/v2/team/app/{rest}"
        # A read with a type of content would be for the plain path.
        headers = {} if method in ("GET", "HEAD") else {"Content_Type": MANIFEST_TYPE}
        headers |= {"Authorization": credentials, "User_Agent": "x/1"}
        reply = ask(connection, method, path, body or None, **headers)
        done.append(Asked(method, path.partition("?")[0], route, body, reply))
        return reply

    for method, rest, route in (
        ("GET", "manifests/v1", "manifest"),
        ("HEAD", "manifests/v1", "manifest"),
        ("GET", "manifests/none", "manifest"),
        ("GET", f"blobs/{digest_of(b'{}')}", "blob"),
        ("GET", f"blobs/{digest_of(b'nowhere')}", "blob"),
        ("GET", f"blobs/{digest_of(layer)}", "blob"),
        ("GET", f"blobs/{digest_of(layer)}", "blob"),
        ("HEAD", f"blobs/{digest_of(layer)}", "blob"),
        ("GET", "tags/list", "tags"),
    ):
        request(method, rest, route)
    for body in (b"good", b"bad"):
        place = request("POST", "blobs/uploads/", "uploads").headers["Location"]
        place = place[place.index("/v2/") :]
        place = request("PATCH", place, "upload", body).headers["Location"]
        place = place[place.index("/v2/") :]
        request("PUT", f"{place}?digest={digest_of(b'good')}", "upload")
    request("PUT", "manifests/v5", "manifest", b"{}")
    connection.close()
    statuses = [200, 200, 404, 200, 404, 200, 200, 200, 200, 202, 202, 201, 202, 202, 400, 400]
    assert [each.reply.status for each in done] == statuses
    return done


def check_path(option: str, ids: Iterable[str]) -> None:
    """Check that the path that a server's option names answered ``reads_and_pushes``."""
    fast = fast_answers(ids)
    assert fast == (14 if option == FAST else 0), fast
