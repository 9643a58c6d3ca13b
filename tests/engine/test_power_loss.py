"""The power fails at every instant of a long history, and what was not synced may be lost.

An instant is after each call that changes the depot, and after each commit. At all of them the
rows of the last commit and what a power failure would leave of the files are put aside. A store
opened over these, on a machine that started anew, has everything that was acknowledged before.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from support.engine import (
    REGION,
    Clock,
    make_namespace,
    manifest,
    noise,
    once,
    read,
    sha256,
    upload,
)
from support.faults import Countdown, LossyDepot
from support.seams import MAP_BYTES, Seams, Sight, check, orphan, recompress, see, swift

from holdfast.engine import OCI_MANIFEST, Locked, NotFound, StorageFailed, Store, StoreConfig
from holdfast.engine.depot.interface import Data, Depot, Reader, Writer
from holdfast.engine.depot.memory import MemoryDepot
from holdfast.engine.ledger.interface import Ledger, P, T, Work
from holdfast.engine.ledger.lmdb import LmdbLedger

pytestmark = pytest.mark.slow

SEEDS: Final = range(4)
DAYS: Final = 10 * 24 * 3600.0
INLINE: Final = 2000
"""Small blobs stay in the ledger; so files can be small, and instants cheap to keep."""

SMALL, FILE, OTHER = noise(1000), noise(9000), noise(11_000)
LONG: Final = noise(700_000)
"""Over one batch: bytes of it reach the file while others are still coming."""
TEXT: Final = b"the same words, again and again; " * 2500


@dataclass(frozen=True)
class Instant:
    """What is there when the power fails."""

    after: str
    rows: bytes
    files: MemoryDepot
    now: float


@dataclass
class Disk:
    """The depot and the ledger of a history, and the instants that were put aside."""

    path: Path
    depot: LossyDepot
    clock: Clock
    seed: int
    rows: bytes = b""
    instants: list[Instant] = field(default_factory=list)
    count: int = 0

    def changed(self, what: str) -> None:
        self.count += 1
        files = self.depot.crash(self.seed * 1_000_003 + self.count)
        self.instants.append(Instant(what, self.rows, files, self.clock.now))

    def committed(self, what: str) -> None:
        rows = (self.path / "data.mdb").read_bytes()
        if rows != self.rows:
            self.rows = rows
            self.changed(what)


class WatchedLedger:
    """Says when something was committed, before the caller hears of it."""

    def __init__(self, inner: LmdbLedger, disk: Disk) -> None:
        self._inner = inner
        self._disk = disk
        disk.committed("opening")

    async def transact(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result = await self._inner.transact(work, *args, **kwargs)
        self._disk.committed(getattr(work, "__name__", "transaction"))
        return result

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._inner.read(work, *args, **kwargs)

    async def read_in_thread(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._inner.read_in_thread(work, *args, **kwargs)

    async def close(self) -> None:
        await self._inner.close()


class WatchedDepot:
    """Says when something was changed."""

    def __init__(self, inner: Depot, disk: Disk) -> None:
        self._inner = inner
        self._disk = disk

    def create(self, file_id: int) -> Writer:
        writer = self._inner.create(file_id)
        self._disk.changed("create")
        return _WatchedWriter(writer, self._disk)

    def reopen(self, file_id: int) -> Writer:
        return _WatchedWriter(self._inner.reopen(file_id), self._disk)

    def open(self, file_id: int) -> Reader:
        return self._inner.open(file_id)

    def delete(self, file_id: int) -> bool:
        existed = self._inner.delete(file_id)
        self._disk.changed("delete")
        return existed

    def sync_block(self, block: int) -> None:
        self._inner.sync_block(block)
        self._disk.changed("sync_block")

    def files(self, block: int) -> Iterator[int]:
        return self._inner.files(block)

    def blocks(self) -> Iterator[int]:
        return self._inner.blocks()

    def free_bytes(self) -> int:
        return self._inner.free_bytes()

    def link(self, file_id: int, target: str) -> None:
        self._inner.link(file_id, target)

    def close(self) -> None:
        self._inner.close()


class _WatchedWriter:
    def __init__(self, inner: Writer, disk: Disk) -> None:
        self._inner = inner
        self._disk = disk

    @property
    def size(self) -> int:
        return self._inner.size

    def append(self, data: Data) -> None:
        self._inner.append(data)
        self._disk.changed("append")

    def truncate(self, size: int) -> None:
        self._inner.truncate(size)
        self._disk.changed("truncate")

    def read(self, offset: int, length: int) -> bytes:
        return self._inner.read(offset, length)

    def sync(self) -> None:
        self._inner.sync()
        self._disk.changed("sync")

    def close(self) -> None:
        self._inner.close()


class History:
    """One call after the other, and after each the failures that could have been in it."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        config = StoreConfig(background=False, inline_bytes=INLINE, map_bytes=MAP_BYTES, threads=2)
        depot = LossyDepot()
        self.seams = Seams(path / "live", depot, config=config)
        self.seams.path.mkdir()
        self.disk = Disk(self.seams.path, depot, self.seams.clock, seed)
        self.store: Store = self._opened()
        self.sessions: dict[UUID, bytes] = {}
        """Sessions, and what is to become of them."""
        self.checked = 0

    def _opened(self) -> Store:
        def ledger(rows: LmdbLedger) -> Ledger:
            return WatchedLedger(rows, self.disk)

        return self.seams.store(depot=lambda inner: WatchedDepot(inner, self.disk), ledger=ledger)

    async def begin(self) -> None:
        await self.store.start()
        self._before = await self._seen()

    async def _seen(self) -> Sight:
        async with self.seams.store() as store:
            return await see(store)

    @asynccontextmanager
    async def call(self, *, sweeps: bool = False) -> AsyncIterator[Store]:
        """A call to the store."""
        sessions = tuple(self.sessions)
        yield self.store
        later = await self._seen()
        instants, self.disk.instants = self.disk.instants, []
        for instant in instants:
            await self._fail(instant, self._before, later, sessions, sweeps=sweeps)
            self.checked += 1
        self._before = later

    async def reopen(self) -> None:
        async with self.call():
            await self.store.close()
            self.store = self._opened()
            await self.store.start()

    async def die(self) -> None:
        """The process dies, not the machine; another one takes over."""
        async with self.call():
            await self.seams.kill(self.store)
            self.store = self._opened()
            await self.store.start()

    async def _fail(
        self,
        instant: Instant,
        before: Sight,
        later: Sight,
        sessions: tuple[UUID, ...],
        *,
        sweeps: bool,
    ) -> None:
        path = self._path / f"{self.checked}"
        path.mkdir()
        (path / "data.mdb").write_bytes(instant.rows)
        clock = Clock()
        clock.now = instant.now
        seams = Seams(path, instant.files, clock, "second", self.seams.config)
        async with seams.store() as store:
            sight = await see(store)
            assert sight.between(before, later, blurred=sweeps) == "", instant.after
            assert await check(store) == [], instant.after
            for session_id in sessions:
                with pytest.raises(NotFound):
                    await store.uploads.get(await store.locate(REGION, "app/web"), session_id)
            await store.sweeper.run()
            assert await seams.leaks() == "", instant.after
            assert await check(store) == [], instant.after
        shutil.rmtree(path)


