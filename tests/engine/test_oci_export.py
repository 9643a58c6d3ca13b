"""Images out to OCI layouts."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from collections.abc import Callable
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
    noise,
    push,
    put,
    read,
    sha256,
    upload,
)
from support.layout import LAYERS, REF_NAME, bring, contents, entries, export

from holdfast.engine import (
    OCI_INDEX,
    OCI_MANIFEST,
    Busy,
    Corrupt,
    Digest,
    Invalid,
    NotFound,
    Repository,
    Store,
    Transferred,
    export_layout,
)


async def test_export_writes_what_was_pushed(store: Store, web: Repository, tmp_path: Path) -> None:
    body = manifest(b"{}", LAYERS, annotations={"odd": "\u00e9\n"})
    await upload(store, web, b"{}", *LAYERS)
    await put(store, "app/web", body, "v1", "latest")
    done = await export(store, "app/web", tmp_path / "out")
    assert done == Transferred(
        manifests=1, blobs=4, bytes=2 + sum(map(len, LAYERS)), present=0, tags=2
    )
    assert json.loads((tmp_path / "out" / "oci-layout").read_text()) == {
        "imageLayoutVersion": "1.0.0"
    }
    assert contents(tmp_path / "out") == {sha256(data): data for data in (b"{}", body, *LAYERS)}
    assert entries(tmp_path / "out") == [
        descriptor(body, OCI_MANIFEST, annotations={REF_NAME: name}) for name in ("latest", "v1")
    ]
    assert not list((tmp_path / "out").rglob("*.partial"))


async def test_export_of_indexes_and_referrers(
    store: Store, web: Repository, tmp_path: Path
) -> None:
    children = [manifest(b"{}", [layer]) for layer in LAYERS]
    await upload(store, web, b"{}", *LAYERS)
    for child in children:
        await put(store, "app/web", child)
    inner = index(children[:2])
    await put(store, "app/web", inner)
    outer = index({inner: OCI_INDEX, children[2]: OCI_MANIFEST})
    await put(store, "app/web", outer, "all")
    signature = manifest(b"{}", [b"tiny"], subject=children[0], artifactType="test/signature")
    await put(store, "app/web", signature)
    on_signature = manifest(b"{}", [b"tiny"], subject=signature, artifactType="test/more")
    await put(store, "app/web", on_signature)
    await put(store, "app/web", manifest(b"{}", []), "other")

    await export(store, "app/web", tmp_path / "out", references=["all"])
    documents = {outer, inner, *children, signature, on_signature}
    assert set(contents(tmp_path / "out").values()) == {b"{}", *LAYERS, *documents}
    assert {entry["digest"]: entry.get("artifactType") for entry in entries(tmp_path / "out")} == {
        sha256(outer): None,
        sha256(signature): "test/signature",
        sha256(on_signature): "test/more",
    }
    await export(store, "app/web", tmp_path / "bare", references=["all"], referrers=False)
    assert set(contents(tmp_path / "bare").values()) == {b"{}", *LAYERS, *documents} - {
        signature,
        on_signature,
    }

    await bring(store, "app/back", tmp_path / "out")
    back = await store.locate(REGION, "app/back")
    for document in documents:
        assert (await store.manifests.get(back, sha256(document))).body == document
    assert (await store.manifests.get(back, "all")).body == outer
    (referrer,) = await store.manifests.referrers(back, sha256(children[0]))
    assert referrer.digest == Digest.of(signature)


async def test_a_layout_is_added_to(store: Store, web: Repository, tmp_path: Path) -> None:
    await push(store, "app/web", "v1", LAYERS)
    await push(store, "app/web", "v2", LAYERS[:1])
    out = tmp_path / "out"
    await export(store, "app/web", out, references=["v1"])
    index_file = out / "index.json"
    document = json.loads(index_file.read_text())
    document["annotations"] = {"who": "me"}
    document["manifests"].append({**document["manifests"][0], "annotations": {REF_NAME: "mine"}})
    document["manifests"][1]["platform"] = {"os": "linux", "architecture": "z80"}
    index_file.write_text(json.dumps(document))
    done = await export(store, "app/web", out, references=["v2"])
    assert (done.blobs, done.present) == (0, 2)
    assert [entry["annotations"][REF_NAME] for entry in entries(out)] == ["v1", "mine", "v2"]
    assert entries(out)[1]["platform"]["architecture"] == "z80"
    # A name moves.
    await push(store, "app/web", "v1", LAYERS[2:])
    await export(store, "app/web", out, references=["v1"])
    named = {entry["annotations"][REF_NAME]: entry["digest"] for entry in entries(out)}
    where = await store.locate(REGION, "app/web")
    assert named["v1"] == str((await store.manifests.get(where, "v1")).digest)
    assert sorted(named) == ["mine", "v1", "v2"]
    # Once more changes nothing.
    before = entries(out)
    await export(store, "app/web", out, references=["v1", str(named["v1"])])
    assert sorted(before, key=str) == sorted(
        (entry for entry in entries(out) if "annotations" in entry), key=str
    )


async def test_export_replaces_a_bad_blob(store: Store, web: Repository, tmp_path: Path) -> None:
    await push(store, "app/web", "v1", LAYERS)
    await export(store, "app/web", tmp_path / "out")
    place = tmp_path / "out" / "blobs" / "sha256" / hashlib.sha256(LAYERS[0]).hexdigest()
    place.write_bytes(noise(len(LAYERS[0]), "other"))
    done = await export(store, "app/web", tmp_path / "out")
    assert done.blobs == 1
    assert place.read_bytes() == LAYERS[0]


async def test_export_refuses_what_is_no_layout(
    store: Store, web: Repository, tmp_path: Path
) -> None:
    await push(store, "app/web", "v1", LAYERS)
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter").write_text("mine")
    future = tmp_path / "future"
    future.mkdir()
    (future / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (odd / "index.json").write_text("[]")
    for path in (full, future, odd):
        with pytest.raises(Invalid) as caught:
            await export(store, "app/web", path)
        assert caught.value.argument == "layout"
    assert [path.name for path in sorted(full.iterdir())] == ["letter"]


async def test_export_is_one_at_a_time(store: Store, web: Repository, tmp_path: Path) -> None:
    await push(store, "app/web", "v1", LAYERS)
    steps = export_layout(store, await store.locate(REGION, "app/web"), tmp_path / "out")
    await anext(steps)
    with pytest.raises(Busy):
        await export(store, "app/web", tmp_path / "out")
    await steps.aclose()
    # Nothing is listed by one that was given up, and the next goes on from there.
    assert not (tmp_path / "out" / "index.json").exists()
    await export(store, "app/web", tmp_path / "out")
    assert len(entries(tmp_path / "out")) == 1


async def test_export_of_what_is_not_there(store: Store, web: Repository, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await export(store, "app/web", tmp_path / "out")
    await push(store, "app/web", "v1", LAYERS)
    with pytest.raises(NotFound):
        await export(store, "app/web", tmp_path / "out", references=["v1", "v2"])
    assert not (tmp_path / "out" / "index.json").exists()


async def test_export_never_writes_damage(place: Place, tmp_path: Path) -> None:
    async with place.store() as store:
        await make_namespace(store)
        await push(store, "app/web", "v1", LAYERS)
        place.damage(len(LAYERS[1]))
        with pytest.raises(Corrupt, match=sha256(LAYERS[1])):
            await export(store, "app/web", tmp_path / "out")
        assert not (tmp_path / "out" / "index.json").exists()
        assert sha256(LAYERS[1]) not in contents(tmp_path / "out")
        await push(store, "app/web", "v1", LAYERS)
        await export(store, "app/web", tmp_path / "out")


async def test_foreign_layers_may_be_absent(store: Store, web: Repository, tmp_path: Path) -> None:
    foreign = descriptor(noise(10, "far"), LAYER_TYPE, urls=["https://example.com/layer"])
    odd = {**foreign, "digest": "blake9:abcdef"}
    body = json.loads(manifest(b"{}", LAYERS[:1]))
    body["layers"] += [foreign, odd]
    document = json.dumps(body).encode()
    await upload(store, web, b"{}", LAYERS[0])
    await put(store, "app/web", document, "v1")
    await export(store, "app/web", tmp_path / "out")
    assert set(contents(tmp_path / "out").values()) == {document, b"{}", LAYERS[0]}
    await bring(store, "app/back", tmp_path / "out")
    # Where the layout has it, it comes along.
    (tmp_path / "out/blobs/sha256" / foreign["digest"][7:]).write_bytes(noise(10, "far"))
    await bring(store, "app/again", tmp_path / "out")
    assert await read(store, foreign["digest"]) == noise(10, "far")


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


async def test_skopeo_reads_and_writes_them(
    store: Store, web: Repository, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    skopeo = require_tool("skopeo")
    # What is compressed it does not touch.
    layers = [gzip.compress(layer, mtime=0) for layer in LAYERS[:2]]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {
                "type": "layers",
                "diff_ids": [sha256(layer) for layer in LAYERS[:2]],
            },
        }
    ).encode()
    body = json.loads(manifest(config, layers))
    for layer in body["layers"]:
        layer["mediaType"] += "+gzip"
    document = json.dumps(body).encode()
    await upload(store, web, config, *layers)
    await put(store, "app/web", document, "v1")
    await put(store, "app/web", index([document]), "multi")
    await export(store, "app/web", tmp_path / "out")
    policy = ("--insecure-policy",)
    run(skopeo, *policy, "copy", f"oci:{tmp_path}/out:v1", f"oci:{tmp_path}/copy:again")
    run(skopeo, *policy, "copy", "--all", f"oci:{tmp_path}/out:multi", f"oci:{tmp_path}/copy:all")
    assert set(contents(tmp_path / "copy").values()) == {
        config,
        *layers,
        document,
        index([document]),
    }
    await bring(store, "app/back", tmp_path / "copy")
    back = await store.locate(REGION, "app/back")
    assert (await store.manifests.get(back, "again")).body == document
    assert (await store.manifests.get(back, "all")).body == index([document])
    # And it adds to what was exported.
    run(skopeo, *policy, "copy", f"oci:{tmp_path}/copy:again", f"oci:{tmp_path}/out:third")
    await bring(store, "app/third", tmp_path / "out")
    third = await store.locate(REGION, "app/third")
    assert await store.tags.names(third) == ["multi", "third", "v1"]
