"""Each row of the table *Choices* in docs/distribution-api.md, as a server answers it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from support import api_fixtures
from support.api import INDEX_TYPE, MANIFEST_TYPE, OWNER_SECRET, digest_of
from support.distribution import Registry, descriptor, manifest, registry
from support.full import GO_ON, filled, pulled_and_deleted
from support.rows import Row, said

from holdfast.api import AppSettings
from holdfast.api.oci.exchange import RESULTS_MAX
from holdfast.engine import MANIFEST_BYTES_MAX, NEEDS_MAX, Store, StoreConfig
from holdfast.engine.depot.disk import DiskDepot

server = api_fixtures.team_server

NAME: Final = "team/app"
LARGE: Final = bytes(range(256)) * 400


@pytest.mark.row("distribution-api.md", "blob DELETE while a manifest of the image needs it")
async def test_a_blob_in_use(row: Row, server: Registry) -> None:
    await server.image(NAME, "v1", b"layer")
    path = f"/v2/{NAME}/blobs/{digest_of(b'layer')}"
    row.says(answer=said(await server.call("DELETE", path)))
    assert (await server.call("GET", path)).body == b"layer"


@pytest.mark.row("distribution-api.md", "`If-Match` or `If-None-Match` of any request fails")
async def test_conditions(row: Row, server: Registry) -> None:
    present = await server.image(NAME, "v1", b"layer")
    body = (await server.call("GET", f"/v2/{NAME}/manifests/v1")).body
    blob = await server.blob(NAME, b"free")
    other = {"If-Match": f'"{digest_of(b"other")}"'}
    refused = []
    for target, current in (
        (f"manifests/{present}", present),
        ("manifests/v1", present),
        (f"blobs/{blob}", blob),
    ):
        path = f"/v2/{NAME}/{target}"
        for method in ("GET", "DELETE"):
            answer = await server.call(method, path, headers=other)
            refused.append((current, answer))
        assert (await server.call("HEAD", path, headers=other)).status == 412
        for method in ("GET", "HEAD"):
            for tag in (f'"{current}"', "*"):
                answer = await server.call(method, path, headers={"If-None-Match": tag})
                assert answer.status == 304
    for headers in (other, {"If-None-Match": "*"}):
        answer = await server.put_manifest(NAME, "v1", body, headers=headers)
        refused.append((present, answer))
    for current, answer in refused:
        assert answer.json["errors"][0]["detail"] == {"current": current}, answer
    answers = said(*(answer for _, answer in refused))
    row.says(
        answer=f"{answers}, with the current digest in `detail.current`; "
        "GET and HEAD with `If-None-Match` 304"
    )


@pytest.mark.row("distribution-api.md", "chunk at the wrong offset (PATCH, and the last PUT)")
async def test_a_wrong_offset(row: Row, server: Registry) -> None:
    place = await server.session(NAME)
    assert (await server.call("PATCH", place, data=b"12345")).status == 202
    wrong = {"Content-Range": "7-8"}
    refused = [
        await server.call("PATCH", place, data=b"67", headers=wrong),
        await server.call("PUT", f"{place}?digest={digest_of(b'1')}", data=b"67", headers=wrong),
    ]
    right = {"Content-Range": "5-6"}
    assert (await server.call("PATCH", place, data=b"67", headers=right)).status == 202
    whole = digest_of(b"1234567")
    assert (await server.call("PUT", f"{place}?digest={whole}")).status == 201
    row.says(answer=f"{said(*refused)}; the session stays open")


@pytest.mark.row("distribution-api.md", "PUT of an upload that did not come whole")
async def test_a_put_that_breaks_off(row: Row, server: Registry) -> None:
    place = await server.session(NAME)
    data = b"12345" + LARGE
    assert (await server.call("PATCH", place, data=data[:5])).status == 202
    path = f"{place}?digest={digest_of(data)}"
    token = await server.token(f"repository:{NAME}:pull,push")
    head = f"PUT {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"
    for framing, part in (
        (f"Content-Length: {len(LARGE)}", LARGE[:-1]),
        ("Transfer-Encoding: chunked", b"3\r\n" + LARGE[:3] + b"\r\nzz\r\n"),
    ):
        async with server.connection() as (_, writer):
            writer.write(f"{head}{framing}\r\n\r\n".encode() + part)
            await writer.drain()
        while (answer := await server.call("PATCH", place, data=b"")).status == 429:
            # The end of the connection was not seen yet.
            pass
        assert (answer.status, answer.headers["Range"]) == (202, "0-4")
    assert (await server.call("PUT", path, data=LARGE)).status == 201
    row.says(answer="the session keeps what it had before, and the client may send the PUT again")


@pytest.mark.row("distribution-api.md", "PUT of an upload that was ended, sent again")
async def test_a_put_again(row: Row, server: Registry) -> None:
    place = await server.session(NAME)
    path = f"{place}?digest={digest_of(LARGE)}"
    again = [await server.call("PUT", path, data=data) for data in (LARGE, LARGE, b"", LARGE[:5])]
    for answer in again:
        assert answer.location == f"/v2/{NAME}/blobs/{digest_of(LARGE)}"
    refused = await server.call("PUT", f"{place}?digest={digest_of(b'x')}", data=b"x")
    assert (await server.call("GET", place)).status == 404
    row.says(
        answer=f"{said(*again)} where the image links or holds that digest, else {said(refused)}"
    )


@pytest.mark.row(
    "distribution-api.md",
    "upload that is refused for good (quota, size limit, wrong digest, locked namespace)",
)
async def test_refused_for_good(row: Row) -> None:
    store = Store.memory(StoreConfig(background=False, blob_bytes_max=len(LARGE)))
    async with registry(store) as server:
        namespace = await server.namespace("team")
        ended = []
        for fields, method, body, status in (
            ({"quota": 1000}, "PATCH", LARGE, 403),
            ({"quota": None}, "PATCH", LARGE + b"x", 413),
            ({}, "PUT", LARGE, 400),
            ({"locked": True}, "PUT", b"", 403),
        ):
            place = await server.session(NAME)
            await server.store.namespaces.update(namespace.id, **fields)
            path = f"{place}?digest={digest_of(b'')}"
            answer = await server.call(method, path, data=body)
            assert answer.status == status, answer
            ended.append(await server.call("GET", place))
    row.says(answer=f"the server ends the session: its status is {said(*ended)}")


@pytest.mark.row("distribution-api.md", "two appends to one session at once")
async def test_two_appends(row: Row, server: Registry) -> None:
    place = await server.session(NAME)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"1"
        begun.set()
        await go_on.wait()
        yield b"2"

    first = asyncio.create_task(server.call("PATCH", place, data=slow()))
    await begun.wait()
    while (second := await server.call("PATCH", place, data=b"")).status == 202:
        # The first one is on its way.
        pass
    go_on.set()
    assert (await first).status == 202
    row.says(answer=f"the second gets {said(second)}")


@pytest.mark.row(
    "distribution-api.md", "config, layer or child with another size than its content has"
)
async def test_another_size(row: Row, server: Registry) -> None:
    image = await server.image(NAME, "v1", b"layer")
    size = len((await server.call("GET", f"/v2/{NAME}/manifests/v1")).body)
    listed = [descriptor(image, size + 1, MANIFEST_TYPE)]
    wrong_config = manifest(digest_of(b"{}"))
    wrong_config["config"]["size"] = 3
    refused = [
        await server.put_manifest(NAME, "v2", document)
        for document in (
            wrong_config,
            manifest(digest_of(b"{}"), [(digest_of(b"layer"), 6)]),
            {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": listed},
        )
    ]
    numbers = [
        (detail["size"], detail["announced"])
        for detail in (answer.json["errors"][0]["detail"] for answer in refused)
    ]
    assert numbers == [(2, 3), (5, 6), (size, size + 1)]
    assert (await server.call("HEAD", f"/v2/{NAME}/manifests/v2")).status == 404
    # A subject need not be here, so whether its size is right does not depend on what is.
    about = manifest(digest_of(b"{}"), subject=descriptor(image, size + 1, MANIFEST_TYPE))
    assert (await server.put_manifest(NAME, "v2", about)).status == 201
    row.says(answer=f"{said(*refused)} with both sizes in `detail`")


@pytest.mark.row("distribution-api.md", "index with a missing child")
async def test_a_missing_child(row: Row) -> None:
    child = descriptor(digest_of(b"nothing"), 7, MANIFEST_TYPE)
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [child]}
    answers = []
    for server_accepts, namespace_accepts in ((False, False), (True, None), (False, True)):
        config = StoreConfig(background=False, sparse_indexes=server_accepts)
        async with registry(Store.memory(config)) as server:
            namespace = await server.namespace("team")
            if namespace_accepts is not None:
                await server.store.namespaces.update(namespace.id, sparse_indexes=namespace_accepts)
            answers.append(await server.put_manifest(NAME, "v1", index))
    refused, *taken = answers
    assert [answer.status for answer in taken] == [201, 201]
    accepted = "unless the namespace (`sparse_indexes`), or the server, accepts sparse indexes"
    row.says(answer=f"{said(refused)}, {accepted}")


@pytest.mark.row("distribution-api.md", "foreign layers (`urls`, non-distributable types)")
async def test_foreign_layers(row: Row, server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    for foreign in (
        {"urls": ["https://layers.example/1"]},
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
        {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"},
    ):
        document = manifest(config)
        document["layers"] = [{**descriptor(digest_of(b"elsewhere"), 9), **foreign}]
        assert (await server.put_manifest(NAME, "v1", document)).status == 201, foreign
    row.says(answer="may be absent")


@pytest.mark.row("distribution-api.md", "Docker schema 1")
async def test_schema_1(row: Row, server: Registry) -> None:
    refused = []
    for kind in ("application/vnd.docker.distribution.manifest.v1+json",
                 "application/vnd.docker.distribution.manifest.v1+prettyjws"):  # fmt: skip
        document = {"schemaVersion": 1, "mediaType": kind, "name": NAME, "tag": "v1"}
        refused.append(await server.put_manifest(NAME, "v1", document))
    row.says(answer=said(*refused))


@pytest.mark.row("distribution-api.md", "PUT that moves an immutable tag")
async def test_an_immutable_tag(row: Row, server: Registry) -> None:
    await server.image(NAME, "v1", b"layer")
    namespace = await server.store.namespaces.find("fr-par", "team")
    await server.store.namespaces.update(namespace.id, immutable_tags=("v*",))
    same = (await server.call("GET", f"/v2/{NAME}/manifests/v1")).body
    assert (await server.put_manifest(NAME, "v1", same)).status == 201
    row.says(answer=said(await server.put_manifest(NAME, "v1", manifest(digest_of(b"{}")))))


@pytest.mark.row("distribution-api.md", "over the namespace's quota")
async def test_a_quota(row: Row, server: Registry) -> None:
    namespace = await server.store.namespaces.find("fr-par", "team")
    await server.store.namespaces.update(namespace.id, quota=1000)
    place = await server.session(NAME)
    large = bytes(1001)
    path = f"/v2/{NAME}/blobs/uploads/?digest={digest_of(large)}"
    row.says(
        answer=said(
            await server.call("POST", path, data=large),
            await server.call("PATCH", place, data=large),
        )
    )


@pytest.mark.row("distribution-api.md", "disk full")
async def test_a_full_disk(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1 << 29
    monkeypatch.setattr(DiskDepot, "free_bytes", lambda _: free)
    config = StoreConfig(background=False, disk_reserve_bytes=1 << 20)
    async with registry(Store.open(tmp_path / "data", config)) as server:
        await server.namespace("team")
        image = await server.image(NAME, "v1", LARGE)
        place = await server.session(NAME)
        free = 1 << 19
        other = LARGE[1:]
        path = f"/v2/{NAME}/blobs/uploads/"
        refused = [
            await server.call("POST", f"{path}?digest={digest_of(other)}", data=other),
            await server.call("PATCH", place, data=other),
        ]
        assert (await server.call("GET", f"/v2/{NAME}/blobs/{digest_of(LARGE)}")).body == LARGE
        for target in (f"manifests/{image}", f"blobs/{digest_of(LARGE)}"):
            deleted = await server.call("DELETE", f"/v2/{NAME}/{target}")
            assert deleted.status == 202, deleted
    monkeypatch.undo()
    async with filled(tmp_path / "disk") as server:
        await pulled_and_deleted(server)
    row.says(answer=f"{said(*refused)}; pulls and deletes {GO_ON}")


@pytest.mark.row("distribution-api.md", "a blob found damaged")
async def test_a_damaged_blob(row: Row, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with registry(Store.open(data, StoreConfig(background=False))) as server:
        await server.namespace("team")
        path = f"/v2/{NAME}/blobs/{await server.blob(NAME, LARGE)}"
        (file,) = [
            file for file in data.rglob("*") if file.is_file() and file.stat().st_size == len(LARGE)
        ]
        with file.open("r+b") as opened:
            opened.truncate(len(LARGE) - 1)
        refused = await server.call("GET", path)
        assert str(tmp_path).encode() not in refused.body
        await server.blob(NAME, LARGE)
        assert (await server.call("GET", path)).body == LARGE
    row.says(answer=f"{said(refused)} until a client pushes the same digest again")


@pytest.mark.row("distribution-api.md", "push into a namespace that does not exist")
async def test_no_namespace(row: Row) -> None:
    path = "/v2/absent/app/blobs/uploads/"
    async with registry() as server:
        refused = await server.call("POST", path)
        said_so = refused.json["errors"][0]["message"]
        assert "POST /registry/v1/regions/fr-par/namespaces" in said_so
    async with registry(settings=AppSettings(create_namespaces=True)) as server:
        assert (await server.call("POST", path)).status == 202
        assert (await server.store.namespaces.find("fr-par", "absent")).name == "absent"
    row.says(
        answer=f"{said(refused)} with how to create it; "
        "with `--create-namespaces`, the push creates it"
    )


@pytest.mark.row("distribution-api.md", "a name of one component")
async def test_one_component(row: Row, server: Registry) -> None:
    answers = [
        await server.call("POST", "/v2/app/blobs/uploads/"),
        await server.call("GET", "/v2/app/manifests/v1"),
    ]
    for answer in answers:
        assert "namespace/image" in answer.json["errors"][0]["message"]
    # A client that probes first sees no body.
    probe = await server.call("HEAD", f"/v2/app/blobs/{digest_of(b'x')}")
    assert probe.status == 400
    assert "namespace/image" in probe.headers["Warning"]
    row.says(answer=f"{said(*answers)}: use `namespace/image`")


async def caching(server: Registry, reference: str, *, public: bool) -> str:
    """``Cache-Control`` of a manifest; by digest, the blob's is the same."""
    namespace = await server.store.namespaces.find("fr-par", "team")
    await server.store.namespaces.update(namespace.id, is_public=public)
    image = await server.image(NAME, "v1", b"layer")
    told = [
        (await server.call("GET", f"/v2/{NAME}/{item}")).headers["Cache-Control"]
        for item in {
            "digest": (f"manifests/{image}", f"blobs/{digest_of(b'layer')}"),
            "tag": ("manifests/v1",),
        }[reference]
    ]
    assert len(set(told)) == 1
    return f"`{told[0]}`"


