"""Whatever comes in: no 500, no hang, OCI errors with known codes, memory that stays bounded, and
a store that is whole afterwards. Against ``holdfast serve`` in processes of its own, whose
connections have the fast lane (issue, "Bad input")."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from support.api import INDEX_TYPE, MANIFEST_TYPE, basic, digest_of
from support.clients import Registry, serving
from support.distribution import Answer, check, manifest
from support.load import kibibytes
from support.wire import connected

from holdfast.api.http.aiohttp_handler import HEAD_BYTES_MAX
from holdfast.api.server.worker import FIELD_BYTES_MAX

pytestmark = pytest.mark.slow

NAME = "team/app"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]

GROWTH_MAX: Final = 96 * 1024
"""KiB by which a worker may grow over what it has when it is ready, at the most: some 30 for what
is remembered by design (answers, tokens, pages of the ledger), the rest for what runs at once."""

T = TypeVar("T")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A server with an image in it. At the end nothing of it was too much, it complained about
    nothing, and its data has no fault (which ``serving`` looks at)."""
    with serving(tmp_path_factory.mktemp("fuzz") / "data") as running:
        before = {pid: kibibytes(pid) for pid in running.server.workers()}
        running.namespace("team")
        image(running)
        yield running
        assert running.server.workers() == list(before), "a worker died"
        grown = {pid: kibibytes(pid, "VmHWM") - had for pid, had in before.items()}
        assert max(grown.values()) < GROWTH_MAX, grown


def image(server: Registry) -> None:
    """Push what the requests are about."""
    layers = []
    for content in (b"{}", b"layer", bytes(100_000)):
        layers.append((digest_of(content), len(content)))
        path = f"{NAME}/blobs/uploads/?digest={layers[-1][0]}"
        assert server.v2("POST", path, content).status == 201
    body = json.dumps(manifest(layers[0][0], layers[1:])).encode()
    headers = {"Content-Type": MANIFEST_TYPE}
    assert server.v2("PUT", f"{NAME}/manifests/v1", body, headers).status == 201


def token_of(server: Registry, *scopes: str) -> str:
    """A bearer token of the owner."""
    query = "&".join(f"scope={scope}" for scope in scopes)
    headers = {"Authorization": basic(server.secret)}
    answer = server.request("GET", f"/token?{query}", headers=headers)
    assert answer.status == 200
    token: str = answer.json["token"]
    return token


