"""Manifests: accepted only with all they need, found by tag and by digest, listed by subject."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import engine_fixtures
from support.engine import (
    LAYER_TYPE,
    REGION,
    Clock,
    Place,
    descriptor,
    index,
    make_namespace,
    manifest,
    noise,
    push,
    put,
    raised,
    sha256,
    upload,
)
from support.engine_fixtures import CONFIG, LAYER, OTHER

from holdfast.engine import (
    OCI_INDEX,
    OCI_MANIFEST,
    Corrupt,
    DescriptorMismatch,
    Immutable,
    InvalidManifest,
    MissingContent,
    NotFound,
    Store,
)
from holdfast.engine.depot import open_files
from holdfast.engine.references import manifest_rows

store = engine_fixtures.content_store

BODY = manifest(CONFIG, [LAYER, OTHER])
DAY = 24 * 3600.0


async def test_a_size_that_is_wrong(store: Store) -> None:
    """Whatever the descriptor is of, and also where something else is missing."""
    body = json.loads(BODY)
    body["layers"][0]["size"] += 1
    body["config"]["size"] = 0
    body["layers"].append({"mediaType": LAYER_TYPE, "digest": sha256(b"absent"), "size": 6})
    with pytest.raises(DescriptorMismatch) as wrong:
        await put(store, "app/web", json.dumps(body).encode())
    assert set(wrong.value.wrong) == {
        (sha256(CONFIG), len(CONFIG), 0),
        (sha256(LAYER), len(LAYER), len(LAYER) + 1),
    }
    where = await store.locate(REGION, "app/web")
    assert where.image_id is None, "nothing was put"


async def test_a_foreign_layer_of_another_size(store: Store) -> None:
    """It may be missing; what is here is what its digest says."""
    body = json.loads(BODY)
    body["layers"][0] |= {"size": 1, "urls": ["https://layers.example/1"]}
    with pytest.raises(DescriptorMismatch):
        await put(store, "app/web", json.dumps(body).encode())
    body["layers"][0]["digest"] = sha256(b"elsewhere")
    await put(store, "app/web", json.dumps(body).encode())


async def test_content_whose_hold_is_over_is_missing(store: Store, clock: Clock) -> None:
    clock.advance(DAY)
    with pytest.raises(MissingContent) as missing:
        await put(store, "app/web", BODY)
    assert set(missing.value.digests) == {sha256(CONFIG), sha256(LAYER), sha256(OTHER)}


async def test_an_algorithm_that_is_not_kept_is_missing(store: Store) -> None:
    layer = {"mediaType": LAYER_TYPE, "digest": "sha384:" + "0" * 96, "size": 1}
    body = {**json.loads(BODY), "layers": [layer]}
    with raised(MissingContent, digests=(layer["digest"],)):
        await put(store, "app/web", json.dumps(body).encode())


async def test_foreign_layers_may_be_absent_and_are_linked_if_not(store: Store) -> None:
    absent = noise(10)
    layers = [
        descriptor(absent, "application/vnd.oci.image.layer.nondistributable.v1.tar"),
        descriptor(LAYER, LAYER_TYPE, urls=["https://example.com/layer"]),
        descriptor(noise(11), LAYER_TYPE, urls=["https://example.com/other"]),
    ]
    body = json.dumps({**json.loads(BODY), "layers": layers}).encode()
    done = await put(store, "app/web", body, "v1")
    assert (await store.images.get(done.image_id)).size == len(CONFIG + LAYER)


async def test_an_index_needs_its_children_as_manifests_of_the_image(store: Store) -> None:
    body = index([BODY])
    with raised(MissingContent, digests=(sha256(BODY),)):
        await put(store, "app/web", body, "v1")
    # The bytes alone do not make a manifest.
    await upload(store, await store.locate(REGION, "app/web"), BODY)
    with pytest.raises(MissingContent):
        await put(store, "app/web", body, "v1")
    await put(store, "app/web", BODY)
    done = await put(store, "app/web", body, "v1")
    nested = await put(store, "app/web", index([BODY, body]), "v2")
    where = await store.locate(REGION, "app/web")
    assert (await store.manifests.get(where, "v1")).media_type == OCI_INDEX
    assert nested.image_id == done.image_id
    assert (await store.images.get(done.image_id)).size == len(CONFIG + LAYER + OTHER)


async def test_an_index_of_plain_content(store: Store) -> None:
    """BuildKit's caches are such."""
    body = index({LAYER: LAYER_TYPE})
    done = await put(store, "app/web", body, "cache")
    assert (await store.images.get(done.image_id)).size == len(LAYER)


