"""Rights to blobs: mounts, holds, what HEAD tells, and taking a blob away."""

from __future__ import annotations

import pytest
from support.engine import (
    REGION,
    Clock,
    Place,
    make_namespace,
    manifest,
    noise,
    push,
    put,
    read,
    sha256,
    sha512,
    upload,
)

from holdfast.engine import Corrupt, InvalidDigest, Locked, NotFound, Store

LAYER = noise(50_000)
DAY = 24 * 3600.0


@pytest.fixture
async def store(store: Store) -> Store:
    """A store with an image ``app/web`` and another namespace beside it."""
    await make_namespace(store)
    await make_namespace(store, "other")
    await push(store, "app/web", "v1", [LAYER])
    return store


async def test_what_the_source_cannot_read_is_not_mounted(store: Store) -> None:
    target = await store.locate(REGION, "other/web")
    source = await store.locate(REGION, "app/web")
    nowhere = await store.locate(REGION, "app/none")
    assert await store.mount(target, sha256(b"none"), source) is None
    assert await store.mount(target, sha256(LAYER), nowhere) is None
    assert await store.mount(target, sha512(LAYER), source) is None
    assert source.image_id is not None
    await store.images.delete(source.image_id)
    assert await store.mount(target, sha256(LAYER), source) is None
    assert (await store.locate(REGION, "other/web")).key is None
    with pytest.raises(InvalidDigest):
        await store.mount(target, "sha256:0", source)


async def test_a_damaged_blob_is_not_mounted(store: Store, place: Place) -> None:
    target = await store.locate(REGION, "other/web")
    source = await store.locate(REGION, "app/web")
    place.remove(len(LAYER))
    with pytest.raises(Corrupt):
        await read(store, sha256(LAYER))
    assert await store.mount(target, sha256(LAYER), source) is None
    await upload(store, source, LAYER)
    assert await store.mount(target, sha256(LAYER), source) is not None


async def test_where_a_mount_is_refused(store: Store) -> None:
    target = await store.locate(REGION, "other/web")
    source = await store.locate(REGION, "app/web")
    await store.namespaces.update(target.namespace_id, locked=True)
    with pytest.raises(Locked):
        await store.mount(target, sha256(LAYER), source)
    await store.namespaces.update(target.namespace_id, locked=False)
    await store.namespaces.delete(target.namespace_id)
    with pytest.raises(NotFound) as missing:
        await store.mount(target, sha256(LAYER), source)
    assert missing.value.kind == "namespace"


async def test_holders(store: Store) -> None:
    async def names(region: str = REGION) -> set[str]:
        return {where.full_name for where in await store.holders(region, sha256(LAYER))}

    assert await names() == {"app/web"}
    assert await names("nl-ams") == set()
    assert await store.holders(REGION, sha256(b"none")) == []
    await upload(store, await store.locate(REGION, "other/web"), LAYER)
    assert await names() == {"app/web", "other/web"}
    await store.namespaces.delete((await store.namespaces.find(REGION, "app")).id)
    assert await names() == {"other/web"}


async def test_a_hold_is_told_for_half_its_time_and_lasts_for_all(
    store: Store, clock: Clock
) -> None:
    held = noise(100)
    await upload(store, await store.locate(REGION, "app/web"), held)
    where = await store.locate(REGION, "app/web")
    asked = [sha256(held), sha256(LAYER)]
    clock.advance(DAY / 2 - 1)
    assert (await store.stat(sha256(held), repository=where)).size == len(held)
    assert await store.exists(asked, repository=where) == set(asked)
    clock.advance(1)
    with pytest.raises(NotFound):
        await store.stat(sha256(held), repository=where)
    assert await store.exists(asked, repository=where) == {sha256(LAYER)}
    clock.advance(DAY / 2 - 1)
    await store.sweeper.run()
    assert await read(store, sha256(held), repository=where) == held
    await upload(store, where, b"{}")
    await put(store, "app/web", manifest(b"{}", [held]), "v2")
    clock.advance(2 * DAY)
    await store.sweeper.run()
    assert await read(store, sha256(held), repository=where) == held


async def test_an_upload_prolongs_the_hold(store: Store, clock: Clock) -> None:
    held = noise(100)
    where = await store.locate(REGION, "app/web")
    for _ in range(3):
        await upload(store, where, held)
        clock.advance(DAY * 0.9)
        await store.sweeper.run()
    assert await read(store, sha256(held), repository=where) == held
    clock.advance(DAY)
    with pytest.raises(NotFound):
        await read(store, sha256(held), repository=where)
    await store.sweeper.run()
    with pytest.raises(NotFound):
        await store.stat(sha256(held))


async def test_what_a_manifest_let_go_stays_held(store: Store, clock: Clock) -> None:
    where = await store.locate(REGION, "app/web")
    await store.manifests.delete(where, sha256(manifest(b"{}", [LAYER])))
    assert await store.exists([sha256(LAYER)], repository=where) == {sha256(LAYER)}
    clock.advance(DAY + 1)
    await store.sweeper.run()
    assert await store.blobs() == []
