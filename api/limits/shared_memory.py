"""Memory that all processes of a server share: two hash tables, and a slot for each process.

The supervisor maps one anonymous segment and forks the workers, which inherit it, so a worker that
is started again finds what its predecessor left. The buckets of ``rates`` and the clocks of
``bandwidth`` are entries of hash tables that all workers write. ``worker_table`` and the counters
of the metrics are plain cells in a slot that one process writes.

Nothing takes a lock. A cell is one aligned machine word, so a process that dies between two writes
leaves no torn number: at worst an entry has the tag of one subject and the time of another.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from itertools import accumulate
from typing import Final

BUCKETS: Final = 1 << 16
"""Buckets that are not full at one time. Beyond that, the fullest of a group is reset."""

CLOCKS: Final = 1024
"""Active namespaces that have a clock of their own; beyond that some share one."""

ENTRIES_FOUND_MAX: Final = 4096
"""Entries of a table that a process remembers, so that it need not probe for them."""

WORKER_BYTES: Final = 64 * 1024
"""Bytes of a process in the worker table. Untouched pages take no memory."""

COUNTERS_BYTES: Final = 128 * 1024
"""Bytes of the counters of a process: more than twice what all of them need."""

TAG, UNTIL, CLOCK = range(3)
"""Cells of an entry: tag of the subject, time in ns when the entry is free again, and a clock."""

_CELL_BYTES: Final = 8
_BUCKET_BYTES: Final = BUCKETS * 2 * _CELL_BYTES
_CLOCK_BYTES: Final = CLOCKS * 3 * _CELL_BYTES
_PROBES: Final = 8
_SALT_BYTES: Final = 16
_HASH: Final = struct.Struct("<qq")


class HashTable:
    """The entries of a table in the view of one process.

    A keyed hash of its subject gives each entry a few places, of which it takes one.
    """

    def __init__(self, cells: memoryview[int], entries: int, salt: bytes) -> None:
        self.cells = cells
        self._entries = entries
        self._entry_cells = len(cells) // entries
        self._salt = salt
        self._found: dict[tuple[str, ...], tuple[int, int]] = {}

    def find(self, *subject: str) -> tuple[int, int]:
        """Return the first cell of the subject's entry, or of the one to take over, and its tag.

        The entry to take over is the one of its group that is free soonest: its subject loses the
        least. The caller writes the tag.
        """
        found = self._found.get(subject)
        # Another subject may have taken over the entry since: the tag says whose it is.
        if found is not None and self.cells[found[0]] == found[1]:
            return found
        if len(self._found) >= ENTRIES_FOUND_MAX:
            self._found.clear()
        found = self._found[subject] = self._probe(" ".join(subject))
        return found

    def _probe(self, subject: str) -> tuple[int, int]:
        tag, start = salted_hash(self._salt, subject)
        tag |= 1  # never 0, the tag of an entry without a subject
        places = [(start + probe) % self._entries * self._entry_cells for probe in range(_PROBES)]
        for at in places:
            if self.cells[at] == tag:
                return at, tag
        return min(places, key=lambda at: self.cells[at + UNTIL]), tag


def salted_hash(salt: bytes, subject: str) -> tuple[int, int]:
    """Return two numbers that a client without the salt cannot choose."""
    digest = hashlib.blake2b(subject.encode(), digest_size=_HASH.size, key=salt).digest()
    first, second = _HASH.unpack(digest)
    return first, second


class SharedMemory:
    """The segment. A process that is forked later reads and writes the same cells."""

    def __init__(self, slots: int = 1) -> None:
        """Map the tables and ``slots`` slots. Raises OSError."""
        self.salt = os.urandom(_SALT_BYTES)
        """Secret key of the hashes: no client can choose names that share an entry."""
        # The single cell comes last: all else begins on a page.
        sizes = (_CLOCK_BYTES, _BUCKET_BYTES, *(WORKER_BYTES, COUNTERS_BYTES) * slots, _CELL_BYTES)
        ends = list(accumulate(sizes))
        memory = memoryview(mmap.mmap(-1, ends[-1]))
        parts = [memory[end - size : end] for size, end in zip(sizes, ends, strict=True)]
        self.clocks, self.buckets, self.shared_clock = (parts[at].cast("q") for at in (0, 1, -1))
        self.workers = [part.cast("i") for part in parts[2:-1:2]]
        """Cells of each slot for the worker table."""
        self.counters = [part.cast("q") for part in parts[3:-1:2]]
        """Cells of each slot for the counters of the metrics."""