def attempts(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(method: str, path: str, data: bytes) -> Answer:
    """An answer, which keeps the rules that all answers share."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, _, value = line.partition(": ")
        headers.add(name, value)
    answer = Answer(int(first.split()[1]), CIMultiDictProxy(headers), body)
    assert 200 <= answer.status < 500, data[:500]
    check(method, path, answer)
    return answer


async def converse(port: int, requests: Sequence[tuple[str, str, bytes]], together: bool) -> None:
    """Send requests over one connection, one by one or all at once, and read all answers."""
    async with connected(port) as client:
        try:
            if together:
                await client.send(b"".join(data for _, _, data in requests))
            for method, path, data in requests:
                if not together:
                    await client.send(data)
                answer = await client.answer(head=method == "HEAD")
                while answer.startswith(b"HTTP/1.1 100 "):
                    answer = await client.answer(head=method == "HEAD")
                told = read(method, path, answer)
                if answer.startswith(b"HTTP/1.0 ") or told.headers.get("Connection") == "close":
                    break  # What was not understood is answered so, and it is the end.
            else:
                await client.send(b"GET /v2/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        except ConnectionError:
            pass
        await client.rest()


SEGMENTS = st.sampled_from(
    [
        "team",
        "app",
        "blobs",
        "uploads",
        "manifests",
        "tags",
        "list",
        "referrers",
        "_oci",
        "ext",
        "discover",
        "_holdfast",
        "exists",
        "_catalog",
        "v1",
        "",
        ".",
        "..",
        "%2e%2e",
        "%2F",
        "%",
        "%00",
        "%ff",
        digest_of(b"layer"),
        digest_of(bytes(100_000)),
        "sha256:" + "a" * 64,
        "sha256%3A" + "a" * 64,
        "sha512:" + "b" * 128,
        "sha256:x",
        "a" * 300,
        "00000000-0000-4000-8000-000000000000",
    ]
) | st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="#?"), max_size=8)
ENDPOINTS = st.sampled_from(
    [
        "/v2/",
        "/v2/_catalog",
        "/token",
        f"/v2/{NAME}/manifests/v1",
        f"/v2/{NAME}/blobs/{digest_of(b'layer')}",
        f"/v2/{NAME}/blobs/{digest_of(bytes(100_000))}",
        f"/v2/{NAME}/blobs/uploads/",
        f"/v2/{NAME}/tags/list",
        f"/v2/{NAME}/referrers/{digest_of(b'layer')}",
        f"/v2/{NAME}/_holdfast/exists",
    ]
)
PATHS = ENDPOINTS | st.builds(
    lambda root, parts: root + "/".join(parts),
    st.sampled_from(["/v2/", "/v2/", "/", "//v2/", "/token/"]),
    st.lists(SEGMENTS, max_size=7),
)
VALUES = SEGMENTS | st.sampled_from(
    [
        "0",
        "-1",
        "5",
        "99999999999999999999",
        NAME,
        "sha512",
        f"repository:{NAME}:*",
        "registry:catalog:*",
        "password",
        "refresh_token",
    ]
)
PARAMETERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "n",
                "last",
                "digest",
                "mount",
                "from",
                "tag",
                "artifactType",
                "digest-algorithm",
                "scope",
                "grant_type",
                "refresh_token",
                "password",
                "x",
            ]
        ),
        VALUES,
    ),
    max_size=3,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Range",
            "Content-Range",
            "If-Match",
            "If-None-Match",
            "If-Range",
            "Content-Type",
            "Content-Encoding",
            "Accept",
            "Authorization",
            "Expect",
            "X-Forwarded-Host",
            "X-Forwarded-For",
        ]
    ),
    st.sampled_from(
        [
            "*",
            "bytes=0-0",
            "bytes=-1,0-1,5-",
            "0-0",
            "9-1",
            '"x"',
            "W/",
            "Basic",
            "Basic \xff",
            "Bearer \xff",
            "Bearer e30.e30.\xe9",
            "100-continue",
            ",",
        ]
    )
    | st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=30),
    max_size=3,
)
BODIES = (
    st.binary(max_size=40)
    | st.sampled_from([b'{"digests":[]}', b"{}", b"[" * 5000])
    | PARAMETERS.map(lambda text: text.encode("latin-1"))
)


@st.composite
def requests(draw: st.DrawFn, token: str) -> tuple[str, str, bytes]:
    """Method, path and bytes of a request made of the API's own words and of noise."""
    method, path = draw(st.sampled_from(METHODS)), draw(PATHS)
    if parameters := draw(PARAMETERS):
        path += f"?{parameters}"
    headers = {"Authorization": f"Bearer {token}", **draw(HEADERS)}
    lines = [f"{method} {path} HTTP/1.1", "Host: h"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    body = b"" if method in ("GET", "HEAD") else draw(BODIES)
    framing = draw(st.sampled_from(["length", "chunked", "broken"])) if body else "none"
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
    elif framing != "none":
        lines.append("Transfer-Encoding: chunked")
        end = b"0\r\n\r\n" if framing == "chunked" else b"zz\r\n"
        body = b"%x\r\n%b\r\n%b" % (len(body), body, end)
    return method, path, "\r\n".join((*lines, "", "")).encode("latin-1") + body


@pytest.mark.promise("SECURITY.md", "clients, with a key or without")
def test_no_request_leads_to_a_500(server: Registry) -> None:
    """With the owner's rights, over raw sockets: alone, after one another, and all at once."""
    token = token_of(server, f"repository:{NAME}:*", "repository:team/x:*", "registry:catalog:*")
    with asyncio.Runner() as runner:

        @given(st.lists(requests(token), min_size=1, max_size=3), st.booleans())
        @attempts(400)
        def attempt(sent: list[tuple[str, str, bytes]], together: bool) -> None:
            note(repr(sent))
            runner.run(converse(server.port, sent, together))

        attempt()


PIECES = st.sampled_from([b"", b"a", b"layer", b"{}", bytes(40_000), bytes(70_000)])
CONTENT_RANGES = st.none() | st.sampled_from(["0-0", "0-4", "1-5", "0-39999", "5-40004", "x"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("POST"), st.sampled_from(["team/app", "team/x"]), PIECES, st.booleans()),
        st.tuples(st.just("PATCH"), CONTENT_RANGES, PIECES, st.booleans()),
        st.tuples(st.just("PUT"), CONTENT_RANGES, PIECES, st.booleans()),
        st.tuples(st.just("DELETE"), st.none(), PIECES, st.booleans()),
    ),
    max_size=8,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["digest", "size", "mediaType", "urls", "data", "platform", "x"]), inner
        )
    ),
    max_leaves=6,
)
FIELDS = [
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "subject",
    "artifactType",
    "annotations",
]


