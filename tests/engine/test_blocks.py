"""Files without a row are found by the open blocks of the dead, so these must name them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from support.depot import python, write
from support.depot import read as contents
from support.engine import REGION, Function, Gate, Hooks, make_namespace, noise, once, read, sha256
from support.faults import Countdown, FailingLedger
from support.race import Held, hold_before
from support.seams import Seams, check, orphan

from holdfast.engine import Closed, StorageFailed, StorageFull, Store, StoreConfig
from holdfast.engine.depot import files
from holdfast.engine.depot.files import open_blocks
from holdfast.engine.depot.instance import LockedInstances
from holdfast.engine.depot.interface import BLOCK_FILES
from holdfast.engine.maintenance.snapshot import Lease


@pytest.fixture
def seams(tmp_path: Path) -> Seams:
    (tmp_path / "ledger").mkdir()
    config = StoreConfig(background=False, inline_bytes=0, map_bytes=256 << 20, threads=2)
    return Seams(tmp_path / "ledger", config=config)


class Stopped:
    """A source that gives a file its first batch, and stands still."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield noise(600_000)
        # The next piece is only asked for when the first is on its way to the file.
        self.begun.set()
        await asyncio.Event().wait()


async def stopped(store: Store) -> asyncio.Task[object]:
    source = Stopped()
    task: asyncio.Task[object] = asyncio.ensure_future(store.put(source))
    await source.begun.wait()
    return task


@pytest.mark.parametrize("then", ["used up", "closed"])
async def test_a_block_stays_open_while_a_file_in_it_is_without_a_row(
    seams: Seams, then: str
) -> None:
    store = seams.store()
    await store.start()
    task = await stopped(store)
    if then == "used up":
        for number in range(BLOCK_FILES + 1):
            await store.put(noise(20, number))
        await seams.kill(store)
    else:
        await store.close()
    # It hears of the end too late to do anything about its file.
    task.cancel()
    await asyncio.wait([task])
    async with seams.store() as other:
        assert (await other.sweeper.run()).files == 1
        assert await check(other) == []
    assert await seams.leaks() == ""


@pytest.mark.slow
async def test_used_blocks_are_forgotten(seams: Seams) -> None:
    """So a start lists a few directories, however many files there are."""
    store = seams.store()
    await store.start()
    for number in range(2 * BLOCK_FILES + 1):
        await store.put(noise(20, number))
    # That in use, and the one before it: it is closed when the next is opened.
    assert len(await store.core.ledger.read(open_blocks)) == 2
    await orphan(store, b"in the third block")
    await seams.kill(store)
    async with seams.store() as other:
        assert (await other.sweeper.run()).files == 1
        assert await check(other) == []
    assert await seams.leaks() == ""


async def test_the_next_block_is_opened_while_files_are_begun(seams: Seams) -> None:
    """That is a commit, and syncs of directories: nobody waits for them who need not."""
    hooks = Hooks()
    store = seams.store(ledger=partial(Gate, hooks=hooks, owned=True))
    await store.start()
    await store.put(noise(20))
    held = hold_before(hooks, files.open_block)
    for number in range(1, BLOCK_FILES):
        await store.put(noise(20, number))
    last = asyncio.ensure_future(store.put(noise(21)))
    await held.reached()
    await store.stats()
    assert not last.done()
    held.go_on()
    await last
    assert len(await store.core.ledger.read(open_blocks)) == 2
    await store.close()
    async with seams.store() as other:
        assert await other.core.ledger.read(open_blocks) == []
        assert await check(other) == []
    assert await seams.leaks() == ""


async def test_a_block_that_could_not_be_opened_ahead(seams: Seams) -> None:
    """Whoever needs it tries it again, and alone hears of a failure."""
    hooks = Hooks()
    refusals = 1

    async def refuse(work: Function) -> None:
        nonlocal refusals
        if work is files.open_block and refusals:
            refusals -= 1
            raise StorageFull("ledger")

    store = seams.store(ledger=partial(Gate, hooks=hooks, owned=True))
    await store.start()
    await store.put(noise(20))
    hooks.before = refuse
    for number in range(1, BLOCK_FILES):
        await store.put(noise(20, number))
    assert not refusals
    refusals = 1
    with pytest.raises(StorageFull):
        await store.put(noise(21))
    await store.put(noise(21))
    assert await read(store, sha256(noise(21))) == noise(21)
    await store.close()
    assert await seams.leaks() == ""


