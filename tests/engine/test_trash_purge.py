"""What lies in the trash is given up before its time, alone or with holds; nothing else goes."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from support import engine_fixtures
from support.engine import (
    REGION,
    Clock,
    Function,
    Place,
    index,
    make_namespace,
    manifest,
    noise,
    once,
    problems,
    push,
    put,
    sha256,
    sha512,
    upload,
)

from holdfast.engine import Busy, Invalid, MissingContent, NotFound, Store, Tag
from holdfast.engine.trash import trash

store = engine_fixtures.namespace_store

CONFIG = b"{}"
DAY = 24 * 3600.0


async def image_id(store: Store, name: str = "app/web") -> UUID:
    where = await store.locate(REGION, name)
    assert where.image_id is not None
    return where.image_id


async def tag(store: Store, name: str, image: str = "app/web") -> Tag:
    (found,) = (await store.tags.list(await image_id(store, image), name=name)).items
    return found


async def delete(store: Store, name: str, image: str = "app/web") -> UUID:
    """Delete a tag; its id, by which it lies in the trash."""
    found = await tag(store, name, image)
    await store.tags.delete(found.id)
    return found.id


async def has(store: Store, data: bytes) -> bool:
    """Whether the store still has those bytes, once what is due was swept."""
    await store.sweeper.run()
    listed = await store.blobs()
    return sha256(data) in {str(blob.digest) for blob in listed}


async def test_a_tag_goes_with_what_only_it_needed(store: Store) -> None:
    own, shared, other = noise(1000), noise(2000), noise(100_000)
    await push(store, "app/web", "v1", [own, shared])
    await push(store, "app/web", "v2", [shared, other])
    gone = await delete(store, "v1")
    assert await has(store, own)
    assert await store.trash.purge(gone)
    assert not await has(store, own)
    assert await has(store, shared)
    assert (await store.trash.list()).total == 0
    assert await problems(store) == []
    for call in (store.trash.restore, store.trash.get, store.trash.purge):
        with pytest.raises(NotFound):
            await call(gone)


@pytest.mark.parametrize("first", ["v1", "v2"])
async def test_what_another_deleted_tag_needs_stays(store: Store, clock: Clock, first: str) -> None:
    """Whichever of them was deleted, and so held the layers, first."""
    own, shared, other = noise(1000), noise(2000), noise(3000)
    await push(store, "app/web", "v1", [own, shared])
    await push(store, "app/web", "v2", [shared, other])
    second = {"v1": "v2", "v2": "v1"}[first]
    entries = {first: await delete(store, first)}
    clock.advance(10)
    entries[second] = await delete(store, second)
    assert await store.trash.purge(entries["v1"])
    assert [await has(store, data) for data in (own, shared, other)] == [False, True, True]
    await store.trash.restore(entries["v2"])
    clock.advance(DAY * 2)
    assert [await has(store, data) for data in (shared, other)] == [True, True]
    assert await problems(store) == []


async def test_an_index_goes_with_its_children_and_referrers(store: Store) -> None:
    layers = [noise(500, seed) for seed in range(3)]
    await upload(store, await store.locate(REGION, "app/web"), CONFIG, *layers)
    children = [manifest(CONFIG, [layer]) for layer in layers[:2]]
    for child in children:
        await put(store, "app/web", child)
    all_of_them = index(children)
    await put(store, "app/web", all_of_them, "v1")
    signature = manifest(CONFIG, [layers[2]], subject=all_of_them)
    await put(store, "app/web", signature)
    gone = await delete(store, "v1")
    assert await store.trash.purge(gone)
    for data in (*layers, *children, all_of_them, signature):
        assert not await has(store, data)
    assert await problems(store) == []


async def test_names_in_another_algorithm(store: Store) -> None:
    layer = noise(700)
    where = await store.locate(REGION, "app/web")
    await store.uploads.put(where, sha512(layer), once(layer))
    await upload(store, where, CONFIG)
    body = manifest(CONFIG, [layer]).replace(sha256(layer).encode(), sha512(layer).encode())
    for name in ("v1", "v2"):
        await put(store, "app/web", body + b" " * int(name[1]), name)
    first, second = [await delete(store, name) for name in ("v1", "v2")]
    assert await store.trash.purge(second)
    assert await has(store, layer)
    assert await store.trash.purge(first)
    assert not await has(store, layer)


async def test_a_push_since_then_is_not_undone(store: Store, clock: Clock) -> None:
    layer = noise(1000)
    await push(store, "app/web", "v1", [layer])
    gone = await delete(store, "v1")
    clock.advance(1)
    await upload(store, await store.locate(REGION, "app/web"), layer)
    assert await store.trash.purge(gone)
    assert await has(store, layer)
    await upload(store, await store.locate(REGION, "app/web"), CONFIG)
    await put(store, "app/web", manifest(CONFIG, [layer]), "v2")


@pytest.mark.slow
async def test_what_takes_long_is_left_to_the_sweep(store: Store) -> None:
    layers = [noise(100, seed) for seed in range(500)]
    await push(store, "app/web", "v1", layers)
    gone = await image_id(store)
    await store.images.delete(gone)
    assert not await store.trash.purge(gone, seconds=0)
    # It lies there no more for anybody, and its time has come.
    with pytest.raises(NotFound):
        await store.trash.restore(gone)
    assert (await store.trash.list()).total == 0
    assert await problems(store) == []
    await store.sweeper.run()
    assert (await store.stats()).blobs == 0
    assert await problems(store) == []


async def test_a_restore_that_was_begun_fails(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has taken back what it brought, or the purge has."""
    monkeypatch.setattr("holdfast.engine.trash.trash._ROWS_PER_TXN", 2)
    layers = [noise(500, seed) for seed in range(6)]
    store, hooks = place.gated()
    async with store:
        await make_namespace(store)
        await upload(store, await store.locate(REGION, "app/web"), CONFIG, *layers)
        children = [manifest(CONFIG, [layer]) for layer in layers]
        for child in children:
            await put(store, "app/web", child)
        await put(store, "app/web", index(children), "v1")
        gone = await delete(store, "v1")
        begun = 0

        async def purge(work: Function) -> None:
            nonlocal begun
            begun += work is trash.restore_some
            if begun == 2:
                begun += 1
                await store.trash.purge(gone)

        hooks.before = purge
        with pytest.raises((NotFound, Busy)):
            await store.trash.restore(gone)
        hooks.before = None
        assert begun >= 3
        clock.advance(2)
        for data in (*layers, *children):
            assert not await has(store, data)
        assert await problems(store) == []


