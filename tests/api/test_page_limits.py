"""Try each row of docs/limits.md within the limit and beyond it, and compare the answer with the
page. Rows that need a server of their own are tested where that server is."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner, Result
from support.api import CONFIG_TYPE, MANIFEST_TYPE, Reply, basic, digest_of
from support.distribution import Registry, registry
from support.edge import OWNER as BASIC
from support.edge import Edge
from support.engine import Clock
from support.full import GO_ON, filled, pulled_and_deleted
from support.operating import NAMESPACES, SECRET, WRONG, call, operated, raw
from support.rows import Row, said
from support.server import WAIT_SECONDS, ServerProcess
from support.wire import connected, request

from holdfast.api import AppSettings
from holdfast.api.cli.main import holdfast
from holdfast.api.oci.tokens import LEEWAY_SECONDS
from holdfast.engine import RetentionRule, Store, StoreConfig
from holdfast.engine.depot.disk import DiskDepot

PROXIED: Final = "--trusted-proxy=127.0.0.1/32"
CLOSED: Final = ", and the connection is closed"


@dataclass
class Client:
    """A server with small limits, and a client of it that is the owner."""

    server: ServerProcess
    options: Mapping[str, Any]

    def v2(self, method: str, path: str, body: bytes | None = None, **headers: Any) -> Reply:
        headers = {"Authorization": basic(SECRET), **headers}
        return call(self.server, method, f"/v2/{path}", body, **headers)

    def manage(self, method: str, path: str, document: Any = None) -> Reply:
        body = None if document is None else json.dumps(document).encode()
        return call(self.server, method, path, body, X_Auth_Token=SECRET)

    def create(self, name: str, **fields: Any) -> Reply:
        return self.manage("POST", NAMESPACES, {"name": name, **fields})

    def settings(self, name: str) -> str:
        """The path of what Holdfast has of a new namespace of that name, up to its last part."""
        made = self.create(name)
        assert made.status == 200, made
        return f"/holdfast/v1/regions/fr-par/namespaces/{made.json['id']}"

    def blob(self, repository: str, content: bytes) -> Reply:
        path = f"{repository}/blobs/uploads/?digest={digest_of(content)}"
        return self.v2("POST", path, content)

    def manifest(self, repository: str, reference: str, **more: Any) -> Reply:
        """Put a manifest of the config ``{}``."""
        assert self.blob(repository, b"{}").status == 201
        body = json.dumps(manifest(**more)).encode()
        path = f"{repository}/manifests/{reference.replace('DIGEST', digest_of(body))}"
        return self.v2("PUT", path, body, Content_Type=MANIFEST_TYPE)


def manifest(**more: Any) -> Any:
    config = {"mediaType": CONFIG_TYPE, "digest": digest_of(b"{}"), "size": 2}
    return {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": [], **more}


def bounds(row: Row, ask: Callable[[int], Reply], within: int) -> None:
    """Ask for as much as the row's limit allows, then for one more."""
    assert ask(row.limit()).status == within
    row.says(beyond_it=said(ask(row.limit() + 1)))


def serving(data: Path, options: Mapping[str, Any]) -> Iterator[Client]:
    given = [f"--{name}={value}" for name, value in options.items()]
    with operated(data, PROXIED, *given) as server:
        client = Client(server, options)
        assert client.create("team").status == 200
        yield client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Its limits of size and number are small."""
    options = {
        "max-blob": 100_000,
        "max-manifest": 1_500_000,
        "max-json": 8192,
        "max-uploads": 3,
    }
    yield from serving(tmp_path_factory.mktemp("limits") / "data", options)


# --- rates and connections ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Its limits of rates and connections are small; a proxy says where requests come from."""
    options = {
        "rate-address": 0.01,
        "rate-key": 0.02,
        "login-failures": 3,
        "max-connections": 8,
        "max-connections-per-address": 3,
    }
    data = tmp_path_factory.mktemp("rates") / "data"
    given = [f"--{name}={value}" for name, value in options.items()]
    with operated(data, PROXIED, *given) as server:
        yield Client(server, options)


BURST: Final = 10
"""Requests that a rate under ten a second leaves at once."""


