"""Allocates file ids in blocks, tracks unsettled files, and recovers those of dead processes.

A file without a row in the ledger may exist only in an open block. A process closes a block when
all its ids are used, and each file has a row or was removed. So recovery lists a few directories,
not the depot.

The states of a file, and what is read back about it after a crash, are a table in
``file_states``. ``discard`` removes a file that no row names. ``unlink_now`` removes one that had
a row; a row of kind PENDING_UNLINK names it until the sweep or this process has removed it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from itertools import islice
from typing import Final, Protocol

from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Ledger, P, T, Transaction, Work, after
from holdfast.engine.ledger.records import get_payload, put_payload, unseal
from holdfast.engine.model.errors import AlreadyExists, Busy, Closed, Corrupt, EngineError, NotFound
from holdfast.engine.model.states import advance
from holdfast.engine.tasks.threads import Threads

from .file_states import TRANSITIONS, Event, State
from .instance import NAME_BYTES, Instances
from .interface import BLOCK_FILES, Depot, Writer
from .open_files import OpenFiles

_log: Final = logging.getLogger(__name__)

_LAST_BLOCK = layout.counter(b"fb")
LEASE = layout.SETTING + b"lease"
_LEASES_MAX: Final = 10_000

"""Leases read at once: far more than simultaneous snapshots."""

LEASE_SECONDS: Final = 300
"""Time without a renewal after which a snapshot loses its lease."""

_OPEN_NEXT_INDEX: Final = BLOCK_FILES // 2
"""Index in a block at which the next block is opened in advance, so that few callers wait."""

_RECHECKED_FILES_MAX: Final = 2 * BLOCK_FILES
"""Files rechecked at one time, of sessions and of failed removals: more than two blocks add, few
enough that the caller waits only briefly."""


async def last_block(txn: Transaction) -> int:
    """Return the last block that was ever opened, or 0."""
    return await txn.counter(_LAST_BLOCK)


async def open_block(
    txn: Transaction, instance: bytes, block: int, closed: tuple[int, ...]
) -> bool:
    """Open a block of file ids, and close finished blocks.

    Returns False, without a change, if another process took that block or a later one.
    """
    last = await txn.counter(_LAST_BLOCK)
    if block <= last:
        return False
    await close_blocks(txn, instance, closed)
    await txn.add(_LAST_BLOCK, block - last)
    await put_payload(txn, layout.BLOCK + instance + layout.number(block))
    return True


async def close_blocks(txn: Transaction, instance: bytes, blocks: tuple[int, ...]) -> None:
    """Close blocks in which all files are settled."""
    for block in blocks:
        await txn.delete(layout.BLOCK + instance + layout.number(block))


async def open_blocks(txn: Transaction) -> list[tuple[bytes, int]]:
    """Return all open blocks with their instances: a few for each process with the store open."""
    rows = await txn.scan(layout.BLOCK, after(layout.BLOCK), limit=1_000_000)
    return [(key[1 : 1 + NAME_BYTES], layout.at(key, 1 + NAME_BYTES)) for key, _ in rows]


async def without_row(txn: Transaction, file_ids: tuple[int, ...]) -> list[int]:
    """Return those of the files that no row names.

    A file with a pending unlink has a row: a snapshot may need it, and the sweep removes it.
    """
    found = []
    for file_id in file_ids:
        number = layout.number(file_id)
        named = await txn.get(layout.FILE + number)
        if named is None and await txn.get(layout.PENDING_UNLINK + number) is None:
            found.append(file_id)
    return found


async def without_session(txn: Transaction, file_ids: tuple[int, ...]) -> list[int]:
    """Return those of the files that belong to no upload session. Reads the scratch ledger."""
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
    """Prevent the unlinking of files until ``until``; remove expired leases.

    A snapshot takes a lease before it copies the ledger. The copy does not name a file whose
    unlink was pending before; a later unlink finds the lease and waits.
    """
    for key, value in await txn.scan(LEASE, after(LEASE), limit=_LEASES_MAX):
        if _lease_end(key, value) <= now:
            await txn.delete(key)
    await put_payload(txn, LEASE + name, layout.number(until))


async def renew_lease(txn: Transaction, name: bytes, now: int, until: int) -> bool:
    """Renew a lease. Return False if it has expired or is damaged or gone."""
    payload = await get_payload(txn, LEASE + name)
    if payload is None or int.from_bytes(payload, "big") <= now:
        return False
    await put_payload(txn, LEASE + name, layout.number(until))
    return True


async def far_leases(txn: Transaction, beyond: int) -> list[bytes]:
    """Return the keys of leases that end after ``beyond``."""
    rows = await txn.scan(LEASE, after(LEASE), limit=_LEASES_MAX)
    return [key for key, value in rows if _lease_end(key, value) > beyond]


async def drop_lease(txn: Transaction, name: bytes) -> None:
    """End a lease."""
    await txn.delete(LEASE + name)


async def leased(txn: Transaction, now: int) -> bool:
    """Return True if the lease of a snapshot prevents the unlinking of files."""
    rows = await txn.scan(LEASE, after(LEASE), limit=_LEASES_MAX)
    return any(_lease_end(key, value) > now for key, value in rows)


def _lease_end(key: bytes, value: bytes) -> int:
    try:
        return int.from_bytes(unseal(key, value), "big")
    except Corrupt:
        # Its holder cannot renew it and fails. As an endless lease it would block the sweep.
        return 0


async def pending_unlinks(txn: Transaction, limit: int, now: int) -> list[int]:
    """Return files to unlink, at most ``limit``; none while a snapshot may need them."""
    if await leased(txn, now):
        return []
    rows = await txn.scan(layout.PENDING_UNLINK, after(layout.PENDING_UNLINK), limit=limit)
    return [layout.at(key, 1) for key, _ in rows]


async def forget_unlinked(txn: Transaction, file_ids: tuple[int, ...]) -> None:
    """Remove the rows of files that are unlinked."""
    for file_id in file_ids:
        await txn.delete(layout.PENDING_UNLINK + layout.number(file_id))


class _Run(Protocol):
    """A method to run a transaction function: ``Ledger.read`` or ``Ledger.transact``."""

    async def __call__(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` and return its result."""


