"""Bytes of content a second, in and out, that namespaces share fairly, over all workers.

Whatever is about to move takes its turn on two clocks (the generic cell rate algorithm): one of all
together, at the configured rate, and one of its namespace, which goes as many times faster as there
are namespaces at work, but never ahead of that of all. What a namespace moves waits for its own
clock only. So while there is room nobody waits; when there is none, each namespace gets its part,
whatever the number of its connections, and what one does not use goes to the others.

The clocks lie in memory that all workers share. They take no lock: of two pieces that two workers
count in the same microsecond one may go uncounted.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from holdfast.engine import record_wait

ENTRIES: Final = 1024
"""Namespaces at work at one time that have a clock of their own; more than that share some."""

EARLY_SECONDS: Final = 0.05
"""How much earlier than by its clock something may move: more than a timer is late, so that the
rate is reached, and what a short request needs moves at once."""

PIECE_SECONDS: Final = 0.01
"""What a piece takes of all the bandwidth, where it may be cut. Connections queue for their pieces;
a namespace that comes back to work finds its part after one piece of each connection."""

PIECE_BYTES_MIN: Final = 4 * 1024
PIECE_BYTES_MAX: Final = 1024 * 1024

ACTIVE_SECONDS: Final = 1.0
"""How long a namespace counts as at work after its last turn came."""

COUNT_SECONDS: Final = 0.05
"""How old the number of those may be."""

_PROBES: Final = 8
_ENTRY: Final = 3
_HEAD: Final = 1
_CELLS: Final = _HEAD + ENTRIES * _ENTRY
_SALT_BYTES: Final = 16
_SECOND: Final = 1_000_000_000
_TAG, _OWN, _UNTIL = range(_ENTRY)
"""Whose it is, its clock, and until when it counts as at work."""

Piece = TypeVar("Piece", bound=bytes | memoryview)


def create() -> int:
    """Shared memory for the clocks; its file descriptor."""
    descriptor = os.memfd_create("holdfast-bandwidth", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _CELLS * 8 + _SALT_BYTES)
    # Nobody outside can choose names that share a clock.
    os.pwrite(descriptor, os.urandom(_SALT_BYTES), _CELLS * 8)
    return descriptor


class Bandwidth:
    """The clocks, as one process uses them."""

    def __init__(
        self, descriptor: int, rate: int, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """``rate`` in bytes a second; ``clock`` in nanoseconds."""
        self._cells = memoryview(mmap.mmap(descriptor, _CELLS * 8)).cast("q")
        self._salt = os.pread(descriptor, _SALT_BYTES, _CELLS * 8)
        self._step = _SECOND / rate
        self._clock = clock
        self._at_work = 1
        self._counted = -_SECOND
        self.piece_bytes = max(PIECE_BYTES_MIN, min(PIECE_BYTES_MAX, int(rate * PIECE_SECONDS)))
        """Of what can be cut, how much is to be asked for at once."""

    def of(self, region: str, namespace: str) -> Flow:
        """The flow of one namespace."""
        return Flow(self, f"{region} {namespace}")

    def take(self, who: str, count: int) -> float:
        """A turn for so many bytes of a namespace: in how many seconds it comes, 0 is now."""
        now = self._clock()
        at = self._find(who, now)
        own = self._advance(at, now, count)
        return max(0.0, (own - now) / _SECOND - EARLY_SECONDS)

    def take_now(self, who: str, count: int) -> bool:
        """A turn, if it comes now; otherwise none is taken."""
        now = self._clock()
        at = self._find(who, now)
        if self._cells[at + _OWN] - now > EARLY_SECONDS * _SECOND:
            return False
        self._advance(at, now, count)
        return True

    def _advance(self, at: int, now: int, count: int) -> int:
        """Move both clocks on; where the namespace's stood."""
        cells = self._cells
        cost = int(count * self._step)
        everybody = cells[0] = max(cells[0], now) + cost
        own = max(cells[at + _OWN], now)
        cells[at + _OWN] = after = min(own + cost * self._count(now), everybody)
        cells[at + _UNTIL] = max(after, now + int(ACTIVE_SECONDS * _SECOND))
        return own

    def _count(self, now: int) -> int:
        """How many namespaces there are to share."""
        if now - self._counted >= COUNT_SECONDS * _SECOND:
            until = self._cells[_HEAD + _UNTIL :: _ENTRY].tolist()
            self._at_work = max(1, sum(when > now for when in until))
            self._counted = now
        return self._at_work

    def _find(self, who: str, now: int) -> int:
        """The namespace's entry: its own, or that of its group which rests, or may rest first."""
        digest = hashlib.blake2b(who.encode(), digest_size=16, key=self._salt).digest()
        tag = int.from_bytes(digest[:8], "little", signed=True) | 1
        start = int.from_bytes(digest[8:], "little")
        cells = self._cells
        places = [_HEAD + (start + probe) % ENTRIES * _ENTRY for probe in range(_PROBES)]
        for at in places:
            if cells[at] == tag:
                return at
        first = min(places, key=lambda at: cells[at + _UNTIL])
        if cells[first + _UNTIL] <= now:
            cells[first + _TAG] = tag
            cells[first + _OWN] = 0
        return first


@dataclass(frozen=True, slots=True)
class Flow:
    """What one namespace moves."""

    bandwidth: Bandwidth
    who: str

    def now(self, count: int) -> bool:
        """Whether so many bytes may move now; only then do they count."""
        return self.bandwidth.take_now(self.who, count)

    async def turn(self, count: int) -> None:
        """Wait until so many bytes may move."""
        wait = self.bandwidth.take(self.who, count)
        if wait:
            await asyncio.sleep(wait)
            record_wait("bandwidth", wait)

    async def through(self, source: AsyncIterable[Piece]) -> AsyncIterator[Piece]:
        """The same pieces, each when it may move. One is asked for when the last was taken."""
        async for piece in source:
            await self.turn(len(piece))
            yield piece
