"""Reading and unlinking blobs (contract 2 and 10)."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.api import digest_of
from support.distribution import Answer, Registry, manifest, registry

from holdfast.engine import Store, StoreConfig

NAME = "team/app"
LARGE = bytes(range(256)) * 2048
SMALL = b"0123456789"


@pytest.fixture(params=["memory", "disk"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    config = StoreConfig(map_bytes=64 << 20, background=False)
    disk = request.param == "disk"
    opened = Store.open(tmp_path / "data", config) if disk else Store.memory(config)
    async with registry(opened) as running:
        await running.namespace("team")
        yield running


@pytest.mark.parametrize("data", [SMALL, LARGE, b""])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_get_and_head_agree(server: Registry, data: bytes, algorithm: str) -> None:
    await server.blob(NAME, data)
    digest = digest_of(data, algorithm)
    if algorithm == "sha512":
        path = f"/v2/{NAME}/blobs/uploads/?digest={digest}"
        assert (await server.call("POST", path, data=data)).status == 201
    got = await server.call("GET", f"/v2/{NAME}/blobs/{digest}")
    head = await server.call("HEAD", f"/v2/{NAME}/blobs/{digest}")
    assert got.status == head.status == 200
    assert got.body == data
    for answer in (got, head):
        assert answer.headers["Content-Length"] == str(len(data))
        assert answer.headers["Docker-Content-Digest"] == digest
        assert answer.headers["ETag"] == f'"{digest}"'
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        if data:
            assert answer.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_ranges(server: Registry, data: bytes) -> None:
    path = f"/v2/{NAME}/blobs/{await server.blob(NAME, data)}"
    size = len(data)
    for asked, first, last in (
        ("0-1", 0, 1),
        ("3-", 3, size - 1),
        ("-4", size - 4, size - 1),
        (f"2-{size * 2}", 2, size - 1),
        (f"-{size * 2}", 0, size - 1),
    ):
        answer = await server.call("GET", path, headers={"Range": f"bytes={asked}"})
        assert answer.status == 206, asked
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
        assert answer.headers["Content-Length"] == str(last - first + 1)
        assert answer.body == data[first : last + 1]
    for asked in (f"{size}-", f"{size}-{size + 1}", "5-0"):
        answer = await server.call("GET", path, headers={"Range": f"bytes={asked}"})
        assert (answer.status, answer.code) == (416, "RANGE_INVALID")
        assert answer.headers["Content-Range"] == f"bytes */{size}"
    for asked in ("lines=0-1", "bytes=x", "bytes=" + "0-0," * 1025):
        answer = await server.call("GET", path, headers={"Range": asked})
        assert (answer.status, answer.body) == (200, data)


def parts_of(answer: Answer) -> list[tuple[str, bytes]]:
    """Content-Range and content of each part."""
    kind, _, boundary = answer.headers["Content-Type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    first, *parts, last = answer.body.split(f"\r\n--{boundary}".encode())
    assert (first, last) == (b"", b"--\r\n")
    found = []
    for part in parts:
        head, _, body = part.partition(b"\r\n\r\n")
        found.append((head.decode().partition("Content-Range: ")[2], body))
    return found


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_thousand_ranges(tmp_path: Path, compressed: bool) -> None:
    """Each comes as it was asked for, in that order; the file is read in few trips to a thread."""
    data = b"".join(b"%012d\n" % number for number in range(80_000))
    size = len(data)
    config = StoreConfig(map_bytes=64 << 20, background=False, compression="auto")
    async with registry(Store.open(tmp_path / "data", config)) as server:
        await server.namespace("team")
        path = f"/v2/{NAME}/blobs/{await server.blob(NAME, data)}"
        if compressed:
            await server.store.recompressor.run()
            assert (await server.store.stats()).stored_bytes < size
        trips = 0
        run = server.store.core.threads.run

        async def counted(call: Any, *args: Any) -> Any:
            nonlocal trips
            trips += 1
            return await run(call, *args)

        server.store.core.threads.run = counted  # type: ignore[assignment,method-assign]
        step = size // 1024
        for length, trips_max in ((1, 20), (step - 1, 40)):
            starts = [number * step for number in range(1024)]
            random.Random(5).shuffle(starts)
            asked = ",".join(f"{start}-{start + length - 1}" for start in starts)
            trips = 0
            answer = await server.call("GET", path, headers={"Range": f"bytes={asked}"})
            assert answer.status == 206
            assert parts_of(answer) == [
                (f"bytes {at}-{at + length - 1}/{size}", data[at : at + length]) for at in starts
            ]
            assert trips <= trips_max
        many = ",".join("0-0" for _ in range(1025))
        answer = await server.call("GET", path, headers={"Range": f"bytes={many}"})
        assert (answer.status, answer.body == data) == (200, True)


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        (SMALL, ((0, 1), (4, 5), (8, 9))),
        (LARGE, ((0, 1), (4, 5))),
        (bytes(range(251)) * 4000, ((600_000, 990_000), (5, 400_000), (3, 3))),
    ],
    ids=["small", "large", "pieces"],
)
async def test_several_ranges_come_as_parts(
    server: Registry, data: bytes, asked: tuple[tuple[int, int], ...]
) -> None:
    """Large ranges are sent in pieces."""
    path = f"/v2/{NAME}/blobs/{await server.blob(NAME, data)}"
    header = "bytes=" + ",".join(f"{first}-{last}" for first, last in asked)
    answer = await server.call("GET", path, headers={"Range": header})
    assert answer.status == 206
    assert parts_of(answer) == [
        (f"bytes {first}-{last}/{len(data)}", data[first : last + 1]) for first, last in asked
    ]


async def test_a_range_of_an_empty_blob_is_all_of_it(server: Registry) -> None:
    digest = await server.blob(NAME, b"")
    answer = await server.call("GET", f"/v2/{NAME}/blobs/{digest}", headers={"Range": "bytes=0-"})
    assert (answer.status, answer.body) == (200, b"")


async def test_conditions_of_ranges(server: Registry) -> None:
    digest = await server.blob(NAME, LARGE)
    path = f"/v2/{NAME}/blobs/{digest}"
    ranged = {"Range": "bytes=0-1"}
    answer = await server.call("GET", path, headers={**ranged, "If-Range": f'"{digest}"'})
    assert answer.status == 206
    for other in ('"old"', f'W/"{digest}"', f'"{digest}", "x"', "Fri, 31 Dec 2100 00:00:00 GMT"):
        answer = await server.call("GET", path, headers={**ranged, "If-Range": other})
        assert (answer.status, answer.body) == (200, LARGE)
    outside = {"Range": f"bytes={len(LARGE)}-"}
    for header, value, status in (
        ("If-None-Match", "*", 304),
        ("If-Match", '"x"', 412),
        ("If-Match", "*", 416),
    ):
        answer = await server.call("GET", path, headers={**outside, header: value})
        assert answer.status == status


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_blobs_that_are_not_there(server: Registry, method: str) -> None:
    await server.blob(NAME, SMALL)
    for digest, status, code in (
        (digest_of(b"absent"), 404, "BLOB_UNKNOWN"),
        (digest_of(SMALL, "sha512"), 404, "BLOB_UNKNOWN"),
        ("blake3:" + "a" * 64, 404, "BLOB_UNKNOWN"),
        ("sha256:short", 400, "DIGEST_INVALID"),
        ("sha256:" + "A" * 64, 400, "DIGEST_INVALID"),
        ("latest", 400, "DIGEST_INVALID"),
        ("%zz", 400, "DIGEST_INVALID"),
    ):
        answer = await server.call(method, f"/v2/{NAME}/blobs/{digest}")
        assert answer.status == status, digest
        if method != "HEAD":
            assert answer.code == code


async def test_a_blob_is_readable_only_through_an_image_that_has_it(server: Registry) -> None:
    digest = await server.blob(NAME, SMALL)
    await server.blob("team/other", LARGE)
    for name in ("team/other", "team/nothing"):
        for method in ("GET", "HEAD"):
            answer = await server.call(method, f"/v2/{name}/blobs/{digest}")
            assert answer.status == 404
    answer = await server.call("GET", f"/v2/team/other/blobs/{digest}")
    assert answer.code == "BLOB_UNKNOWN"


async def test_a_deleted_blob_is_gone_here_and_can_come_back(server: Registry) -> None:
    digest = await server.blob(NAME, LARGE)
    await server.blob(NAME, SMALL)
    await server.blob("team/other", LARGE)
    path = f"/v2/{NAME}/blobs/{digest}"
    assert (await server.call("DELETE", path)).status == 202
    assert (await server.call("HEAD", path)).status == 404
    assert (await server.call("DELETE", path)).code == "BLOB_UNKNOWN"
    assert (await server.call("GET", f"/v2/team/other/blobs/{digest}")).body == LARGE
    await server.blob(NAME, LARGE)
    assert (await server.call("GET", path)).body == LARGE


async def test_a_blob_that_a_manifest_needs_stays(server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    answer = await server.put_manifest(NAME, "v1", manifest(config))
    assert answer.status == 201
    pushed = answer.headers["Docker-Content-Digest"]
    answer = await server.call("DELETE", f"/v2/{NAME}/blobs/{config}")
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert (await server.call("HEAD", f"/v2/{NAME}/blobs/{config}")).status == 200
    # Without its tag the manifest still needs it; without the manifest nothing does.
    assert (await server.call("DELETE", f"/v2/{NAME}/manifests/v1")).status == 202
    assert (await server.call("DELETE", f"/v2/{NAME}/blobs/{config}")).status == 405
    assert (await server.call("DELETE", f"/v2/{NAME}/manifests/{pushed}")).status == 202
    assert (await server.call("DELETE", f"/v2/{NAME}/blobs/{config}")).status == 202
    assert (await server.call("HEAD", f"/v2/{NAME}/blobs/{config}")).status == 404


async def test_what_is_held_is_read_until_the_end_and_promised_for_half_of_it() -> None:
    """Whoever is told that a blob is there has time left to push the manifest."""
    now = [1_800_000_000.0]
    config = StoreConfig(background=False, hold_seconds=100)
    async with registry(Store.memory(config, clock=lambda: now[0])) as server:
        await server.namespace("team")
        digest = await server.blob(NAME, SMALL)
        path = f"/v2/{NAME}/blobs/{digest}"

        async def seen() -> tuple[list[int], bool]:
            """The statuses of all ways to read it; whether it is promised."""
            statuses = [
                (await server.call("GET", path, headers=headers)).status
                for headers in (
                    {},
                    {"Range": "bytes=0-1"},
                    {"Range": "bytes=0-1,4-5"},
                    {"If-None-Match": f'"{digest}"'},
                    {"If-None-Match": '"other"'},
                )
            ]
            question = json.dumps({"digests": [digest]}).encode()
            answer = await server.call("POST", f"/v2/{NAME}/_holdfast/exists", data=question)
            promised = answer.json["present"] == [digest]
            assert (await server.call("HEAD", path)).status == (200 if promised else 404)
            return statuses, promised

        read = [200, 206, 206, 304, 200]
        now[0] += 49
        assert await seen() == (read, True)
        now[0] += 2
        assert await seen() == (read, False)
        now[0] += 50
        assert await seen() == ([404] * 5, False)