@pytest.mark.row("distribution-api.md", "blob or manifest of a public image, by digest")
async def test_caching_public_content(row: Row, server: Registry) -> None:
    row.says(**{"`Cache-Control`": await caching(server, "digest", public=True)})


@pytest.mark.row("distribution-api.md", "manifest of a public image, by tag")
async def test_caching_a_public_tag(row: Row, server: Registry) -> None:
    row.says(**{"`Cache-Control`": await caching(server, "tag", public=True)})


@pytest.mark.row("distribution-api.md", "blob or manifest of a private image, by digest")
async def test_caching_private_content(row: Row, server: Registry) -> None:
    row.says(**{"`Cache-Control`": await caching(server, "digest", public=False)})


@pytest.mark.row("distribution-api.md", "manifest of a private image, by tag")
async def test_caching_a_private_tag(row: Row, server: Registry) -> None:
    row.says(**{"`Cache-Control`": await caching(server, "tag", public=False)})


@pytest.mark.row("distribution-api.md", "all else under `/v2/`, refusals included, and `/token`")
async def test_caching_all_else(row: Row, server: Registry) -> None:
    await server.image(NAME, "v1", b"layer")
    answers = [
        await server.call("GET", path, secret=secret)
        for path in (
            "/v2/",
            "/v2/_catalog",
            f"/v2/{NAME}/tags/list",
            f"/v2/{NAME}/blobs/x",
            "/token",
        )
        for secret in (None, OWNER_SECRET)
    ]
    (told,) = {answer.headers["Cache-Control"] for answer in answers}
    row.says(**{"`Cache-Control`": f"`{told}`"})


async def test_the_numbers_beside_the_table() -> None:
    """They are provoked for docs/limits.md."""
    page = Path(__file__).parents[2] / "docs" / "distribution-api.md"
    text = " ".join(page.read_text("utf-8").split())
    numbers: tuple[Any, ...] = (RESULTS_MAX, RESULTS_MAX, MANIFEST_BYTES_MAX >> 20, NEEDS_MAX)
    assert "`n` over {} on listings is cut to {} and".format(*numbers[:2]) in text
    assert "Manifests may have {} MiB and {} distinct references".format(*numbers[2:]) in text
