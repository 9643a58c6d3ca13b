"""Snapshot: make a consistent copy of a store while it is in use.

A snapshot is a data directory of its own: the ledger as of one moment, and the files that it
names, linked (they never change) or copied. A lease keeps the sweep from unlinking them until
the snapshot is complete. Open uploads are left out. ``restore`` makes a store from a snapshot.
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

_RENEWAL_INTERVAL_SECONDS: Final = 20.0
"""Interval at which a lease is renewed."""

_ROWS_PER_TXN: Final = 200
"""Rows in one transaction, and files between two reports of progress."""

Transfer = Callable[[int, str], None]
"""Links or copies the file with an id to a path, durably: a depot's ``link`` or ``copy``."""


@dataclass(frozen=True, slots=True)
class Copied:
    """Progress of a snapshot or a restore."""

    files: int
    """Files linked or copied so far."""
    total: int
    """Files in all."""
    bytes: int
    """Bytes of these files, as they are at rest."""
    damaged: int = 0
    """Blobs found damaged, which are in quarantine now."""


class Lease:
    """Keeps the sweep from unlinking files of a store while its context is open."""

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
            await asyncio.sleep(_RENEWAL_INTERVAL_SECONDS)
            await self.confirm()

    async def confirm(self) -> None:
        """Check that the lease has never expired, and renew it. Raises StorageFailed if it has."""
        core = self._core
        held = await core.ledger.transact(files.renew_lease, self._name, core.now(), self._until())
        if not held:
            raise StorageFailed("snapshot", "its lease expired in a suspension: make it again")

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
            # The store was closed meanwhile, or failed. The error of the context counts more.
            _log.error(
                "cannot release the snapshot lease: %s; deleted files stay until it expires", lost
            )
        # A failed renewal fails the snapshot.
        if error is None and not self._task.cancelled():
            self._task.result()


async def make(core: Core, target: Path, *, copy: bool = False) -> AsyncGenerator[Copied, None]:
    """Write a snapshot into a new directory, and yield its progress now and then.

    ``copy`` copies the files even where links are possible: a linked file shares its blocks, so
    damage to one is damage to both. The target appears when all is done. If a file is missing, its
    blob is put in quarantine. Raises AlreadyExists if the target is not empty, Busy if another
    process makes it, Invalid for a store in memory, StorageFull, StorageFailed.
    """
    # Not in the protocol of ledgers: only one on disk can be copied while it is in use.
    copy_ledger: Callable[..., None] | None = getattr(core.ledger, "copy", None)
    if copy_ledger is None:
        raise Invalid("store", "must be a data directory: a store in memory has no snapshots")
    transfer: Transfer = getattr(core.depot, "copy", core.depot.link) if copy else core.depot.link
    threads = Threads(1, "snapshot")
    try:
        staging = await threads.acquire(Staging, target, "snapshot")
        try:
            async with Lease(core) as lease:
                directory = staging.path
                await threads.run(datadir.mark_unfinished, directory)
                await threads.run(copy_ledger, directory / "ledger", compact=True)
                async for done in _fill(core, lease, directory, transfer, threads):
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
    core: Core, lease: Lease, directory: Path, transfer: Transfer, threads: Threads
) -> AsyncGenerator[Copied, None]:
    """Link or copy all files that the copied ledger names."""
    ledger = LmdbLedger.open(directory / "ledger", map_bytes=core.config.map_bytes, create=False)
    try:
        await detach(ledger)
        damaged = 0
        async for done in FileTransfer(ledger, directory, transfer, threads):
            for file_id, sha in done.missing:
                # While the lease is valid, a file can be missing only by a fault of the disk.
                await lease.confirm()
                now = core.now()
                await core.ledger.transact(blob_rows.quarantine, sha, file_id, now)
                damaged += await ledger.transact(blob_rows.quarantine, sha, file_id, now)
            yield Copied(done.files, done.total, done.size, damaged)
    finally:
        await ledger.close()


async def detach(ledger: Ledger) -> None:
    """Turn a copied ledger into that of a store not in use.

    Removes its open blocks, pending unlinks and leases.
    """
    for kind in (layout.PENDING_UNLINK, layout.BLOCK, files.LEASE):
        while await ledger.transact(drop_rows, kind, _ROWS_PER_TXN):
            continue


async def drop_rows(txn: Transaction, prefix: bytes, limit: int) -> int:
    """Remove rows under a prefix; return how many."""
    rows = await txn.scan(prefix, after(prefix), limit=limit)
    for key, _ in rows:
        await txn.delete(key)
    return len(rows)


async def file_rows(
    txn: Transaction, last: int, limit: int
) -> tuple[list[tuple[int, bytes]], int | None]:
    """Return files of blobs behind ``last`` with their sha256s, and where to continue, or None.

    File rows name them, so a file whose blob's row is damaged is included.
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
    """Count the files that have a row."""
    count, start = 0, layout.FILE
    while rows := await txn.scan(start, after(layout.FILE), limit=10_000):
        count += len(rows)
        start = rows[-1][0] + b"\0"
    return count


@dataclass(slots=True)
class TransferProgress:
    """Progress of a ``FileTransfer``."""

    files: int = 0
    total: int = 0
    size: int = 0
    missing: list[tuple[int, bytes]] = field(default_factory=list)
    """Missing files of this step, each with the sha256 of its blob (b"" if unknown)."""


class FileTransfer:
    """Links or copies the files that a ledger names into its data directory, step by step."""

    def __init__(
        self, ledger: Ledger, directory: Path, transfer: Transfer, threads: Threads
    ) -> None:
        self._ledger = ledger
        self._root = directory / "files"
        self._run = directory / "run"
        self._transfer = transfer
        self._threads = threads
        self._made: set[int] = set()

    async def __aiter__(self) -> AsyncIterator[TransferProgress]:
        done = TransferProgress(total=await self._ledger.read_in_thread(count_files))
        await self._threads.run(self._begin)
        yield done
        last: int | None = 0
        while last is not None:
            found, last = await self._ledger.read(file_rows, last, _ROWS_PER_TXN)
            if found:
                done.missing = []
                await self._threads.run(self._step, found, done)
                yield done

    def _begin(self) -> None:
        for path in (self._root, self._run):
            path.mkdir(mode=0o700)

    def _step(self, found: list[tuple[int, bytes]], done: TransferProgress) -> None:
        for file_id, sha in found:
            path = disk.path_of(self._root, file_id)
            if file_id // BLOCK_FILES not in self._made:
                self._make_directories(Path(path).parent)
                self._made.add(file_id // BLOCK_FILES)
            try:
                self._transfer(file_id, path)
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