@pytest.mark.row("limits.md", "requests a second from one address (of IPv6: one /64)")
def test_requests_of_an_address(row: Row, strict: Client) -> None:
    assert row.limit(strict.options) == int(0.01)
    for address, neighbour in (("10.1.0.1", "10.1.0.1"), ("2001:db8::1", "2001:db8::2")):
        first = [call(strict.server, "GET", "/v2/", X_Forwarded_For=address) for _ in range(BURST)]
        assert {reply.status for reply in first} == {401}
        row.says(
            beyond_it=said(
                call(strict.server, "GET", "/v2/", X_Forwarded_For=neighbour),
                call(strict.server, "GET", NAMESPACES, X_Forwarded_For=neighbour),
            )
        )
    assert call(strict.server, "GET", "/v2/", X_Forwarded_For="10.1.0.2").status == 401
    assert call(strict.server, "GET", "/v2/", X_Forwarded_For="2001:db8:0:1::1").status == 401


@pytest.mark.row("limits.md", "requests a second with one key")
def test_requests_with_a_key(row: Row, strict: Client) -> None:
    assert strict.options[row.source] == 0.02
    addresses = iter(f"10.2.0.{number}" for number in range(100))

    def ask(path: str) -> Reply:
        headers: Any = {"X_Auth_Token": SECRET, "Authorization": basic(SECRET)}
        return call(strict.server, "GET", path, None, X_Forwarded_For=next(addresses), **headers)

    assert {ask("/v2/").status for _ in range(BURST)} == {200}
    row.says(beyond_it=said(ask("/v2/"), ask(NAMESPACES)))


@pytest.mark.row("limits.md", "failed logins a minute from one address")
def test_failed_logins(row: Row, strict: Client) -> None:
    def login(secret: str) -> Reply:
        headers: Any = {"Authorization": basic(secret), "X_Forwarded_For": "10.3.0.1"}
        return call(strict.server, "GET", "/v2/", **headers)

    for _ in range(row.limit(strict.options)):
        assert login(WRONG).status == 401
    assert said(login(WRONG)) == said(login(SECRET))
    row.says(beyond_it=f"{said(login(SECRET))}, also for the right secret")


class OpenConnections:
    """Connections from addresses of this machine, each answered once and kept."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self.place = host, int(port)
        self.kept: list[socket.socket] = []

    def enter(self, source: str) -> Reply:
        """Connect and ask; what is refused is read to its end."""
        sock = socket.create_connection(self.place, WAIT_SECONDS, (source, 0))
        self.kept.append(sock)
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        received = sock.recv(65536)
        if not received.startswith(b"HTTP/1.1 200 "):
            received += b"".join(iter(lambda: sock.recv(65536), b""))
        return parsed(received)

    def leave(self) -> None:
        for sock in self.kept:
            sock.close()


@pytest.fixture
def house(strict: Client) -> Iterator[OpenConnections]:
    house = OpenConnections(strict.server.address)
    yield house
    house.leave()


def parsed(received: bytes) -> Reply:
    """The one answer in what came on a connection."""
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return Reply(int(lines[0].split()[1]), headers, body)


@pytest.mark.row("limits.md", "connections from one address")
def test_connections_of_an_address(row: Row, strict: Client, house: OpenConnections) -> None:
    for _ in range(row.limit(strict.options)):
        assert house.enter("127.0.0.2").status == 200
    row.says(beyond_it=said(house.enter("127.0.0.2")) + CLOSED)
    assert house.enter("127.0.0.3").status == 200


@pytest.mark.row("limits.md", "connections, of all workers")
def test_connections(row: Row, strict: Client, house: OpenConnections) -> None:
    entered = 0
    while (reply := house.enter(f"127.0.1.{entered}")).status == 200:
        entered += 1
    # Those of the test before may not have been seen to end.
    assert entered <= row.limit(strict.options)
    row.says(beyond_it=said(reply) + CLOSED)


@pytest.mark.row("limits.md", "life of a bearer token")
async def test_a_token_ends(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    assert row.source == "token-seconds"
    lives, real = row.limit(), time.time
    async with registry(settings=AppSettings(token_seconds=lives)) as server:
        answer = await server.call("GET", "/token")
        assert answer.json["expires_in"] == lives
        token = answer.json["token"]
        for late, status in ((LEEWAY_SECONDS - 5, 200), (LEEWAY_SECONDS + 5, 401)):
            clock = SimpleNamespace(time=lambda late=late: real() + lives + late)
            monkeypatch.setattr("holdfast.api.oci.tokens.time", clock)
            answer = await server.call("GET", "/v2/", token=token)
            assert answer.status == status
    row.says(
        beyond_it=f"{said(answer)}, and clients fetch another one; "
        f"{LEEWAY_SECONDS} s of leeway allow for clocks that differ"
    )


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    return Edge(tmp_path, "uvloop", fast=True)


def shorten(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the constant that the row names a moment."""
    monkeypatch.setattr(f"holdfast.{row.source}", 0.2)


