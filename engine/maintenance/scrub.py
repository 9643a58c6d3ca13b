"""Scrubbing: all bytes at rest are read again now and then, and what went bad is quarantined.

The walk goes in order of sha256, remembers in the ledger where it stopped, and begins anew at
the end. A blob in quarantine is served to nobody; a push of the same digest replaces its bytes.
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
_HOLDER: Final = layout.SETTING + b"scrubber"
_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")
_STEP: Final = 100
"""Blobs looked at between two reads of the ledger: at most 6.4 MiB of inline content."""

_MARK_BYTES: Final = 64 * 1024 * 1024
"""Read between two marks of the place: what a restart reads again, and the blob it was at."""

SPAN_BYTES: Final = 8 * 1024 * 1024
"""Read between two rests, and before a stop or a pause is heeded."""

BYTES_PER_SECOND: Final = 16 * 1024 * 1024
"""Read in the background: 1.4 TB a day, a small part of what any disk gives."""

WALK_SECONDS: Final = 7 * 24 * 3600
"""The background begins a walk this long after the last one ended, or the store was made."""

_TURN_SECONDS: Final = 600
"""How long a process that scrubs in the background may be silent before another one does."""

_IDLE: Final = 60.0
"""Seconds between looks at whether the next walk is due."""

DAMAGED_SHOWN: Final = 1000
"""Digests remembered in a Scrubbed; ``damaged_count`` goes on."""


@dataclass(slots=True)
class Scrubbed:
    """What a scrub did so far."""

    blobs: int = 0
    bytes: int = 0
    """As they lie at rest."""
    damaged: list[str] = field(default_factory=list)
    """Digests of blobs that were found bad now, the first ``DAMAGED_SHOWN`` of them."""
    damaged_count: int = 0
    finished: bool = False
    """Whether every blob was looked at, and not only what budget and time allowed."""
    paused: bool = False
    """Whether it was the time that ended it."""
    origin: str = ""
    """Where it began: behind the blob of this sha256 (hexadecimal), or at the first one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the walk stands: behind this sha256; and when the last one ended (microseconds)."""

    finished: int = 0
    last: bytes = b""


@dataclass(frozen=True, slots=True)
class ScrubProgress:
    """How far the walk over all blobs has come."""

    part: float
    """From 0 to 1; 0 also between two walks. It goes by sha256, so it is a share of the number of
    blobs, not of their bytes."""

    ended: datetime | None
    """When the last walk ended; before the first one, when the background began to wait for it.
    None where neither was yet."""


async def place(txn: Transaction) -> Place | None:
    """Where the walk stands; None where there was none yet."""
    packed = await _setting(txn, _CURSOR)
    return None if packed is None else Place(layout.at(packed, 0), packed[8:])


async def _setting(txn: Transaction, key: bytes) -> bytes | None:
    """The setting; None also where it cannot be read, which ``check`` tells of."""
    try:
        return await get_payload(txn, key)
    except Corrupt:
        return None


async def mark(txn: Transaction, last: bytes, now: int) -> None:
    """Remember where the walk stands; at its end (``last`` is empty) also when that was."""
    finished = now
    if last:
        finished = (await place(txn) or Place(now)).finished
    await put_payload(txn, _CURSOR, number(finished) + last)


async def take(txn: Transaction, holder: bytes, now: int, until: int) -> bool:
    """Be the one that scrubs in the background until then; False where another one is: not one
    that says so from the future."""
    packed = await _setting(txn, _HOLDER)
    if packed is not None and packed[8:] != holder and now < layout.at(packed, 0) <= until + SLACK:
        return False
    await put_payload(txn, _HOLDER, number(until) + holder)
    return True


async def give_up(txn: Transaction, holder: bytes) -> None:
    """Let another one scrub."""
    packed = await _setting(txn, _HOLDER)
    if packed is not None and packed[8:] == holder:
        await txn.delete(_HOLDER)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A blob to look at; without a row where that cannot be read."""

    sha: bytes
    blob: Blob | None
    inline_is_good: bool = True


async def candidates(txn: Transaction, last: bytes, limit: int) -> list[Candidate]:
    """The next blobs behind ``last``, the small ones already verified."""
    found = []
    rows = await blob_rows.rows_after(txn, last, limit)
    for key, value in rows:
        try:
            blob = decode(Blob, key, value)
        except Corrupt:
            found.append(Candidate(key[1:], None))
            continue
        good = blob.place != INLINE or await _inline_is_good(txn, key[1:], blob)
        found.append(Candidate(key[1:], blob, good))
    return found