async def put_manifest(store: Store, name: str, tag: str, *layers: bytes, **more: Any) -> None:
    where = await store.locate(REGION, name)
    body = manifest(b"{}", layers, **more)
    await store.manifests.put(where, body, media_type=OCI_MANIFEST, reference=tag)


async def pushes(history: History) -> None:
    for name in ("app", "other"):
        async with history.call() as store:
            await make_namespace(store, name)
    for name, layers in (("app/web", (SMALL, FILE)), ("other/web", (FILE, OTHER))):
        for content in (b"{}", *layers):
            async with history.call() as store:
                await upload(store, await store.locate(REGION, name), content)
        async with history.call() as store:
            await put_manifest(store, name, "v1", *layers)
    async with history.call() as store:
        await put_manifest(store, "app/web", "v1", SMALL, annotations={"long": "x" * 5000})


async def uploads(history: History) -> None:
    opened = []
    where = await history.store.locate(REGION, "app/web")
    for content in (LONG, noise(600_000), noise(500)):
        async with history.call() as store:
            session = await store.uploads.begin(where)
            history.sessions[session.id] = content
        opened.append(session.id)
    long, other, small = opened
    for start, stop in ((0, 1500), (1500, 30_000), (30_000, 640_000)):
        async with history.call() as store:
            await store.uploads.append(where, long, once(LONG[start:stop]), offset=start)
    for session_id in (other, small):
        content = history.sessions[session_id]
        async with history.call() as store:
            await store.uploads.append(where, session_id, once(content[: len(content) // 2]))
    await history.reopen()
    async with history.call() as store:
        rest = once(LONG[640_000:])
        await store.uploads.finish(where, long, sha256(LONG), rest, offset=640_000)
    async with history.call() as store:
        await put_manifest(store, "app/web", "v2", LONG, FILE)
    async with history.call() as store:
        await store.uploads.abort(where, other)


async def refusals(history: History) -> None:
    """Files that were synced, and are not to be."""
    async with history.call() as store:
        locked = await make_namespace(store, "locked")
    where = await history.store.locate(REGION, "locked/web")
    async with history.call() as store:
        await store.namespaces.update(locked.id, locked=True)
    async with history.call() as store:
        with pytest.raises(Locked):
            await upload(store, where, noise(12_000))
    async with history.call() as store:
        await upload(store, await store.locate(REGION, "app/web"), OTHER)
    await history.reopen()
    async with history.call() as store:
        await orphan(store, b"left behind")
    await history.die()
    async with history.call() as store:
        await store.sweeper.run()


async def roots(history: History) -> None:
    for content in (TEXT, FILE, noise(13_000)):
        async with history.call() as store:
            await store.put(content, root="mine")
    async with history.call(sweeps=True) as store:
        done = await recompress(store)
        assert done.swapped == 1
    async with history.call() as store:
        await store.put(TEXT, root="again")
    async with history.call() as store:
        await store.delete(sha256(noise(13_000)), root="mine")


async def deletes(history: History) -> None:
    web = (await history.store.locate(REGION, "app/web")).image_id
    other = (await history.store.locate(REGION, "other/web")).image_id
    assert web is not None
    assert other is not None
    async with history.call() as store:
        tags = {tag.name: tag.id for tag in (await store.tags.list(web)).items}
        await store.tags.delete(tags["v2"])
    async with history.call() as store:
        await store.trash.restore(tags["v2"])
    async with history.call() as store:
        await store.tags.delete(tags["v2"])
    async with history.call() as store:
        await store.images.delete(other)
    async with history.call(sweeps=True) as store:
        await store.sweeper.run(early=True)
    await history.reopen()
    # Holds, sessions and what they kept: their blocks are closed, so nobody looks there again.
    history.seams.clock.advance(DAYS)
    history.sessions.clear()
    async with history.call(sweeps=True) as store:
        await store.sweeper.run(early=True)
    async with history.call() as store:
        with pytest.raises(NotFound):
            await store.stat(sha256(LONG))


CHAPTERS: Final[tuple[Callable[[History], Awaitable[None]], ...]] = (
    pushes,
    uploads,
    refusals,
    roots,
    deletes,
)


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_was_acknowledged_survives_a_power_failure(seed: int, tmp_path: Path) -> None:
    with swift(tmp_path) as path:
        history = History(path, seed)
        await history.begin()
        for chapter in CHAPTERS:
            await chapter(history)
        await history.store.close()
        assert await history.seams.leaks() == ""
    assert history.checked > 80


async def push_stubbornly(store: Store, content: bytes) -> None:
    """As a client does that begins again, until it is told that all is kept."""
    where = await store.locate(REGION, "app/web")
    session = None
    for _ in range(9):
        try:
            if session is None:
                session = (await store.uploads.begin(where)).id
                where = await store.locate(REGION, "app/web")
            offset = (await store.uploads.get(where, session)).offset
            half = (offset + len(content)) // 2
            await store.uploads.append(where, session, pieces(content[offset:half]), offset=offset)
            assert (await store.uploads.get(where, session)).offset == half
            await store.uploads.finish(
                where, session, sha256(content), pieces(content[half:]), offset=half
            )
        except StorageFailed:
            continue
        except NotFound:
            session = None
            continue
        return
    raise AssertionError("nothing helped")


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 300_000):
        yield content[start : start + 300_000]


async def test_a_sync_that_succeeds_does_not_make_up_for_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a large upload, which is synced on its way.
    monkeypatch.setattr("holdfast.engine.blobs.writer.WRITE_BACK_BYTES", 600_000)
    content = noise(3_000_000)
    with swift(tmp_path) as path:
        number, fired = 0, True
        while fired:
            number += 1
            syncs = Countdown(number)
            depot = LossyDepot(syncs=syncs)
            rows = path / f"{number}"
            rows.mkdir()
            seams = Seams(rows, depot)
            async with seams.store() as store:
                await make_namespace(store)
                await push_stubbornly(store, content)
                fired = syncs.fired
                for seed in SEEDS:
                    left = path / f"{number}.{seed}"
                    left.mkdir()
                    shutil.copyfile(rows / "data.mdb", left / "data.mdb")
                    after = Seams(left, depot.crash(seed), boot="second")
                    async with after.store() as other:
                        assert await read(other, sha256(content), verify=True) == content
                        assert await check(other) == []
    assert number >= 4
