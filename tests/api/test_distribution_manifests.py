"""Manifests and indexes: push, pull, conditions, deletes (contract 3, 8 and 10)."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from support import api_fixtures
from support.api import EMPTY_TYPE, INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE, digest_of
from support.distribution import Registry, descriptor, encoded, manifest, registry, simple

from holdfast.engine import Store, StoreConfig

server = api_fixtures.team_server

NAME = "team/app"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"


async def test_bytes_and_type_come_back_as_pushed(server: Registry) -> None:
    body = await simple(server)
    digest = digest_of(body)
    answer = await server.put_manifest(NAME, "v1", body)
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.location == f"/v2/{NAME}/manifests/{digest}"
    assert "OCI-Subject" not in answer.headers
    assert "OCI-Tag" not in answer.headers
    for reference in ("v1", digest, digest.replace(":", "%3A")):
        got = await server.call("GET", f"/v2/{NAME}/manifests/{reference}")
        head = await server.call("HEAD", f"/v2/{NAME}/manifests/{reference}")
        assert got.status == head.status == 200
        assert got.body == body
        for answer in (got, head):
            assert answer.headers["Content-Type"] == MANIFEST_TYPE
            assert answer.headers["Content-Length"] == str(len(body))
            assert answer.headers["Docker-Content-Digest"] == digest
            assert answer.headers["ETag"] == f'"{digest}"'
            fixed = "immutable" in answer.headers["Cache-Control"]
            assert fixed == (reference != "v1")


async def test_accept_is_not_negotiated_over(server: Registry) -> None:
    body = await simple(server)
    await server.put_manifest(NAME, "v1", body)
    for accept in ("*/*", "application/json", DOCKER_MANIFEST, f"{INDEX_TYPE};q=0.1,text/html"):
        answer = await server.call("GET", f"/v2/{NAME}/manifests/v1", headers={"Accept": accept})
        assert (answer.status, answer.body) == (200, body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_manifests_that_are_not_there(server: Registry, method: str) -> None:
    await server.put_manifest(NAME, "v1", await simple(server))
    for name, reference, status, code in (
        (NAME, "v2", 404, "MANIFEST_UNKNOWN"),
        (NAME, digest_of(b"absent"), 404, "MANIFEST_UNKNOWN"),
        (NAME, digest_of(b"absent", "sha512"), 404, "MANIFEST_UNKNOWN"),
        (NAME, "blake3:" + "a" * 64, 404, "MANIFEST_UNKNOWN"),
        (NAME, "sha256:short", 400, "DIGEST_INVALID"),
        (NAME, ":", 400, "DIGEST_INVALID"),
        (NAME, "-no-tag", 404, "MANIFEST_UNKNOWN"),
        (NAME, "a" * 129, 404, "MANIFEST_UNKNOWN"),
        (NAME, "%0a", 404, "MANIFEST_UNKNOWN"),
        (NAME, "v1%0a", 404, "MANIFEST_UNKNOWN"),
        (NAME, "%zz", 404, "MANIFEST_UNKNOWN"),
        ("team/nothing", "v1", 404, "NAME_UNKNOWN"),
    ):
        answer = await server.call(method, f"/v2/{name}/manifests/{reference}")
        assert answer.status == status, reference
        if method != "HEAD":
            assert answer.code == code, reference


async def test_sha512_by_digest_and_with_tags(server: Registry) -> None:
    body = await simple(server)
    digest = digest_of(body, "sha512")
    tags = [f"t{number}" for number in range(12)]
    query = "&".join(f"tag={tag}" for tag in tags)
    answer = await server.put_manifest(NAME, f"{digest}?{query}", body)
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == digest
    assert [tag.strip() for tag in answer.headers["OCI-Tag"].split(",")] == tags
    for reference in (digest, *tags):
        answer = await server.call("GET", f"/v2/{NAME}/manifests/{reference}")
        assert (answer.status, answer.body) == (200, body)
    answer = await server.call("HEAD", f"/v2/{NAME}/manifests/{digest}")
    assert answer.headers["Docker-Content-Digest"] == digest


async def test_tag_parameters_have_bounds(server: Registry) -> None:
    body = await simple(server)
    path = f"{digest_of(body)}?" + "&".join(f"tag=t{number}" for number in range(101))
    assert (await server.put_manifest(NAME, path, body)).status == 414
    answer = await server.put_manifest(NAME, f"{digest_of(body)}?tag=good&tag=-bad", body)
    assert answer.status == 400
    assert (await server.call("HEAD", f"/v2/{NAME}/manifests/good")).status == 404


async def test_a_wrong_digest_is_refused(server: Registry) -> None:
    body = await simple(server)
    for reference in (digest_of(b"other"), "sha256:short", "md5:" + "a" * 32):
        answer = await server.put_manifest(NAME, reference, body)
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    for reference in ("-x", "a" * 129, "%20"):
        answer = await server.put_manifest(NAME, reference, body)
        assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", MANIFEST_TYPE),
        (b"no json", MANIFEST_TYPE),
        (b"[]", MANIFEST_TYPE),
        (b"{}", MANIFEST_TYPE),
        (b"\xff\xfe", MANIFEST_TYPE),
        (b"[" * 100_000, MANIFEST_TYPE),
        (encoded({"schemaVersion": 1, "mediaType": MANIFEST_TYPE}), MANIFEST_TYPE),
        (encoded({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}), MANIFEST_TYPE),
        (
            encoded({**manifest(digest_of(b"{}")), "manifests": []}),
            MANIFEST_TYPE,
        ),
        (
            b'{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[],"history":[]}',
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
        ),
    ],
)
async def test_documents_that_are_no_manifests(server: Registry, body: bytes, kind: str) -> None:
    await server.blob(NAME, b"{}")
    answer = await server.call(
        "PUT", f"/v2/{NAME}/manifests/v1", data=body, headers={"Content-Type": kind}
    )
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
    assert (await server.call("HEAD", f"/v2/{NAME}/manifests/v1")).status == 404


async def test_missing_content_is_named(server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    missing = [digest_of(b"1"), digest_of(b"2")]
    answer = await server.put_manifest(
        NAME, "v1", manifest(config, [(digest, 1) for digest in missing])
    )
    assert answer.status == 400
    errors = answer.json["errors"]
    assert {error["code"] for error in errors} == {"MANIFEST_BLOB_UNKNOWN"}
    assert {error["detail"]["digest"] for error in errors} == set(missing)


async def test_sizes_of_strangers_content_are_told_to_no_one(server: Registry) -> None:
    await server.namespace("other")
    layer = await server.blob("other/app", b"theirs")
    config = await server.blob(NAME, b"{}")
    answer = await server.put_manifest(NAME, "v1", manifest(config, [(layer, 7)]))
    assert (answer.status, answer.code) == (400, "MANIFEST_BLOB_UNKNOWN")


async def test_the_content_type_may_have_parameters_or_be_missing(server: Registry) -> None:
    body = await simple(server)
    for kind in (f"{MANIFEST_TYPE}; charset=utf-8", None):
        answer = await server.call(
            "PUT",
            f"/v2/{NAME}/manifests/v1",
            data=body,
            headers={} if kind is None else {"Content-Type": kind},
        )
        assert answer.status == 201
        answer = await server.call("HEAD", f"/v2/{NAME}/manifests/v1")
        assert answer.headers["Content-Type"] == MANIFEST_TYPE


async def test_large_manifests_up_to_the_limit(server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    body = encoded(manifest(config, annotations={"a": "x" * 3_900_000}))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    answer = await server.call(
        "PUT",
        f"/v2/{NAME}/manifests/large",
        data=pieces(),
        headers={"Content-Type": MANIFEST_TYPE},
    )
    assert answer.status == 201
    assert (await server.call("GET", f"/v2/{NAME}/manifests/large")).body == body
    body = encoded(manifest(config, annotations={"a": "x" * 4_300_000}))
    for data in (io.BytesIO(body), pieces()):
        answer = await server.call(
            "PUT",
            f"/v2/{NAME}/manifests/huge",
            data=data,
            headers={"Content-Type": MANIFEST_TYPE},
        )
        assert (answer.status, answer.code) == (413, "MANIFEST_INVALID")


async def test_shapes_that_real_clients_push(server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    layer = await server.blob(NAME, b"layer")
    artifact = manifest(config, [(config, 2)], EMPTY_TYPE, artifactType="application/x.test+json")
    artifact["layers"][0].update(mediaType=EMPTY_TYPE, data="e30=")
    foreign = manifest(config, [(layer, 5)])
    foreign["layers"].append(
        descriptor(
            digest_of(b"elsewhere"),
            9,
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            urls=["https://example.com/layer"],
        )
    )
    docker = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor(config, 2, DOCKER_CONFIG),
        "layers": [descriptor(layer, 5, DOCKER_LAYER)],
    }
    empty_index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}
    extra = manifest(config, x={"nested": [1, 2.5, None, True]}, annotations={"a": ""})
    for number, document in enumerate((artifact, foreign, docker, empty_index, extra)):
        answer = await server.put_manifest(NAME, f"v{number}", document)
        assert answer.status == 201, document
        got = await server.call("GET", f"/v2/{NAME}/manifests/v{number}")
        assert got.headers["Content-Type"] == document["mediaType"]
    pushed = digest_of(json.dumps(docker).encode())
    children = [descriptor(pushed, len(json.dumps(docker)), DOCKER_MANIFEST)]
    listed = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": children}
    assert (await server.put_manifest(NAME, "list", listed)).status == 201
    body = json.dumps(listed).encode()
    nested = [descriptor(digest_of(body), len(body), DOCKER_LIST)]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": nested}
    assert (await server.put_manifest(NAME, "nested", index)).status == 201


async def test_sparse_indexes_are_a_policy() -> None:
    child = descriptor(digest_of(b"absent"), 6, MANIFEST_TYPE)
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [child]}
    for allowed, status in ((False, 400), (True, 201)):
        config = StoreConfig(background=False, sparse_indexes=allowed)
        async with registry(Store.memory(config)) as server:
            await server.namespace("team")
            assert (await server.put_manifest(NAME, "v1", index)).status == status


async def test_sparse_indexes_of_one_namespace(server: Registry) -> None:
    child = descriptor(digest_of(b"absent"), 6, MANIFEST_TYPE)
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [child]}
    namespace = await server.store.namespaces.find("fr-par", NAME.partition("/")[0])
    await server.namespace("strict")
    for own, status in ((None, 400), (True, 201), (False, 400)):
        await server.store.namespaces.update(namespace.id, sparse_indexes=own)
        index["annotations"] = {"own": str(own)}
        assert (await server.put_manifest(NAME, "v1", index)).status == status
        assert (await server.put_manifest("strict/app", "v1", index)).status == 400


async def test_a_tag_moves_and_a_push_repeats(server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    first, second = (encoded(manifest(config, annotations={"n": n})) for n in "12")
    for body in (first, first, second):
        assert (await server.put_manifest(NAME, "v1", body)).status == 201
        assert (await server.call("GET", f"/v2/{NAME}/manifests/v1")).body == body
    assert (await server.call("GET", f"/v2/{NAME}/manifests/{digest_of(first)}")).body == first


async def test_deletes(server: Registry) -> None:
    body = await simple(server)
    digest = digest_of(body)
    for tag in ("v1", "v2"):
        await server.put_manifest(NAME, tag, body)
    path = f"/v2/{NAME}/manifests"
    assert (await server.call("DELETE", f"{path}/v1")).status == 202
    assert (await server.call("HEAD", f"{path}/v1")).status == 404
    assert (await server.call("DELETE", f"{path}/v1")).code == "MANIFEST_UNKNOWN"
    for reference in ("v2", digest):
        assert (await server.call("HEAD", f"{path}/{reference}")).status == 200
    assert (await server.call("DELETE", f"{path}/{digest}")).status == 202
    for reference in ("v2", digest):
        assert (await server.call("HEAD", f"{path}/{reference}")).status == 404
    assert (await server.call("GET", f"/v2/{NAME}/tags/list")).json["tags"] == []
    # The blobs are held, so the push can be repeated at once.
    assert (await server.put_manifest(NAME, "v1", body)).status == 201
    assert (await server.call("GET", f"{path}/v1")).body == body


async def test_immutable_tags_and_locks_are_denied(server: Registry) -> None:
    body = await simple(server)
    other = encoded(json.loads(body) | {"annotations": {"a": "b"}})
    namespace = await server.store.namespaces.find("fr-par", "team")
    await server.store.namespaces.update(namespace.id, immutable_tags=("v*",))
    assert (await server.put_manifest(NAME, "v1", body)).status == 201
    for answer in (
        await server.put_manifest(NAME, "v1", other),
        await server.call("DELETE", f"/v2/{NAME}/manifests/v1"),
    ):
        assert (answer.status, answer.code) == (403, "DENIED")
    await server.store.namespaces.update(namespace.id, locked=True)
    answer = await server.put_manifest(NAME, "w1", body)
    assert (answer.status, answer.code) == (403, "DENIED")
    assert (await server.call("GET", f"/v2/{NAME}/manifests/v1")).body == body


async def test_quotas_are_denied(server: Registry) -> None:
    namespace = await server.store.namespaces.find("fr-par", "team")
    await server.store.namespaces.update(namespace.id, quota=10)
    config = await server.blob(NAME, b"{}")
    digest = digest_of(b"x" * 100)
    answer = await server.call(
        "POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", data=b"x" * 100
    )
    assert (answer.status, answer.code) == (403, "DENIED")
    assert "100 more are asked for, and 2 of 10 are used" in answer.body.decode()
    answer = await server.put_manifest(NAME, "v1", manifest(config))
    assert (answer.status, answer.code) == (403, "DENIED")


async def test_a_key_about_to_expire_is_warned(server: Registry) -> None:
    body = await simple(server)
    _, soon = await server.key(expires_at=datetime.now(UTC) + timedelta(days=1))
    _, later = await server.key(expires_at=datetime.now(UTC) + timedelta(days=30))
    answer = await server.put_manifest(NAME, "v1", body, secret=soon)
    assert answer.headers["Warning"].startswith('299 - "the key expires at 20')
    assert "Warning" not in (await server.put_manifest(NAME, "v1", body, secret=later)).headers


async def test_layer_types_are_free(server: Registry) -> None:
    config = await server.blob(NAME, b"{}")
    layer = await server.blob(NAME, b"layer")
    document = manifest(config, [(layer, 5)], "application/x.config")
    document["layers"][0]["mediaType"] = LAYER_TYPE.replace("gzip", "zstd")
    assert (await server.put_manifest(NAME, "v1", document)).status == 201
    document["layers"][0]["size"] = 6
    answer = await server.put_manifest(NAME, "v1", document)
    assert answer.status == 400
