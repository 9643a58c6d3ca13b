"""Snapshots: a consistent copy of a store, made while it is in use.

A snapshot is a data directory of its own: the ledger as of one moment, and the files that it
names, linked (they never change) or copied. A lease keeps the sweep from unlinking them until
that is done. Open uploads are left out. ``restore`` makes a store of one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from holdfast.engine import datadir
from holdfast.engine.blobs import blob_rows
from holdfast.engine.core import SECOND, Core
from holdfast.engine.depot import disk, disk_file, files
from holdfast.engine.depot.interface import BLOCK_FILES
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Ledger, Transaction, after
from holdfast.engine.ledger.lmdb import LmdbLedger
from holdfast.engine.ledger.records import File, decode
from holdfast.engine.model.errors import Corrupt, EngineError, Invalid, NotFound, StorageFailed
from holdfast.engine.tasks.threads import Threads

from .staging import Staging

_log: Final = logging.getLogger(__name__)

_RENEWAL_SECONDS: Final = 20.0

_STEP: Final = 200
"""Rows in one transaction, and files between two reports."""

Place = Callable[[int, str], None]
"""Brings the file with that id to that path, durably: a depot's ``link`` or ``copy``."""


@dataclass(frozen=True, slots=True)
class Copied:
    """How far a snapshot or a restore is."""

    files: int
    total: int
    """Files that there are."""
    bytes: int
    """Bytes of the files so far, as they lie."""
    damaged: int = 0
    """Blobs that were found damaged on the way, and are in quarantine now."""