def test_uploads_in_any_order_leave_the_store_whole(server: Registry) -> None:
    @given(steps=STEPS)
    @attempts(60)
    def attempt(steps: list[tuple[str, str | None, bytes, bool]]) -> None:
        begun = server.v2("POST", f"{NAME}/blobs/uploads/")
        assert begun.status == 202
        session = begun.headers["Location"].removeprefix("/v2/")
        received = b""
        for method, where, data, right in steps:
            if method == "POST":
                digest = digest_of(data if right else b"wrong")
                answer = server.v2("POST", f"{where}/blobs/uploads/?digest={digest}", data)
                assert answer.status == (201 if right else 400)
                continue
            headers = {"Content-Range": where} if where is not None else {}
            query = ""
            if method == "PUT":
                query = f"?digest={digest_of((received + data) if right else b'wrong')}"
            body = b"" if method == "DELETE" else data
            answer = server.v2(method, session + query, body, headers)
            assert answer.status in (201, 202, 204, 400, 404, 416)
            if answer.status == 202:
                received += data

    attempt()


def test_manifests_with_anything_in_them_are_answered(server: Registry) -> None:
    image(server)
    plain = manifest(digest_of(b"{}"), [(digest_of(b"layer"), 5)])

    @given(
        changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
        removed=st.sets(st.sampled_from(FIELDS), max_size=2),
        kind=st.sampled_from([MANIFEST_TYPE, INDEX_TYPE, "", "a/b", "x" * 300, "\xff/\xe9"]),
        reference=st.sampled_from(["v1", "v2", digest_of(b"other")]),
    )
    @attempts(200)
    def attempt(changes: dict[str, Any], removed: set[str], kind: str, reference: str) -> None:
        document = {
            name: value for name, value in {**plain, **changes}.items() if name not in removed
        }
        body = json.dumps(document).encode()
        headers = {"Content-Type": kind} if kind else {}
        answer = server.v2("PUT", f"{NAME}/manifests/{reference}", body, headers)
        assert answer.status in (201, 400, 413)
        if answer.status == 201:
            got = server.v2("GET", answer.headers["Location"].removeprefix("/v2/"))
            assert (got.status, got.body) == (200, body)

    attempt()


@pytest.mark.promise("SECURITY.md", "clients, with a key or without")
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"GET /v2/\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"GET /v2/\xff\xfe HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET http://other.example/v2/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: \xff\r\nConnection: close\r\n\r\n",
        b"POST /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        b"POST /token HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3\r\n\r\n\xff=%",
    ],
)
async def test_noise_is_answered_or_closed_at_once(server: Registry, request_bytes: bytes) -> None:
    """A TLS handshake too: docker tries one first, and is not to wait for its end."""
    async with connected(server.port) as client:
        await client.send(request_bytes)
        answer = await client.rest()
    assert answer == b"" or answer.split(b" ", 2)[1][:1] in (b"2", b"4")


@pytest.mark.parametrize("scheme", ["Bearer", "Basic", "\xe9"])
@pytest.mark.parametrize("secret", ["\xff", "e30.e30.\xff", "\x80" * 5000, "b\xe9", "YTpi\xff"])
@pytest.mark.parametrize("path", ["/v2/", f"/v2/{NAME}/manifests/v1", "/token"])
async def test_credentials_beyond_ascii_are_no_credentials(
    server: Registry, path: str, scheme: str, secret: str
) -> None:
    async with connected(server.port) as client:
        lines = (f"GET {path} HTTP/1.1", "Host: h", f"Authorization: {scheme} {secret}", "", "")
        await client.send("\r\n".join(lines).encode("latin-1"))
        answer = read("GET", path, await client.answer())
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")


async def test_refresh_tokens_beyond_ascii_are_no_tokens(server: Registry) -> None:
    for text in ("\xff", "e30.e30.\xe9", quote("\udcff", errors="surrogateescape")):
        form = f"grant_type=refresh_token&refresh_token={text}".encode("latin-1")
        answer = server.request("POST", "/token", form)
        assert answer.status == 401


