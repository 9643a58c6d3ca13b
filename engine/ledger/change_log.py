"""Records which recent transactions changed only times or content, so that caches stay valid.

Transactions that change times and counts of use are frequent, and others add content but change
no name and no right. Without this log, each of them would invalidate all caches of names and
rights (see ``Store.version``). One row has the latest run of such transactions for each kind of
change. A transaction that may change anything does not write the row: its number is then outside
of the runs, which invalidates all caches.

A copied ledger may count its own transactions from the beginning, while its row has numbers of
the original. So the first transaction of the copy, whose number the row has already, discards it.
"""

from __future__ import annotations

import struct
from typing import Final

from holdfast.engine.model.errors import Corrupt

from . import layout
from .interface import Change
from .records import seal, unseal

KEY: Final = layout.SETTING + b"quiet"

_RUNS: Final = struct.Struct(">QQQQ")
"""Format of the row: for TIMES and CONTENT, the transaction before the run and its last one."""


def extended(row: bytes | None, number: int, change: Change) -> bytes:
    """Return the row with transaction ``number`` added, whose change is less than ANY."""
    runs = [run if run[1] < number else (0, 0) for run in _read(row)]
    # A run of CONTENT may contain transactions that changed only times, but not vice versa.
    for kind in range(change, Change.ANY):
        before, last = runs[kind]
        # A gap means that a transaction with a greater change came between: start a new run.
        runs[kind] = before if last == number - 1 else number - 1, number
    return seal(KEY, _RUNS.pack(*(end for run in runs for end in run)))


def change_between(row: bytes | None, since: int, until: int) -> Change:
    """Return the most that transactions after ``since``, up to ``until``, changed.

    ANY if the row does not cover all of them.
    """
    for kind, (before, last) in zip(Change, _read(row), strict=False):
        if before <= since and until <= last:
            return kind
    return Change.ANY


def is_ahead(row: bytes | None, number: int) -> bool:
    """Return True if the row covers transaction ``number``, which is not committed yet.

    Such a row came with a copy of the rows into a ledger that counts its own transactions.
    """
    return row is not None and any(last >= number for _, last in _read(row))


def _read(row: bytes | None) -> list[tuple[int, int]]:
    """Return the runs of the row; empty ones if it is missing or damaged.

    So a damaged row only invalidates caches, and the next transaction replaces it.
    """
    try:
        ends = _RUNS.unpack(b"" if row is None else unseal(KEY, row))
    except (Corrupt, struct.error):
        return [(0, 0)] * Change.ANY
    return [ends[:2], ends[2:]]
