"""A table of all workers in shared memory: a heartbeat, and connections in all and by address.

Each process writes to a slot of its own, so there is no lock. The process that sees another one end
clears its slot.

Addresses are counted in two rows of cells, each at a position from a keyed hash; the smaller of the
two sums is the number. It is exact unless an address shares both cells with busy ones, and too high
then. The key is secret, so clients cannot choose addresses that collide.
"""

from __future__ import annotations

from typing import Final

from .shared_memory import WORKER_BYTES, SharedMemory, salted_hash

_CELL_BYTES: Final = 4
_CELLS: Final = WORKER_BYTES // _CELL_BYTES
_PULSE: Final = 0
_CONNECTIONS: Final = 1
_ROWS_START: Final = 2
_ROW_CELLS: Final = (_CELLS - _ROWS_START) // 2
_PULSE_MASK: Final = (1 << 30) - 1


class WorkerTable:
    """All slots in the view of one process."""

    def __init__(self, shared: SharedMemory) -> None:
        self._salt = shared.salt
        self._slots = shared.workers

    def clear(self, slot: int) -> None:
        """Clear a slot whose process has ended or begins."""
        self._slots[slot][:] = memoryview(bytes(WORKER_BYTES)).cast("i")

    def beat(self, slot: int) -> None:
        """Record a heartbeat of the process of this slot."""
        cells = self._slots[slot]
        cells[_PULSE] = (cells[_PULSE] + 1) & _PULSE_MASK

    def pulse(self, slot: int) -> int:
        """Return a number that changes with every heartbeat."""
        return self._slots[slot][_PULSE]

    def connections(self, slot: int | None = None) -> int:
        """Return the connections of a slot, or of all."""
        if slot is not None:
            return self._slots[slot][_CONNECTIONS]
        return sum(cells[_CONNECTIONS] for cells in self._slots)

    def connections_of(self, prefix: str) -> int:
        """Return the connections from a network prefix (``addresses.network_prefix``)."""
        # A collision can only add to a cell, so the smaller sum is nearer to the truth.
        return min(sum(cells[at] for cells in self._slots) for at in self._cells_of(prefix))

    def add(self, slot: int, prefix: str, count: int) -> None:
        """Count a connection of a slot more, or one less with ``count`` -1."""
        cells = self._slots[slot]
        cells[_CONNECTIONS] += count
        for at in self._cells_of(prefix):
            cells[at] += count

    def _cells_of(self, prefix: str) -> tuple[int, int]:
        first, second = salted_hash(self._salt, prefix)
        return _ROWS_START + first % _ROW_CELLS, _ROWS_START + _ROW_CELLS + second % _ROW_CELLS
