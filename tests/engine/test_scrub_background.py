"""The scrub in the background: when it walks, and how it is paused, stopped and continued."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.check import BASE, SMALL
from support.damage import flip_file, flip_inline
from support.engine import Clock, Place, noise, read, sha256

from holdfast.engine import Corrupt, StorageFailed, Store
from holdfast.engine.maintenance import scrub as scrub_module
from holdfast.engine.maintenance.scrub import Scrubbed, Scrubber
from holdfast.engine.tasks import background


class Watched(Scrubbed):
    """Progress that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = asyncio.Event()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "blobs" and hasattr(self, "changed"):
            self.changed.set()


async def until(scrubber: Scrubber, blobs: int) -> None:
    """Wait until a scrubber that ``watched`` made has looked at so many."""
    total = scrubber.total
    assert isinstance(total, Watched)
    while total.blobs < blobs:
        total.changed.clear()
        await total.changed.wait()


def watched(store: Store, rate: float = 1e9) -> Scrubber:
    scrubber = Scrubber(store.core, bytes_per_second=rate)
    scrubber.total = Watched()
    return scrubber


async def make_due(store: Store, clock: Clock) -> None:
    """Let a walk have ended long ago."""
    assert (await Scrubber(store.core).run()).finished
    clock.advance(scrub_module.WALK_SECONDS + 1)


async def test_the_background_walks_pauses_goes_on_and_stops(place: Place, clock: Clock) -> None:
    async with place.store() as store:
        contents = sorted((noise(100, number) for number in range(20)), key=sha256)
        for content in contents:
            await store.put(content)
        await make_due(store, clock)
        await flip_inline(store, contents[-1])
        scrubber = watched(store, 1e5)
        scrubber.background.start()
        await until(scrubber, 3)
        scrubber.background.pause()
        await asyncio.sleep(0.05)
        assert scrubber.total.blobs <= 4, "what it is at it finishes"
        scrubber.background.resume()
        await until(scrubber, 20)
        await scrubber.stop()
        await scrubber.stop()
        assert (await store.stats()).blobs == 20
        assert (await Scrubber(store.core).run()).finished
        with pytest.raises(Corrupt):
            await read(store, sha256(contents[-1]))


async def test_the_background_rests_for_a_week_after_a_walk(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "_IDLE_SECONDS", 0.001)
    async with place.store() as store:
        await store.put(BASE)
        await store.put(SMALL)
        first = watched(store)
        first.background.start()
        await asyncio.sleep(0.02)
        await first.stop()
        assert first.total.blobs == 0, "what has just come is not read again at once"
    async with place.store() as store:
        scrubber = watched(store)
        scrubber.background.start()
        clock.advance(scrub_module.WALK_SECONDS - 1)
        await asyncio.sleep(0.02)
        assert scrubber.total.blobs == 0
        clock.advance(2)
        await until(scrubber, 2)
        await asyncio.sleep(0.02)
        assert scrubber.total.blobs == 2
        await scrubber.stop()


async def test_the_background_outlives_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.001)
    clock = Clock()
    async with Place("memory", tmp_path, clock).store() as store:
        await store.put(BASE)
        await make_due(store, clock)
        opened = store.core.depot.open
        failures = 0

        def refuse_once(file_id: int) -> object:
            nonlocal failures
            failures += 1
            if failures == 1:
                raise StorageFailed("0000/001/00", "too many open files")
            return opened(file_id)

        monkeypatch.setattr(store.core.depot, "open", refuse_once)
        scrubber = watched(store)
        scrubber.background.start()
        await until(scrubber, 2)
        await scrubber.stop()
        assert "retrying in 0 s" in caplog.text
        assert scrubber.total.damaged == []


async def test_a_stopped_walk_keeps_most_of_its_way(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "_BYTES_PER_MARK", 100_000)
    contents = sorted((noise(60_000, number) for number in range(8)), key=sha256)
    async with place.store() as store:
        for content in contents:
            await store.put(content)
        await make_due(store, clock)
        scrubber = watched(store, 1e6)
        scrubber.background.start()
        await until(scrubber, 6)
        await scrubber.stop()
    async with place.store() as store:
        await flip_file(store, contents[0])
        await flip_file(store, contents[-1])
        rest = await Scrubber(store.core).run(4 * 60_000)
        assert rest.damaged == [sha256(contents[-1])]


async def test_one_of_several_processes_scrubs_in_the_background(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "_IDLE_SECONDS", 0.001)
    async with place.store() as store, place.store() as other:
        for number in range(20):
            await store.put(noise(100, number))
        await make_due(store, clock)
        one, two = watched(store, 1e5), watched(other)
        one.background.start()
        await until(one, 2)
        two.background.start()
        await asyncio.sleep(0.02)
        assert two.total.blobs == 0
        await one.stop()
        await until(two, 1)
        await two.stop()


async def test_a_process_that_fell_silent_loses_its_turn(place: Place, clock: Clock) -> None:
    async with place.store() as store:
        transact = store.core.ledger.transact
        now = store.core.now()
        assert await transact(scrub_module.take_lease, b"one", now, now + 10)
        assert not await transact(scrub_module.take_lease, b"two", now + 9, now + 20)
        assert await transact(scrub_module.take_lease, b"two", now + 10, now + 20)
        await transact(scrub_module.release_lease, b"one")
        assert not await transact(scrub_module.take_lease, b"one", now + 19, now + 30)
        await transact(scrub_module.release_lease, b"two")
        assert await transact(scrub_module.take_lease, b"one", now + 19, now + 30)
