"""Servers that answer as a test tells them to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from holdfast.bench.load.profile import PROFILES

Reply = tuple[int, dict[str, str], bytes]

TINY = replace(
    PROFILES["quick"],
    limit_seconds=0.01,
    loop_seconds=0.1,
    push_seconds=0.3,
    small_seconds=1,
    stream_bytes=2 << 20,
    many_bytes=64 << 10,
    images=20,
    known_images=4,
    zipf_images=4,
    many_tags=30,
    mixed_seconds=0.5,
    upkeep_seconds=1.0,
    scale_sizes=(3, 30),
)
"""Enough of everything to see that it works."""


class Silent:
    """Progress that nobody looks at."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[str] = []

    def begin(self, steps: int) -> None:
        assert steps > 0

    def step(self, text: str) -> None:
        assert text
        self.steps.append(text)

    def show(self, text: str) -> None:
        assert text

    def say(self, text: str) -> None:
        self.said.append(text)


@contextmanager
def serving(answer: Callable[[str, str], Reply]) -> Iterator[int]:
    """A server on 127.0.0.1 that gives ``answer(method, target)``; its port."""
    with serving_bodies(lambda method, target, body: answer(method, target)) as port:
        yield port


@contextmanager
def serving_bodies(answer: Callable[[str, str, bytes], Reply]) -> Iterator[int]:
    """A server on 127.0.0.1 that gives ``answer(method, target, body)``; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self.answer
            raise AttributeError(name)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", "0")))
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def answer(self) -> None:
            status, headers, body = answer(self.command, self.path, self.body())
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Quietly."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Keeper:
    """A registry in memory, for ``serving_bodies``. While ``spoils`` says so, blobs lose a bit."""

    def __init__(self, spoils: Callable[[], bool] = lambda: False) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self._spoils = spoils
        self._uploads: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def answer(self, method: str, target: str, body: bytes) -> Reply:
        """What a registry says, with one repository for all names."""
        with self._lock:
            parts = urlsplit(target)
            if parts.path == "/v2/":
                return 200, {}, b"{}"
            if "/manifests/" in parts.path:
                return self._manifest(method, parts.path.rpartition("/")[2], body)
            if "/blobs/uploads/" in parts.path:
                return self._upload(method, parts.path, parse_qs(parts.query), body)
            blob = self.blobs.get(parts.path.rpartition("/")[2])
            return (404, {}, b"") if blob is None else (200, {}, blob)

    def _manifest(self, method: str, name: str, body: bytes) -> Reply:
        if method == "PUT":
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self.manifests[name] = self.manifests[digest] = body
            return 201, {"Docker-Content-Digest": digest}, b""
        found = self.manifests.get(name)
        return (404, {}, b"") if found is None else (200, {}, found)

    def _upload(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> Reply:
        if method == "POST":
            path += f"u{len(self._uploads)}"
        self._uploads[path] = kept = self._uploads.get(path, b"") + body
        if method != "PUT":
            return 202, {"Location": path}, b""
        if self._spoils():
            kept = kept[:-1] + bytes((kept[-1] ^ 1,))
        self.blobs[query["digest"][0]] = kept
        return 201, {}, b""
