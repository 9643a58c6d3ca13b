"""Several processes work on one directory at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.common import ROOT
from support.engine import (
    REGION,
    Function,
    Gate,
    Hooks,
    begin_upload,
    make_namespace,
    once,
    read,
    sha256,
)
from support.faults import FailingDepot, Interruption
from support.seams import Seams, check, see
from support.share_child import CONFIG, PARTS, PUSHES, shared

from holdfast.engine import Busy, NotFound, OffsetMismatch, Store
from holdfast.engine.blobs import roots
from holdfast.engine.depot.disk import DiskDepot
from holdfast.engine.depot.interface import Writer
from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.maintenance.sweep import Sweeper

pytestmark = pytest.mark.slow


class Child:
    """One process, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def heard(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()

    async def told(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()

    async def result(self) -> int:
        word, number = (await self.heard()).split()
        assert word == "done"
        assert await self._process.wait() == 0
        return int(number)


@contextlib.asynccontextmanager
async def child(path: Path, *arguments: str) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", str(ROOT / "tests" / "support" / "share_child.py"), str(path), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        started = Child(process)
        assert await started.heard() == "ready"
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_pushing_sweeping_and_reading_at_once(tmp_path: Path) -> None:
    path = tmp_path / "data"
    async with Store.open(path, CONFIG) as store:
        await make_namespace(store)
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(child(path, role)) for role in ("sweep", "read")]
        pushers = [
            await stack.enter_async_context(child(path, "push", str(number))) for number in range(3)
        ]
        for pusher in pushers:
            await pusher.told()
        assert [await pusher.result() for pusher in pushers] == [PUSHES] * 3
        for worker in workers:
            await worker.told()
        assert all([await worker.result() > 0 for worker in workers])
    async with Store.open(path, CONFIG) as store:
        await store.sweeper.run(early=True)
        sight = await see(store)
        last = {sha256(layer) for layer in shared(PUSHES - 1)}
        assert last <= sight.blobs
        assert not sight.damaged
        assert {fact[1:3] for fact in sight.facts if fact[0] == "tag"} == {
            (f"app/i{number}", f"v{tag}") for number in range(3) for tag in range(4)
        }
        # The sizes of what three images have are those of what one has.
        sizes = {fact[3] for fact in sight.facts if fact[0] == "image"}
        assert len(sizes) == 1
        # One copy of each, whoever pushed it: layers, the manifests, and "{}".
        layers = {layer for turn in range(PUSHES) for layer in shared(turn)}
        assert {sha256(layer) for layer in layers} <= sight.blobs
        assert len(sight.blobs) == len(layers) + PUSHES + 1
        assert await check(store) == []
    assert await Seams(path / "ledger", DiskDepot(path / "files")).leaks() == ""
    assert list((path / "run").glob("*.lock")) == []


async def test_an_upload_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    path, whole = tmp_path / "data", b"".join(PARTS)
    async with Store.open(path, CONFIG) as store:
        await make_namespace(store)
        where, session = await begin_upload(store, PARTS[0])
        async with child(path, "append", str(session.id)) as other:
            assert await other.heard() == "holding"
            with pytest.raises(Busy):
                await store.uploads.append(where, session.id, once(b"mixed in"))
            with pytest.raises(Busy):
                await store.uploads.finish(where, session.id, sha256(PARTS[0]))
            await other.told()
            assert await other.result() == len(PARTS[0]) + len(PARTS[1])
        with pytest.raises(OffsetMismatch):
            await store.uploads.append(where, session.id, once(b"x"), offset=len(PARTS[0]))
        await store.uploads.finish(where, session.id, sha256(whole), once(PARTS[2]))
        assert await read(store, sha256(whole), repository=where) == whole
        assert await check(store) == []


async def test_a_killed_process_lets_go_of_its_upload(tmp_path: Path) -> None:
    path = tmp_path / "data"
    async with Store.open(path, CONFIG) as store:
        await make_namespace(store)
        where, session = await begin_upload(store, PARTS[0])
        async with child(path, "append", str(session.id)) as other:
            assert await other.heard() == "holding"
        whole = PARTS[0] + PARTS[1]
        upload = await store.uploads.get(where, session.id)
        rest = once(whole[upload.offset :])
        await store.uploads.finish(where, session.id, sha256(whole), rest, offset=upload.offset)
        assert await read(store, sha256(whole), repository=where) == whole


async def test_what_a_dead_process_left_goes_while_others_are_at_work(tmp_path: Path) -> None:
    path, whole = tmp_path / "data", b"".join(PARTS)

    def files() -> int:
        return sum(found.is_file() for found in (path / "files").rglob("*"))

    async def until(count: int) -> None:
        async with asyncio.timeout(30):
            while files() != count:  # noqa: ASYNC110 - no process tells another of its files
                await asyncio.sleep(0.01)

    async with Store.open(path, CONFIG) as store, contextlib.AsyncExitStack() as stack:
        sweeper = Sweeper(store.core, recovery_seconds=0.1)
        sweeper.background.start()
        stack.push_async_callback(sweeper.background.stop)
        # Here it has looked for the first time: what follows is found later.
        await store.put(b"garbage")
        await store.delete(sha256(b"garbage"))
        while (await store.stats()).garbage:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        living = await stack.enter_async_context(child(path, "put"))
        assert await living.heard() == "holding"
        async with child(path, "put") as dying:
            assert await dying.heard() == "holding"
            assert files() == 2
        await until(1)
        await living.told()
        assert await living.result() == len(whole)
        assert await read(store, sha256(whole), verify=True) == whole
        assert await check(store) == []


class Pausing(FailingDepot):
    """A depot that stops before it opens a file to go on writing it."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner, Interruption(0, lambda: None))
        self.reached = threading.Event()
        self.go = threading.Event()

    def reopen(self, file_id: int) -> Writer:
        self.reached.set()
        assert self.go.wait(60)
        writer: Writer = self._call("reopen", self._inner.reopen, file_id)
        return writer


class Slow:
    """A store that stands between reading an upload's row and locking its file."""

    def __init__(self, seams: Seams) -> None:
        self.depots: list[Pausing] = []

        def pausing(inner: Any) -> Pausing:
            self.depots.append(Pausing(inner))
            return self.depots[-1]

        self.store = seams.store(depot=pausing)

    async def during(
        self, begin: Callable[[], Any], meanwhile: Callable[[], Any]
    ) -> asyncio.Task[Any]:
        """Begin something, let it come to the file, do something else, let it go on."""
        task: asyncio.Task[Any] = asyncio.ensure_future(begin())
        await asyncio.to_thread(self.depots[0].reached.wait, 60)
        try:
            await meanwhile()
        finally:
            self.depots[0].go.set()
        await asyncio.wait([task])
        return task


@pytest.fixture
def seams(tmp_path: Path) -> Seams:
    (tmp_path / "ledger").mkdir()
    return Seams(tmp_path / "ledger")


async def test_an_append_does_not_reach_what_was_finished_meanwhile(seams: Seams) -> None:
    slow = Slow(seams)
    async with seams.store() as store, slow.store:
        await make_namespace(store)
        where, session = await begin_upload(store, PARTS[0])
        task = await slow.during(
            lambda: slow.store.uploads.append(where, session.id, once(b"too late")),
            lambda: store.uploads.finish(where, session.id, sha256(PARTS[0])),
        )
        assert isinstance(task.exception(), NotFound)
        assert await read(store, sha256(PARTS[0]), verify=True) == PARTS[0]
        assert await check(store) == []


async def test_an_append_leaves_no_file_of_a_session_that_ended_meanwhile(seams: Seams) -> None:
    async with seams.store() as store:
        await make_namespace(store)
        where, session = await begin_upload(store, PARTS[0])
    slow = Slow(seams)

    async with seams.store() as store, slow.store:

        async def end() -> None:
            await store.uploads.abort(where, session.id)
            await store.sweeper.run()

        task = await slow.during(
            lambda: slow.store.uploads.append(where, session.id, once(b"too late")), end
        )
        assert isinstance(task.exception(), NotFound)
        assert await seams.leaks() == ""


async def test_what_a_session_had_goes_when_the_machine_starts_anew(seams: Seams) -> None:
    """Nobody is left who would know of its file but the block that it lies in."""
    store = seams.store()
    await store.start()
    await make_namespace(store)
    where = await store.locate(REGION, "app/web")
    session = await store.uploads.begin(where)
    await store.uploads.append(where, session.id, once(PARTS[0]))
    await store.close()
    async with seams.store() as store:
        await store.sweeper.run()
        assert (await store.uploads.get(where, session.id)).offset == len(PARTS[0])
    seams.boot = "second"
    async with seams.store() as store:
        with pytest.raises(NotFound):
            await store.uploads.get(where, session.id)
        assert (await store.sweeper.run()).files == 1
        assert await check(store) == []
    assert await seams.leaks() == ""


async def test_a_file_that_another_process_made_a_blob_of_is_let_go(seams: Seams) -> None:
    """Who began with it lets go of its block in the end, although nobody tells him."""
    first, other = seams.store(), seams.store()
    async with other:
        async with first:
            await make_namespace(first)
            where = await first.locate(REGION, "app/web")
            for ends in (True, False):
                session = await first.uploads.begin(where)
                await first.uploads.append(where, session.id, once(PARTS[0]))
                if ends:
                    await other.uploads.finish(where, session.id, sha256(PARTS[0]))
                else:
                    await other.uploads.abort(where, session.id)
        assert await seams.leaks() == ""
        assert await read(other, sha256(PARTS[0]), repository=where, verify=True) == PARTS[0]


async def test_a_copy_that_was_verified_may_be_swept_before_it_is_claimed(seams: Seams) -> None:
    """The bytes that came are stored after all: nothing else has them any more."""
    hooks = Hooks()
    swept: list[int] = []

    def gated(rows: LmdbLedger) -> Gate:
        return Gate(rows, hooks, owned=True)

    async def sweep(work: Function) -> None:
        if work is roots.keep:
            hooks.before = None
            await store.delete(sha256(PARTS[0]), root="first")
            swept.append((await store.sweeper.run()).files)

    async with seams.store() as store, seams.store(ledger=gated) as late:
        await store.put(PARTS[0], root="first")
        hooks.before = sweep
        await late.put(PARTS[0], root="second")
        assert swept == [1]
        assert await read(store, sha256(PARTS[0]), verify=True) == PARTS[0]
        assert await check(store) == []
        assert await seams.leaks() == ""
