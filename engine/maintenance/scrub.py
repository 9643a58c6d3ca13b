"""Scrub: read all bytes at rest again at intervals, and quarantine damaged blobs.

A walk reads the blobs in order of sha256, stores its position in the ledger, and starts from the
first blob again after the last. A blob in quarantine is not served; a push of the same digest
replaces its bytes.
"""

from __future__ import annotations

import logging
import math
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from blake3 import blake3

from holdfast.engine.blobs import blob_rows
from holdfast.engine.core import SECOND, Core, entropy
from holdfast.engine.depot import blob_file
from holdfast.engine.depot.blob_file import BlobFile
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.layout import number
from holdfast.engine.ledger.records import INLINE, Blob, decode, get_payload, load, put_payload
from holdfast.engine.model.digest import Digest, checksum
from holdfast.engine.model.errors import Corrupt, Invalid, NotFound, StorageFailed
from holdfast.engine.model.values import moment
from holdfast.engine.tasks.background import Background
from holdfast.engine.trash.future_times import SLACK

_log: Final = logging.getLogger(__name__)

_CURSOR: Final = layout.SETTING + b"scrub"
_LEASE: Final = layout.SETTING + b"scrubber"
_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")
_BLOBS_PER_READ: Final = 100
"""Blobs examined between two reads of the ledger: at most 6.4 MiB of inline content."""

_BYTES_PER_MARK: Final = 64 * 1024 * 1024
"""Bytes read before the position is stored: after a restart, they and the blob it was at are read
again."""

SPAN_BYTES: Final = 8 * 1024 * 1024
"""Bytes read between two waits, and until a stop or a pause takes effect."""

BYTES_PER_SECOND: Final = 16 * 1024 * 1024
"""Rate of reading in the background: 1.4 TB a day, a small part of what a disk delivers."""

WALK_SECONDS: Final = 7 * 24 * 3600
"""Interval between the end of a walk, or the creation of the store, and the next walk in the
background."""

_LEASE_SECONDS: Final = 600
"""Duration of the lease that makes a process the one that scrubs in the background."""

_IDLE_SECONDS: Final = 60.0
"""Interval between two checks whether the next walk is due."""

DAMAGED_SHOWN_MAX: Final = 1000
"""Digests listed in a Scrubbed; ``damaged_count`` counts all."""


@dataclass(slots=True)
class Scrubbed:
    """Counts of what a scrub did so far."""

    blobs: int = 0
    bytes: int = 0
    """Bytes read, as they are at rest."""
    damaged: list[str] = field(default_factory=list)
    """Digests of blobs found damaged by this scrub, the first ``DAMAGED_SHOWN_MAX``."""
    damaged_count: int = 0
    finished: bool = False
    """True if every blob was examined; False if budget or time ended the scrub first."""
    paused: bool = False
    """True if the time ended it."""
    origin: str = ""
    """Start of the scrub: behind the blob of this sha256 (hexadecimal); empty: at the first."""


@dataclass(frozen=True, slots=True)
class Position:
    """Position of the walk: behind the sha256 ``last``; and the end of the last walk.

    ``finished`` is in microseconds since 1970.
    """

    finished: int = 0
    last: bytes = b""


@dataclass(frozen=True, slots=True)
class ScrubProgress:
    """Progress of the walk over all blobs."""

    part: float
    """Share of the walk, from 0 to 1; 0 also between two walks. It is computed from the sha256, so
    it is a share of the number of blobs, not of their bytes."""

    ended: datetime | None
    """End of the last walk; before the first walk, the time at which the background began to wait
    for it. None before both."""


async def position(txn: Transaction) -> Position | None:
    """Return the position of the walk; None before the first one."""
    packed = await _setting(txn, _CURSOR)
    return None if packed is None else Position(layout.at(packed, 0), packed[8:])


async def _setting(txn: Transaction, key: bytes) -> bytes | None:
    """Return a setting; None also if it cannot be read, which the check reports."""
    try:
        return await get_payload(txn, key)
    except Corrupt:
        return None


async def mark(txn: Transaction, last: bytes, now: int) -> None:
    """Store the position of the walk; at its end (``last`` is empty) also the time."""
    finished = now
    if last:
        finished = (await position(txn) or Position(now)).finished
    await put_payload(txn, _CURSOR, number(finished) + last)


async def take_lease(txn: Transaction, holder: bytes, now: int, until: int) -> bool:
    """Take or renew the lease of the background scrub; return False if another process has it.

    A lease that ends later than ``until`` plus the slack was taken while the clock was ahead, and
    does not count.
    """
    packed = await _setting(txn, _LEASE)
    if packed is not None and packed[8:] != holder and now < layout.at(packed, 0) <= until + SLACK:
        return False
    await put_payload(txn, _LEASE, number(until) + holder)
    return True


