"""Blob writer: hashes and stores a stream of bytes in one pass, then publishes it.

A short stream stays in memory and ends in the ledger. A longer one goes to a file of its own in
batches: one thread writes a batch and another hashes it while the caller receives the next. So an
upload of any length holds at most BUFFERS_IN_FLIGHT batches in memory, including the one that is
being received.

After a failed write or sync the stream ends where its file ends, and no thread has a batch of it.
A file whose sync failed is never used again: the kernel reports lost pages only once.
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
"""Bytes handed to the threads at a time: enough to make the hop cheap, little enough for many
concurrent uploads of a worker."""

VIEW_BYTES: Final = 64 * 1024
"""Length in bytes from which a memoryview goes to the threads without a copy."""

WRITE_BACK_BYTES: Final = 32 * 1024 * 1024
"""Bytes between two syncs in the background, which leave little work to the last sync, for which
the client waits."""

_HASH_ON_LOOP_BYTES_MAX: Final = 32 * 1024
"""Bytes that are hashed on the event loop, since a hop to a thread takes longer."""


class BlobWriter:
    """Writer of one stream of bytes, for one task at a time."""

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
        """Begin a stream, or resume one with the bytes ``held`` in memory or with a file.

        ``hasher`` covers the bytes already in the file; with None the file is read again at the
        end to compute its hashes. A file that this writer creates gets a hasher of its own.
        ``limit`` is in bytes; the limit of blobs by default.
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
        self._reused_in_flight = False
        """True while a buffer that the caller will reuse may be with the threads."""
        self._syncing: asyncio.Future[None] | None = None
        self._syncing_from = 0
        self._writer = writer
        self.file_id = file_id
        self.sync_failed = False
        """True once a sync failed: the file may lack bytes, and nothing may use it."""
        self.size = len(held) + (writer.size if writer else 0)

    @property
    def hasher(self) -> Hasher | None:
        """Hasher of a drained stream for resuming it; None unless it covers exactly the file."""
        if self._writer is None or self._hasher is None or self._hasher.size != self._writer.size:
            return None
        return self._hasher

    @property
    def held(self) -> bytes:
        """Bytes that are not in a file yet."""
        return b"".join(self._held)

    async def write(self, data: Data) -> None:
        """Accept the next bytes; wait while the disk is behind. ``data`` must not change later.

        A memoryview of VIEW_BYTES or more is not copied: its buffer is in use until
        BUFFERS_IN_FLIGHT - 1 further calls, or ``drain``, have returned, and may be reused then.

        Raises TooLarge (the bytes are not accepted), StorageFull, StorageFailed. After the last
        two no thread has a batch, and ``size`` is that of the file, if there is one.
        """
        if self.size + len(data) > self._limit:
            raise TooLarge("blob", self._limit)
        size = len(data)
        reused = isinstance(data, memoryview)
        # Copy a short view, and one that must be joined with held bytes: only a whole batch of
        # its own can go to the threads as it is.
        if reused and (size < VIEW_BYTES or self._held):
            data, reused = bytes(data), False
        if size:
            self._held.append(data)
        self._held_bytes += size
        self.size += size
        if reused or self._held_bytes >= BATCH_BYTES:
            self._reused_in_flight = self._reused_in_flight or reused
            await self._flush()
            await self._wait_for_batches(BUFFERS_IN_FLIGHT - 1)
        elif self._reused_in_flight:
            # This call counts too: the caller may reuse a buffer after N calls of any length.
            await self._wait_for_batches()

    async def _flush(self) -> None:
        """Hand the held bytes to the threads as one batch."""
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

    async def _wait_for_batches(self, most: int = 0) -> None:
        """Wait until at most ``most`` batches are with the threads.

        Raises what a batch or a finished sync raised; then no thread has a batch, and the stream
        ends where the file ends.
        """
        try:
            await self._writes.drain(most)
            await self._digests.drain(most)
            if self._syncing is not None and self._syncing.done():
                await self._finish_syncing()
        except BaseException:
            # Both queues must be empty before the size of the file is read and buffers are free
            # again, even if this task is cancelled meanwhile.
            async with AsyncExitStack() as stack:
                stack.callback(self._end_with_file)
                stack.push_async_callback(self._digests.drain)
                await self._writes.drain()
            raise
        if not most:
            self._reused_in_flight = False

    def _end_with_file(self) -> None:
        # Held bytes follow a batch that was not written: written now, they would take its place.
        self._held.clear()
        self._held_bytes = 0
        # The hasher may have seen bytes that are not in the file.
        self._hasher = None
        assert self._writer is not None
        self.size = self._writer.size

    async def drain(self) -> None:
        """Write the accepted bytes to the file, if they need one, to survive a process crash.

        Raises StorageFull, StorageFailed; always StorageFailed once a sync failed.
        """
        if self._held and (self._writer is not None or self._held_bytes > self._inline_bytes):
            await self._flush()
        try:
            await self._wait_for_batches()
        finally:
            await self._finish_syncing()
        if self.sync_failed:
            raise StorageFailed("depot", "an earlier sync of the file failed")

    async def truncate(self, size: int) -> None:
        """Drop everything after the first ``size`` bytes, which the stream was resumed with.

        Raises StorageFull, StorageFailed.
        """
        if self._writer is None:
            kept = self.held[:size]
            self._held, self._held_bytes = [kept], len(kept)
        else:
            # Held bytes come after those in the file, so they all go.
            self._held.clear()
            self._held_bytes = 0
            try:
                await self._wait_for_batches()
            finally:
                await self._finish_syncing()
                if size < self._writer.size:
                    # A hash cannot be taken back to an earlier size.
                    self._hasher = None
                    await self._files.threads.run(self._writer.truncate, size)
        self.size = size

    async def hashes(self, algorithm: str) -> Hashes:
        """Return the hashes of the whole stream; reads the file again only if it must."""
        algorithms = (*self._algorithms, algorithm)
        if self._writer is None:
            if self._held_bytes <= _HASH_ON_LOOP_BYTES_MAX:
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
        """End the stream: check its digest, make it durable, and publish it by ``commit``.

        ``commit`` runs the transaction; it is called again if the existing copy changed while
        that was being verified. Raises DigestMismatch, and what ``commit`` raises; the caller
        must then ``abandon`` the bytes, or ``close`` the stream to keep them.
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
        # The transaction itself verifies a copy in the ledger, so inline bytes skip the check; it
        # answers ``recheck`` in the rare case that the existing copy is a file.
        verified = damaged = 0
        traces: Traces | None = None
        skip_check = inline
        while True:
            if not skip_check:
                verified, damaged, traces = await self._verify_existing(hashes.sha256)
            skip_check = False
            # Sync before the commit: a published blob is durable. No sync for a blob that exists.
            if not inline and not verified and not arrival.durable:
                await self._make_durable()
                arrival = replace(arrival, durable=True, file_id=self.file_id)
            if damaged:
                # Only once the new copy is durable: a file that cannot be read at this moment
                # (too many open files) may be the only good copy.
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
            # The transaction scheduled the new file's unlink; do it now instead of by the sweep.
            await self._files.unlink_now(self.file_id, self._core.now())
        return arrival

    async def _verify_existing(self, sha: bytes) -> tuple[int, int, Traces | None]:
        """Verify the file of an existing copy: return (id if good, id if damaged, traces).

        Both ids are 0 without such a file. Where the row of the copy cannot be read, the traces
        name what is left of it; else None.
        """
        try:
            found = await self._core.ledger.read(blob_rows.find, Digest.sha256(sha).key)
        except Corrupt:
            return 0, 0, await self._core.ledger.read_in_thread(blob_rows.traces_of, sha)
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
        """Close the file without deleting it. Waits for the threads; raises what they raised."""
        if self._writer is None and self._syncing is None:
            return
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close_file)
            stack.push_async_callback(self._finish_syncing)
            await self._wait_for_batches()

    async def _close_file(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await self._files.threads.finish(writer.close)

    async def abandon(self) -> None:
        """Delete the bytes unless they were published: for streams without a session."""
        try:
            await self.close()
        finally:
            if self.file_id:
                await self._files.discard(self.file_id)