async def test_a_client_that_leaves_in_the_middle_of_a_download(server: Registry) -> None:
    data = bytes(32 << 20)
    digest = digest_of(data)
    assert server.v2("POST", f"{NAME}/blobs/uploads/?digest={digest}", data).status == 201
    path = f"/v2/{NAME}/blobs/{digest}"
    lines = (f"GET {path} HTTP/1.1", "Host: h", f"Authorization: {basic(server.secret)}", "", "")
    async with connected(server.port) as client:
        await client.send("\r\n".join(lines).encode())
        assert await client.more()
        # Without a farewell.
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert len(server.v2("GET", f"{NAME}/blobs/{digest}").body) == len(data)


async def flooded(server: Registry, requests: Sequence[bytes], at_once: int = 20) -> None:
    """Each request on a connection of its own, some of them at the same time."""
    room = asyncio.Semaphore(at_once)

    async def send(data: bytes) -> None:
        async with room, connected(server.port) as client:
            try:
                await client.send(data)
                read("POST", "", await client.answer())
            except ConnectionError:
                # It heard enough, and said so before.
                pass

    await asyncio.gather(*(send(data) for data in requests))


def head(line: str, authorization: str, *headers: str) -> bytes:
    lines = (f"{line} HTTP/1.1", "Host: h", f"Authorization: {authorization}", *headers, "", "")
    return "\r\n".join(lines).encode()


async def test_bodies_over_their_limits_are_not_kept(server: Registry) -> None:
    """Announced or not, and where nobody reads them."""
    owner = basic(server.secret)
    kind, chunked = f"Content-Type: {MANIFEST_TYPE}", "Transfer-Encoding: chunked"
    put = f"PUT /v2/{NAME}/manifests/v1"
    ask = f"POST /v2/{NAME}/_holdfast/exists"
    document = json.dumps(manifest(digest_of(b"{}"), annotations={"a": "x" * 5_000_000})).encode()
    length = f"Content-Length: {len(document)}"
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    kinds = [
        head(put, owner, kind, length) + document,
        head(put, owner, kind, chunked) + piece * 800 + b"0\r\n\r\n",
        head("POST /token", owner, chunked) + piece * 400 + b"0\r\n\r\n",
        head(ask, owner, chunked) + piece * 400 + b"0\r\n\r\n",
        head("GET /v2/", owner, chunked) + piece * 400,
        head("PATCH /v3/", owner, chunked) + piece * 400,
    ]
    await flooded(server, [data for data in kinds for _ in range(10)])


async def test_heads_that_are_long_or_never_the_same_are_forgotten(server: Registry) -> None:
    narrow = f"Bearer {token_of(server, f'repository:{NAME}:pull')}"
    scopes = [f"repository:team/{'a' * 200}{n}:*" for n in range(64)]
    wide = token_of(server, *scopes)
    assert 2 * FIELD_BYTES_MAX > len(wide) > FIELD_BYTES_MAX // 2
    asked = "&".join(f"scope={scope}" for scope in scopes)
    path = f"GET /v2/{NAME}/manifests/{'t' * 100}"
    await flooded(
        server,
        [
            *(head(f"{path}{n}", narrow, f"User-Agent: {n}") for n in range(2500)),
            *(head(f"GET /v2/a/{'b' * 9000}{n}/tags/list", narrow) for n in range(100)),
            *(head("GET /v2/", f"Bearer {wide}", f"User-Agent: {n}") for n in range(100)),
            *(head(f"GET /token?{asked}&n={n}", basic(server.secret)) for n in range(50)),
            # Without an end.
            *[f"GET /v2/{'a' * 2 * HEAD_BYTES_MAX}".encode()] * 50,
            *[f"GET /v2/ HTTP/1.1\r\nHost: h\r\nX: {'a' * 2 * HEAD_BYTES_MAX}".encode()] * 50,
            *[b"GET /v2/ HTTP/1.1\r\nHost: h\r\n" + b"X-Y: z\r\n" * 20_000] * 50,
        ],
    )


async def test_answers_that_nobody_reads_are_not_made(server: Registry) -> None:
    """Of a hundred thousand requests at once only some are taken in."""
    one = head(f"GET /v2/{NAME}/blobs/{digest_of(bytes(100_000))}", basic(server.secret))
    async with connected(server.port) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sending = asyncio.create_task(client.send(one * 100_000))
        done, _ = await asyncio.wait([sending], timeout=1)
        assert not done
        sending.cancel()
