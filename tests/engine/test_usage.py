"""The five numbers of a namespace, by their definitions (design, "Numbers, defined")."""

from __future__ import annotations

import pytest
from support.damage import flip
from support.engine import (
    REGION,
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