@pytest.mark.parametrize("servers", [True, False])
async def test_sparse_indexes_are_a_setting_of_a_namespace(place: Place, servers: bool) -> None:
    async with place.store(sparse_indexes=servers) as store:
        space = await make_namespace(store)
        await make_namespace(store, "other")
        assert space.sparse_indexes is None
        for number, own in enumerate((None, not servers, servers, None)):
            await store.namespaces.update(space.id, sparse_indexes=own)
            assert (await store.namespaces.get(space.id)).sparse_indexes is own
            absent = index([manifest(noise(number))])
            if servers if own is None else own:
                await put(store, "app/web", absent, "v1")
            else:
                with pytest.raises(MissingContent):
                    await put(store, "app/web", absent, "v1")
        if not servers:
            with pytest.raises(MissingContent):
                await put(store, "other/web", index([manifest(noise(9))]), "v1")


async def test_a_tag_comes_back_as_its_namespace_takes_it(store: Store) -> None:
    """Restored by the rule that holds then, as any push."""
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.update(space.id, sparse_indexes=True)
    done = await put(store, "app/web", index([manifest(noise(1))]), "v1")
    (tag,) = (await store.tags.list(done.image_id)).items
    await store.tags.delete(tag.id)
    await store.namespaces.update(space.id, sparse_indexes=False)
    with pytest.raises(MissingContent):
        await store.trash.restore(tag.id)
    await store.namespaces.update(space.id, sparse_indexes=True)
    await store.trash.restore(tag.id)


async def test_a_child_that_came_after_its_sparse_index(place: Place) -> None:
    async with place.store(sparse_indexes=True) as store:
        await make_namespace(store)
        await upload(store, await store.locate(REGION, "app/web"), CONFIG)
        child = manifest(CONFIG)
        await put(store, "app/web", index([child]), "all")
        done = await put(store, "app/web", child, "one")
        await put(store, "app/web", index([child]), "all")
        (tag,) = (await store.tags.list(done.image_id, name="one")).items
        await store.tags.delete(tag.id)
        where = await store.locate(REGION, "app/web")
        assert (await store.manifests.get(where, sha256(child))).body == child


@pytest.mark.parametrize("body", [None, "{}", 5, {}])
async def test_a_body_that_is_no_bytes(store: Store, body: Any) -> None:
    where = await store.locate(REGION, "app/web")
    with pytest.raises(InvalidManifest, match=f"must be bytes, not {type(body).__name__}"):
        await store.manifests.put(where, body, media_type=OCI_MANIFEST, reference="v1")


