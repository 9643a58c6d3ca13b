"""Intake: bytes on their way into the store, hashed and written in one pass.

Few bytes stay in memory and end in the ledger; more go to a file of their own, in batches: one
thread writes them and another one computes their digests, while the next ones are being received.
So memory is bounded by LENT batches an upload, with the one that is being received, whatever its
length.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from holdfast.engine.core import Core
from holdfast.engine.depot import blob_file
from holdfast.engine.depot.interface import Data, Writer
from holdfast.engine.model.digest import Digest, Hasher, Hashes, hashes_of
from holdfast.engine.model.errors import (
    Corrupt,
    DigestMismatch,
    EngineError,
    StorageFailed,
    TooLarge,
)
from holdfast.engine.tasks.serial_queue import SerialQueue

from . import blob_rows
from .blob_rows import Arrival, Outcome, Traces
from .sources import BUFFERS_IN_FLIGHT

BATCH_BYTES: Final = 512 * 1024
"""Handed to the threads at a time: long enough to make the hop cheap, short enough for many
uploads of a worker to fit into little memory."""

VIEW_BYTES: Final = 64 * 1024
"""What comes in buffers that are used again is handed over at once, if it is so long."""

WRITE_BACK_BYTES: Final = 32 * 1024 * 1024
"""Synced in the background each time so much was written, so that the last sync, which the
client waits for, has little left to do."""

_SMALL: Final = 32 * 1024
"""Hashing this much takes less time than going to a thread and back."""


class BlobWriter:
    """One stream of bytes. Not for several tasks at once."""

    def __init__(
        self,
        core: Core,
        *,
        hasher: Hasher | None,
        algorithms: tuple[str, ...] = (),
        held: bytes = b"",
        file_id: int = 0,
        writer: Writer | None = None,
        limit: int | None = None,
    ) -> None:
        """A new stream; or one resumed with what was ``held`` in memory, or with a file.

        ``hasher`` is of the bytes in the file; None when their hashes are not known here: they
        are then read once more at the end. A file that is begun here has one of its own. ``limit``
        is in bytes: that of blobs unless given.
        """
        self._core = core
        self._files = core.files
        self._inline_bytes = core.config.inline_bytes
        self._limit = core.config.blob_bytes_max if limit is None else limit
        self._algorithms = algorithms
        self._hasher = hasher
        self._held: list[Data] = [held] if held else []
        self._held_bytes = len(held)
        self._writes = SerialQueue(core.files.threads, "write_batch")
        self._digests = SerialQueue(core.files.threads, "hash_batch")
        self._lent = False
        """Whether buffers that are used again may be with the threads."""
        self._syncing: asyncio.Future[None] | None = None
        self._syncing_from = 0
        self._writer = writer
        self.file_id = file_id
        self.sync_failed = False
        """Whether a sync failed, and the file with it: it is of no more use to anybody."""
        self.size = len(held) + (writer.size if writer else 0)

    @property
    def hasher(self) -> Hasher | None:
        """The hasher of a drained stream, if it stands where the file ends: to resume with."""
        if self._writer is None or self._hasher is None or self._hasher.size != self._writer.size:
            return None
        return self._hasher

    @property
    def held(self) -> bytes:
        """The bytes that are in no file yet."""
        return b"".join(self._held)

    async def write(self, data: Data) -> None:
        """Take the next bytes; waits while the disk is behind. ``data`` must not change later.

        A memoryview of VIEW_BYTES or more is not copied: it is in use until LENT - 1 further
        calls, or ``drain``, have returned, and may be used again after that.

        Raises TooLarge (the bytes are not taken), StorageFull, StorageFailed; after these two
        no thread has any, and ``size`` is that of the file, if there is one.
        """
        if self.size + len(data) > self._limit:
            raise TooLarge("blob", self._limit)
        size = len(data)
        reused = isinstance(data, memoryview)
        if reused and (size < VIEW_BYTES or self._held):
            data, reused = bytes(data), False
        if size:
            self._held.append(data)
        self._held_bytes += size
        self.size += size
        if reused or self._held_bytes >= BATCH_BYTES:
            self._lent = self._lent or reused
            await self._flush()
            await self._drain(BUFFERS_IN_FLIGHT - 1)
        elif self._lent:
            # A call that hands over nothing counts too, for whoever lent a buffer before.
            await self._drain()

    async def _flush(self) -> None:
        """Let the threads have what is held."""
        if self._writer is None:
            self.file_id, self._writer = await self._files.create()
            self._hasher = Hasher(self._algorithms)
        batch = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        self._writes.submit(self._append, self._writer, batch)
        if self._hasher is not None:
            self._digests.submit(self._hasher.update, batch)
        if self._syncing is None and self._writer.size - self._syncing_from >= WRITE_BACK_BYTES:
            self._syncing_from = self._writer.size
            self._syncing = asyncio.ensure_future(self._files.threads.run(self._sync, self._writer))

    async def _finish_syncing(self) -> None:
        syncing, self._syncing = self._syncing, None
        if syncing is not None:
            try:
                await syncing
            finally:
                if self.sync_failed:
                    self._end_with_file()

    async def _drain(self, most: int = 0) -> None:
        """Wait until at most ``most`` batches are with the threads.

        After a failure, or that of a sync that is over, none is, and what was taken ends where
        the file does.
        """
        try:
            await self._writes.drain(most)
            await self._digests.drain(most)
            if self._syncing is not None and self._syncing.done():
                await self._finish_syncing()
        except BaseException:
            async with AsyncExitStack() as stack:
                stack.callback(self._end_with_file)
                stack.push_async_callback(self._digests.drain)
                await self._writes.drain()
            raise
        if not most:
            self._lent = False

    def _end_with_file(self) -> None:
        # What follows must not take the place of a batch that was not written.
        self._held.clear()
        self._held_bytes = 0
        # It may have seen what is not in the file.
        self._hasher = None
        assert self._writer is not None
        self.size = self._writer.size

    async def drain(self) -> None:
        """Bring what was taken to where it survives this process: to the file, if one is due.

        Raises StorageFull, StorageFailed; always, once a sync failed.
        """
        if self._held and (self._writer is not None or self._held_bytes > self._inline_bytes):
            await self._flush()
        try:
            await self._drain()
        finally:
            await self._finish_syncing()
        if self.sync_failed:
            raise StorageFailed("depot", "an earlier sync of the file failed")

    async def truncate(self, size: int) -> None:
        """Forget everything after the first ``size`` bytes, which were there at the start.

        Raises StorageFull, StorageFailed.
        """
        if self._writer is None:
            kept = self.held[:size]
            self._held, self._held_bytes = [kept], len(kept)
        else:
            # What is in no file came last.
            self._held.clear()
            self._held_bytes = 0
            try:
                await self._drain()
            finally:
                await self._finish_syncing()
                if size < self._writer.size:
                    self._hasher = None
                    await self._files.threads.run(self._writer.truncate, size)
        self.size = size

    async def hashes(self, algorithm: str) -> Hashes:
        """The hashes of the whole stream; re-reads a file only if they are not known."""
        algorithms = (*self._algorithms, algorithm)
        if self._writer is None:
            if self._held_bytes <= _SMALL:
                return hashes_of(self.held, algorithms)
            return await self._files.threads.run(hashes_of, self.held, algorithms)
        await self.drain()
        hasher = self.hasher
        if hasher is None or algorithm not in hasher.algorithms:
            hasher = Hasher(algorithms)
            await self._files.threads.run(blob_file.hash_written, self._writer, hasher)
        return hasher.result()

    async def publish(
        self,
        digest: Digest | None,
        commit: Callable[[Arrival], Awaitable[Outcome]],
    ) -> Arrival:
        """End the stream: check its digest, make it durable, and let ``commit`` publish it.

        ``commit`` runs the transaction; it is called again if the existing copy changed while it
        was being verified. Raises DigestMismatch, and what ``commit`` raises; the caller then
        says what becomes of the bytes (``abandon``, or ``close``).
        """
        hashes = await self.hashes(digest.algorithm if digest else "sha256")
        if digest is not None:
            actual = hashes.named(digest.algorithm)
            if actual != digest:
                raise DigestMismatch(str(digest), str(actual))
        inline = self._writer is None and hashes.size <= self._inline_bytes
        arrival = Arrival(
            sha256=hashes.sha256,
            size=hashes.size,
            checksum=hashes.checksum,
            content=self.held if inline else None,
            file_id=self.file_id,
            alias=digest.key if digest and digest.algorithm != "sha256" else b"",
        )
        # A copy in the ledger is verified by the transaction itself, so that few bytes go
        # straight there; it says ``recheck`` in the rare case that there is a file.
        verified = damaged = 0
        traces: Traces | None = None
        looked = inline
        while True:
            if not looked:
                verified, damaged, traces = await self._verify_existing(hashes.sha256)
            looked = False
            if not inline and not verified and not arrival.durable:
                await self._make_durable()
                arrival = replace(arrival, durable=True, file_id=self.file_id)
            if damaged:
                # Not before the new copy is durable: what the system refuses to read at this
                # moment (too many open files) may be all there is.
                await self._core.ledger.transact(
                    blob_rows.quarantine, hashes.sha256, damaged, self._core.now()
                )
            if (verified, traces) != (arrival.verified, arrival.traces):
                arrival = replace(arrival, verified=verified, traces=traces)
            outcome = await commit(arrival)
            if outcome != "recheck":
                break
        if self.file_id:
            self._files.settle(self.file_id)
        await self.close()
        if outcome == "kept":
            await self._files.reap(self.file_id, self._core.now())
        return arrival

    async def _verify_existing(self, sha: bytes) -> tuple[int, int, Traces | None]:
        """The file id of a good copy that the store has already, or that of a bad one, or 0.

        Where the row of the copy cannot be read, also what is left of it.
        """
        try:
            found = await self._core.ledger.read(blob_rows.find, Digest.sha256(sha).key)
        except Corrupt:
            return 0, 0, await self._core.ledger.read_aside(blob_rows.traces_of, sha)
        if found is None or found[1].damaged or not found[1].file_id:
            return 0, 0, None
        blob = found[1]
        reason = await self._files.threads.run(blob_file.damage, self._files.depot, blob)
        return (blob.file_id, 0, None) if reason is None else (0, blob.file_id, None)

    async def _make_durable(self) -> None:
        if self._writer is None:
            self.file_id, self._writer = await self._files.create()
            try:
                await self._files.threads.run(self._write_all, self._writer, self.held)
            finally:
                self._end_with_file()
        else:
            await self._files.threads.run(self._sync, self._writer)

    def _write_all(self, writer: Writer, data: bytes) -> None:
        self._append(writer, data)
        self._sync(writer)

    def _sync(self, writer: Writer) -> None:
        try:
            writer.sync()
        except EngineError:
            self.sync_failed = True
            raise

    def _append(self, writer: Writer, data: Data) -> None:
        self._core.require_room(len(data), self._core.reserve_bytes // 2)
        writer.append(data)

    async def close(self) -> None:
        """Let go of the file, which stays."""
        if self._writer is None and self._syncing is None:
            return
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._let_go)
            stack.push_async_callback(self._finish_syncing)
            await self._drain()

    async def _let_go(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await self._files.threads.finish(writer.close)

    async def abandon(self) -> None:
        """Let go of the bytes, unless they were published: for streams without a session."""
        try:
            await self.close()
        finally:
            if self.file_id:
                await self._files.discard(self.file_id)
