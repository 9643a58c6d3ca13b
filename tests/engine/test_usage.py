"""The five numbers of a namespace, by their definitions (design, "Numbers, defined")."""

from __future__ import annotations

import pytest
from support.damage import flip
from support.engine import (
    OTHER_PROJECT,
    REGION,
    Clock,
    Place,
    index,
    make_namespace,
    manifest,
    noise,
    push,
    put,
    sha256,
    upload,
)

from holdfast.engine import QuotaExceeded, Store, Usage
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after

A, B, C = noise(1000), noise(20_000), noise(300_000)
CONFIG = 2
DAY = 24 * 3600.0


async def usage(store: Store, name: str) -> Usage:
    return await store.namespaces.usage((await store.namespaces.find(REGION, name)).id)


async def damage(store: Store, kind: bytes) -> None:
    """Turn a bit of the first row of a kind."""

    async def first(txn: Transaction) -> bytes:
        start = layout.BLOB if kind == layout.CLAIM else kind
        rows = await txn.scan(start, after(start), limit=1000)
        return next(key for key, _ in rows if layout.kind(key) == kind)

    await store.core.ledger.transact(flip, await store.core.ledger.read(first))


async def test_an_empty_namespace(store: Store) -> None:
    await make_namespace(store)
    assert await usage(store, "app") == Usage(0, 0, 0, 0, 0)


async def test_uploads_and_manifests_alone_do_not_count(store: Store) -> None:
    await make_namespace(store)
    where = await store.locate(REGION, "app/web")
    await upload(store, where, A, b"{}")
    assert await usage(store, "app") == Usage(0, 0, 0, 0, 0, held=len(A) + CONFIG)
    child = manifest(b"{}")
    await put(store, "app/web", child)
    parent = index([child])
    await put(store, "app/web", parent, "v1")
    kept = {"content": CONFIG, "manifests": len(child + parent), "held": len(A)}
    assert await usage(store, "app") == Usage(CONFIG, 1, CONFIG, CONFIG, CONFIG, **kept)


async def test_a_layer_in_two_images_counts_twice_in_size_and_once_as_unique(store: Store) -> None:
    await make_namespace(store)
    await push(store, "app/one", "v1", [A, B])
    await push(store, "app/two", "v1", [A])
    await push(store, "app/two", "v2", [A])
    size = len(A + B) + CONFIG + len(A) + CONFIG
    unique = len(A + B) + CONFIG
    bodies = len(manifest(b"{}", [A, B]) + manifest(b"{}", [A]))
    kept = {"content": unique, "manifests": bodies}
    assert await usage(store, "app") == Usage(size, 2, unique, unique, unique, **kept)


async def test_what_others_link_is_not_exclusive(store: Store) -> None:
    await make_namespace(store, "one")
    await make_namespace(store, "two")
    await make_namespace(store, "stranger", project=OTHER_PROJECT)
    await push(store, "one/web", "v1", [A, B, C])
    await push(store, "two/web", "v1", [A])
    await push(store, "stranger/web", "v1", [B])
    every = len(A + B + C) + CONFIG
    one = await usage(store, "one")
    assert (one.unique_size, one.exclusive_size) == (every, len(C))
    # Nobody learns what strangers store.
    assert one.project_exclusive_size == len(B + C)
    stranger = await usage(store, "stranger")
    assert (stranger.exclusive_size, stranger.project_exclusive_size) == (0, len(B) + CONFIG)


async def test_numbers_fall_with_each_kind_of_delete(store: Store, clock: Clock) -> None:
    one = await make_namespace(store, "one")
    await make_namespace(store, "two")
    await push(store, "one/web", "v1", [A, B])
    done = await push(store, "one/web", "v2", [A, C])
    await push(store, "two/web", "v1", [A])
    (v2,) = (await store.tags.list(done.image_id, name="v2")).items
    await store.tags.delete(v2.id)
    rest = len(A + B) + CONFIG
    bodies = [len(manifest(b"{}", layers)) for layers in ([A, B], [A, C])]
    kept = {"content": rest, "manifests": bodies[0], "held": len(C) + bodies[1]}
    assert await usage(store, "one") == Usage(rest, 1, rest, len(B), len(B), **kept)
    await store.images.delete(done.image_id)
    shown = await usage(store, "one")
    assert (shown.size, shown.image_count) == (0, 0)
    assert (shown.kept_size, shown.trash) == (sum(kept.values()), sum(kept.values()))
    await store.sweeper.run(early=True)
    assert await usage(store, "one") == Usage(0, 0, 0, 0, 0)
    two = await usage(store, "two")
    assert two.exclusive_size == two.unique_size == len(A) + CONFIG
    await push(store, "one/web", "v1", [A])
    assert (await usage(store, "two")).exclusive_size == 0
    await store.namespaces.delete(one.id)
    await store.sweeper.run(early=True)
    assert (await usage(store, "two")).exclusive_size == len(A) + CONFIG


async def test_one_file_on_disk_whoever_counts_it(store: Store, place: Place) -> None:
    await make_namespace(store, "one")
    await make_namespace(store, "two", project=OTHER_PROJECT)
    await push(store, "one/web", "v1", [C])
    await push(store, "two/web", "v1", [C])
    for name in ("one", "two"):
        assert (await usage(store, name)).size == len(C) + CONFIG
    assert place.files() == [len(C)]
    stats = await store.stats()
    body = manifest(b"{}", [C])
    assert (stats.blobs, stats.blob_bytes) == (3, len(C) + CONFIG + len(body))
    assert stats.stored_bytes == stats.blob_bytes
    assert (stats.namespaces, stats.images) == (2, 2)


async def test_would_free_of_a_namespace_is_what_is_freed(store: Store, clock: Clock) -> None:
    one = await make_namespace(store, "one")
    await make_namespace(store, "two")
    await push(store, "one/a", "v1", [A, B])
    await push(store, "one/b", "v1", [B, C])
    await push(store, "two/web", "v1", [A])
    bodies = manifest(b"{}", [A, B]) + manifest(b"{}", [B, C])
    foretold = await store.namespaces.would_free(one.id)
    assert foretold == len(B + C + bodies)
    await store.namespaces.delete(one.id)
    assert (await store.sweeper.run(early=True)).freed_bytes == foretold


async def test_a_hold_of_another_is_a_right_to_the_bytes(store: Store) -> None:
    one = await make_namespace(store, "one")
    await make_namespace(store, "two")
    await push(store, "one/web", "v1", [C])
    body = manifest(b"{}", [C])
    source, target = await store.locate(REGION, "one/web"), await store.locate(REGION, "two/web")
    await store.mount(target, sha256(C), source)
    assert await store.namespaces.would_free(one.id) == CONFIG + len(body)
    assert (await usage(store, "one")).exclusive_size == len(C) + CONFIG


async def test_a_damaged_row_of_the_trash_is_in_nobodys_way(place: Place) -> None:
    """Of usage, and of a refusal over the quota, which tells it."""
    async with place.store() as store:
        space = await make_namespace(store)
        for name in ("one", "two"):
            done = await push(store, f"app/{name}", "v1", [noise(10_000, name)])
            await store.images.delete(done.image_id)
        whole = await usage(store, "app")
        for kind in (layout.TRASH, layout.CLAIM):
            await damage(store, kind)
            told = await usage(store, "app")
            assert (told.kept_size, told.content > 0) == (whole.kept_size, True)
            await store.limits.update_namespace(space.id, quota=10)
            with pytest.raises(QuotaExceeded, match="in trash"):
                await push(store, "app/three", "v1", [B])