async def test_a_manifest_too_large_for_the_ledger(
    store: Store, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file that is still open could be read although it is gone.
    monkeypatch.setattr(open_files, "KEEP_MAX", 0)
    body = manifest(CONFIG, [LAYER], annotations={"filler": "x" * 100_000})
    before = len(place.files())
    await put(store, "app/web", body, "v1")
    assert len(place.files()) == before + 1
    where = await store.locate(REGION, "app/web")
    assert (await store.manifests.get(where, "v1")).body == body
    place.damage(len(body))
    with raised(Corrupt, kind="manifest"):
        await store.manifests.get(where, "v1")
    await put(store, "app/web", body, "v1")
    assert (await store.manifests.get(where, "v1")).body == body
    await store.sweeper.run()
    place.remove(len(body))
    with pytest.raises(Corrupt):
        await store.manifests.get(where, "v1")
    await put(store, "app/web", body, "v1")
    assert (await store.manifests.get(where, "v1")).body == body


async def test_delete_takes_the_tags_and_leaves_the_children(store: Store) -> None:
    await put(store, "app/web", BODY)
    body = index([BODY])
    done = await put(store, "app/web", body, "v1", "v2")
    await put(store, "app/web", BODY, "v3")
    where = await store.locate(REGION, "app/web")
    await store.manifests.delete(where, sha256(body))
    assert (await store.images.get(done.image_id)).tags == ("v3",)
    assert (await store.manifests.get(where, sha256(BODY))).body == BODY
    with pytest.raises(NotFound):
        await store.manifests.get(where, sha256(body))
    with pytest.raises(NotFound):
        await store.manifests.delete(where, sha256(body))


async def test_delete_of_a_manifest_with_very_many_tags(store: Store) -> None:
    names = [f"t{number}" for number in range(1100)]
    done = await put(store, "app/web", BODY, *names)
    image = await store.images.get(done.image_id)
    assert (image.tag_count, len(image.tags)) == (1100, 1000)
    where = await store.locate(REGION, "app/web")
    await store.manifests.delete(where, sha256(BODY))
    image = await store.images.get(done.image_id)
    assert (image.tag_count, image.tags, image.size) == (0, (), 0)


async def test_a_tag_that_has_to_stay_keeps_very_many_others(store: Store) -> None:
    names = [f"t{number}" for number in range(2100)]
    done = await put(store, "app/web", BODY, *names, "zz")
    space = await store.namespaces.find(REGION, "app")
    await store.namespaces.update(space.id, immutable_tags=("z*",))
    where = await store.locate(REGION, "app/web")
    with pytest.raises(Immutable):
        await store.manifests.delete(where, sha256(BODY))
    assert (await store.images.get(done.image_id)).tag_count == 2101
    assert (await store.trash.list()).total == 0


async def test_untagged_manifests_stay_and_count(store: Store, clock: Clock) -> None:
    await put(store, "app/web", BODY, "v1")
    done = await put(store, "app/web", manifest(CONFIG), "v1")
    clock.advance(100 * DAY)
    await store.sweeper.run()
    where = await store.locate(REGION, "app/web")
    assert (await store.manifests.get(where, sha256(BODY))).body == BODY
    assert (await store.images.get(done.image_id)).size == len(CONFIG + LAYER + OTHER)


async def test_a_clock_that_jumped_ahead_and_back(store: Store, clock: Clock) -> None:
    """Times of the ledger never go back, but rights are judged by the clock as it is."""
    clock.advance(30 * 24 * 3600)
    await push(store, "app/web", "ahead", [noise(10)])
    clock.advance(-30 * 24 * 3600)
    await push(store, "app/web", "back", [noise(20)])
    where = await store.locate(REGION, "app/web")
    assert await store.tags.names(where) == ["ahead", "back"]
    # The times from ahead are a finding of the check until the sweep has cut them.
    await store.sweeper.run()


async def test_a_delete_without_patterns_looks_at_the_tags_of_one_step(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: other writers wait for its transaction."""
    monkeypatch.setattr("holdfast.engine.manifests.manifests.TAGS_PER_TXN", 2)
    space = await store.namespaces.find(REGION, "app")
    where = await store.locate(REGION, "app/web")
    body = manifest(b"{}")
    await upload(store, where, b"{}")
    asked = []
    tags_of = manifest_rows.tags_of

    async def counted(*args: Any, **more: Any) -> list[str]:
        asked.append(args)
        return await tags_of(*args, **more)

    monkeypatch.setattr("holdfast.engine.references.manifest_rows.tags_of", counted)
    calls = []
    for patterns in ((), ("no*",)):
        await store.namespaces.update(space.id, immutable_tags=patterns)
        tags = tuple(f"v{number}" for number in range(7))
        done = await store.manifests.put(
            where, body, media_type=OCI_MANIFEST, reference=sha256(body), tags=tags
        )
        asked.clear()
        where = await store.locate(REGION, "app/web")
        await store.manifests.delete(where, done.digest)
        calls.append(len(asked))
    assert calls == [4, 7]
