"""Recompression: store files that compress well as zstd frames, in the background.

A probe of some samples decides, once for each file. The blob keeps its digest; one transaction
swaps the file behind it, as when a push heals it. Files are read in the order of their ids, which
ascend: so after one walk over all files, only new ones are examined.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

import msgspec
from blake3 import blake3

from holdfast.engine.blobs import blob_rows
from holdfast.engine.core import Core
from holdfast.engine.depot import blob_file, files, zstd_frames
from holdfast.engine.depot.interface import BLOCK_FILES, Depot, Writer
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction, after
from holdfast.engine.ledger.records import FRAMES, PLAIN, Blob, File, decode, load, save
from holdfast.engine.model.errors import Corrupt, NotFound, StorageFailed
from holdfast.engine.tasks.background import Background

_log: Final = logging.getLogger(__name__)

_ROWS_PER_STEP: Final = 200
"""File rows read in one step."""

_STEP_INTERVAL_SECONDS: Final = 0.02
"""Wait between two steps in the background: bounds a walk to 10,000 rows a second."""

FILE_BYTES_MIN: Final = 64 * 1024
"""Size of the smallest file to recompress: smaller ones save less than a block or two of disk."""

BYTES_PER_SECOND: Final = 32 * 1024 * 1024
"""Rate of reading in the background: a tenth of what one core can compress."""

_PIECE_BYTES: Final = 4 * 1024 * 1024
"""Bytes compressed between two waits, and at most after a stop: some 12 ms of one thread."""

_IDLE_SECONDS: Final = 60.0
"""Interval between two walks."""


@dataclass(slots=True)
class Recompressed:
    """Counts of what was done so far."""

    looked_at: int = 0
    """Files that were probed."""
    swapped: int = 0
    failed: int = 0
    """Files that could not be read or written; they stay as they are."""
    skipped: int = 0
    """Files for which the disk had too little room at the time."""
    read_bytes: int = 0
    saved_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A blob in a plain file that was not probed yet."""

    sha: bytes
    blob: Blob


def _is_candidate(blob: Blob, file_id: int) -> bool:
    return (
        blob.file_id == file_id
        and blob.place == PLAIN
        and not blob.probed
        and not blob.damaged
        and blob.size >= FILE_BYTES_MIN
    )


async def candidates(txn: Transaction, last: int) -> tuple[list[Candidate], int | None]:
    """Return some of the files behind ``last`` that were not probed; where to continue, or None.

    Skips damaged rows: the check reports them.
    """
    start = layout.FILE + layout.number(last + 1)
    rows = await txn.scan(start, after(layout.FILE), limit=_ROWS_PER_STEP)
    found = []
    for key, value in rows:
        file_id = layout.at(key, 1)
        try:
            file = decode(File, key, value)
            blob = await load(txn, Blob, layout.BLOB + file.sha)
        except Corrupt:
            continue
        if blob is not None and _is_candidate(blob, file_id):
            found.append(Candidate(file.sha, blob))
    return found, layout.at(rows[-1][0], 1) if len(rows) == _ROWS_PER_STEP else None


async def settled_until(txn: Transaction) -> int:
    """Return the last file id below all open blocks: no process creates files up to it any more."""
    opened = [block for _, block in await files.open_blocks(txn)]
    if opened:
        return min(opened) * BLOCK_FILES - 1
    rows = await txn.scan(layout.FILE, after(layout.FILE), limit=1, reverse=True)
    return layout.at(rows[0][0], 1) if rows else 0


async def is_candidate(txn: Transaction, candidate: Candidate) -> bool:
    """Return True if the blob is still a candidate."""
    blob = await load(txn, Blob, layout.BLOB + candidate.sha)
    return blob is not None and _is_candidate(blob, candidate.blob.file_id)


async def mark_probed(txn: Transaction, sha: bytes, file_id: int, now: int) -> None:
    """Mark the file of a blob as probed: it gains too little."""
    blob = await load(txn, Blob, layout.BLOB + sha)
    if blob is not None and blob.file_id == file_id:
        await save(txn, layout.BLOB + sha, msgspec.structs.replace(blob, probed=now))