async def test_holds_that_nothing_needs_are_released(store: Store) -> None:
    left = [noise(1000, seed) for seed in range(5)]
    needed, elsewhere = noise(5000), noise(6000)
    await upload(store, await store.locate(REGION, "app/draft"), *left[:2])
    await push(store, "app/web", "v1", [needed])
    await upload(store, await store.locate(REGION, "app/web"), *left[2:], needed)
    await make_namespace(store, "other")
    await upload(store, await store.locate(REGION, "other/web"), elsewhere)
    space = await store.namespaces.find(REGION, "app")
    done = await store.holds.release(space.id)
    assert (done.released, done.size, done.kept, done.after) == (5, 5000, 0, None)
    for data in left:
        assert not await has(store, data)
    for data in (needed, elsewhere):
        assert await has(store, data)
    assert await problems(store) == []
    with pytest.raises(NotFound):
        await store.holds.release(uuid4())


async def test_a_hold_that_was_taken_since_stays(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.trash.holds.ROWS_PER_TXN", 2)
    space = await store.namespaces.find(REGION, "app")
    old = {f"app/image{number}": noise(1000, number) for number in range(5)}
    for name, data in old.items():
        await upload(store, await store.locate(REGION, name), data)
    clock.advance(1)
    done = await store.holds.release(space.id, seconds=0)
    assert (done.released, done.after is None) == (1, False)
    clock.advance(1)
    new = noise(4000)
    await upload(store, await store.locate(REGION, "app/image4"), new)
    await upload(store, await store.locate(REGION, "app/zebra"), new)
    released = done.released
    while done.after is not None:
        done = await store.holds.release(space.id, after=done.after, seconds=0)
        released += done.released
    assert released == len(old)
    assert await has(store, new)
    for data in old.values():
        assert not await has(store, data)
    for after in ("", "x", "1.2", "ffffffffffffffff.00.a", f"{2**60:x}.{'0' * 64}.a", "-1.0.a"):
        with pytest.raises(Invalid) as wrong:
            await store.holds.release(space.id, after=after)
        assert wrong.value.argument == "after"


@pytest.mark.parametrize("room", [None, 2])
async def test_holds_that_deleted_tags_need_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch, room: int | None
) -> None:
    """Also where these are too many to look at."""
    if room is not None:
        monkeypatch.setattr("holdfast.engine.trash.content.NEEDS_MAX", room)
    kept, left = noise(1000), noise(2000)
    await upload(store, await store.locate(REGION, "app/web"), left)
    await push(store, "app/web", "v1", [kept])
    gone = await delete(store, "v1")
    space = await store.namespaces.find(REGION, "app")
    done = await store.holds.release(space.id)
    assert done.kept >= 3
    assert await has(store, kept)
    if room is None:
        assert (done.released, done.kept) == (1, 3)
        assert not await has(store, left)
    await store.trash.restore(gone)
    assert (await store.manifests.get(await store.locate(REGION, "app/web"), "v1")).body
    # Once it lies there no more, nothing is kept for it.
    gone = await delete(store, "v1")
    assert await store.trash.purge(gone)
    assert (await store.holds.release(space.id)).kept == 0
    assert not await has(store, kept)