@pytest.mark.row("limits.md", "a connection without a request")
def test_an_idle_connection(row: Row, edge: Edge) -> None:
    async def story() -> None:
        async with edge.server(keepalive_timeout=0.2) as port, connected(port) as client:
            await client.send(request("GET /healthz HTTP/1.1"))
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
            assert await client.rest() == b""

    edge.run(story())
    row.says(beyond_it="the connection is closed")


@pytest.mark.row("limits.md", "time for the head of a request")
def test_a_slow_head(row: Row, edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(row, monkeypatch)

    async def story() -> None:
        async with edge.server() as port, connected(port) as client:
            await client.send(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: ")
            assert await client.rest() == b""

    edge.run(story())
    row.says(beyond_it="the connection is closed")


def given_up(edge: Edge, *heads: bytes, closes: bool = True) -> str:
    """What is said of requests of whose bodies nothing comes; then their connections end, or
    wait for a while longer to be able to go on."""
    replies: list[Reply] = []

    async def story() -> None:
        async with edge.server() as port:
            for head in heads:
                async with connected(port) as client:
                    await client.send(head)
                    received = await (client.rest() if closes else client.answer())
                    replies.append(parsed(received))

    edge.run(story())
    return said(*replies)


UPLOADS: Final = "POST /v2/app/web/blobs/uploads/?digest="


@pytest.mark.row("limits.md", "silence in the middle of an upload")
def test_a_slow_upload(row: Row, edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(row, monkeypatch)
    upload = f"{UPLOADS}{digest_of(b'x' * 100_000)} HTTP/1.1"
    answer = given_up(
        edge,
        request(upload, BASIC, "Content-Length: 100000") + b"x",
        request(upload, BASIC, "Transfer-Encoding: chunked") + b"186a0\r\nx",
    )
    row.says(beyond_it=answer + CLOSED)


@pytest.mark.row("limits.md", "silence in the middle of a manifest or of a form")
def test_a_slow_manifest(row: Row, edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(row, monkeypatch)
    put = "PUT /v2/app/web/manifests/v1 HTTP/1.1"
    answer = given_up(
        edge,
        request(put, BASIC, f"Content-Type: {MANIFEST_TYPE}", "Content-Length: 100000") + b"{",
        request("POST /token HTTP/1.1", "Content-Length: 1000") + b"x",
    )
    row.says(beyond_it=answer + CLOSED)


@pytest.mark.row("limits.md", "time for the body of a management request")
def test_a_slow_management_body(row: Row, edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(row, monkeypatch)
    post = f"POST {NAMESPACES} HTTP/1.1"
    token = f"X-Auth-Token: {OWNER['X-Auth-Token']}"
    answer = given_up(edge, request(post, token, "Content-Length: 1000") + b"{", closes=False)
    row.says(beyond_it=answer)


@pytest.mark.slow
@pytest.mark.row("limits.md", "silence of a client that reads an answer")
def test_a_slow_reader(row: Row, edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(row, monkeypatch)
    large = os.urandom(8_000_000)
    put = request(f"{UPLOADS}{digest_of(large)} HTTP/1.1", BASIC, f"Content-Length: {len(large)}")
    get = request(f"GET /v2/app/web/blobs/{digest_of(large)} HTTP/1.1", BASIC)

    async def story() -> None:
        async with edge.server() as port:
            async with connected(port) as client:
                await client.send(put, large)
                assert (await client.answer()).startswith(b"HTTP/1.1 201 ")
            async with connected(port, buffer=4096) as client:
                await client.send(get)
                await asyncio.sleep(1.0)
                assert len(await client.rest()) < len(large)

    edge.run(story())
    row.says(beyond_it="the connection is cut")


# --- requests -----------------------------------------------------------------------------------


def one(server: Client, head: str) -> Reply:
    """What is answered to a request, after which the server has to end the connection."""
    received = raw(server.server, f"GET {head}\r\n\r\n".encode())
    return parsed(received)


ENDS: Final = "Host: x\r\nConnection: close"


@pytest.mark.slow
@pytest.mark.row("limits.md", "request line")
def test_a_request_line(row: Row, server: Client) -> None:
    within = "/v2/" + "x" * (row.limit() - 100)
    assert one(server, f"{within} HTTP/1.1\r\n{ENDS}").status in {401, 404}
    beyond = "/v2/" + "x" * row.limit()
    row.says(beyond_it=said(one(server, f"{beyond} HTTP/1.1\r\nHost: x")) + CLOSED)


@pytest.mark.row("limits.md", "a header")
def test_a_header(row: Row, server: Client) -> None:
    within = "x" * (row.limit() - 100)
    assert one(server, f"/healthz HTTP/1.1\r\n{ENDS}\r\nX: {within}").status == 200
    beyond = "x" * (row.limit() + 1)
    row.says(beyond_it=said(one(server, f"/healthz HTTP/1.1\r\nHost: x\r\nX: {beyond}")) + CLOSED)


@pytest.mark.row("limits.md", "all headers of a request")
def test_all_headers(row: Row, server: Client) -> None:
    def headers(size: int) -> str:
        return "\r\n".join(f"X-{number:03}: {'x' * 990}" for number in range(size // 1000))

    within = headers(row.limit() - 2000)
    assert one(server, f"/healthz HTTP/1.1\r\n{ENDS}\r\n{within}").status == 200
    beyond = headers(row.limit() + 2000)
    for path in ("/healthz", "/v2/", "/v2/team/app/manifests/v1"):
        refused = one(server, f"{path} HTTP/1.1\r\nHost: x\r\n{beyond}")
        row.says(beyond_it=said(refused) + CLOSED)


@pytest.mark.row("limits.md", "body of a management request")
def test_a_management_request(row: Row, server: Client) -> None:
    most = row.limit(server.options)

    def ask(size: int) -> Reply:
        body = json.dumps({"name": "padded"}).encode().ljust(size)
        return call(server.server, "POST", NAMESPACES, body, X_Auth_Token=SECRET)

    row.says(beyond_it=said(ask(most + 1)))
    assert ask(most).status == 200


@pytest.mark.row("limits.md", "form of a token request")
def test_a_form(row: Row, server: Client) -> None:
    def ask(size: int) -> Reply:
        form = urlencode({"grant_type": "password", "password": SECRET, "pad": ""}).encode()
        kind = "application/x-www-form-urlencoded"
        return call(server.server, "POST", "/token", form.ljust(size, b"x"), Content_Type=kind)

    bounds(row, ask, 200)


@pytest.mark.row("limits.md", "scopes of a token request")
def test_scopes(row: Row, server: Client) -> None:
    scopes = [f"scope=repository:team/a{number}:pull" for number in range(row.limit() + 1)]
    path = "/token?" + "&".join(scopes)
    reply = call(server.server, "GET", path, Authorization=basic(SECRET))
    assert len(reply.json["scope"].split()) == row.limit()
    row.says(beyond_it="the token leaves out the rest")


@pytest.mark.row("limits.md", "digests of one `_holdfast/exists`")
def test_digests_of_a_question(row: Row, server: Client) -> None:
    def ask(count: int) -> Reply:
        asked = [digest_of(str(number).encode()) for number in range(count)]
        body = json.dumps({"digests": asked}).encode()
        return server.v2("POST", "team/exists/_holdfast/exists", body)

    assert server.manifest("team/exists", "v1").status == 201
    bounds(row, ask, 200)


@pytest.mark.row("limits.md", "body of one `_holdfast/exists`")
def test_a_long_question(row: Row, server: Client) -> None:
    def ask(size: int) -> Reply:
        return server.v2("POST", "team/exists/_holdfast/exists", b'{"digests": []}'.ljust(size))

    assert server.manifest("team/exists", "v1").status == 201
    bounds(row, ask, 200)


@pytest.mark.row("limits.md", "tags in one PUT of a manifest")
def test_tags_of_a_put(row: Row, server: Client) -> None:
    def put(count: int) -> Reply:
        tags = "&".join(f"tag=t{number}" for number in range(count))
        return server.manifest("team/tags", f"DIGEST?{tags}")

    bounds(row, put, 201)


@pytest.mark.row("limits.md", "`n` of listings")
def test_n(row: Row, server: Client) -> None:
    most = row.limit()
    for start in range(0, most + 1, 100):
        tags = "&".join(f"tag=t{number}" for number in range(start, min(start + 100, most + 1)))
        assert server.manifest("team/listed", f"DIGEST?{tags}").status == 201
    for n in (most, most + 1, 9999):
        reply = server.v2("GET", f"team/listed/tags/list?n={n}")
        assert (reply.status, len(reply.json["tags"])) == (200, most)
        assert 'rel="next"' in reply.headers["Link"]
    row.says(beyond_it="cut to it, with a `Link` to the rest")


@pytest.mark.row("limits.md", "`page_size`")
def test_page_size(row: Row, server: Client) -> None:
    def ask(size: int) -> Reply:
        return server.manage("GET", f"{NAMESPACES}?page_size={size}")

    bounds(row, ask, 200)


@pytest.mark.row("limits.md", "ranges of one request")
def test_ranges(row: Row, server: Client) -> None:
    content = bytes(range(256)) * 10
    assert server.blob("team/ranges", content).status == 201

    def ask(count: int) -> Reply:
        ranges = ",".join(f"{2 * number}-{2 * number}" for number in range(count))
        path = f"team/ranges/blobs/{digest_of(content)}"
        return server.v2("GET", path, Range=f"bytes={ranges}")

    assert ask(row.limit()).status == 206
    beyond = ask(row.limit() + 1)
    assert (beyond.status, beyond.body) == (200, content)
    row.says(beyond_it="the whole blob is sent")


# --- content ------------------------------------------------------------------------------------


@pytest.mark.row("limits.md", "a blob")
def test_a_blob(row: Row, server: Client) -> None:
    most = row.limit(server.options)
    assert server.blob("team/blobs", bytes(most)).status == 201
    row.says(beyond_it=said(server.blob("team/blobs", bytes(most + 1))))


@pytest.mark.row("limits.md", "a manifest")
def test_a_manifest(row: Row, server: Client) -> None:
    most = row.limit(server.options)
    spare = most - len(json.dumps(manifest(annotations={"a": ""})))

    def put(size: int) -> Reply:
        return server.manifest("team/manifests", "v1", annotations={"a": "x" * size})

    assert put(spare).status == 201
    row.says(beyond_it=said(put(spare + 1)))


@pytest.mark.row("limits.md", "distinct references of a manifest")
def test_references(row: Row, server: Client) -> None:
    def put(count: int) -> Reply:
        layers = [
            {
                "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "digest": f"sha256:{number:064x}",
                "size": 1,
                "urls": ["https://a.example"],
            }
            for number in range(count)
        ]
        children = [
            {"mediaType": MANIFEST_TYPE, "digest": layer["digest"], "size": 1} for layer in layers
        ]
        index = "application/vnd.oci.image.index.v1+json"
        body = {"schemaVersion": 2, "mediaType": index, "manifests": children}
        path = f"team/references/manifests/v{count}"
        listed = server.v2("PUT", path, json.dumps(body).encode(), Content_Type=index)
        put = server.manifest("team/references", f"v{count}", layers=layers)
        assert (listed.status, said(listed)) in (
            (put.status, said(put)),
            (400, "400 MANIFEST_BLOB_UNKNOWN"),
        )
        return put

    # The config is one of them.
    assert said(put(row.limit() - 1)) in ("201",)
    row.says(beyond_it=said(put(row.limit() + 1)))


@pytest.mark.row("limits.md", "depth of a manifest's JSON")
def test_depth(row: Row, server: Client) -> None:
    def put(depth: int) -> Reply:
        nested: Any = []
        for _ in range(depth - 2):
            nested = [nested]
        return server.manifest("team/depth", "v1", more=nested)

    bounds(row, put, 201)


@pytest.mark.row("limits.md", "name of a namespace")
def test_a_namespaces_name(row: Row, server: Client) -> None:
    most, beyond = "n" * row.limit(), "n" * (row.limit() + 1)
    assert server.create(most).status == 200
    assert server.blob(f"{most}/app", b"1").status == 201
    row.says(beyond_it=said(server.create(beyond), server.blob(f"{beyond}/app", b"1")))


@pytest.mark.row("limits.md", "full name of an image, with its host")
def test_an_images_name(row: Row, server: Client) -> None:
    image = f"{server.server.address}/team/"
    most = "team/" + "a" * (row.limit() - len(image))
    assert server.manifest(most, "v1").status == 201
    row.says(beyond_it=said(server.blob(most + "a", b"1")))


@pytest.mark.row("limits.md", "a tag")
def test_a_tag(row: Row, server: Client) -> None:
    assert server.manifest("team/named", "t" * row.limit()).status == 201
    row.says(beyond_it=said(server.manifest("team/named", "t" * (row.limit() + 1))))


@pytest.mark.row("limits.md", "a description")
def test_a_description(row: Row, server: Client) -> None:
    assert server.create("described", description="x" * row.limit()).status == 200
    row.says(beyond_it=said(server.create("more", description="x" * (row.limit() + 1))))


@pytest.mark.row("limits.md", "open uploads of a namespace")
def test_open_uploads(row: Row, server: Client) -> None:
    assert server.create("uploading").status == 200
    for _ in range(row.limit(server.options)):
        assert server.v2("POST", "uploading/app/blobs/uploads/").status == 202
    row.says(beyond_it=said(server.v2("POST", "uploading/app/blobs/uploads/")))


@pytest.mark.row("limits.md", "bytes that a namespace keeps")
def test_a_quota(row: Row, server: Client) -> None:
    settings = server.settings("bounded") + "/settings"
    assert row.source == "holdfast namespace settings --quota"
    assert row.cells["default"] == "none"
    assert server.manage("GET", settings).json["quota"] is None
    assert server.manage("PATCH", settings, {"quota": 1000}).status == 200
    assert server.blob("bounded/app", bytes(1000)).status == 201
    server.v2("DELETE", f"bounded/app/blobs/{digest_of(bytes(1000))}")
    row.says(beyond_it=said(server.blob("bounded/app", bytes(1001))))


@pytest.mark.row("limits.md", "patterns of immutable tags of a namespace")
def test_patterns(row: Row, server: Client) -> None:
    settings = server.settings("patterns") + "/settings"

    def patch(count: int) -> Reply:
        patterns = [f"v{number}" for number in range(count)]
        return server.manage("PATCH", settings, {"immutable_tags": patterns})

    bounds(row, patch, 200)


@pytest.mark.row("limits.md", "retention rules of a namespace")
def test_rules(row: Row, server: Client) -> None:
    retention = server.settings("ruled") + "/retention"

    def patch(count: int) -> Reply:
        return server.manage("PATCH", retention, {"rules": [{"keep_last": 1}] * count})

    bounds(row, patch, 200)


# --- times, and the disk ------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def aging(clock: Clock) -> AsyncIterator[Registry]:
    """Its store has the defaults, and a clock of the test."""
    async with registry(Store.memory(StoreConfig(background=False), clock=clock)) as running:
        await running.namespace("team")
        yield running


@pytest.mark.row("limits.md", "an upload after its last use")
async def test_an_upload_ends(row: Row, aging: Registry, clock: Clock) -> None:
    place = await aging.session("team/app")
    sure = int(row.cells["default"].partition(", ")[2].partition(" h")[0]) * 3600
    clock.advance(row.number - 1)
    assert (await aging.call("PATCH", place, data=b"more")).status == 202
    # A use soon after the last one that moved the end does not move it.
    clock.advance(row.number - sure - 1)
    assert (await aging.call("PATCH", place, data=b"more")).status == 202
    clock.advance(sure - 1)
    assert (await aging.call("PATCH", place, data=b"more")).status == 202
    clock.advance(row.number + 1)
    await aging.store.sweeper.run()
    row.says(beyond_it=f"{said(await aging.call('GET', place))} after the next sweep")


@pytest.mark.row("limits.md", "an upload without a byte, where its namespace is at a limit")
async def test_an_idle_upload_gives_way(row: Row, aging: Registry, clock: Clock) -> None:
    namespace = await aging.store.namespaces.find("fr-par", "team")
    await aging.store.namespaces.update(namespace.id, quota=1000)
    place = await aging.session("team/app")
    assert (await aging.call("PATCH", place, data=bytes(600))).status == 202
    content = b"x" * 600
    path = f"/v2/team/app/blobs/uploads/?digest={digest_of(content)}"
    clock.advance(row.number - 1)
    assert said(await aging.call("POST", path, data=content)) == "403 DENIED"
    assert (await aging.call("GET", place)).status == 204
    clock.advance(2)
    assert (await aging.call("POST", path, data=content)).status == 201
    assert said(await aging.call("GET", place)) == "404 BLOB_UPLOAD_UNKNOWN"
    row.says(beyond_it="the server ends it, and the request that needs the room continues")


@pytest.mark.row("limits.md", "a blob that no manifest needs")
async def test_a_hold_ends(row: Row, aging: Registry, clock: Clock) -> None:
    held = await aging.blob("team/app", b"held")
    path = f"/v2/team/app/blobs/{held}"
    clock.advance(row.number - 1)
    await aging.store.sweeper.run()
    assert (await aging.call("GET", path)).status == 200
    clock.advance(2)
    refused = await aging.call("GET", path)
    # What ends now is swept a while later.
    clock.advance(row.number)
    await aging.store.sweeper.run()
    assert (await aging.store.stats()).blobs == 0
    row.says(beyond_it=f"{said(refused)}, and the sweep frees its space")


@pytest.mark.row("limits.md", "what was deleted, in the trash")
async def test_the_trash_ends(row: Row, aging: Registry, clock: Clock) -> None:
    await aging.image("team/app", "v1", b"layer")
    space = await aging.store.namespaces.find("fr-par", "team")

    async def restore() -> Any:
        path = f"/holdfast/v1/trash/{space.id}/restore"
        async with aging.http.post(aging.url + path, headers=OWNER) as answer:
            return Reply(answer.status, dict(answer.headers), await answer.read())

    await aging.store.namespaces.delete(space.id)
    clock.advance(row.number - 1)
    assert (await restore()).status == 200
    await aging.store.namespaces.delete(space.id)
    clock.advance(row.number)
    row.says(beyond_it=f"{said(await restore())}: it is gone for good")


OWNER: Final = {"X-Auth-Token": "33333333-3333-4333-8333-333333333333"}


@pytest.mark.row("limits.md", "tags and manifests in one retention plan or run")
async def test_a_plan(row: Row, aging: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"holdfast.{row.source}", 3)
    for number in range(5):
        await aging.image("team/app", f"v{number}", str(number).encode())
    namespace = await aging.store.namespaces.find("fr-par", "team")
    await aging.store.retention.set(namespace.id, [RetentionRule(keep_last=1)])
    path = f"/holdfast/v1/regions/fr-par/namespaces/{namespace.id}/retention/"
    for method, action, complete in (
        ("GET", "plan", False),
        ("POST", "apply", False),
        ("POST", "apply", True),
    ):
        url = aging.url + path + action
        async with aging.http.request(method, url, headers=OWNER) as answer:
            assert (answer.status, (await answer.json())["complete"]) == (200, complete)
    row.says(beyond_it="`complete` is false, and the next run continues")


async def release(server: Registry, row: Row, most: int, patch: pytest.MonkeyPatch) -> None:
    """Two tags lie in the trash, and of what these need nothing goes: within the limit since that
    is known, beyond it since it is not."""
    space = await server.store.namespaces.find("fr-par", "team")
    for number in range(2):
        await server.image("team/app", f"v{number}", str(number).encode() * 100)
        here = await server.store.locate("fr-par", "team/app")
        assert here.image_id is not None
        (tag,) = (await server.store.tags.list(here.image_id, name=f"v{number}")).items
        await server.store.tags.delete(tag.id)
    url = f"{server.url}/holdfast/v1/regions/fr-par/namespaces/{space.id}/holds"
    for _ in range(2):
        async with server.http.delete(url, headers=OWNER) as answer:
            told = await answer.json()
        assert (answer.status, told["released"]) == (200, 0)
        assert told["kept"] >= 4
        patch.setattr(f"holdfast.{row.source}", most)
    row.says(beyond_it="what later entries may need stays")


@pytest.mark.row(
    "limits.md",
    "entries of a project's trash that a release of holds, or a deletion from it, looks at",
)
async def test_trash_that_is_looked_at(
    row: Row, aging: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await release(aging, row, 0, monkeypatch)


@pytest.mark.row("limits.md", "digests that these need")
async def test_digests_that_trash_needs(
    row: Row, aging: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await release(aging, row, 1, monkeypatch)


@pytest.mark.row("limits.md", "manifests of an image that one listing looks at")
async def test_a_listing_of_manifests(
    row: Row, aging: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"holdfast.{row.source}", 2)
    for number in range(3):
        await aging.image("team/app", f"v{number}", str(number).encode())
    here = await aging.store.locate("fr-par", "team/app")
    path = f"/holdfast/v1/regions/fr-par/images/{here.image_id}/manifests"
    after: str | None = None
    for seen, ended in ((2, False), (1, True)):
        params = {} if after is None else {"after": after}
        async with aging.http.get(aging.url + path, params=params, headers=OWNER) as answer:
            told = await answer.json()
        assert (answer.status, len(told["manifests"])) == (200, seen)
        after = told["after"]
        assert (after is None) is ended
    row.says(beyond_it="`after` says where to continue")


@pytest.mark.slow
@pytest.mark.row("limits.md", "signing keys that count at the same time")
def test_signing_keys(row: Row, tmp_path: Path) -> None:
    def rotate() -> Result:
        arguments = ["key", "rotate-signing-key", "--data", str(tmp_path / "data")]
        return CliRunner().invoke(holdfast, arguments)

    # ``serve`` makes a directory, and the first key of the store is there when one asks for it.
    with operated(tmp_path / "data") as server:
        assert call(server, "GET", "/token", Authorization=basic(SECRET)).status == 200
    for _ in range(row.limit() - 1):
        assert rotate().exit_code == 0
    refused = rotate()
    assert refused.exit_code != 0
    assert str(row.limit()) in refused.output
    row.says(beyond_it="`key rotate-signing-key` refuses")


@pytest.mark.row("limits.md", "free space on the disk, at the least")
async def test_the_reserve(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.statvfs(tmp_path)
    share = int(row.cells["default"].partition(", or ")[2].partition(" %")[0])
    reserve = min(row.limit(), disk.f_blocks * disk.f_frsize * share // 100)
    free = reserve * 2
    monkeypatch.setattr(DiskDepot, "free_bytes", lambda _: free)
    async with registry(Store.open(tmp_path / "data", StoreConfig(background=False))) as server:
        await server.namespace("team")
        await server.image("team/app", "v1", b"layer")
        free = reserve + 200_000
        large = bytes(100_000)
        path = "/v2/team/app/blobs/uploads/?digest="
        assert (await server.call("POST", path + digest_of(large), data=large)).status == 201
        free = reserve + 50_000
        large = bytes(100_001)
        refused = await server.call("POST", path + digest_of(large), data=large)
        assert (await server.call("GET", "/v2/team/app/manifests/v1")).status == 200
        deleted = await server.call("DELETE", "/v2/team/app/manifests/v1")
        assert deleted.status == 202
    monkeypatch.undo()
    async with filled(tmp_path / "disk") as server:
        await pulled_and_deleted(server)
    row.says(beyond_it=f"{said(refused)} for pushes; pulls and deletes {GO_ON}")
