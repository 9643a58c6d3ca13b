"""File ids: taking them in blocks, settling them, and cleaning up after a process that died.

A file without a row may exist only in an open block: a block is closed when all its ids were
used and every one of them got a row or was removed. So recovery lists a few directories, not the
depot. The file of an upload session has its row in the scratch ledger, which may be forgotten:
its block stays open until the file is a blob's, or gone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Ledger, P, T, Transaction, Work, after
from holdfast.engine.ledger.records import get_payload, put_payload, unseal
from holdfast.engine.model.errors import AlreadyExists, Busy, Closed, Corrupt, EngineError, NotFound
from holdfast.engine.tasks.threads import Threads

from .instance import NAME_BYTES, Instances
from .interface import BLOCK_FILES, Depot, Writer
from .open_files import OpenFiles

_log: Final = logging.getLogger(__name__)

_NEXT_BLOCK = layout.counter(b"fb")
LEASE = layout.SETTING + b"lease"
_LEASES_MAX: Final = 10_000

LEASE_SECONDS: Final = 300
"""How long a snapshot may stand still before it is given up."""
"""Far more snapshots than are ever made at once."""

_AHEAD: Final = BLOCK_FILES // 2
"""Ids of a block that are taken when the next one is opened, so that few ever wait for that."""

_LOOKS: Final = 2 * BLOCK_FILES
"""Files of sessions, and such as could not be removed, that are looked after at one time: more
than come between two times, and few enough that nobody waits for it."""


async def last_block(txn: Transaction) -> int:
    """The last block that was ever opened, or 0."""
    return await txn.counter(_NEXT_BLOCK)


async def open_block(
    txn: Transaction, incarnation: bytes, block: int, closed: tuple[int, ...]
) -> bool:
    """Take a block of file ids, and let go of blocks that are done.

    False where another process took that block or a later one; nothing is changed then.
    """
    last = await txn.counter(_NEXT_BLOCK)
    if block <= last:
        return False
    await close_blocks(txn, incarnation, closed)
    await txn.add(_NEXT_BLOCK, block - last)
    await put_payload(txn, layout.BLOCK + incarnation + layout.number(block))
    return True


async def close_blocks(txn: Transaction, incarnation: bytes, blocks: tuple[int, ...]) -> None:
    """Forget blocks all of whose files are settled."""
    for block in blocks:
        await txn.delete(layout.BLOCK + incarnation + layout.number(block))


async def open_blocks(txn: Transaction) -> list[tuple[bytes, int]]:
    """Every open block with its incarnation: a few for each process that uses the store."""
    rows = await txn.scan(layout.BLOCK, after(layout.BLOCK), limit=1_000_000)
    return [(key[1 : 1 + NAME_BYTES], layout.at(key, 1 + NAME_BYTES)) for key, _ in rows]


async def without_row(txn: Transaction, file_ids: tuple[int, ...]) -> list[int]:
    """Those of the files that no row names.

    A doomed file has a row: a snapshot may still need it, and the sweep knows of it.
    """
    found = []
    for file_id in file_ids:
        number = layout.number(file_id)
        named = await txn.get(layout.FILE + number)
        if named is None and await txn.get(layout.PENDING_UNLINK + number) is None:
            found.append(file_id)
    return found


async def without_session(txn: Transaction, file_ids: tuple[int, ...]) -> list[int]:
    """Those of the files that are no upload session's; of the scratch ledger."""
    found = []
    for file_id in file_ids:
        try:
            session_id = await get_payload(txn, layout.SESSION_FILE + layout.number(file_id))
        except Corrupt:
            session_id = None
        if session_id is None or await txn.get(layout.SESSION + session_id) is None:
            found.append(file_id)
    return found


