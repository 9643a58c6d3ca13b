"""Whatever comes in: no 500, no hang, OCI errors with known codes (issue, "Bad input")."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from distribution_support import (
    INDEX_TYPE,
    MANIFEST_TYPE,
    Registry,
    digest_of,
    manifest,
    registry,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.engine import Problem, Store, StoreConfig, check_directory

NAME = "team/app"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]


@pytest.fixture
async def server() -> AsyncIterator[Registry]:
    async with registry() as running:
        await running.namespace("team")
        await running.image(NAME, "v1", b"layer")
        yield running


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
        "sha256:" + "a" * 64,
        "sha256%3A" + "a" * 64,
        "sha512:" + "b" * 128,
        "sha256:x",
        "a" * 300,
        "00000000-0000-4000-8000-000000000000",
    ]
) | st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="#?"), max_size=8)
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(
            ["n", "last", "digest", "mount", "from", "tag", "artifactType", "digest-algorithm", "x"]
        ),
        SEGMENTS | st.sampled_from(["0", "-1", "5", "99999999999999999999", "team/app", "sha512"]),
    ),
    max_size=3,
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Range",
            "Content-Range",
            "If-Match",
            "If-None-Match",
            "If-Range",
            "Content-Type",
            "Accept",
            "Authorization",
            "X-Forwarded-Host",
        ]
    ),
    st.sampled_from(["*", "bytes=0-0", "bytes=-1,0-1,5-", "0-0", "9-1", '"x"', "W/", "Basic", ","])
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    max_size=3,
)


@contextlib.contextmanager
def served_from(path: Path) -> Iterator[tuple[asyncio.Runner, Registry]]:
    """A registry over a data directory with an image in it; afterwards the directory is whole."""
    config = StoreConfig(map_bytes=64 << 20)

    async def problems() -> list[Problem]:
        return [problem async for problem in check_directory(path, deep=True, config=config)]

    with asyncio.Runner() as runner:
        serving = registry(Store.open(path, config))
        server = runner.run(serving.__aenter__())
        try:
            runner.run(server.namespace("team"))
            runner.run(server.image(NAME, "v1", b"layer"))
            yield runner, server
        finally:
            runner.run(serving.__aexit__(None, None, None))
        assert runner.run(problems()) == []


def test_no_request_leads_to_a_500(tmp_path: Path) -> None:
    """Requests made of the API's own words and of noise, with the owner's key, over raw sockets."""
    with served_from(tmp_path / "data") as (runner, server):
        token = runner.run(
            server.token(f"repository:{NAME}:*", "repository:team/x:*", "registry:catalog:*")
        )

        @given(
            method=st.sampled_from(METHODS),
            segments=st.lists(SEGMENTS, max_size=7),
            query=QUERIES,
            headers=HEADERS,
            body=st.binary(max_size=40) | st.sampled_from([b'{"digests":[]}', b"{}"]),
        )
        @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        def attempt(
            method: str,
            segments: list[str],
            query: list[tuple[str, str]],
            headers: dict[str, str],
            body: bytes,
        ) -> None:
            path = "/v2/" + "/".join(segments)
            if query:
                path += "?" + "&".join(f"{name}={value}" for name, value in query)
            headers = {"Authorization": f"Bearer {token}", **headers}
            lines = [f"{method} {path} HTTP/1.1", "Host: h", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            lines += [f"Content-Length: {len(body)}", "", ""]
            answer = runner.run(server.raw("\r\n".join(lines).encode("latin-1") + body))
            status = int(answer.split(b" ", 2)[1])
            assert 200 <= status < 500, answer[:300]

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


def test_uploads_in_any_order_leave_the_store_whole(tmp_path: Path) -> None:
    with served_from(tmp_path / "data") as (runner, server):

        async def follow(steps: list[tuple[str, str | None, bytes, bool]]) -> None:
            location = await server.session(NAME)
            received = b""
            for method, where, data, right in steps:
                if method == "POST":
                    digest = digest_of(data if right else b"wrong")
                    path = f"/v2/{where}/blobs/uploads/?digest={digest}"
                    answer = await server.call("POST", path, data=data)
                    assert answer.status == (201 if right else 400)
                    continue
                headers = {"Content-Range": where} if where is not None else {}
                path = location
                if method == "PUT":
                    digest = digest_of((received + data) if right else b"wrong")
                    path += f"?digest={digest}"
                body = None if method == "DELETE" else data
                answer = await server.call(method, path, data=body, headers=headers)
                assert answer.status in (201, 202, 204, 400, 404, 416)
                if answer.status == 202:
                    received += data

        @given(steps=STEPS)
        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        def attempt(steps: list[tuple[str, str | None, bytes, bool]]) -> None:
            runner.run(follow(steps))

        attempt()


def test_manifests_with_anything_in_them_are_answered(tmp_path: Path) -> None:
    with served_from(tmp_path / "data") as (runner, server):
        plain = manifest(digest_of(b"{}"), [(digest_of(b"layer"), 5)])

        @given(
            changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
            removed=st.sets(st.sampled_from(FIELDS), max_size=2),
            kind=st.sampled_from([MANIFEST_TYPE, INDEX_TYPE, "", "a/b", "x" * 300]),
            reference=st.sampled_from(["v1", "v2", digest_of(b"other")]),
        )
        @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        def attempt(changes: dict[str, Any], removed: set[str], kind: str, reference: str) -> None:
            document = {
                name: value for name, value in {**plain, **changes}.items() if name not in removed
            }
            body = json.dumps(document).encode()
            headers = {"Content-Type": kind} if kind else {}
            answer = runner.run(
                server.call("PUT", f"/v2/{NAME}/manifests/{reference}", data=body, headers=headers)
            )
            assert answer.status in (201, 400, 413)
            if answer.status == 201:
                got = runner.run(server.call("GET", answer.location))
                assert (got.status, got.body) == (200, body)

        attempt()


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
        b"POST /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        b"POST /token HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3\r\n\r\n\xff=%",
    ],
)
async def test_noise_is_answered_or_closed_at_once(
    server: Registry, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A TLS handshake too: docker tries one first, and is not to wait for its end."""
    answer = await server.raw(request_bytes)
    assert answer == b"" or answer.split(b" ", 2)[1][:1] in (b"2", b"4")
    assert not [record for record in caplog.records if "holdfast" in record.name]


async def test_a_client_that_leaves_in_the_middle_of_a_download(
    server: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytes(32 << 20)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1 << 20):
            yield data[start : start + (1 << 20)]

    digest = digest_of(data)
    path = f"/v2/{NAME}/blobs"
    answer = await server.call("POST", f"{path}/uploads/?digest={digest}", data=pieces())
    assert answer.status == 201
    token = await server.token(f"repository:{NAME}:pull")
    head = f"GET {path}/{digest} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n"
    async with server.connection() as (reader, writer):
        writer.write(head.encode())
        await reader.readuntil(b"\r\n\r\n")
        transport: Any = writer.transport
        transport.abort()
    answer = await server.call("GET", f"{path}/{digest}")
    assert len(answer.body) == len(data)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