async def _inline_is_good(txn: Transaction, sha: bytes, blob: Blob) -> bool:
    try:
        data = await get_payload(txn, layout.content(blob.created, sha))
    except Corrupt:
        return False
    return data is not None and checksum(data) == blob.checksum


async def quarantine_inline(txn: Transaction, sha: bytes, now: int) -> bool:
    """Quarantine a blob in the ledger if its content is bad still; says whether it was."""
    blob = await load(txn, Blob, layout.BLOB + sha)
    if blob is None or blob.place != INLINE or await _inline_is_good(txn, sha, blob):
        return False
    return await blob_rows.quarantine(txn, sha, 0, now)


class _Pace:
    """How much a walk may read: ``budget`` bytes within ``seconds``, at ``rate`` bytes a second.

    A rate of 0 is none. What was not ``resumed`` reads one blob whatever the budget.
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
        """Whether to stop before a blob of that size."""
        if (done.blobs or self._resumed) and done.bytes + size > self._budget:
            return True
        done.paused = done.blobs > 0 and time.monotonic() >= self._until
        return done.paused


def _parse_origin(text: str) -> bytes:
    """The sha256 that an ``origin`` names, or nothing. Raises Invalid."""
    if text and not _SHA256_HEX.fullmatch(text):
        raise Invalid("origin", "must be empty, or 64 lower-case hexadecimal digits")
    return bytes.fromhex(text)


class Scrubber:
    """Reads the blobs of a store again.

    Of the processes that have one store open, one at a time scrubs in the background. Any number
    may ``run``; what they look at at the same time is read twice.
    """

    def __init__(self, core: Core, *, bytes_per_second: float = BYTES_PER_SECOND) -> None:
        self._core = core
        self._rate = bytes_per_second
        self._name = entropy()
        self._holds = False
        self._background = Background("scrub", self._turn)
        self.total = Scrubbed()
        """What the background did since the store was opened."""

    async def progress(self) -> ScrubProgress:
        """How far the walk is, whichever process walks; as old as its last mark."""
        stands = await self._core.ledger.read(place) or Place()
        part = int.from_bytes(stands.last[:8].ljust(8, b"\0"), "big") / 2**64
        return ScrubProgress(part, moment(stands.finished) if stands.finished else None)

    async def run(
        self,
        budget_bytes: int | None = None,
        *,
        seconds: float | None = None,
        origin: str | None = None,
    ) -> Scrubbed:
        """Go on where the last scrub stopped, over every blob once, without rest.

        ``budget_bytes`` ends it before it reads more; only a single blob larger than all of it
        is read in spite of it, or the walk would never pass it. ``seconds`` pause it after the
        blob that goes beyond them: the next run, with the ``origin`` of the first one and the
        rest of the budget, goes on with the same walk. Raises Invalid (``origin``), StorageFailed
        where a file cannot be opened for other reasons than damage.
        """
        begun = None if origin is None else _parse_origin(origin)
        start = (await self._core.ledger.read(place) or Place()).last
        first = start if begun is None else begun
        done = Scrubbed(origin=first.hex())
        pace = _Pace(budget_bytes, seconds, resumed=begun is not None)
        if begun is None or start > begun:
            if not await self._walk(start, b"", done, pace):
                return done
            start = b""
        done.finished = first == start or await self._walk(start, first, done, pace)
        return done

    async def _walk(self, last: bytes, stop: bytes, done: Scrubbed, pace: _Pace) -> bool:
        """Look at the blobs behind ``last``, up to ``stop`` or (empty) to the end of the store.

        Says whether it came so far as the pace allowed, and (with a rate: in the background)
        before another process took its turn.
        """
        marked, rate = done.bytes, pace.rate
        while True:
            found = await self._core.ledger.read_in_thread(candidates, last, _STEP)
            for candidate in found:
                if stop and candidate.sha > stop:
                    return await self._mark(last, rate)
                size = candidate.blob.stored if candidate.blob else 0
                if pace.ends(done, size):
                    await self._mark(last, rate)
                    return False
                await self._one(candidate, done, rate)
                last = candidate.sha
                if done.bytes - marked >= _MARK_BYTES:
                    marked = done.bytes
                    if not await self._mark(last, rate):
                        return False
            if not await self._mark(last if found else b"", rate):
                return False
            if not found:
                return True

    async def _mark(self, last: bytes, rate: float) -> bool:
        """Remember the place; says whether to go on from there."""
        if rate and not await self._take():
            return False
        await self._core.ledger.transact(mark, last, self._core.now())
        return True

    async def _take(self) -> bool:
        now = self._core.now()
        until = now + _TURN_SECONDS * SECOND
        self._holds = await self._core.ledger.transact(take, self._name, now, until)
        return self._holds

    async def _one(self, candidate: Candidate, done: Scrubbed, rate: float) -> None:
        done.blobs += 1
        sha, blob = candidate.sha, candidate.blob
        if blob is None:
            # Nobody can serve it either: reading it raises Corrupt.
            self._found(done, sha, "its row cannot be read")
            return
        if blob.damaged:
            return
        transact = self._core.ledger.transact
        if blob.place == INLINE:
            done.bytes += blob.stored
            if not candidate.inline_is_good and await transact(
                quarantine_inline, sha, self._core.now()
            ):
                self._found(done, sha, "its content in the ledger is bad")
            await self._rest(blob.stored, rate)
            return
        reason = await self._damage(blob, done, rate)
        # A blob that was removed, healed or recompressed meanwhile is not where it was read.
        if reason is not None and await transact(
            blob_rows.quarantine, sha, blob.file_id, self._core.now()
        ):
            self._found(done, sha, reason)

    @staticmethod
    def _found(done: Scrubbed, sha: bytes, reason: str) -> None:
        digest = str(Digest.sha256(sha))
        _log.error("blob %s is damaged: %s; push it again", digest, reason)
        done.damaged_count += 1
        if len(done.damaged) < DAMAGED_SHOWN:
            done.damaged.append(digest)

    async def _damage(self, blob: Blob, done: Scrubbed, rate: float) -> str | None:
        """As ``blob_file.damage``, in spans; but a file that cannot be opened is not yet bad."""
        threads = self._core.threads
        try:
            original = await threads.acquire(blob_file.open_original, self._core.depot, blob)
        except (NotFound, Corrupt) as error:
            return str(error)
        try:
            hasher = blake3()
            offset = counted = 0
            while offset < blob.size:
                read = await threads.run(_hash_span, original, hasher, offset)
                if not read:
                    return "the file ends early"
                offset += read
                at_rest = blob.stored * offset // blob.size
                done.bytes += at_rest - counted
                await self._rest(at_rest - counted, rate)
                counted = at_rest
            return None if hasher.digest() == blob.checksum else "the checksum differs"
        except (Corrupt, StorageFailed) as error:
            return str(error)
        finally:
            await threads.finish(original.close)

    async def _rest(self, size: int, rate: float) -> None:
        if rate:
            await self._background.rest(size / rate)

    def start(self) -> None:
        """Scrub in the background until ``stop``, a walk every ``WALK_SECONDS`` at most."""
        self._background.start()

    def pause(self) -> None:
        """Let the background rest after what it reads now."""
        self._background.pause()

    def resume(self) -> None:
        """Go on in the background."""
        self._background.resume()

    async def _turn(self) -> float:
        """Go on with the walk, or begin one that is due; says how long to rest, in seconds."""
        stands = await self._core.ledger.read(place)
        if stands is None or stands.finished > self._core.now() + SLACK:
            # There was no walk yet, or it ended while the clock was ahead.
            await self._core.ledger.transact(mark, b"", self._core.now())
            return _IDLE
        due = stands.finished + WALK_SECONDS * SECOND
        if not stands.last and self._core.now() < due:
            return _IDLE
        if not await self._take():
            return _IDLE
        await self._walk(stands.last, b"", self.total, _Pace(rate=self._rate))
        return _IDLE

    async def stop(self) -> None:
        """End the background task; the place of the walk is kept."""
        await self._background.stop()
        if self._holds:
            self._holds = False
            await self._core.ledger.transact(give_up, self._name)


def _hash_span(original: BlobFile, hasher: blake3, offset: int) -> int:
    """Hash up to ``SPAN_BYTES`` from ``offset``; says how many there were."""
    read = 0
    while read < SPAN_BYTES and (piece := original.read(offset + read, blob_file.PIECE_BYTES)):
        hasher.update(piece)
        read += len(piece)
    return read
