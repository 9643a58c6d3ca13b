"""The roster: what every worker tells the others and the supervisor, in memory that they share.

That it is alive (its pulse), and how many connections it has, in all and by address. Every
process writes to a slot of its own, so nothing is locked; what a process that died had written is
cleared by whoever saw its end.

Addresses are counted in two rows of cells, each at a place that a keyed hash gives; the smaller
of the two sums is the number. So it is exact unless an address shares both of its cells with busy
ones, and then too high. Nobody outside can choose addresses that do.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from typing import Final

SLOT_BYTES: Final = 64 * 1024
"""Untouched pages take no memory."""

_CELL_BYTES: Final = 4
_CELLS: Final = SLOT_BYTES // _CELL_BYTES
_PULSE: Final = 0
_CONNECTIONS: Final = 1
_ROWS_AT: Final = 2
_ROW: Final = (_CELLS - _ROWS_AT) // 2
_SALT_BYTES: Final = 16
_PULSE_MASK: Final = (1 << 30) - 1


def create(slots: int) -> int:
    """Shared memory for that many slots; its file descriptor."""
    descriptor = os.memfd_create("holdfast-roster", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, slots * SLOT_BYTES + _SALT_BYTES)
    os.pwrite(descriptor, os.urandom(_SALT_BYTES), slots * SLOT_BYTES)
    return descriptor


class WorkerTable:
    """All slots, as one process sees them."""

    def __init__(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size - _SALT_BYTES
        self._salt = os.pread(descriptor, _SALT_BYTES, size)
        memory = memoryview(mmap.mmap(descriptor, size)).cast("i")
        self._slots = [memory[at : at + _CELLS] for at in range(0, len(memory), _CELLS)]

    @classmethod
    def alone(cls) -> WorkerTable:
        """One with a single slot, that nobody shares."""
        descriptor = create(1)
        try:
            return cls(descriptor)
        finally:
            os.close(descriptor)  # the memory stays

    def clear(self, slot: int) -> None:
        """The process of this slot has ended, or begins."""
        self._slots[slot][:] = memoryview(bytes(SLOT_BYTES)).cast("i")

    def beat(self, slot: int) -> None:
        """The process of this slot is alive."""
        cells = self._slots[slot]
        cells[_PULSE] = (cells[_PULSE] + 1) & _PULSE_MASK

    def pulse(self, slot: int) -> int:
        """A number that changes with every beat."""
        return self._slots[slot][_PULSE]

    def connections(self, slot: int | None = None) -> int:
        """How many there are in a slot, or in all."""
        if slot is not None:
            return self._slots[slot][_CONNECTIONS]
        return sum(cells[_CONNECTIONS] for cells in self._slots)

    def connections_of(self, who: str) -> int:
        """How many come from an address (what ``addresses.network_prefix`` makes of it)."""
        return min(sum(cells[at] for cells in self._slots) for at in self._places(who))

    def add(self, slot: int, who: str, count: int) -> None:
        """One connection more in this slot, or (``count`` of -1) one less."""
        cells = self._slots[slot]
        cells[_CONNECTIONS] += count
        for at in self._places(who):
            cells[at] += count

    def _places(self, who: str) -> tuple[int, int]:
        digest = hashlib.blake2b(who.encode(), digest_size=16, key=self._salt).digest()
        first, second = (int.from_bytes(half, "little") for half in (digest[:8], digest[8:]))
        return _ROWS_AT + first % _ROW, _ROWS_AT + _ROW + second % _ROW