async def take_lease(txn: Transaction, name: bytes, now: int, until: int) -> None:
    """Keep all files where they are until then; leases that ran out are forgotten.

    A snapshot takes a lease before it copies the ledger. What was doomed before is not in the
    copy; what is doomed later finds the lease.
    """
    for key, value in await txn.scan(LEASE, after(LEASE), limit=_LEASES_MAX):
        if _lease_end(key, value) <= now:
            await txn.delete(key)
    await put_payload(txn, LEASE + name, layout.number(until))


async def renew_lease(txn: Transaction, name: bytes, now: int, until: int) -> bool:
    """Prolong a lease; says whether it held until now."""
    payload = await get_payload(txn, LEASE + name)
    if payload is None or int.from_bytes(payload, "big") <= now:
        return False
    await put_payload(txn, LEASE + name, layout.number(until))
    return True


async def far_leases(txn: Transaction, beyond: int) -> list[bytes]:
    """Keys of leases that hold longer than until then."""
    rows = await txn.scan(LEASE, after(LEASE), limit=_LEASES_MAX)
    return [key for key, value in rows if _lease_end(key, value) > beyond]


async def drop_lease(txn: Transaction, name: bytes) -> None:
    """End a lease."""
    await txn.delete(LEASE + name)


async def leased(txn: Transaction, now: int) -> bool:
    """Whether a snapshot keeps files from being unlinked."""
    rows = await txn.scan(LEASE, after(LEASE), limit=_LEASES_MAX)
    return any(_lease_end(key, value) > now for key, value in rows)


def _lease_end(key: bytes, value: bytes) -> int:
    try:
        return int.from_bytes(unseal(key, value), "big")
    except Corrupt:
        # Its holder cannot renew it either, and gives up. Sweeping must not stop for good.
        return 0


async def doomed(txn: Transaction, limit: int, now: int) -> list[int]:
    """Files to be unlinked; none while a snapshot needs them."""
    if await leased(txn, now):
        return []
    rows = await txn.scan(layout.PENDING_UNLINK, after(layout.PENDING_UNLINK), limit=limit)
    return [layout.at(key, 1) for key, _ in rows]


async def forget_unlinked(txn: Transaction, file_ids: tuple[int, ...]) -> None:
    """These files are unlinked."""
    for file_id in file_ids:
        await txn.delete(layout.PENDING_UNLINK + layout.number(file_id))


