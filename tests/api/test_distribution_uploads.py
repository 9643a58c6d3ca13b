"""Uploads: every way to bring a blob in, and every way that it can go wrong (contract 4 to 7)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from support import api_fixtures
from support.api import digest_of
from support.distribution import Answer, Registry, content

server = api_fixtures.team_server

DATA = bytes(range(256)) * 1024
"""256 KiB: more than fits inline."""
NAME = "team/app"


async def put(
    server: Registry, location: str, digest: str, data: bytes = b"", **more: str
) -> Answer:
    separator = "&" if "?" in location else "?"
    return await server.call(
        "PUT", f"{location}{separator}digest={digest}", data=data or None, headers=more
    )


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_session_opens_with_all_that_clients_look_for(server: Registry, slash: str) -> None:
    answer = await server.call(
        "POST", f"/v2/{NAME}/blobs/uploads{slash}", headers={"Content-Type": "application/json"}
    )
    assert answer.status == 202
    upload_id = answer.headers["Docker-Upload-UUID"]
    assert str(uuid.UUID(upload_id)) == upload_id
    assert answer.location == f"/v2/{NAME}/blobs/uploads/{upload_id}"
    assert answer.headers["Range"] == "0-0"
    assert answer.headers["Content-Length"] == "0"
    assert "OCI-Chunk-Min-Length" not in answer.headers


async def test_docker_pushes_a_stream_of_unknown_length_then_an_empty_put(
    server: Registry,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(DATA), 50_000):
            yield DATA[start : start + 50_000]

    location = await server.session(NAME)
    answer = await server.call("PATCH", location, data=pieces())
    assert answer.status == 202
    assert answer.headers["Range"] == f"0-{len(DATA) - 1}"
    assert answer.location == location
    digest = digest_of(DATA)
    answer = await put(server, location, digest)
    assert answer.status == 201
    assert answer.location == f"/v2/{NAME}/blobs/{digest}"
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["Content-Length"] == "0"
    assert await content(server, digest) == DATA


@pytest.mark.parametrize("size", [2000, 3_000_000])
async def test_docker_is_refused_what_the_quota_does_not_hold(server: Registry, size: int) -> None:
    """The session is opened without a size, and the stream has none either."""
    namespace = await server.store.namespaces.find("fr-par", "team")
    await server.store.namespaces.update(namespace.id, quota=1000)
    data = bytes(size)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 50_000):
            yield data[start : start + 50_000]

    location = await server.session(NAME)
    refused = await server.call("PATCH", location, data=pieces())
    assert (refused.status, refused.code) == (403, "DENIED")
    assert "quota" in refused.body.decode() or "size" in refused.body.decode()
    assert (await server.call("GET", location)).code == "BLOB_UPLOAD_UNKNOWN"
    location = await server.session(NAME)
    refused = await put(server, location, digest_of(data), data[:900_000])
    assert (refused.status, refused.code) == (403, "DENIED")
    location = await server.session(NAME)
    assert (await server.call("PATCH", location, data=b"x" * 1000)).status == 202
    assert (await put(server, location, digest_of(b"x" * 1000))).status == 201


async def test_chunks_with_ranges_are_cumulative(server: Registry) -> None:
    location = await server.session(NAME)
    first, second, third = DATA[:100], DATA[100:70_000], DATA[70_000:]
    answer = await server.call("PATCH", location, data=first, headers={"Content-Range": "0-99"})
    assert (answer.status, answer.headers["Range"]) == (202, "0-99")
    answer = await server.call(
        "PATCH", location, data=second, headers={"Content-Range": "100-69999"}
    )
    assert (answer.status, answer.headers["Range"]) == (202, "0-69999")
    answer = await server.call("GET", location)
    assert (answer.status, answer.headers["Range"], answer.location) == (204, "0-69999", location)
    digest = digest_of(DATA)
    last = {"Content-Range": f"70000-{len(DATA) - 1}"}
    assert (await put(server, location, digest, third, **last)).status == 201
    assert await content(server, digest) == DATA
    # The answer may have been lost.
    assert (await put(server, location, digest, third, **last)).status == 201
    assert (await put(server, location, digest_of(third))).code == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_chunk_out_of_order_gets_416_and_the_session_goes_on(
    server: Registry, method: str
) -> None:
    location = await server.session(NAME)
    digest = digest_of(DATA)
    path = f"{location}?digest={digest}"
    await server.call("PATCH", location, data=DATA[:1000], headers={"Content-Range": "0-999"})
    # A gap, and an already accepted chunk again.
    for content_range, data in (("2000-2999", DATA[2000:3000]), ("0-999", DATA[:1000])):
        answer = await server.call(
            method, path, data=data, headers={"Content-Range": content_range}
        )
        assert answer.status == 416
        assert answer.code == "BLOB_UPLOAD_INVALID"
        assert answer.headers["Range"] == "0-999"
        assert answer.location == location
        assert answer.headers["Docker-Upload-UUID"] in location
    answer = await server.call("GET", location)
    assert (answer.status, answer.headers["Range"]) == (204, "0-999")
    answer = await server.call(
        "PUT", path, data=DATA[1000:], headers={"Content-Range": f"1000-{len(DATA) - 1}"}
    )
    assert answer.status == 201


async def test_the_first_chunk_must_start_at_zero(server: Registry) -> None:
    location = await server.session(NAME)
    answer = await server.call("PATCH", location, data=b"x", headers={"Content-Range": "1-1"})
    assert answer.status == 416
    assert answer.headers["Range"] == "0-0"


@pytest.mark.parametrize("text", ["bytes=0-2", "0-5", "a-b", "2-0", "-", "0-2/3"])
async def test_a_malformed_content_range_is_refused_and_the_session_kept(
    server: Registry, text: str
) -> None:
    location = await server.session(NAME)
    answer = await server.call("PATCH", location, data=b"abc", headers={"Content-Range": text})
    assert (answer.status, answer.code) == (400, "SIZE_INVALID")
    answer = await server.call("GET", location)
    assert (answer.status, answer.headers["Range"]) == (204, "0-0")


@pytest.mark.parametrize("data", [b"small", DATA, b""])
async def test_a_whole_blob_in_the_put(server: Registry, data: bytes) -> None:
    location = await server.session(NAME)
    digest = digest_of(data)
    assert (await put(server, location, digest, data)).status == 201
    assert await content(server, digest) == data


async def test_containerd_sends_an_empty_body_chunked(server: Registry) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        pieces: tuple[bytes, ...] = ()
        for piece in pieces:
            yield piece

    location = await server.session(NAME)
    digest = digest_of(b"")
    answer = await server.call("PUT", f"{location}?digest={digest}", data=nothing())
    assert answer.status == 201
    assert await content(server, digest) == b""


@pytest.mark.parametrize("data", [b"small", DATA, b""])
async def test_one_request_is_enough(server: Registry, data: bytes) -> None:
    digest = digest_of(data)
    answer = await server.call("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", data=data)
    assert answer.status == 201
    assert answer.location == f"/v2/{NAME}/blobs/{digest}"
    assert answer.headers["Docker-Content-Digest"] == digest
    assert await content(server, digest) == data


async def test_the_colon_may_be_escaped(server: Registry) -> None:
    digest = digest_of(DATA)
    escaped = digest.replace(":", "%3A")
    answer = await server.call(
        "POST", f"/v2/{NAME}/blobs/uploads/?digest={escaped}&origin=elsewhere", data=DATA
    )
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == digest
    assert (await server.call("HEAD", f"/v2/{NAME}/blobs/{escaped}")).status == 200


@pytest.mark.parametrize("digest", ["", "sha256:short", "sha256:" + "A" * 64, "x", "md5:aa", "%zz"])
async def test_a_digest_that_is_none_is_refused(server: Registry, digest: str) -> None:
    answer = await server.call("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", data=b"data")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    location = await server.session(NAME)
    answer = await put(server, location, digest, b"data")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert (await server.call("PUT", location, data=b"data")).code == "DIGEST_INVALID"
    assert (await put(server, location, digest_of(b"data"), b"data")).status == 201


@pytest.mark.parametrize("one_request", [True, False])
async def test_a_wrong_digest_leaves_nothing(server: Registry, one_request: bool) -> None:
    wrong = digest_of(b"something else")
    if one_request:
        answer = await server.call("POST", f"/v2/{NAME}/blobs/uploads/?digest={wrong}", data=DATA)
    else:
        answer = await put(server, await server.session(NAME), wrong, DATA)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    for digest in (wrong, digest_of(DATA)):
        assert (await server.call("HEAD", f"/v2/{NAME}/blobs/{digest}")).status == 404


@pytest.mark.parametrize("announced", [True, False])
async def test_sha512_whether_announced_or_not(server: Registry, announced: bool) -> None:
    digest = digest_of(DATA, "sha512")
    query = "?digest-algorithm=sha512" if announced else ""
    location = (await server.call("POST", f"/v2/{NAME}/blobs/uploads/{query}")).location
    assert (await server.call("PATCH", location, data=DATA)).status == 202
    answer = await put(server, location, digest)
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == digest
    assert await content(server, digest) == DATA
    # The same bytes under their other name.
    assert await content(server, digest_of(DATA)) == DATA


async def test_an_unknown_algorithm_is_refused_at_once(server: Registry) -> None:
    answer = await server.call("POST", f"/v2/{NAME}/blobs/uploads/?digest-algorithm=md5")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


async def test_a_cancelled_session_is_gone(server: Registry) -> None:
    location = await server.session(NAME)
    await server.call("PATCH", location, data=DATA)
    token = await server.token(f"repository:{NAME}:pull,push")
    # The right to push is enough to cancel.
    assert (await server.call("DELETE", location, token=token)).status == 204
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        path = location + ("?digest=" + digest_of(b"x") if method == "PUT" else "")
        answer = await server.call(method, path, data=b"x" if method[0] == "P" else None)
        assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN"), method


UNKNOWN = "4e0e9f0d-0b52-4c4e-9a5a-5a0d6d3b7c11"


@pytest.mark.parametrize(
    "item", [UNKNOWN, "x", f"{{{UNKNOWN}}}", UNKNOWN.replace("-", ""), "%00", "a%2Fb"]
)
async def test_sessions_that_never_were(server: Registry, item: str) -> None:
    answer = await server.call("GET", f"/v2/{NAME}/blobs/uploads/{item}")
    assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_a_session_belongs_to_its_repository(server: Registry) -> None:
    location = await server.session(NAME)
    await server.session("team/other")
    foreign = location.replace(NAME, "team/other")
    for method in ("GET", "PATCH", "DELETE"):
        answer = await server.call(method, foreign, data=b"x" if method == "PATCH" else None)
        assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert (await server.call("GET", location)).status == 204


async def test_a_client_that_vanishes_leaves_what_arrived(server: Registry) -> None:
    location = await server.session(NAME)
    token = await server.token(f"repository:{NAME}:pull,push")
    head = f"PATCH {location} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"
    async with server.connection() as (_, writer):
        writer.write(f"{head}Content-Length: {len(DATA)}\r\n\r\n".encode() + DATA[:100_000])
        await writer.drain()
    async with asyncio.timeout(10):
        while (answer := await server.call("GET", location)).headers["Range"] == "0-0":
            assert answer.status == 204
        # The first request may still be put away; that is what 429 says.
        while (answer := await server.call("PATCH", location, data=b"")).status == 429:
            assert answer.headers["Retry-After"]
    assert answer.status == 202
    kept = int(answer.headers["Range"].partition("-")[2]) + 1
    assert 0 < kept <= 100_000
    answer = await server.call(
        "PATCH",
        location,
        data=DATA[kept:],
        headers={"Content-Range": f"{kept}-{len(DATA) - 1}"},
    )
    assert answer.status == 202
    digest = digest_of(DATA)
    assert (await put(server, location, digest)).status == 201
    assert await content(server, digest) == DATA


async def test_a_body_that_is_encoded_is_refused(server: Registry) -> None:
    answer = await server.call(
        "POST",
        f"/v2/{NAME}/blobs/uploads/?digest={digest_of(b'x')}",
        data=b"x",
        headers={"Content-Encoding": "gzip"},
    )
    assert answer.status in (400, 415)


async def test_the_go_ahead_is_sent_only_to_those_who_may_go_ahead(server: Registry) -> None:
    digest = digest_of(b"abc")
    head = (
        f"POST /v2/{NAME}/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: h\r\n"
        "Connection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
    )
    answer = await server.raw(f"{head}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 401 ")
    token = await server.token(f"repository:{NAME}:pull,push")
    async with server.connection() as (reader, writer):
        writer.write(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
    answer = await server.raw(head.replace("100-continue", "tea").encode() + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 417 ")


@pytest.mark.slow
async def test_a_refused_body_is_read_only_so_far(server: Registry) -> None:
    # A small one is taken in, and the connection is used again.
    location = await server.session(NAME)
    token = await server.token(f"repository:{NAME}:pull,push")
    head = f"PATCH {location} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"
    wrong = f"{head}Content-Range: 5-7\r\nContent-Length: 3\r\n\r\nabc"
    last = f"GET /v2/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer {token}"
    answer = await server.raw(f"{wrong}{last}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 416 ")
    assert b"HTTP/1.1 200 OK" in answer
    # A large one is not: the answer comes, then the end, long before a gigabyte is sent.
    async with server.connection() as (reader, writer):
        large = f"{head}Content-Range: 5-1000000004\r\nContent-Length: 1000000000\r\n\r\n"
        writer.write(large.encode() + b"x" * 100_000)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 416 ")
        assert b"BLOB_UPLOAD_INVALID" in await reader.read()


async def test_two_pushes_of_the_same_blob_both_succeed(server: Registry) -> None:
    digest = digest_of(DATA)
    answers = await asyncio.gather(
        *(
            server.call("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data=DATA)
            for name in (NAME, NAME, "team/other")
        )
    )
    assert [answer.status for answer in answers] == [201] * 3
    assert await content(server, digest) == DATA