async def test_a_push_that_lost_its_hold_is_told_so(store: Store) -> None:
    layer = noise(1000)
    where = await store.locate(REGION, "app/web")
    await upload(store, where, CONFIG, layer)
    space = await store.namespaces.find(REGION, "app")
    await store.holds.release(space.id)
    where = await store.locate(REGION, "app/web")
    assert await store.exists([sha256(layer)], repository=where) == set()
    with pytest.raises(MissingContent):
        await put(store, "app/web", manifest(CONFIG, [layer]), "v1")


async def test_two_processes_give_up_the_same(place: Place) -> None:
    async with place.store() as one, place.store() as other:
        await make_namespace(one)
        await push(one, "app/web", "v1", [noise(1000)])
        gone = await delete(one, "v1")
        assert await other.trash.purge(gone)
        with pytest.raises(NotFound):
            await one.trash.purge(gone)
        assert await problems(one) == []


@pytest.mark.parametrize("back", [("v1", "v2"), ("v2", "v1")])
async def test_each_of_two_tags_of_one_manifest_comes_back_alone(
    store: Store, back: tuple[str, str]
) -> None:
    """It went with the one that was deleted last; the other one comes back all the same."""
    layer = noise(50_000, "layer")
    await push(store, "app/web", "v1", [layer])
    await push(store, "app/web", "v2", [layer])
    await push(store, "app/web", "other", [])
    body = manifest(CONFIG, [layer])
    ids = {name: await delete(store, name) for name in ("v1", "v2")}
    for name in back:
        await store.trash.restore(ids[name])
        where = await store.locate(REGION, "app/web")
        assert (await store.manifests.get(where, name)).body == body
        assert await has(store, layer)
        assert await problems(store) == []
    assert (await store.trash.list()).items == []


@pytest.mark.slow
async def test_a_purge_leaves_what_an_earlier_tag_needs_to_come_back(store: Store) -> None:
    layer = noise(50_000, "layer")
    children = [manifest(CONFIG, [layer], annotations={"n": str(n)}) for n in range(300)]
    await upload(store, await store.locate(REGION, "app/web"), CONFIG, layer)
    for child in children:
        await put(store, "app/web", child)
    await put(store, "app/web", index(children), "v1", "v2", "v3")
    await push(store, "app/web", "other", [])
    ids = {name: await delete(store, name) for name in ("v1", "v2", "v3")}
    assert await store.trash.purge(ids["v3"])
    assert await has(store, layer)
    assert await problems(store) == []
    await store.trash.restore(ids["v2"])
    where = await store.locate(REGION, "app/web")
    for child in children:
        assert (await store.manifests.get(where, sha256(child))).body == child
    assert await store.trash.purge(ids["v1"])
    assert (await store.manifests.get(where, "v2")).body == index(children)
    assert await problems(store) == []


@pytest.mark.slow
async def test_a_copy_that_was_cut_off_goes_on(store: Store) -> None:
    from holdfast.engine.trash import adoption

    children = [manifest(CONFIG, annotations={"n": str(n)}) for n in range(450)]
    await upload(store, await store.locate(REGION, "app/web"), CONFIG)
    for child in children:
        await put(store, "app/web", child)
    await put(store, "app/web", index(children), "v1", "v2")
    await push(store, "app/web", "other", [])
    first, last = await delete(store, "v1"), await delete(store, "v2")
    copied = await store.core.ledger.transact(adoption.copy_batch, first.bytes, last.bytes)
    assert not copied
    assert await problems(store) == []
    await store.trash.restore(first)
    where = await store.locate(REGION, "app/web")
    for child in children:
        assert (await store.manifests.get(where, sha256(child))).body == child
    assert await problems(store) == []
