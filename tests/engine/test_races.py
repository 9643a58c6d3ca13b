"""The races of the design, forced step by step: sweeps, heals, deletes and holds under pushes."""

from __future__ import annotations

import pytest
from support.engine import (
    REGION,
    Clock,
    Function,
    Place,
    make_namespace,
    manifest,
    noise,
    once,
    push,
    put,
    read,
    sha256,
    upload,
)
from support.race import clean, gaps, hold_before, meanwhile

from holdfast.engine import Corrupt, MissingContent, Store
from holdfast.engine.blobs import blob_rows, roots
from holdfast.engine.manifests import manifest_put
from holdfast.engine.repositories import reader
from holdfast.engine.trash import purge

SMALL, BIG = noise(1000), noise(200_000)
BOTH = pytest.mark.parametrize("data", [SMALL, BIG], ids=["inline", "file"])
GAPS_MAX = 100
DAY = 24 * 3600.0


# --- a push of a digest while it is swept


@BOTH
@pytest.mark.parametrize("gaps_of", ["put", "sweep"])
async def test_a_put_and_a_sweep_in_each_others_gaps(
    place: Place, data: bytes, gaps_of: str
) -> None:
    store, hooks = place.gated()
    async with store, place.store() as other:
        putting, sweeping = (store, other) if gaps_of == "put" else (other, store)

        async def put() -> None:
            await putting.put(data)

        async def sweep() -> None:
            await sweeping.sweeper.run()

        work, intruder = (put, sweep) if gaps_of == "put" else (sweep, put)
        for gap in range(GAPS_MAX):
            await other.put(data)
            await other.delete(sha256(data))
            intruded, error = await gaps(hooks, gap, work, intruder)
            assert error is None
            if not intruded:
                break
            assert await read(other, sha256(data), verify=True) == data
            await clean(other)
            assert await read(other, sha256(data), verify=True) == data
            await other.delete(sha256(data))
            await clean(other)
            assert place.files() == []
        assert 1 <= gap < GAPS_MAX - 1


@BOTH
@pytest.mark.parametrize("session", [False, True])
async def test_a_push_with_a_sweep_in_every_gap(
    place: Place, clock: Clock, data: bytes, session: bool
) -> None:
    pushing, hooks = place.gated()
    async with pushing, place.store() as other:
        await make_namespace(pushing)

        async def sweep() -> None:
            await other.sweeper.run(early=True)

        async def push_image() -> None:
            if session:
                where = await pushing.locate(REGION, "app/web")
                upload_ = await pushing.uploads.begin(where)
                where = await pushing.locate(REGION, "app/web")
                await pushing.uploads.append(where, upload_.id, once(data))
                await pushing.uploads.finish(where, upload_.id, sha256(data))
            await push(pushing, "app/web", "v1", [data])

        for gap in range(GAPS_MAX):
            # The same digests lie in the garbage queue, unneeded.
            await other.put(data)
            await other.delete(sha256(data))
            intruded, error = await gaps(hooks, gap, push_image, sweep)
            assert error is None
            where = await other.locate(REGION, "app/web")
            assert where.image_id is not None
            assert await read(other, sha256(data), repository=where, verify=True) == data
            assert (await other.images.get(where.image_id)).size == len(data) + 2
            await other.images.delete(where.image_id)
            await clean(other)
            assert await other.blobs() == []
            assert place.files() == []
            if not intruded:
                break
        assert 3 <= gap < GAPS_MAX - 1


@BOTH
async def test_a_sweep_with_a_push_in_every_gap(place: Place, data: bytes) -> None:
    sweeping, hooks = place.gated()
    async with sweeping, place.store() as store:
        await make_namespace(store)

        async def push_image() -> None:
            await push(store, "app/web", "v1", [data])

        for gap in range(GAPS_MAX):
            await push_image()
            where = await store.locate(REGION, "app/web")
            assert where.image_id is not None
            await store.images.delete(where.image_id)
            intruded, error = await gaps(
                hooks, gap, lambda: sweeping.sweeper.run(early=True), push_image
            )
            assert error is None
            if not intruded:
                break
            where = await store.locate(REGION, "app/web")
            assert await read(store, sha256(data), repository=where, verify=True) == data
            assert where.image_id is not None
            await store.images.delete(where.image_id)
            await clean(store)
            assert await store.blobs() == []
            assert place.files() == []
        assert 3 <= gap < GAPS_MAX - 1


