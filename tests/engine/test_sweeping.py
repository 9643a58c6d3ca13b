"""Sweeping: what is due goes, in bounded steps, in the background or when asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.engine import (
    REGION,
    Clock,
    Function,
    Place,
    make_namespace,
    noise,
    push,
    sha256,
    upload,
)

from holdfast.engine import Store
from holdfast.engine.trash import purge

DAY = 24 * 3600.0


async def test_nothing_is_due_in_a_new_store(store: Store) -> None:
    done = await store.sweeper.run()
    assert (done.entries, done.freed_bytes, done.files) == (0, 0, 0)


@pytest.mark.slow
async def test_a_step_is_bounded(store: Store) -> None:
    for number in range(450):
        await store.put(noise(10, number))
        await store.delete(sha256(noise(10, number)))
    assert (await store.stats()).garbage == 450
    left = 450
    while left:
        done = await store.sweeper.step()
        assert 0 < done.entries <= 200
        left -= done.entries
        assert (await store.stats()).garbage == left
    assert store.sweeper.total.freed_bytes == 4500
    assert (await store.stats()).freed_bytes == 4500


async def test_it_goes_on_where_another_stopped(place: Place) -> None:
    async with place.store() as store:
        await make_namespace(store)
        for number in range(5):
            await push(store, f"app/i{number}", "v1", [noise(50_000, number)])
        await store.namespaces.delete((await store.namespaces.find(REGION, "app")).id)
        for _ in range(3):
            await store.sweeper.step(early=True)
        left = (await store.stats()).blobs
        assert left > 0
    async with place.store() as store:
        await store.sweeper.run(early=True)
        assert await store.blobs() == []
        assert place.files() == []


@pytest.mark.slow
async def test_two_sweep_at_once(place: Place) -> None:
    async with place.store() as one, place.store() as other:
        for number in range(500):
            await one.put(noise(10, number))
            await one.delete(sha256(noise(10, number)))
        await asyncio.gather(one.sweeper.run(), other.sweeper.run())
        stats = await one.stats()
        assert (stats.blobs, stats.garbage, stats.freed_bytes) == (0, 0, 5000)


async def test_what_is_needed_again_is_not_garbage(store: Store) -> None:
    await store.put(b"hello")
    await store.delete(sha256(b"hello"))
    await store.put(b"hello")
    assert (await store.stats()).garbage == 1
    done = await store.sweeper.run()
    assert done.freed_bytes == 0
    assert (await store.stats()).garbage == 0
    await store.delete(sha256(b"hello"))
    assert (await store.sweeper.run()).freed_bytes == 5


@pytest.fixture
async def busy(place: Place) -> AsyncIterator[Store]:
    """A store that sweeps in the background."""
    async with place.store(background=True) as store:
        yield store


async def until(store: Store, **expected: int) -> None:
    """Wait for numbers of the store; the test's own time limit ends a wait for nothing."""
    while True:
        stats: Any = await store.stats()
        if all(getattr(stats, name) == value for name, value in expected.items()):
            return
        await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_in_the_background(busy: Store, place: Place, clock: Clock) -> None:
    await busy.put(noise(100_000))
    await busy.delete(sha256(noise(100_000)))
    await until(busy, blobs=0, garbage=0)
    await make_namespace(busy)
    await upload(busy, await busy.locate(REGION, "app/web"), b"held")
    clock.advance(DAY + 1)
    await until(busy, blobs=0)
    async with asyncio.timeout(10):
        while place.files():  # noqa: ASYNC110 - the store tells nobody that a file is gone
            await asyncio.sleep(0.01)


async def test_paused_and_resumed(place: Place) -> None:
    store, hooks = place.gated(background=True)
    async with store:
        store.sweeper.background.pause()
        seen: list[Function] = []

        async def note(work: Function) -> None:
            if work.__module__ == purge.__name__:
                seen.append(work)

        hooks.before = note
        await store.put(b"hello")
        await store.delete(sha256(b"hello"))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert seen == []
        store.sweeper.background.resume()
        await until(store, garbage=0)
        assert seen != []


async def test_a_disk_that_runs_low_empties_the_trash_early(place: Place) -> None:
    async with place.store() as store:
        await make_namespace(store)
        await push(store, "app/web", "v1", [noise(1000)])
        await store.namespaces.delete((await store.namespaces.find(REGION, "app")).id)
    async with place.store(background=True, disk_reserve_bytes=1 << 62) as store:
        await until(store, trash=0, blobs=0)