class Files:
    """The files that one instance of a store creates and removes (see the module)."""

    def __init__(
        self,
        ledger: Ledger,
        scratch: Ledger,
        depot: Depot,
        threads: Threads,
        instances: Instances,
    ) -> None:
        self.depot = depot
        self.threads = threads
        self.open = OpenFiles(depot, threads)
        self._ledger = ledger
        self._scratch = scratch
        self._instances = instances
        self._ids = range(0)
        """Unused ids of the current block."""
        self._next_block: int | None = None
        """The next block, if it is open already."""
        self._opening: asyncio.Task[None] | None = None
        """Task that opens the next block in advance."""
        self._blocks: set[int] = set()
        """Open blocks of this instance."""
        self._states: dict[int, State] = {}
        """States of the unsettled files, in the order of their last event."""
        self._taking = asyncio.Lock()
        self._closed = False

    async def create(self) -> tuple[int, Writer]:
        """Create a file, unsettled and open for writing.

        Raises StorageFull, StorageFailed, Closed.
        """
        while True:
            file_id = await self._take()
            try:
                return file_id, await self.threads.acquire(self.depot.create, file_id)
            except AlreadyExists:
                # Its origin is unknown, so do not remove it; ``check`` reports it.
                _log.error("file %x exists although no row names it; skipping its id", file_id)
                self.settle(file_id)
            except BaseException:
                await self.discard(file_id)
                raise

    async def _take(self) -> int:
        while (file_id := self._next()) is None:
            await self._open_next()
        return file_id

    def _next(self) -> int | None:
        """Take an id from the open blocks; None if all are used. Raises Closed."""
        if self._closed:
            raise Closed
        if not self._ids and self._next_block is not None:
            start, self._next_block = self._next_block * BLOCK_FILES, None
            self._ids = range(start, start + BLOCK_FILES)
        if not self._ids:
            return None
        file_id, self._ids = self._ids[0], self._ids[1:]
        self._walk(file_id, Event.CREATE)
        if file_id % BLOCK_FILES == _OPEN_NEXT_INDEX:
            self._opening = asyncio.create_task(self._open_ahead(), name="file ids")
        return file_id

    async def _open_ahead(self) -> None:
        try:
            await self._open_next()
        except EngineError as error:
            _log.warning(
                "opening the next block of file ids failed: %s; retrying when it is needed", error
            )

    async def _open_next(self) -> None:
        """Open the next block unless it is open. Raises StorageFull, StorageFailed, Closed."""
        async with self._taking:
            # Checked under the lock: another caller may have opened it meanwhile.
            if self._next_block is None and not self._closed:
                self._next_block = await self._open_block()

    async def _open_block(self) -> int:
        """Open the next block that has no files.

        A block has files already only if the ledger is older than the depot. Recovery must not
        take those for files of this instance.
        """
        done = await self._finished_blocks()
        while True:
            block = await self._ledger.read(last_block) + 1
            while await self.threads.run(_any_file, self.depot, block):
                block += 1
            if await self._ledger.transact(open_block, self._instances.name, block, done):
                break
        self._blocks.difference_update(done)
        self._blocks.add(block)
        return block

    async def _finished_blocks(self) -> tuple[int, ...]:
        """Return used blocks without unsettled files, after making their deletes durable."""
        await self._recheck_sessions()
        for file_id in self._tracked(State.DISCARDED, State.FOREIGN, limit=_RECHECKED_FILES_MAX):
            await self.discard(file_id)
        unfinished = {file_id // BLOCK_FILES for file_id in (*self._states, *self._ids[:1])}
        done = tuple(self._blocks - unfinished)
        # Recovery never lists a closed block, so a power loss must not bring its files back.
        for block in done:
            await self.threads.run(self.depot.sync_block, block)
        return done

    async def _recheck_sessions(self) -> list[int]:
        """Recheck some files of sessions; return those that no row names."""
        checked = self._tracked(State.IN_SESSION, limit=_RECHECKED_FILES_MAX)
        events = await self._read_back(self._ledger.read, self._scratch.read, checked)
        return _nameless(events)

    async def _read_back(
        self, ledger: _Run, scratch: _Run, file_ids: tuple[int, ...]
    ) -> dict[int, Event]:
        """Read which rows name the files, and walk each by the event that this is for it."""
        events = dict.fromkeys(file_ids, Event.SETTLE)
        rowless = await ledger(without_row, file_ids)
        events.update(dict.fromkeys(rowless, Event.TRANSFER))
        if rowless:
            sessionless = await scratch(without_session, tuple(rowless))
            events.update(dict.fromkeys(sessionless, Event.DISCARD))
        for file_id, event in events.items():
            self._walk(file_id, event)
        return events

    def _walk(self, file_id: int, event: Event) -> None:
        """Change the state of a file, here and nowhere else. Raises IllegalEvent."""
        state = advance(TRANSITIONS, self._states.get(file_id, State.SETTLED), event)
        # It moves to the end, so that the next recheck takes others.
        self._states.pop(file_id, None)
        if state is not State.SETTLED:
            self._states[file_id] = state

    def _tracked(self, *states: State, limit: int) -> tuple[int, ...]:
        found = (file_id for file_id, state in self._states.items() if state in states)
        return tuple(islice(found, limit))

    def settle(self, file_id: int) -> None:
        """Record that the file has a row now, or is gone."""
        self._walk(file_id, Event.SETTLE)

    def transfer_to_session(self, file_id: int) -> None:
        """Record that the file belongs to a session, which any process may continue or end."""
        self._walk(file_id, Event.TRANSFER)

    async def discard(self, file_id: int) -> None:
        """Remove a file unless a row names it or a writer has it; no-op for 0.

        The caller may not know whether a row names it: its transaction may have committed
        although the caller was cancelled or got an error. A removal that fails is retried
        later, or done by recovery after the end of this process.
        """
        if not file_id:
            return
        self._walk(file_id, Event.DISCARD)
        try:
            await self._remove(file_id)
        except EngineError as error:
            _log.error("removing file %x failed: %s; the sweep retries it", file_id, error)

    async def _remove(self, file_id: int) -> bool:
        """Remove a file that no row names and no writer has. Return True if it existed."""
        if not _nameless(await self._read_back(self._ledger.read, self._scratch.read, (file_id,))):
            return False
        try:
            writer = await self.threads.acquire(self.depot.reopen, file_id)
        except NotFound:
            self.settle(file_id)
            return False
        except Busy:
            return False
        # Publishing needs this lock too. So no file can move from its session's row to a blob's
        # between the two checks below.
        try:
            # By transactions: they run after all that were submitted before, and see their rows.
            transact = self._ledger.transact, self._scratch.transact
            if not _nameless(await self._read_back(*transact, (file_id,))):
                return False
            removed = await self.threads.run(self.depot.delete, file_id)
            self.settle(file_id)
            return removed
        finally:
            await self.threads.finish(writer.close)

    async def unlink_now(self, file_id: int, now: int) -> None:
        """Unlink a file with a pending unlink, unless a snapshot may need it; no-op for 0.

        After an error the sweep does it: the PENDING_UNLINK row stays until then.
        """
        if not file_id:
            return
        self.settle(file_id)
        try:
            if not await self._ledger.read(leased, now):
                await self.threads.run(self.depot.delete, file_id)
        except EngineError as error:
            _log.error("unlinking file %x failed: %s; the sweep retries it", file_id, error)

    async def retry_discards(self, limit: int) -> int:
        """Retry removals that failed in ``discard``. Return the number of removed files."""
        return await self._remove_all(self._tracked(State.DISCARDED, State.FOREIGN, limit=limit))

    async def _remove_all(self, file_ids: Iterable[int]) -> int:
        removed = 0
        for file_id in file_ids:
            removed += await self._remove(file_id)
        return removed

    async def recover(self) -> int:
        """Remove files without a row that dead processes left. Return their number.

        Blocks with files of sessions stay open, and are checked again next time. It also checks
        some sessions' files of this instance: another process may have ended the session, or its
        caller was cancelled.
        """
        removed = await self._remove_all(await self._recheck_sessions())
        blocks = await self._ledger.read_in_thread(open_blocks)
        for name in {name for name, _ in blocks}:
            if not await self.threads.run(self._instances.is_dead, name):
                continue
            owned = [block for owner, block in blocks if owner == name]
            done = []
            for block in owned:
                gone, stay = await self._clear(block)
                removed += gone
                if not stay:
                    # Deletes must be durable before the block is closed.
                    await self.threads.run(self.depot.sync_block, block)
                    done.append(block)
            if done:
                await self._ledger.transact(close_blocks, name, tuple(done))
            if len(done) == len(owned):
                await self.threads.run(self._instances.forget, name)
        return removed

    async def _clear(self, block: int) -> tuple[int, int]:
        """Remove files without a row from a dead process's block.

        Returns the numbers of files removed and left; the latter belong to sessions, or are being
        written now.
        """
        found = tuple(await self.threads.run(list, self.depot.files(block)))
        events = await self._read_back(
            self._ledger.read_in_thread, self._scratch.read_in_thread, found
        )
        gone = await self._remove_all(_nameless(events))
        return gone, sum(event is not Event.SETTLE for event in events.values()) - gone

    async def unlink_pending(self, limit: int, now: int) -> int:
        """Unlink at most ``limit`` pending files unless a snapshot runs. Return their number."""
        file_ids = await self._ledger.read(pending_unlinks, limit, now)
        for file_id in file_ids:
            await self.threads.run(self.depot.delete, file_id)
        for block in {file_id // BLOCK_FILES for file_id in file_ids}:
            await self.threads.run(self.depot.sync_block, block)
        # The rows go last: a file without a row outside of an open block would stay for ever.
        if file_ids:
            await self._ledger.transact(forget_unlinked, tuple(file_ids))
        return len(file_ids)

    async def close(self) -> None:
        """Close finished blocks; those with unsettled files stay open for the next recovery.

        ``create`` raises Closed from now on: recovery would not list the block of its file.
        """
        self._closed = True
        await self.open.close()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        async with self._taking:
            self._ids, self._next_block = range(0), None
            done = await self._finished_blocks()
            if done:
                await self._ledger.transact(close_blocks, self._instances.name, done)


def _nameless(events: dict[int, Event]) -> list[int]:
    """Return the files that no row names."""
    return [file_id for file_id, event in events.items() if event is Event.DISCARD]


def _any_file(depot: Depot, block: int) -> bool:
    return next(depot.files(block), None) is not None