async def release_lease(txn: Transaction, holder: bytes) -> None:
    """Release the lease, if the holder still has it."""
    packed = await _setting(txn, _LEASE)
    if packed is not None and packed[8:] == holder:
        await txn.delete(_LEASE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A blob to examine; ``blob`` is None if its row cannot be read."""

    sha: bytes
    blob: Blob | None
    inline_is_intact: bool = True


async def candidates(txn: Transaction, last: bytes, limit: int) -> list[Candidate]:
    """Return the next blobs behind ``last``, with inline content already verified."""
    found = []
    rows = await blob_rows.rows_after(txn, last, limit)
    for key, value in rows:
        try:
            blob = decode(Blob, key, value)
        except Corrupt:
            found.append(Candidate(key[1:], None))
            continue
        good = blob.place != INLINE or await _inline_is_intact(txn, key[1:], blob)
        found.append(Candidate(key[1:], blob, good))
    return found


async def _inline_is_intact(txn: Transaction, sha: bytes, blob: Blob) -> bool:
    try:
        data = await get_payload(txn, layout.content(blob.created, sha))
    except Corrupt:
        return False
    return data is not None and checksum(data) == blob.checksum


async def quarantine_inline(txn: Transaction, sha: bytes, now: int) -> bool:
    """Quarantine a blob in the ledger if its content is still damaged; return True if it was."""
    blob = await load(txn, Blob, layout.BLOB + sha)
    if blob is None or blob.place != INLINE or await _inline_is_intact(txn, sha, blob):
        return False
    return await blob_rows.quarantine(txn, sha, 0, now)


class _Allowance:
    """Bounds of a walk: ``budget`` bytes, within ``seconds``, at ``rate`` bytes a second.

    Rate 0 is unlimited. A walk that is not ``resumed`` reads one blob whatever the budget.
    """

    def __init__(
        self,
        budget: int | None = None,
        seconds: float | None = None,
        *,
        resumed: bool = False,
        rate: float = 0,
    ) -> None:
        self.rate = rate
        self._budget = math.inf if budget is None else budget
        self._until = math.inf if seconds is None else time.monotonic() + seconds
        self._resumed = resumed

    def ends(self, done: Scrubbed, size: int) -> bool:
        """Return True if the walk must stop before a blob of that size."""
        if (done.blobs or self._resumed) and done.bytes + size > self._budget:
            return True
        done.paused = done.blobs > 0 and time.monotonic() >= self._until
        return done.paused


def _parse_origin(text: str) -> bytes:
    """Return the sha256 of an ``origin``; b"" for the first blob. Raises Invalid."""
    if text and not _SHA256_HEX.fullmatch(text):
        raise Invalid("origin", "must be empty, or 64 lower-case hexadecimal digits")
    return bytes.fromhex(text)


class Scrubber:
    """Reads the blobs of a store again.

    Of the processes that have a store open, one at a time scrubs in the background. Any number may
    ``run``; they may read the same blobs.
    """

    def __init__(self, core: Core, *, bytes_per_second: float = BYTES_PER_SECOND) -> None:
        self._core = core
        self._rate = bytes_per_second
        self._name = entropy()
        self._has_lease = False
        self.background = Background("scrub", self._turn)
        """Starts at most one walk in ``WALK_SECONDS``. End it with ``stop`` of this class."""
        self.total = Scrubbed()
        """Counts of what the background did since the store was opened."""

    async def progress(self) -> ScrubProgress:
        """Return the progress of the walk, of any process, as of its last stored position."""
        current = await self._core.ledger.read(position) or Position()
        part = int.from_bytes(current.last[:8].ljust(8, b"\0"), "big") / 2**64
        return ScrubProgress(part, moment(current.finished) if current.finished else None)

    async def run(
        self,
        budget_bytes: int | None = None,
        *,
        seconds: float | None = None,
        origin: str | None = None,
    ) -> Scrubbed:
        """Continue where the last scrub stopped, over every blob once, at full speed.

        ``budget_bytes`` ends it before it reads more; a first blob larger than the budget is read
        all the same, or no walk would ever pass it. ``seconds`` pause it after the blob that
        exceeds them: the next run, with the ``origin`` of the first one and the rest of the budget,
        continues the same walk. Raises Invalid (``origin``), and StorageFailed if a file cannot be
        opened for other reasons than damage.
        """
        resumed_at = None if origin is None else _parse_origin(origin)
        start = (await self._core.ledger.read(position) or Position()).last
        first = start if resumed_at is None else resumed_at
        done = Scrubbed(origin=first.hex())
        allowance = _Allowance(budget_bytes, seconds, resumed=resumed_at is not None)
        # A position before the origin means that the walk has passed the end of the store.
        if resumed_at is None or start > resumed_at:
            if not await self._walk(start, b"", done, allowance):
                return done
            start = b""
        done.finished = first == start or await self._walk(start, first, done, allowance)
        return done

    async def _walk(self, last: bytes, stop: bytes, done: Scrubbed, allowance: _Allowance) -> bool:
        """Examine the blobs behind ``last``, up to ``stop`` or (empty) to the end of the store.

        Returns False if the allowance ended first, or (with a rate: in the background) if another
        process took the lease.
        """
        marked, rate = done.bytes, allowance.rate
        while True:
            found = await self._core.ledger.read_in_thread(candidates, last, _BLOBS_PER_READ)
            for candidate in found:
                if stop and candidate.sha > stop:
                    return await self._mark(last, rate)
                size = candidate.blob.stored if candidate.blob else 0
                if allowance.ends(done, size):
                    await self._mark(last, rate)
                    return False
                await self._examine(candidate, done, rate)
                last = candidate.sha
                if done.bytes - marked >= _BYTES_PER_MARK:
                    marked = done.bytes
                    if not await self._mark(last, rate):
                        return False
            if not await self._mark(last if found else b"", rate):
                return False
            if not found:
                return True

    async def _mark(self, last: bytes, rate: float) -> bool:
        """Store the position; return False if another process has the lease now."""
        if rate and not await self._renew_lease():
            return False
        await self._core.ledger.transact(mark, last, self._core.now())
        return True

    async def _renew_lease(self) -> bool:
        now = self._core.now()
        until = now + _LEASE_SECONDS * SECOND
        self._has_lease = await self._core.ledger.transact(take_lease, self._name, now, until)
        return self._has_lease

    async def _examine(self, candidate: Candidate, done: Scrubbed, rate: float) -> None:
        done.blobs += 1
        sha, blob = candidate.sha, candidate.blob
        if blob is None:
            # No request can be served from it either: reading the row raises Corrupt.
            self._add_damaged(done, sha, "its row cannot be read")
            return
        if blob.damaged:
            return
        transact = self._core.ledger.transact
        if blob.place == INLINE:
            done.bytes += blob.stored
            if not candidate.inline_is_intact and await transact(
                quarantine_inline, sha, self._core.now()
            ):
                self._add_damaged(done, sha, "its content in the ledger is damaged")
            await self._throttle(blob.stored, rate)
            return
        reason = await self._damage(blob, done, rate)
        # No-op if the blob was removed, healed or recompressed meanwhile: it has another file now.
        if reason is not None and await transact(
            blob_rows.quarantine, sha, blob.file_id, self._core.now()
        ):
            self._add_damaged(done, sha, reason)

    @staticmethod
    def _add_damaged(done: Scrubbed, sha: bytes, reason: str) -> None:
        digest = str(Digest.sha256(sha))
        _log.error("blob %s is damaged: %s; push it again", digest, reason)
        done.damaged_count += 1
        if len(done.damaged) < DAMAGED_SHOWN_MAX:
            done.damaged.append(digest)

    async def _damage(self, blob: Blob, done: Scrubbed, rate: float) -> str | None:
        """Return why a file is damaged, or None; as ``blob_file.damage``, but in spans.

        Raises StorageFailed if the file cannot be opened: that is no proof of damage.
        """
        threads = self._core.threads
        try:
            content = await threads.acquire(blob_file.open_original, self._core.depot, blob)
        except (NotFound, Corrupt) as error:
            return str(error)
        try:
            hasher = blake3()
            offset = counted = 0
            while offset < blob.size:
                read = await threads.run(_hash_span, content, hasher, offset)
                if not read:
                    return "the file ends early"
                offset += read
                at_rest = blob.stored * offset // blob.size
                done.bytes += at_rest - counted
                await self._throttle(at_rest - counted, rate)
                counted = at_rest
            return None if hasher.digest() == blob.checksum else "the checksum differs"
        except (Corrupt, StorageFailed) as error:
            return str(error)
        finally:
            await threads.finish(content.close)

    async def _throttle(self, size: int, rate: float) -> None:
        if rate:
            await self.background.rest(size / rate)

    async def _turn(self) -> float:
        """Continue the walk, or begin one that is due; return the seconds to wait after it."""
        current = await self._core.ledger.read(position)
        if current is None or current.finished > self._core.now() + SLACK:
            # No walk has ended yet, or the clock was ahead when it did: the interval starts now.
            await self._core.ledger.transact(mark, b"", self._core.now())
            return _IDLE_SECONDS
        due = current.finished + WALK_SECONDS * SECOND
        if not current.last and self._core.now() < due:
            return _IDLE_SECONDS
        if not await self._renew_lease():
            return _IDLE_SECONDS
        await self._walk(current.last, b"", self.total, _Allowance(rate=self._rate))
        return _IDLE_SECONDS

    async def stop(self) -> None:
        """End the background task and release the lease; the position of the walk is kept."""
        await self.background.stop()
        if self._has_lease:
            self._has_lease = False
            await self._core.ledger.transact(release_lease, self._name)


def _hash_span(content: BlobFile, hasher: blake3, offset: int) -> int:
    """Hash up to ``SPAN_BYTES`` from ``offset``; return how many there were."""
    read = 0
    while read < SPAN_BYTES and (piece := content.read(offset + read, blob_file.PIECE_BYTES)):
        hasher.update(piece)
        read += len(piece)
    return read