class Recompressor:
    """Walks over a store and recompresses files that gain enough. Several may run at once."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.background = Background("recompress", self._turn)
        """Walks over the files that came since the last walk."""
        self._examined_until = 0
        """File id behind which the next walk of the background begins."""
        self.total = Recompressed()

    async def run(self) -> Recompressed:
        """Do one walk over the whole store, at full speed.

        Raises StorageFull; a file that cannot be read or written is left as it is, and counted.
        """
        done = Recompressed()
        last: int | None = 0
        while last is not None:
            last = await self._step(last, done, 0)
        return done

    async def _step(self, last: int, done: Recompressed, rate: float) -> int | None:
        found, following = await self._core.ledger.read_in_thread(candidates, last)
        for candidate in found:
            # Another process may have probed or replaced it meanwhile.
            if await self._core.ledger.read(is_candidate, candidate):
                await self._recompress(candidate, done, rate)
        return following

    async def _recompress(self, candidate: Candidate, done: Recompressed, rate: float) -> None:
        core, sha, blob = self._core, candidate.sha, candidate.blob
        done.looked_at += 1
        try:
            stored = await self._replace(candidate, done, rate)
        except (NotFound, Corrupt):
            # No-op if the file is gone because the blob was removed or has moved.
            await core.ledger.transact(blob_rows.quarantine, sha, blob.file_id, core.now())
        except StorageFailed as error:
            done.failed += 1
            _log.error("cannot recompress file %x: %s; it stays as it is", blob.file_id, error)
        else:
            if stored is None:
                await core.ledger.transact(mark_probed, sha, blob.file_id, core.now())

    async def _replace(self, candidate: Candidate, done: Recompressed, rate: float) -> int | None:
        """Replace a file by frames; return their bytes; 0 if skipped, None if too many.

        Raises NotFound, Corrupt, StorageFailed, StorageFull.
        """
        core, blob = self._core, candidate.blob
        if not await core.threads.run(_gains_enough, core.depot, blob):
            return None
        free = await core.threads.run(core.depot.free_bytes)
        if free - blob.size < core.reserve_bytes:
            # Both files exist for a while. A later walk tries again.
            done.skipped += 1
            return 0
        file_id, writer = await core.files.create()
        try:
            try:
                stored = await self._compress(blob, writer, rate)
            finally:
                await core.threads.finish(writer.close)
            done.read_bytes += blob.size
            if stored is None:
                await core.files.discard(file_id)
                return None
            swapped = await core.ledger.transact(
                blob_rows.swap, candidate.sha, blob.file_id, file_id, FRAMES, stored, core.now()
            )
        except BaseException:
            # The files keep it if the swap was committed in spite of the error.
            await core.files.discard(file_id)
            raise
        core.files.settle(file_id)
        await core.files.unlink_now(blob.file_id if swapped else file_id, core.now())
        if swapped:
            done.swapped += 1
            done.saved_bytes += blob.size - stored
        return stored

    async def _compress(self, blob: Blob, writer: Writer, rate: float) -> int | None:
        """Write the frames durably; return their bytes, None if these are too many."""
        run = self._core.threads.run
        compression = await self._core.threads.acquire(_Compression, self._core.depot, blob, writer)
        try:
            while await run(compression.step):
                if rate:
                    await asyncio.sleep(_PIECE_BYTES / rate)
            return await run(compression.finish)
        finally:
            await self._core.threads.finish(compression.close)

    async def _turn(self) -> float:
        settled = await self._core.ledger.read_in_thread(settled_until)
        last: int | None = self._examined_until
        skipped = self.total.skipped
        while last is not None:
            last = await self._step(last, self.total, BYTES_PER_SECOND)
            await self.background.rest(_STEP_INTERVAL_SECONDS)
        # After a skip for lack of space the next walk begins at the same file again.
        if skipped == self.total.skipped:
            self._examined_until = settled
        return _IDLE_SECONDS


def _gains_enough(depot: Depot, blob: Blob) -> bool:
    reader = depot.open(blob.file_id)
    try:
        return zstd_frames.worth_it(reader)
    finally:
        reader.close()


class _Compression:
    """Compresses one file into another, piece by piece. Synchronous."""

    def __init__(self, depot: Depot, blob: Blob, writer: Writer) -> None:
        """Open the blob's file. Raises NotFound, Corrupt, StorageFailed."""
        self._blob = blob
        self._writer = writer
        self._limit = blob.size * (1 - zstd_frames.MIN_GAIN)
        self._framed = zstd_frames.FrameWriter(
            writer, frame_bytes=zstd_frames.frame_bytes_for(blob.size)
        )
        self._hasher = blake3()
        self._offset = 0
        self._original = blob_file.open_original(depot, blob)

    def step(self) -> bool:
        """Compress the next bytes; return False at the end, or if the gain is too small."""
        stop = self._offset + _PIECE_BYTES
        while self._offset < stop:
            piece = self._original.read(self._offset, blob_file.PIECE_BYTES)
            if not piece:
                return False
            self._hasher.update(piece)
            self._framed.append(piece)
            self._offset += len(piece)
        return self._writer.size < self._limit

    def finish(self) -> int | None:
        """Make the frames durable; return their bytes, None if these are too many. Raises Corrupt.

        A file with too small a gain is not finished, and may not have been read to its end.
        """
        if self._writer.size >= self._limit:
            return None
        # Frames of damaged bytes would hide the damage: the original stays for the quarantine.
        if self._hasher.digest() != self._blob.checksum:
            raise Corrupt("file", f"{self._blob.file_id:x}", "the checksum differs")
        self._framed.finish()
        if self._writer.size >= self._limit:
            return None
        self._writer.sync()
        return self._writer.size

    def close(self) -> None:
        """Close the original."""
        self._original.close()
