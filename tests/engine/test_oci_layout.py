"""Images in from OCI layouts, good and bad."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.engine import (
    LAYER_TYPE,
    REGION,
    Place,
    descriptor,
    index,
    make_namespace,
    manifest,
    push,
    raised,
    read,
    sha256,
    sha512,
)
from support.layout import LAYERS, REF_NAME, Layout, bring, contents, export, is_listed

from holdfast.engine import (
    DOCKER_MANIFEST,
    OCI_MANIFEST,
    DigestMismatch,
    Immutable,
    Invalid,
    InvalidDigest,
    InvalidManifest,
    MissingContent,
    NotFound,
    Repository,
    SizeMismatch,
    Store,
    TooLarge,
    Transferred,
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """One image, ``v1``, of two layers."""
    made = Layout(tmp_path / "made")
    body = manifest(b"{}", LAYERS[:2])
    made.add(b"{}", *LAYERS[:2], body)
    made.list(body, "v1")
    return made


async def test_import_lists_what_the_layout_lists(
    store: Store, web: Repository, layout: Layout
) -> None:
    done = await bring(store, "app/web", layout.path)
    assert done == Transferred(manifests=1, blobs=3, bytes=800_002, present=0, tags=1)
    where = await store.locate(REGION, "app/web")
    found = await store.manifests.get(where, "v1")
    assert found.body == layout.file(manifest(b"{}", LAYERS[:2])).read_bytes()
    assert found.media_type == OCI_MANIFEST
    for layer in LAYERS[:2]:
        assert await read(store, sha256(layer), repository=where) == layer
    done = await bring(store, "app/web", layout.path)
    assert (done.blobs, done.present) == (0, 3)


async def test_import_of_some(store: Store, web: Repository, layout: Layout) -> None:
    more = manifest(b"{}", LAYERS[2:])
    bare = manifest(b"{}", [])
    layout.add(LAYERS[2], more, bare)
    layout.list(more, "registry.example.com:5000/app/web:v2")
    layout.list(bare)
    layout.manifests.append(descriptor(b"whatever", "text/plain"))
    layout.list()
    await bring(store, "app/one", layout.path, references=["v1"])
    await bring(store, "app/two", layout.path, references=["registry.example.com:5000/app/web:v2"])
    await bring(store, "app/three", layout.path, references=[sha256(bare)])
    await bring(store, "app/all", layout.path)
    tags = {}
    for name in ("one", "two", "three", "all"):
        where = await store.locate(REGION, f"app/{name}")
        tags[name] = await store.tags.names(where)
    assert tags == {"one": ["v1"], "two": ["v2"], "three": [], "all": ["v1", "v2"]}
    everything = await store.locate(REGION, "app/all")
    assert (await store.manifests.get(everything, sha256(bare))).body == bare
    with pytest.raises(NotFound, match="v9"):
        await bring(store, "app/none", layout.path, references=["v1", "v9"])
    assert not await is_listed(store, "app/none")


async def test_import_by_sha512(store: Store, web: Repository, tmp_path: Path) -> None:
    made = Layout(tmp_path / "made")
    layer = LAYERS[0]
    body = json.loads(manifest(b"{}", []))
    body["layers"] = [{"mediaType": LAYER_TYPE, "digest": sha512(layer), "size": len(layer)}]
    document = json.dumps(body).encode()
    (made.path / "blobs/sha512").mkdir()
    for data in (layer, document):
        (made.path / "blobs/sha512" / sha512(data)[7:]).write_bytes(data)
    made.add(b"{}")
    made.manifests.append(
        {
            "mediaType": OCI_MANIFEST,
            "digest": sha512(document),
            "size": len(document),
            "annotations": {REF_NAME: "v1"},
        }
    )
    made.list()
    await bring(store, "app/web", made.path)
    where = await store.locate(REGION, "app/web")
    assert str((await store.manifests.get(where, "v1")).digest) == sha512(document)
    await export(store, "app/web", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(made.path)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


OTHER = manifest(b"{}", LAYERS[2:])


@pytest.mark.promise("SECURITY.md", "imported directories, and storages of other registries")
@pytest.mark.parametrize(
    "victim", [manifest(b"{}", LAYERS[:2]), LAYERS[0], OTHER, LAYERS[2], b"{}"]
)
async def test_tampered_content_is_never_listed(
    store: Store, web: Repository, layout: Layout, victim: bytes
) -> None:
    layout.add(LAYERS[2], OTHER)
    layout.list(OTHER, "v2")
    file = layout.file(victim)
    flipped(file)
    # Each time into another image: what one has already is not read again.
    with pytest.raises(DigestMismatch):
        await bring(store, "app/flipped", layout.path)
    file.write_bytes(victim[:-1])
    with pytest.raises(SizeMismatch):
        await bring(store, "app/cut", layout.path)
    file.unlink()
    with pytest.raises(MissingContent, match=sha256(victim)):
        await bring(store, "app/missing", layout.path)
    for name in ("app/flipped", "app/cut", "app/missing"):
        assert not await is_listed(store, name)
    file.write_bytes(victim)
    await bring(store, "app/flipped", layout.path)
    assert [str(problem) async for problem in store.check(deep=True)] == []


async def test_missing_content_is_all_named(store: Store, web: Repository, layout: Layout) -> None:
    for layer in LAYERS[:2]:
        layout.file(layer).unlink()
    with pytest.raises(MissingContent) as caught:
        await bring(store, "app/web", layout.path)
    assert set(caught.value.digests) == {sha256(layer) for layer in LAYERS[:2]}
    assert not await is_listed(store)
    # What the repository has already need not come again.
    await push(store, "app/web", "old", LAYERS[:2])
    await bring(store, "app/web", layout.path)
    # Others have it, which helps nobody here.
    with pytest.raises(MissingContent):
        await bring(store, "app/stranger", layout.path)


async def test_sparse_indexes(place: Place, tmp_path: Path) -> None:
    made = Layout(tmp_path / "made")
    here, away = manifest(b"{}", []), manifest(b"{}", LAYERS)
    both = index([here, away])
    made.add(b"{}", here, both)
    made.list(both, "v1")
    async with place.store() as store:
        await make_namespace(store)
        with pytest.raises(MissingContent, match=sha256(away)):
            await bring(store, "app/web", made.path)
        assert not await is_listed(store)
    async with place.store(sparse_indexes=True) as store:
        await bring(store, "app/web", made.path)
        where = await store.locate(REGION, "app/web")
        assert (await store.manifests.get(where, "v1")).body == both
        await export(store, "app/web", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(made.path)
        made.file(both).unlink()
        with pytest.raises(MissingContent, match=sha256(both)):
            await bring(store, "app/other", made.path)


async def test_a_namespace_may_take_sparse_indexes(store: Store, tmp_path: Path) -> None:
    made = Layout(tmp_path / "made")
    here, away = manifest(b"{}", []), manifest(b"{}", LAYERS)
    both = index([here, away])
    made.add(b"{}", here, both)
    made.list(both, "v1")
    space = await make_namespace(store)
    with pytest.raises(MissingContent, match=sha256(away)):
        await bring(store, "app/web", made.path)
    await store.namespaces.update(space.id, sparse_indexes=True)
    await bring(store, "app/web", made.path)
    await export(store, "app/web", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(made.path)


@pytest.mark.promise("SECURITY.md", "imported directories, and storages of other registries")
@pytest.mark.parametrize(
    ("digest", "error"),
    [
        ("sha256:../../../../etc/passwd", InvalidDigest),
        ("sha256:" + "a" * 63 + "/", InvalidDigest),
        ("../sha256:" + "a" * 64, InvalidDigest),
        ("md5:" + "a" * 32, InvalidDigest),
        ("", InvalidDigest),
    ],
)
async def test_digests_lead_nowhere_else(
    store: Store, web: Repository, layout: Layout, digest: str, error: type[Exception]
) -> None:
    layout.manifests[0]["digest"] = digest
    layout.list()
    with pytest.raises(error):
        await bring(store, "app/web", layout.path)


@pytest.mark.promise("SECURITY.md", "imported directories, and storages of other registries")
async def test_links_and_pipes_are_not_followed(
    store: Store, web: Repository, layout: Layout, tmp_path: Path
) -> None:
    layer = layout.file(LAYERS[0])
    outside = tmp_path / "outside"
    layer.rename(outside)
    layer.symlink_to(outside)
    with pytest.raises(Invalid, match="symbolic link"):
        await bring(store, "app/web", layout.path)
    layer.unlink()
    os.mkfifo(layer)
    with pytest.raises(Invalid, match="regular"):
        await bring(store, "app/web", layout.path)
    layer.unlink()
    outside.rename(layer)
    blobs = layout.path / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Invalid, match="symbolic link"):
        await bring(store, "app/web", layout.path)
    assert not await is_listed(store)
    # The layout itself may be one: that is the caller's own word.
    blobs.unlink()
    (tmp_path / "elsewhere").rename(blobs)
    (tmp_path / "link").symlink_to(layout.path)
    await bring(store, "app/web", tmp_path / "link")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("oci-layout", b""),
        ("oci-layout", b"{}"),
        ("oci-layout", b'{"imageLayoutVersion": "1.1"}'),
        ("oci-layout", b'{"imageLayoutVersion": "\xff"}'),
        ("index.json", b""),
        ("index.json", b"null"),
        ("index.json", b"\xff\xfe"),
        ("index.json", b'{"schemaVersion": 2}'),
        ("index.json", b'{"schemaVersion": 1, "manifests": []}'),
        ("index.json", b'{"schemaVersion": 2, "manifests": [{}]}'),
        ("index.json", b'{"schemaVersion": 2, "manifests": [{"digest": "x", "size": -1}]}'),
        ("index.json", b'{"schemaVersion": 2, "mediaType": "a/b", "manifests": []}'),
        ("index.json", b'{"schemaVersion": 2, "manifests": [], "x": ' + b"[" * 100_000),
    ],
)
async def test_odd_layouts_are_refused(
    store: Store, web: Repository, layout: Layout, file: str, content: bytes
) -> None:
    (layout.path / file).write_bytes(content)
    with raised(Invalid, argument="layout"):
        await bring(store, "app/web", layout.path)


async def test_no_layout_at_all(store: Store, web: Repository, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await bring(store, "app/web", tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(Invalid):
        await bring(store, "app/web", tmp_path / "file")


@pytest.mark.promise("SECURITY.md", "imported directories, and storages of other registries")
async def test_what_is_too_large_is_refused(store: Store, web: Repository, layout: Layout) -> None:
    with (layout.path / "index.json").open("ab") as file:
        file.truncate(17 * 1024 * 1024)
    with pytest.raises(TooLarge):
        await bring(store, "app/web", layout.path)
    big = manifest(b"{}", [], annotations={"x": "y" * 5_000_000})
    layout.add(big)
    layout.list(big, "big")
    with pytest.raises(TooLarge):
        await bring(store, "app/web", layout.path)
    assert not await is_listed(store)


@pytest.mark.parametrize("name", ["-x", "a b", "x" * 129, "app/web", "app/web@sha256:" + "a" * 64])
async def test_names_that_are_no_tags(
    store: Store, web: Repository, layout: Layout, name: str
) -> None:
    layout.manifests[0]["annotations"] = {REF_NAME: name}
    layout.list()
    with raised(Invalid, argument="tag"):
        await bring(store, "app/web", layout.path)
    assert not await is_listed(store)


async def test_a_name_for_two_is_refused(store: Store, web: Repository, layout: Layout) -> None:
    other = manifest(b"{}", [])
    layout.add(other)
    layout.list(other, "x/y:v1")
    with pytest.raises(Invalid, match="two manifests"):
        await bring(store, "app/web", layout.path)


async def test_rules_of_the_namespace_hold(store: Store, layout: Layout) -> None:
    namespace = await make_namespace(store)
    await store.namespaces.update(namespace.id, immutable_tags=("v*",))
    await push(store, "app/web", "v1", [b"first"])
    with pytest.raises(Immutable):
        await bring(store, "app/web", layout.path)


async def test_the_wrong_media_type_is_refused(
    store: Store, web: Repository, layout: Layout
) -> None:
    layout.manifests[0]["mediaType"] = DOCKER_MANIFEST
    layout.list()
    with pytest.raises(InvalidManifest):
        await bring(store, "app/web", layout.path)
