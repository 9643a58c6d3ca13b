"""Snapshots of a store in use."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from support import engine_fixtures
from support.copies import BIG, LAYER, QUIET, finish, inodes, names, run, verify
from support.engine import PROJECT, REGION, Clock, Place, make_namespace, noise, push, read, sha256

from holdfast.engine import (
    AlreadyExists,
    Busy,
    Corrupt,
    Invalid,
    NotAStore,
    StorageFailed,
    Store,
    StoreConfig,
)

pytestmark = pytest.mark.slow

place = engine_fixtures.disk_place


@pytest.mark.parametrize("copy", [False, True])
async def test_a_snapshot_is_the_store_without_its_open_uploads(
    filled: Store, tmp_path: Path, clock: Clock, copy: bool
) -> None:
    key, secret = await filled.keys.create(
        project_id=PROJECT, default_project_id=PROJECT, organization_id=PROJECT
    )
    before = await filled.stats()
    done = await finish(filled.snapshot(tmp_path / "copy", copy=copy))
    assert (done.files, done.total, done.damaged) == (3, 3, 0)
    assert done.bytes == len(BIG) + len(LAYER) + 90_000
    assert bool(inodes(tmp_path / "data") & inodes(tmp_path / "copy")) is not copy
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
    assert await verify(tmp_path / "copy") == []
    async with Store.open(tmp_path / "copy", QUIET, create=False, clock=clock) as store:
        after = await store.stats()
        assert (before.uploads, after.uploads) == (1, 0)
        assert after.blobs == before.blobs
        assert after.stored_bytes == before.stored_bytes
        assert await read(store, sha256(LAYER)) == LAYER
        where = await store.locate(REGION, "app/web")
        assert (await store.manifests.get(where, "v2")).media_type
        assert await store.keys.authenticate(secret) == key
        (item,) = ((await store.trash.list()).items)[:1]
        await store.trash.restore(item.id)
        assert await read(store, sha256(noise(90_000, "gone"))) == noise(90_000, "gone")
        await store.put(noise(90_000, "new"))
    assert await verify(tmp_path / "copy") == []


async def test_the_copy_and_the_store_go_their_own_ways(filled: Store, tmp_path: Path) -> None:
    await finish(filled.snapshot(tmp_path / "copy"))
    where = await filled.locate(REGION, "app/web")
    assert where.image_id is not None
    await filled.images.delete(where.image_id)
    await filled.sweeper.run(early=True)
    assert await verify(tmp_path / "copy") == []
    async with Store.open(tmp_path / "copy", QUIET) as store:
        assert await read(store, sha256(BIG)) == BIG
        copied = await store.locate(REGION, "app/web")
        assert copied.image_id is not None
        await store.images.delete(copied.image_id)
        await store.sweeper.run(early=True)
    assert [str(problem) async for problem in filled.check(deep=True)] == []


async def test_an_empty_store_has_a_snapshot(place: Place, tmp_path: Path) -> None:
    async with place.store() as store:
        done = await finish(store.snapshot(tmp_path / "deep" / "down" / "copy"))
    assert (done.files, done.total) == (0, 0)
    assert await verify(tmp_path / "deep" / "down" / "copy") == []


async def test_a_store_in_memory_has_none(tmp_path: Path) -> None:
    async with Store.memory() as store:
        with pytest.raises(Invalid, match="memory"):
            await finish(store.snapshot(tmp_path / "copy"))
    assert names(tmp_path) == []


async def test_what_is_there_is_not_touched(filled: Store, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter").write_text("mine")
    plain = tmp_path / "plain"
    plain.write_text("mine")
    odd = tmp_path / "odd.partial"
    odd.mkdir()
    (odd / "letter").write_text("mine")
    for target in (full, plain, tmp_path / "odd"):
        with pytest.raises(AlreadyExists):
            await finish(filled.snapshot(target))
    assert (full / "letter").read_text() == plain.read_text() == "mine"
    assert [path.name for path in odd.iterdir()] == ["letter"]
    empty = tmp_path / "empty"
    empty.mkdir()
    await finish(filled.snapshot(empty))
    assert await verify(empty) == []


async def test_it_appears_when_it_is_done(filled: Store, tmp_path: Path) -> None:
    steps = filled.snapshot(tmp_path / "copy")
    await anext(steps)
    assert not (tmp_path / "copy").exists()
    half = tmp_path / "copy.partial"
    with pytest.raises(NotAStore):
        await Store.open(half, QUIET).start()
    with pytest.raises(Busy):
        await finish(filled.snapshot(tmp_path / "copy"))
    await steps.aclose()
    assert names(tmp_path) == ["data"]
    # The lease is gone too: what is deleted goes at once.
    await filled.delete(sha256(b"kept by a root"))
    await filled.put(noise(50_000, "short"))
    await filled.delete(sha256(noise(50_000, "short")))
    await filled.sweeper.run()
    assert 50_000 not in [path.stat().st_size for path in (tmp_path / "data/files").rglob("*")]


async def test_what_a_killed_maker_left_is_cleared(filled: Store, tmp_path: Path) -> None:
    steps = filled.snapshot(tmp_path / "copy")
    await anext(steps)
    # As kill -9 leaves it: a copy of the half with nobody who holds its lock.
    run("cp", "-a", tmp_path / "copy.partial", tmp_path / "other.partial")
    await steps.aclose()
    (tmp_path / "other.partial" / "files" / "stray").write_bytes(b"left")
    with pytest.raises(NotAStore):
        await Store.open(tmp_path / "other.partial", QUIET).start()
    await finish(filled.snapshot(tmp_path / "other"))
    assert not (tmp_path / "other.partial").exists()
    assert not (tmp_path / "other" / "files" / "stray").exists()
    assert not (tmp_path / "other" / "INCOMPLETE").exists()
    assert await verify(tmp_path / "other") == []


async def test_a_mount_point_is_filled_from_inside(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "volume"
    (target / "lost+found").mkdir(parents=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == target)
    steps = filled.snapshot(target)
    await anext(steps)
    for half in (target, target / ".partial"):
        with pytest.raises(NotAStore, match="unfinished copy of a snapshot"):
            await Store.open(half, QUIET).start()
    await steps.aclose()
    assert [path.name for path in target.iterdir()] == ["lost+found"]
    await finish(filled.snapshot(target))
    assert names(target) == ["FORMAT", "files", "ledger", "lost+found", "run"]
    assert await verify(target) == []
    with pytest.raises(AlreadyExists):
        await finish(filled.snapshot(target))


async def test_sweeping_waits_for_it(filled: Store, tmp_path: Path) -> None:
    steps = filled.snapshot(tmp_path / "copy")
    await anext(steps)
    where = await filled.locate(REGION, "app/web")
    assert where.image_id is not None
    await filled.images.delete(where.image_id)
    swept = await filled.sweeper.run(early=True)
    assert swept.freed_bytes > len(BIG)
    assert (await filled.stats()).blobs == 1
    sizes = [path.stat().st_size for path in (tmp_path / "data/files").rglob("*")]
    assert len(BIG) in sizes
    assert len(LAYER) in sizes
    await finish(steps)
    assert await verify(tmp_path / "copy") == []
    async with Store.open(tmp_path / "copy", QUIET) as store:
        assert await read(store, sha256(BIG)) == BIG
    assert (await filled.sweeper.run()).files
    left = [path for path in (tmp_path / "data/files").rglob("*") if path.is_file()]
    assert [path.stat().st_size for path in left] == [700_000], "an upload on its way"


async def test_a_process_that_died_does_not_take_its_files_along(
    place: Place, tmp_path: Path
) -> None:
    """Recovery of a dead process meets files that are doomed, and that a snapshot needs."""
    script = (
        "import asyncio, os, sys\n"
        "from holdfast.engine import Store, StoreConfig\n"
        "async def main():\n"
        "    store = Store.open(sys.argv[1], StoreConfig(background=False))\n"
        "    await store.start()\n"
        "    await store.put(bytes(100_000))\n"
        "    os._exit(0)\n"
        "asyncio.run(main())\n"
    )
    run(sys.executable, "-c", script, tmp_path / "data")
    async with place.store() as store:
        steps = store.snapshot(tmp_path / "copy")
        await anext(steps)
        await store.delete(sha256(bytes(100_000)))
        await store.sweeper.run()
        await finish(steps)
    async with Store.open(tmp_path / "copy", QUIET) as copied:
        assert await read(copied, sha256(bytes(100_000))) == bytes(100_000)


async def test_one_that_stood_still_too_long_is_given_up(
    filled: Store, clock: Clock, tmp_path: Path
) -> None:
    steps = filled.snapshot(tmp_path / "copy")
    await anext(steps)
    clock.advance(301)
    await filled.sweeper.run()
    with pytest.raises(StorageFailed, match="lease expired"):
        await finish(steps)
    assert names(tmp_path) == ["data"]


async def test_two_at_once_keep_a_lease_each(filled: Store, tmp_path: Path) -> None:
    steps = filled.snapshot(tmp_path / "copy")
    await anext(steps)
    await finish(filled.snapshot(tmp_path / "other"))
    await filled.delete(sha256(b"kept by a root"))
    await filled.sweeper.run()
    await finish(steps)
    assert await verify(tmp_path / "copy") == await verify(tmp_path / "other") == []


async def test_a_store_that_is_closed_under_it(filled: Store, tmp_path: Path) -> None:
    steps = filled.snapshot(tmp_path / "copy")
    await anext(steps)
    await filled.close()
    with pytest.raises(Exception, match="closed"):
        await finish(steps)
    assert names(tmp_path) == ["data"]
    await filled.start()


async def test_a_file_that_vanished_is_told_of(filled: Store, tmp_path: Path) -> None:
    (path,) = [
        path
        for path in (tmp_path / "data/files").rglob("*")
        if path.is_file() and path.stat().st_size == len(BIG)
    ]
    path.unlink()
    done = await finish(filled.snapshot(tmp_path / "copy"))
    assert (done.files, done.damaged) == (2, 1)
    async with Store.open(tmp_path / "copy", QUIET) as store:
        with pytest.raises(Corrupt, match="quarantine"):
            await read(store, sha256(BIG))
        assert await read(store, sha256(LAYER)) == LAYER
    with pytest.raises(Corrupt, match="quarantine"):
        await read(filled, sha256(BIG))
    # Known damage does not keep the rest from being restored.
    await finish(Store.restore(tmp_path / "copy", tmp_path / "restored"))
    async with Store.open(tmp_path / "restored", QUIET) as store:
        await store.put(BIG)
        assert await read(store, sha256(BIG)) == BIG
    assert await verify(tmp_path / "restored") == []


async def test_under_pushes_deletes_and_sweeps(tmp_path: Path) -> None:
    """Whatever happens meanwhile, the copy is clean, and has what was there before."""
    config = StoreConfig(background=False, hold_seconds=0, trash_seconds=0)
    stop = asyncio.Event()

    async def churn(store: Store, worker: int) -> int:
        count = 0
        while not stop.is_set():
            name = f"app/churn{worker}"
            layers = [noise(40_000 + worker, (worker, count, n)) for n in range(3)]
            await push(store, name, f"v{count}", layers)
            if count % 3 == 2:
                where = await store.locate(REGION, name)
                assert where.image_id is not None
                await store.images.delete(where.image_id)
            count += 1
        return count

    async def sweep(store: Store) -> None:
        while not stop.is_set():
            await store.sweeper.run(early=True)

    # Holds of no length would end before the manifest comes.
    pushing = StoreConfig(background=False, trash_seconds=0)
    async with (
        Store.open(tmp_path / "data", pushing) as store,
        Store.open(tmp_path / "data", config) as sweeping,
    ):
        await make_namespace(store)
        steady = [noise(50_000, ("steady", n)) for n in range(30)]
        await push(store, "app/steady", "v1", steady)
        async with asyncio.TaskGroup() as group:
            churns = [group.create_task(churn(store, worker)) for worker in range(3)]
            group.create_task(sweep(sweeping))
            for number in range(4):
                seen = len((await store.images.list(REGION)).items)
                done = await finish(store.snapshot(tmp_path / f"copy{number}"))
                assert done.damaged == 0
                assert done.files >= 30
                assert seen
            stop.set()
        assert all(task.result() for task in churns)
    for number in range(4):
        copy = tmp_path / f"copy{number}"
        assert await verify(copy) == []
        async with Store.open(copy, QUIET) as opened:
            for layer in steady:
                assert await read(opened, sha256(layer)) == layer
        await finish(Store.restore(copy, tmp_path / f"restored{number}", copy=False))