class Lease:
    """Keeps the files of a store where they are, for as long as its context lasts."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._name = os.urandom(8)
        self._task: asyncio.Task[None] | None = None

    def _until(self) -> int:
        return self._core.now() + files.LEASE_SECONDS * SECOND

    async def __aenter__(self) -> Lease:
        core = self._core
        await core.ledger.transact(files.take_lease, self._name, core.now(), self._until())
        self._task = asyncio.create_task(self._renew(), name="lease")
        return self

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEWAL_SECONDS)
            await self.confirm()

    async def confirm(self) -> None:
        """Make sure that it never ran out, and renew it. Raises StorageFailed if it did."""
        core = self._core
        held = await core.ledger.transact(files.renew_lease, self._name, core.now(), self._until())
        if not held:
            raise StorageFailed("snapshot", "its lease ran out while it stood still: make it again")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        try:
            await self._core.ledger.transact(files.drop_lease, self._name)
        except EngineError as lost:
            if error is None:
                raise
            # The store was closed meanwhile, or worse: the lease ends by itself.
            _log.error("the lease of a snapshot was not given back: %s", lost)
        if error is None and not self._task.cancelled():
            self._task.result()


async def make(core: Core, target: Path, *, copy: bool = False) -> AsyncGenerator[Copied, None]:
    """Write a snapshot into a new directory, saying how far it is now and then.

    ``copy`` copies the files even where they could be linked: a linked file shares its blocks,
    so damage to one is damage to both. The target appears when all is done. A file that is
    found missing puts its blob in quarantine. Raises AlreadyExists where the target holds
    something, Busy where another makes it, Invalid for a store in memory, StorageFull,
    StorageFailed.
    """
    # Part of no protocol: it is what makes a ledger one that can be backed up while in use.
    copy_ledger: Callable[..., None] | None = getattr(core.ledger, "copy", None)
    if copy_ledger is None:
        raise Invalid("store", "a store in memory has no snapshots")
    place: Place = getattr(core.depot, "copy", core.depot.link) if copy else core.depot.link
    threads = Threads(1, "snapshot")
    try:
        staging = await threads.acquire(Staging, target, "snapshot")
        try:
            async with Lease(core) as lease:
                directory = staging.path
                await threads.run(datadir.mark_unfinished, directory)
                await threads.run(copy_ledger, directory / "ledger", compact=True)
                async for done in _fill(core, lease, directory, place, threads):
                    yield done
                await lease.confirm()
            await threads.run(datadir.mark_made, directory)
            await threads.run(staging.publish)
        except BaseException:
            await threads.finish(staging.close)
            raise
    except OSError as error:
        raise disk_file.refused(error, str(error.filename or target)) from error
    finally:
        threads.close()


async def _fill(
    core: Core, lease: Lease, directory: Path, place: Place, threads: Threads
) -> AsyncGenerator[Copied, None]:
    """Bring in all files that the copied ledger names."""
    ledger = LmdbLedger.open(directory / "ledger", map_bytes=core.config.map_bytes, create=False)
    try:
        await detach(ledger)
        damaged = 0
        async for done in Filling(ledger, directory, place, threads):
            for file_id, sha in done.missing:
                # While the lease lasts, nobody but a fault of the disk takes a file away.
                await lease.confirm()
                now = core.now()
                await core.ledger.transact(blob_rows.quarantine, sha, file_id, now)
                damaged += await ledger.transact(blob_rows.quarantine, sha, file_id, now)
            yield Copied(done.files, done.total, done.size, damaged)
    finally:
        await ledger.close()


async def detach(ledger: Ledger) -> None:
    """Turn a copied ledger into one of a store that nobody uses: no open blocks."""
    for kind in (layout.PENDING_UNLINK, layout.BLOCK, files.LEASE):
        while await ledger.transact(drop_rows, kind, _STEP):
            continue


async def drop_rows(txn: Transaction, prefix: bytes, limit: int) -> int:
    """Remove rows under a prefix; says how many."""
    rows = await txn.scan(prefix, after(prefix), limit=limit)
    for key, _ in rows:
        await txn.delete(key)
    return len(rows)


async def file_rows(
    txn: Transaction, last: int, limit: int
) -> tuple[list[tuple[int, bytes]], int | None]:
    """Files of blobs behind ``last``, each with its sha256, and where to go on, or None.

    They are found by their own rows: one whose blob's row is damaged is still brought along.
    """
    start = layout.FILE + layout.number(last + 1)
    rows = await txn.scan(start, after(layout.FILE), limit=limit)
    found = []
    for key, value in rows:
        try:
            sha = decode(File, key, value).sha
        except Corrupt:
            sha = b""
        found.append((layout.at(key, 1), sha))
    return found, layout.at(rows[-1][0], 1) if rows else None


async def count_files(txn: Transaction) -> int:
    """Files that some row names."""
    count, start = 0, layout.FILE
    while rows := await txn.scan(start, after(layout.FILE), limit=10_000):
        count += len(rows)
        start = rows[-1][0] + b"\0"
    return count


@dataclass(slots=True)
class Filled:
    """How far a filling is."""

    files: int = 0
    total: int = 0
    size: int = 0
    missing: list[tuple[int, bytes]] = field(default_factory=list)
    """Files of this step that are not there, each with the sha256 that it was for."""


class Filling:
    """Brings the files that a ledger names into the directory that it lies in, step by step."""

    def __init__(self, ledger: Ledger, directory: Path, place: Place, threads: Threads) -> None:
        self._ledger = ledger
        self._root = directory / "files"
        self._run = directory / "run"
        self._place = place
        self._threads = threads
        self._made: set[int] = set()

    async def __aiter__(self) -> AsyncIterator[Filled]:
        done = Filled(total=await self._ledger.read_in_thread(count_files))
        await self._threads.run(self._begin)
        yield done
        last: int | None = 0
        while last is not None:
            found, last = await self._ledger.read(file_rows, last, _STEP)
            if found:
                done.missing = []
                await self._threads.run(self._step, found, done)
                yield done

    def _begin(self) -> None:
        for path in (self._root, self._run):
            path.mkdir(mode=0o700)

    def _step(self, found: list[tuple[int, bytes]], done: Filled) -> None:
        for file_id, sha in found:
            path = disk.path_of(self._root, file_id)
            if file_id // BLOCK_FILES not in self._made:
                self._make_directories(Path(path).parent)
                self._made.add(file_id // BLOCK_FILES)
            try:
                self._place(file_id, path)
            except (NotFound, disk_file.Irregular):
                done.missing.append((file_id, sha))
                continue
            done.files += 1
            done.size += os.stat(path).st_size

    def _make_directories(self, block: Path) -> None:
        for path in (block.parent, block):
            path.mkdir(mode=0o700, exist_ok=True)
        for path in (block.parent, self._root):
            datadir.sync_directory(path)