@pytest.mark.parametrize("dies", [False, True])
async def test_files_that_an_older_ledger_does_not_know_stay(seams: Seams, dies: bool) -> None:
    """Somebody brought yesterday's ledger back: its next block of ids was taken already."""
    async with seams.store() as store:
        await store.put(noise(50))
    old = (seams.path / "data.mdb").read_bytes()
    for number in range(2):
        async with seams.store() as store:
            await store.put(noise(60, number))
    (seams.path / "data.mdb").write_bytes(old)
    store = seams.store()
    await store.start()
    await store.put(noise(70))
    await orphan(store, b"left behind")
    if dies:
        await seams.kill(store)
    else:
        await store.close()
    async with seams.store() as other:
        assert (await other.sweeper.run()).files == 1
        assert await read(other, sha256(noise(70))) == noise(70)
        assert [problem.kind for problem in await check(other)] == ["file"] * 2
    there = [
        seams.depot.open(file_id).read(0, 60)
        for block in seams.depot.blocks()
        for file_id in seams.depot.files(block)
        if seams.depot.open(file_id).size == 60
    ]
    assert sorted(there) == sorted(noise(60, number) for number in range(2))


async def test_a_file_that_is_there_already_is_not_removed(seams: Seams) -> None:
    async with seams.store() as store:
        await store.put(noise(50))
        (block,) = seams.depot.blocks()
        write(seams.depot, block * BLOCK_FILES + 1, b"somebody's")
        await store.put(noise(60))
        assert await read(store, sha256(noise(60))) == noise(60)
        assert contents(seams.depot, block * BLOCK_FILES + 1) == b"somebody's"


async def test_no_file_is_begun_once_the_store_is_closing(seams: Seams) -> None:
    """Its block may be closed already, and nobody would ever look for it there."""
    closing = Held()
    store = seams.store()
    await store.start()
    await store.put(noise(50))
    core = store.core
    core.ledger.close, close = closing.hold, core.ledger.close  # type: ignore[method-assign]  # hook
    end = asyncio.ensure_future(store.close())
    await closing.reached()
    with pytest.raises(Closed):
        await core.files.create()
    closing.go_on()
    await end
    await close()
    assert await seams.leaks() == ""


async def test_recovery_leaves_what_a_snapshot_needs(seams: Seams) -> None:
    store = seams.store()
    await store.start()
    await store.put(noise(20))
    async with seams.store() as other, Lease(other.core):
        await store.delete(sha256(noise(20)))
        await store.sweeper.run()
        await seams.kill(store)
        file_ids = [each for block in seams.depot.blocks() for each in seams.depot.files(block)]
        async with seams.store() as third:
            await third.sweeper.run()
        assert [each for block in seams.depot.blocks() for each in seams.depot.files(block)] == (
            file_ids
        )
    async with seams.store() as other:
        await other.sweeper.run()
    assert await seams.leaks() == ""


@pytest.mark.slow
def test_locks_of_the_dead_are_removed_and_those_of_the_living_are_not(
    tmp_path: Path,
) -> None:
    script = (
        "import os, pathlib, sys\n"
        "from holdfast.engine.depot.instance import LockedInstances\n"
        "print(LockedInstances(pathlib.Path(sys.argv[1])).name.hex(), flush=True)\n"
        "os._exit(0)\n"
    )
    living = LockedInstances(tmp_path)
    dead = bytes.fromhex(python(script, str(tmp_path)).strip())
    assert living.is_dead(dead)
    assert len(list(tmp_path.iterdir())) == 2
    another = LockedInstances(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        f"{each.name.hex()}.lock" for each in (living, another)
    )
    assert another.is_dead(dead)
    assert not another.is_dead(living.name)
    assert not living.is_dead(another.name)
    another.close()
    assert living.is_dead(another.name)
    strange = tmp_path / f"{bytes(8).hex()}.lock"
    strange.mkdir()
    for call in (living.is_dead, living.forget):
        with pytest.raises(StorageFailed, match=str(strange)):
            call(bytes(8))
    strange.rmdir()
    living.close()
    assert list(tmp_path.iterdir()) == []


async def test_an_upload_that_is_given_up_leaves_no_file(seams: Seams) -> None:
    async with seams.store() as store:
        await store.put(noise(50))
        task = await stopped(store)
        task.cancel()
        await asyncio.wait([task])
        assert await seams.leaks() == ""
        assert await read(store, sha256(noise(50))) == noise(50)


@pytest.mark.slow
async def test_many_open_sessions_do_not_hold_up_a_new_block(seams: Seams) -> None:
    """Whoever needs the next block of ids waits for few looks, whatever is on its way."""
    calls = Countdown(0)
    async with seams.store(scratch=partial(FailingLedger, fail_at=calls)) as store:
        await make_namespace(store)
        where = await store.locate(REGION, "app/web")
        for number in range(BLOCK_FILES):
            session = await store.uploads.begin(where)
            await store.uploads.append(where, session.id, once(noise(20, number)))
        calls.log.clear()
        for number in range(BLOCK_FILES):
            await store.put(noise(30, number))
        assert calls.log == ["read"]
