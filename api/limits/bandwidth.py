"""Limits the bytes of content a second, in and out, and shares them fairly among namespaces.

Each piece takes a turn on two clocks (the generic cell rate algorithm). The shared clock runs at
the configured rate. The clock of the namespace runs as many times faster as there are active
namespaces, but never ahead of the shared one; a piece waits only for this clock. So while there is
room no piece waits. Without room each namespace gets its share, whatever the number of its
connections, and the others get what it does not use.

The clocks are in memory that all workers share. They take no lock: of two pieces that two workers
count in the same microsecond, one may go uncounted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from holdfast.engine import record_wait

from .shared_memory import CLOCK, CLOCKS, TAG, UNTIL, HashTable, SharedMemory

EARLY_SECONDS: Final = 0.05
"""Time in seconds that a piece may move ahead of its clock.

More than a timer is late, so that the rate is reached, and a short request moves at once.
"""

PIECE_SECONDS: Final = 0.01
"""Time in seconds that a piece takes of the whole bandwidth, where content can be cut.

Connections queue for their pieces; a namespace that becomes active gets its share after one piece
of each connection.
"""

PIECE_BYTES_MIN: Final = 4 * 1024
PIECE_BYTES_MAX: Final = 1024 * 1024

ACTIVE_SECONDS: Final = 1.0
"""Time in seconds that a namespace stays active after its last turn."""

COUNT_SECONDS: Final = 0.05
"""Longest age in seconds of the count of active namespaces."""

_SECOND_NS: Final = 1_000_000_000

Piece = TypeVar("Piece", bound=bytes | memoryview)


class Bandwidth:
    """The clocks in the view of one process."""

    def __init__(
        self, shared: SharedMemory, rate: int, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Use the clocks in ``shared``; ``rate`` is in bytes a second, ``clock`` in
        nanoseconds."""
        self._table = HashTable(shared.clocks, CLOCKS, shared.salt)
        self._cells = shared.clocks
        self._shared_clock = shared.shared_clock
        self._ns_per_byte = _SECOND_NS / rate
        self._clock = clock
        self._active_count = 1
        self._counted_at = -_SECOND_NS
        self.piece_bytes = max(PIECE_BYTES_MIN, min(PIECE_BYTES_MAX, int(rate * PIECE_SECONDS)))
        """Bytes of a piece, where content can be cut."""

    def of(self, region: str, namespace: str) -> Flow:
        """Return the flow of one namespace."""
        return Flow(self, f"{region} {namespace}")

    def take(self, key: str, count: int) -> float:
        """Take a turn for ``count`` bytes. Return the seconds until it comes; 0 is now."""
        now = self._clock()
        at = self._find(key, now)
        own = self._advance(at, now, count)
        return max(0.0, (own - now) / _SECOND_NS - EARLY_SECONDS)

    def take_now(self, key: str, count: int) -> bool:
        """Take a turn if it comes now. Return False, and take none, if it does not."""
        now = self._clock()
        at = self._find(key, now)
        if self._cells[at + CLOCK] - now > EARLY_SECONDS * _SECOND_NS:
            return False
        self._advance(at, now, count)
        return True

    def _advance(self, at: int, now: int, count: int) -> int:
        """Move both clocks on. Return the namespace's time before."""
        cells = self._cells
        cost = int(count * self._ns_per_byte)
        shared = self._shared_clock[0] = max(self._shared_clock[0], now) + cost
        own = max(cells[at + CLOCK], now)
        # Never ahead of the shared clock: the namespace would wait while there is room.
        cells[at + CLOCK] = after = min(own + cost * self._count(now), shared)
        cells[at + UNTIL] = max(after, now + int(ACTIVE_SECONDS * _SECOND_NS))
        return own

    def _count(self, now: int) -> int:
        """Return the number of active namespaces."""
        if now - self._counted_at >= COUNT_SECONDS * _SECOND_NS:
            until = self._cells[UNTIL :: len(self._cells) // CLOCKS].tolist()
            self._active_count = max(1, sum(when > now for when in until))
            self._counted_at = now
        return self._active_count

    def _find(self, key: str, now: int) -> int:
        """Return the namespace's entry, or take over the one of its group that ends its activity
        first."""
        at, tag = self._table.find(key)
        cells = self._cells
        # An entry that is still active keeps its clock: both namespaces share it then.
        if cells[at + TAG] != tag and cells[at + UNTIL] <= now:
            cells[at + TAG] = tag
            cells[at + CLOCK] = 0
        return at


@dataclass(frozen=True, slots=True)
class Flow:
    """The content that one namespace moves."""

    bandwidth: Bandwidth
    key: str

    def now(self, count: int) -> bool:
        """Take a turn for ``count`` bytes if it comes now. Return False if it does not."""
        return self.bandwidth.take_now(self.key, count)

    async def turn(self, count: int) -> None:
        """Take a turn for ``count`` bytes, and wait for it."""
        wait = self.bandwidth.take(self.key, count)
        if wait:
            await asyncio.sleep(wait)
            record_wait("bandwidth", wait)

    async def through(self, source: AsyncIterable[Piece]) -> AsyncIterator[Piece]:
        """Yield the pieces of ``source``, each in its turn; the next is read after the last was
        taken."""
        async for piece in source:
            await self.turn(len(piece))
            yield piece
