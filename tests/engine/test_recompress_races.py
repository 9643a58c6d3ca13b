"""Races and crashes of recompressing: each happens right before its swap, or after."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.engine import Function, Place, read, sha256

from holdfast.engine import StorageFailed, Store
from holdfast.engine.blobs import blob_rows
from holdfast.engine.depot.interface import Writer

TAR = b"".join(b"%d green bottles\n" % number for number in range(100_000))


def run(script: str, argument: Path) -> int:
    """Run a script that may import what tests share; says how it ended."""
    search = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", script, argument],
        env={**os.environ, "PYTHONPATH": search},
        timeout=60,
        check=False,
    )
    return done.returncode


async def race(place: Place, meanwhile: Callable[[Store], Awaitable[None]]) -> Store:
    """Recompress TAR; right before the swap, ``meanwhile`` happens in another opening."""
    store, hooks = place.gated()
    await store.start()
    other = place.store()
    await other.start()
    await store.put(TAR)

    async def before(work: Function) -> None:
        if work is blob_rows.swap:
            hooks.before = None
            await meanwhile(other)

    hooks.before = before
    await store.recompressor.run()
    assert hooks.before is not before, "there was no swap"
    await other.close()
    return store


async def ends_clean(store: Store, files: int, place: Place) -> None:
    await store.sweeper.run()
    assert [str(problem) async for problem in store.check(deep=True)] == []
    await store.close()
    assert len(place.files()) == files


async def test_swept_while_it_was_recompressed(place: Place) -> None:
    async def meanwhile(other: Store) -> None:
        await other.delete(sha256(TAR))
        await other.sweeper.run()

    store = await race(place, meanwhile)
    assert (await store.stats()).blobs == 0
    await ends_clean(store, 0, place)


async def test_healed_while_it_was_recompressed(place: Place) -> None:
    async def meanwhile(other: Store) -> None:
        place.damage(len(TAR))
        await other.put(TAR)

    store = await race(place, meanwhile)
    assert await read(store, sha256(TAR), verify=True) == TAR
    assert (await store.recompressor.run()).swapped == 1
    assert await read(store, sha256(TAR), verify=True) == TAR
    await ends_clean(store, 1, place)


async def test_pushed_while_it_was_recompressed(place: Place) -> None:
    async def meanwhile(other: Store) -> None:
        await other.put(TAR, root="second")

    store = await race(place, meanwhile)
    await store.delete(sha256(TAR))
    await store.sweeper.run()
    assert await read(store, sha256(TAR), verify=True) == TAR
    await ends_clean(store, 1, place)


async def test_recompressed_by_two(place: Place) -> None:
    async def meanwhile(other: Store) -> None:
        assert (await other.recompressor.run()).swapped == 1

    store = await race(place, meanwhile)
    assert store.recompressor.total.swapped == 0
    assert await read(store, sha256(TAR), verify=True) == TAR
    await ends_clean(store, 1, place)


async def test_deleted_and_swept_before_it_is_opened(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = place.store()
    await store.start()
    await store.put(TAR)
    create = store.core.files.create

    async def late() -> tuple[int, Writer]:
        await store.delete(sha256(TAR))
        await store.sweeper.run()
        return await create()

    monkeypatch.setattr(store.core.files, "create", late)
    done = await store.recompressor.run()
    assert (done.looked_at, done.swapped, done.failed) == (1, 0, 0)
    await ends_clean(store, 0, place)


async def test_a_pull_that_looked_it_up_before_the_swap(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row that the reader read names a file that is gone by the time it opens it."""
    async with place.store() as store, place.store() as other:
        await store.put(TAR)
        run = store.core.threads.acquire
        tried: list[object] = []

        async def acquire(fn: Callable[..., Any], *args: Any) -> Any:
            if not tried:
                tried.append(fn)
                assert (await other.recompressor.run()).swapped == 1
                await other.sweeper.run()
            return await run(fn, *args)

        monkeypatch.setattr(store.core.threads, "acquire", acquire)
        assert await read(store, sha256(TAR)) == TAR
        assert tried


@pytest.mark.parametrize("place", ["disk"], indirect=True)
async def test_killed_between_the_file_and_the_swap(place: Place, tmp_path: Path) -> None:
    """A file of frames is left that no row names: whoever sweeps next removes it."""
    async with place.store() as store:
        await store.put(TAR)
    script = (
        "import asyncio, os, pathlib, sys\n"
        "from support.engine import Clock, Place\n"
        "from holdfast.engine.blobs import blob_rows\n"
        "async def die(work):\n"
        "    if work is blob_rows.swap:\n"
        "        os._exit(9)\n"
        "async def main():\n"
        "    store, hooks = Place('disk', pathlib.Path(sys.argv[1]), Clock()).gated()\n"
        "    await store.start()\n"
        "    hooks.before = die\n"
        "    await store.recompressor.run()\n"
        "asyncio.run(main())\n"
    )
    assert await asyncio.to_thread(run, script, tmp_path) == 9
    assert len(place.files()) == 2
    async with place.store() as store:
        await store.sweeper.run()
        assert place.files() == [len(TAR)]
        assert await read(store, sha256(TAR)) == TAR
        assert (await store.recompressor.run()).swapped == 1
        assert [str(problem) async for problem in store.check(deep=True)] == []


async def test_committed_although_the_answer_was_lost(place: Place) -> None:
    store, hooks = place.gated()
    await store.start()
    await store.put(TAR)

    async def after(work: Function) -> None:
        if work is blob_rows.swap:
            raise StorageFailed("ledger", "nobody knows")

    hooks.after = after
    assert (await store.recompressor.run()).failed == 1
    hooks.after = None
    assert await read(store, sha256(TAR)) == TAR
    assert (await store.stats()).stored_bytes < len(TAR) / 3
    await ends_clean(store, 1, place)