class _Ask(Protocol):
    """``Ledger.read`` or ``Ledger.transact``."""

    async def __call__(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns."""


class Files:
    """The files of one incarnation."""

    def __init__(
        self,
        ledger: Ledger,
        scratch: Ledger,
        depot: Depot,
        threads: Threads,
        incarnations: Instances,
    ) -> None:
        self.depot = depot
        self.threads = threads
        self.open = OpenFiles(depot, threads)
        self._ledger = ledger
        self._scratch = scratch
        self._incarnations = incarnations
        self._ids = range(0)
        """Of the block in use, those that nobody has."""
        self._spare: int | None = None
        """The next block, if it is open already."""
        self._ahead: asyncio.Task[None] | None = None
        self._unsettled: dict[int, set[int]] = {}
        self._given_up: set[int] = set()
        self._lent: dict[int, None] = {}
        """In the order in which they were looked at last."""
        self._taking = asyncio.Lock()
        self._closed = False

    async def create(self) -> tuple[int, Writer]:
        """A new file, ours until ``settle``. Raises StorageFull, StorageFailed, Closed."""
        while True:
            file_id = await self._take()
            try:
                return file_id, await self.threads.acquire(self.depot.create, file_id)
            except AlreadyExists:
                # Whoever's it is, it is not ours to remove. The check tells of it.
                _log.error("file %x is there already, and no row names it", file_id)
                self.settle(file_id)
            except BaseException:
                await self.discard(file_id)
                raise

    async def _take(self) -> int:
        while (file_id := self._next()) is None:
            await self._open_next()
        return file_id

    def _next(self) -> int | None:
        """An id of the blocks that are open, or None. Raises Closed."""
        if self._closed:
            raise Closed
        if not self._ids and self._spare is not None:
            start, self._spare = self._spare * BLOCK_FILES, None
            self._ids = range(start, start + BLOCK_FILES)
        if not self._ids:
            return None
        file_id, self._ids = self._ids[0], self._ids[1:]
        self._unsettled[file_id // BLOCK_FILES].add(file_id)
        if file_id % BLOCK_FILES == _AHEAD:
            self._ahead = asyncio.create_task(self._open_ahead(), name="file ids")
        return file_id

    async def _open_ahead(self) -> None:
        try:
            await self._open_next()
        except EngineError as error:
            _log.warning("whoever needs the next block of file ids opens it: %s", error)

    async def _open_next(self) -> None:
        """Open the next block, unless that was done. Raises StorageFull, StorageFailed, Closed."""
        async with self._taking:
            if self._spare is None and not self._closed:
                self._spare = await self._open_block()

    async def _open_block(self) -> int:
        """Take the next block that has no files.

        Only a ledger that is older than the depot leads to one that has: recovery must not
        take those files for ours.
        """
        done = await self._finished_blocks()
        while True:
            block = await self._ledger.read(last_block) + 1
            while await self.threads.run(_any_file, self.depot, block):
                block += 1
            if await self._ledger.transact(open_block, self._incarnations.name, block, done):
                break
        for closed in done:
            del self._unsettled[closed]
        self._unsettled[block] = set()
        return block

    async def _finished_blocks(self) -> tuple[int, ...]:
        """Used blocks with nothing unsettled; what was deleted from them is gone for good."""
        for file_id in (*await self._unlent(), *list(self._given_up)[:_LOOKS]):
            await self.discard(file_id)
        used = self._ids[0] // BLOCK_FILES if self._ids else None
        done = tuple(
            block for block, files in self._unsettled.items() if not files and block != used
        )
        for block in done:
            await self.threads.run(self.depot.sync_block, block)
        return done

    async def _unlent(self) -> list[int]:
        """Of the files that were lent, some that no session has any more, and no row names."""
        lent = tuple(self._lent)[:_LOOKS]
        nameless = await self._ledger.read(without_row, lent)
        for file_id in set(lent).difference(nameless):
            self.settle(file_id)
        found = await self._scratch.read(without_session, tuple(nameless))
        for file_id in set(nameless).difference(found):
            self.lend(file_id)
        return found

    def settle(self, file_id: int) -> None:
        """The file has a row now, or is gone."""
        self._unsettled.get(file_id // BLOCK_FILES, set()).discard(file_id)
        self._given_up.discard(file_id)
        self._lent.pop(file_id, None)

    def lend(self, file_id: int) -> None:
        """The file is a session's now, which any process may go on with, and end."""
        self._given_up.discard(file_id)
        self._lent.pop(file_id, None)
        if file_id in self._unsettled.get(file_id // BLOCK_FILES, ()):
            self._lent[file_id] = None

    async def discard(self, file_id: int) -> None:
        """Let go of a file; it is removed unless a row names it, or somebody writes it.

        Whoever lets go may not know: the transaction that was to name it may have committed
        although its caller was cancelled, or heard of a failure. Where it cannot be removed now,
        it is tried again later; after this process, recovery does it. 0 stands for none.
        """
        if not file_id:
            return
        self._given_up.add(file_id)
        try:
            await self._discard(file_id)
        except EngineError as error:
            _log.error("file %x is left for the sweep: %s", file_id, error)

    async def _discard(self, file_id: int) -> bool:
        """Remove a file that nothing names and nobody writes; says whether there was one."""
        if await self._is_named(self._ledger.read, self._scratch.read, file_id):
            return False
        try:
            writer = await self.threads.acquire(self.depot.reopen, file_id)
        except NotFound:
            self.settle(file_id)
            return False
        except Busy:
            return False
        # While we have it, nobody is on the way from the one row to the other.
        try:
            # In transactions, which run after all that were submitted before.
            if await self._is_named(self._ledger.transact, self._scratch.transact, file_id):
                return False
            removed = await self.threads.run(self.depot.delete, file_id)
            self.settle(file_id)
            return removed
        finally:
            await self.threads.finish(writer.close)

    async def _is_named(self, ledger: _Ask, scratch: _Ask, file_id: int) -> bool:
        if not await ledger(without_row, (file_id,)):
            self.settle(file_id)
            return True
        if not await scratch(without_session, (file_id,)):
            self.lend(file_id)
            return True
        return False

    async def reap(self, file_id: int, now: int) -> None:
        """Unlink a doomed file at once, unless a snapshot may need it; 0 stands for none.

        Where that fails, the sweep does it: the file's row is there until it has.
        """
        if not file_id:
            return
        self.settle(file_id)
        try:
            if not await self._ledger.read(leased, now):
                await self.threads.run(self.depot.delete, file_id)
        except EngineError as error:
            _log.error("file %x is left for the sweep: %s", file_id, error)

    async def discard_rest(self, limit: int) -> int:
        """Try again to remove what ``discard`` could not; says how many files went."""
        removed = 0
        for file_id in sorted(self._given_up)[:limit]:
            removed += await self._discard(file_id)
        return removed

    async def recover(self) -> int:
        """Remove what dead processes left without a row; says how many files that were.

        Blocks with files of sessions stay open, to be looked at again; so are some of our own,
        which another process may have ended, or a caller who was cancelled.
        """
        removed = 0
        for file_id in await self._unlent():
            removed += await self._discard(file_id)
        blocks = await self._ledger.read_in_thread(open_blocks)
        for name in {name for name, _ in blocks}:
            if not await self.threads.run(self._incarnations.dead, name):
                continue
            owned = [block for owner, block in blocks if owner == name]
            done = []
            for block in owned:
                gone, stay = await self._clear(block)
                removed += gone
                if not stay:
                    await self.threads.run(self.depot.sync_block, block)
                    done.append(block)
            if done:
                await self._ledger.transact(close_blocks, name, tuple(done))
            if len(done) == len(owned):
                await self.threads.run(self._incarnations.forget, name)
        return removed

    async def _clear(self, block: int) -> tuple[int, int]:
        """Remove what nothing names from a dead process's block; how many went, how many not.

        Those not are of sessions, or being written at this moment.
        """
        found = tuple(await self.threads.run(list, self.depot.files(block)))
        nameless = await self._ledger.read_in_thread(without_row, found)
        gone = 0
        for file_id in await self._scratch.read_in_thread(without_session, tuple(nameless)):
            gone += await self._discard(file_id)
        return gone, len(nameless) - gone

    async def unlink_pending(self, limit: int, now: int) -> int:
        """Unlink some doomed files, unless a snapshot is made; says how many there were."""
        file_ids = await self._ledger.read(doomed, limit, now)
        for file_id in file_ids:
            await self.threads.run(self.depot.delete, file_id)
        for block in {file_id // BLOCK_FILES for file_id in file_ids}:
            await self.threads.run(self.depot.sync_block, block)
        if file_ids:
            await self._ledger.transact(forget_unlinked, tuple(file_ids))
        return len(file_ids)

    async def close(self) -> None:
        """Give back the blocks. What is unsettled stays named, for the next recovery.

        No file is created any more: it would lie in a block that nobody looks into.
        """
        self._closed = True
        await self.open.close()
        if self._ahead is not None:
            await asyncio.wait([self._ahead])
        async with self._taking:
            self._ids, self._spare = range(0), None
            done = await self._finished_blocks()
            if done:
                await self._ledger.transact(close_blocks, self._incarnations.name, done)


def _any_file(depot: Depot, block: int) -> bool:
    return next(depot.files(block), None) is not None
