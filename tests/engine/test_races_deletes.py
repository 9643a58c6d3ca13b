"""Races of pushes with deletes of what they push to, forced step by step."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from support.engine import (
    REGION,
    Place,
    index,
    make_namespace,
    manifest,
    noise,
    once,
    problems,
    push,
    read,
    sha256,
    upload,
)
from support.race import clean, gaps, hold_before, meanwhile

from holdfast.engine import NotFound, Store
from holdfast.engine.repositories import mounts
from holdfast.engine.trash import trash

SMALL, BIG = noise(1000), noise(200_000)
BOTH = pytest.mark.parametrize("data", [SMALL, BIG], ids=["inline", "file"])
GAPS_MAX = 100
DAY = 24 * 3600.0


@BOTH
@pytest.mark.parametrize("again", [False, True], ids=["gone", "made again"])
async def test_a_push_with_a_delete_of_its_namespace_in_every_gap(
    place: Place, data: bytes, again: bool
) -> None:
    pushing, hooks = place.gated()
    async with pushing, place.store() as other:
        where = await make_namespace(other)

        async def delete() -> None:
            await other.namespaces.delete(where.id)
            await other.sweeper.run(early=True)
            if again:
                await make_namespace(other)

        async def push_image() -> None:
            found = await pushing.locate(REGION, "app/web")
            session = await pushing.uploads.begin(found)
            found = await pushing.locate(REGION, "app/web")
            await pushing.uploads.append(found, session.id, once(data[:500]))
            await pushing.uploads.append(found, session.id, once(data[500:]))
            await pushing.uploads.finish(found, session.id, sha256(data))
            await upload(pushing, found, b"{}")
            child = manifest(b"{}", [data])
            for body, tags in ((child, ()), (index([child]), ("v1",))):
                await pushing.manifests.put(found, body, media_type=None, tags=tags)

        for gap in range(GAPS_MAX):
            intruded, error = await gaps(hooks, gap, push_image, delete)
            if not intruded:
                assert error is None
                await other.namespaces.delete(where.id)
            else:
                assert isinstance(error, NotFound), f"gap {gap}: {error!r}"
            if again and intruded:
                fresh = await other.namespaces.find(REGION, "app")
                assert (fresh.size, fresh.image_count) == (0, 0)
                await other.namespaces.delete(fresh.id)
            await clean(other)
            assert await other.blobs() == []
            assert place.files() == []
            stats = await other.stats()
            assert (stats.images, stats.uploads, stats.trash) == (0, 0, 0)
            where = await make_namespace(other)
            if not intruded:
                break
        assert 5 <= gap < GAPS_MAX - 1


@BOTH
async def test_a_purge_with_a_push_to_the_new_namespace_in_every_gap(
    place: Place, data: bytes
) -> None:
    sweeping, hooks = place.gated()
    async with sweeping, place.store() as store:
        old = await make_namespace(store)
        await push(store, "app/web", "v1", [data])

        for gap in range(GAPS_MAX):
            await store.namespaces.delete(old.id)
            old = await make_namespace(store)

            async def push_image() -> None:
                await push(store, "app/web", "v1", [data])

            intruded, error = await gaps(
                hooks, gap, lambda: sweeping.sweeper.run(early=True), push_image
            )
            assert error is None
            if not intruded:
                break
            await sweeping.sweeper.run(early=True)
            where = await store.locate(REGION, "app/web")
            assert await read(store, sha256(data), repository=where, verify=True) == data
            usage = await store.namespaces.usage(old.id)
            size = len(data) + 2
            assert usage.size == usage.unique_size == usage.exclusive_size == size
            assert await problems(store) == []
        assert 3 <= gap < GAPS_MAX - 1


async def test_a_mount_from_a_namespace_that_goes(place: Place) -> None:
    store, hooks = place.gated()
    async with store, place.store() as other:
        space = await make_namespace(store, "app")
        await make_namespace(store, "other")
        await push(store, "app/web", "v1", [BIG])
        source, target = (
            await store.locate(REGION, "app/web"),
            await store.locate(REGION, "other/web"),
        )
        held = hold_before(hooks, mounts.mount)
        async with meanwhile(held, store.mount(target, sha256(BIG), source)) as mounting:
            await other.namespaces.delete(space.id)
        assert mounting.result() is None
        await clean(store)
        assert await store.blobs() == []


async def test_a_restore_under_a_purge(place: Place) -> None:
    restoring, hooks = place.gated()
    async with restoring, place.store() as store:
        await make_namespace(store)
        done = await push(store, "app/web", "v1", [BIG])
        (tag,) = (await store.tags.list(done.image_id)).items
        await store.tags.delete(tag.id)
        held = hold_before(hooks, trash.restore_tag)
        async with meanwhile(held, restoring.trash.restore(tag.id)) as late:
            await store.sweeper.run(early=True)
        assert isinstance(late.exception(), NotFound)
        assert (await store.images.get(done.image_id)).size == 0
        await clean(store)


async def test_pushes_and_deletes_of_one_name_at_once(place: Place) -> None:
    """Whatever order they come in, the numbers are exact and nothing is left behind."""
    async with place.store() as one, place.store() as other:
        await make_namespace(one)
        bodies = [noise(50_000, number) for number in range(4)]

        async def push_some(store: Store, number: int) -> None:
            for _ in range(5):
                layers = bodies[number : number + 2]
                done = await push(store, "app/web", f"v{number}", layers)
                assert done.tags == (f"v{number}",)

        async def delete_some(store: Store) -> None:
            for _ in range(10):
                where = await store.locate(REGION, "app/web")
                if where.image_id is not None:
                    for tag in (await store.tags.list(where.image_id)).items[:1]:
                        with contextlib.suppress(NotFound):
                            await store.tags.delete(tag.id)
                await store.sweeper.run(early=True)

        work = [push_some(one, 0), push_some(other, 1), push_some(one, 2), delete_some(other)]
        await asyncio.gather(*work)
        assert await problems(one) == []
        where = await one.locate(REGION, "app/web")
        for name in await one.tags.names(where):
            got = await one.manifests.get(where, name)
            assert got.body