async def test_a_reader_reads_on_while_its_blob_is_swept(store: Store, place: Place) -> None:
    data = noise(2_000_000)
    await store.put(data)
    async with store.get(sha256(data)) as reader:
        pieces = aiter(reader)
        first = await anext(pieces)
        await store.delete(sha256(data))
        await store.sweeper.run()
        assert place.files() == []
        assert first + b"".join([piece async for piece in pieces]) == data


# --- a push of a digest while it is healed


async def test_healed_while_a_reader_finds_the_damage(place: Place) -> None:
    reading, hooks = place.gated()
    async with reading, place.store() as store:
        await store.put(BIG)
        place.damage(len(BIG))
        held = hold_before(hooks, blob_rows.quarantine)
        async with meanwhile(held, read(reading, sha256(BIG), verify=True)) as late:
            await store.put(BIG)
            assert await read(store, sha256(BIG), verify=True) == BIG
        assert isinstance(late.exception(), Corrupt)
        # What the late reader saw was the copy that is gone.
        assert await read(store, sha256(BIG), verify=True) == BIG
        await clean(store)
        assert place.files() == [len(BIG)]


async def test_two_heal_at_once(place: Place) -> None:
    one, hooks = place.gated()
    async with one, place.store() as other:
        await one.put(BIG, root="a")
        place.damage(len(BIG))
        held = hold_before(hooks, roots.keep)
        async with meanwhile(held, one.put(BIG, root="b")):
            await other.put(BIG, root="c")
        assert await read(other, sha256(BIG), verify=True) == BIG
        assert await other.roots() == ["a", "b", "c"]
        await clean(other)
        assert place.files() == [len(BIG)]


async def test_read_while_the_file_is_replaced(place: Place) -> None:
    """Who looked the row up before the heal finds the new file when it opens."""
    reading, hooks = place.gated()
    async with reading, place.store() as store:
        await store.put(BIG)

        async def heal(work: Function) -> None:
            if work is reader.locate_living:
                hooks.after_read = None
                place.damage(len(BIG))
                await store.put(BIG)
                await store.sweeper.run()

        hooks.after_read = heal
        assert await read(reading, sha256(BIG), verify=True) == BIG


# --- a manifest at the end of a hold


@BOTH
async def test_a_manifest_after_the_end_of_a_hold(place: Place, clock: Clock, data: bytes) -> None:
    store, hooks = place.gated()
    async with store, place.store() as sweeping:
        await make_namespace(store)
        await upload(store, await store.locate(REGION, "app/web"), b"{}", data)
        body = manifest(b"{}", [data])
        held = hold_before(hooks, manifest_put.put)
        async with meanwhile(held, put(store, "app/web", body, "v1")) as late:
            clock.advance(DAY + 1)
            await sweeping.sweeper.run()
        missing = late.exception()
        assert isinstance(missing, MissingContent)
        assert set(missing.digests) == {sha256(b"{}"), sha256(data)}
        assert (await store.stats()).images == 0
        await clean(store)
        assert await store.blobs() == []
        assert place.files() == []


@BOTH
async def test_a_manifest_just_before_the_end_of_a_hold(
    place: Place, clock: Clock, data: bytes
) -> None:
    sweeping, hooks = place.gated()
    async with sweeping, place.store() as store:
        await make_namespace(store)
        await upload(store, await store.locate(REGION, "app/web"), b"{}", data)
        clock.advance(DAY + 1)
        held = hold_before(hooks, purge.take)
        async with meanwhile(held, sweeping.sweeper.run()):
            clock.advance(-2)
            await put(store, "app/web", manifest(b"{}", [data]), "v1")
        where = await store.locate(REGION, "app/web")
        assert await read(store, sha256(data), repository=where) == data
        await clean(store)
        assert await read(store, sha256(data), repository=where) == data


@BOTH
async def test_a_pusher_who_was_told_has_half_a_hold_left(
    store: Store, clock: Clock, data: bytes
) -> None:
    await make_namespace(store)
    await upload(store, await store.locate(REGION, "app/web"), b"{}", data)
    where = await store.locate(REGION, "app/web")
    clock.advance(DAY / 2 - 1)
    asked = {sha256(b"{}"), sha256(data)}
    assert await store.exists(asked, repository=where) == asked
    for _ in range(4):
        clock.advance(DAY / 8)
        await store.sweeper.run()
    await put(store, "app/web", manifest(b"{}", [data]), "v1")
    assert await read(store, sha256(data), repository=where) == data
