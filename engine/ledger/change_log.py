"""Quiet transactions: those after which who remembers what he read may go on remembering.

Some change times and counts of use, for many objects and all the time; others bring content, but
no name and no right. Who remembers other things that he read (``Store.version`` says how long)
would forget them each time for nothing. So the ledger keeps one row that says which of its last
transactions were quiet, in one run for each kind. Whoever commits something else leaves that row
alone: it is behind then, and so speaks for nobody.
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
"""For each of the first two kinds: the last transaction before its run, and the last one in it."""


def extended(row: bytes | None, number: int, change: Change) -> bytes:
    """The row after transaction ``number``, which is not of ANY, from what it was before."""
    runs = _read(row)
    for kind in range(change, Change.ANY):
        before, last = runs[kind]
        runs[kind] = before if last == number - 1 else number - 1, number
    return seal(KEY, _RUNS.pack(*(end for run in runs for end in run)))


def change_between(row: bytes | None, since: int, until: int) -> Change:
    """What the transactions after ``since``, up to ``until``, changed at most, as far as known."""
    for kind, (before, last) in zip(Change, _read(row), strict=False):
        if before <= since and until <= last:
            return kind
    return Change.ANY


def is_ahead(row: bytes | None, number: int) -> bool:
    """Whether the row tells of what comes after transaction ``number``, the newest there is: then
    it came with a copy of the rows, whose transactions are counted anew."""
    return any(last > number for _, last in _read(row))


def _read(row: bytes | None) -> list[tuple[int, int]]:
    """A damaged row speaks for nobody, and the next quiet transaction writes it anew."""
    try:
        ends = _RUNS.unpack(b"" if row is None else unseal(KEY, row))
    except (Corrupt, struct.error):
        return [(0, 0)] * Change.ANY
    return [ends[:2], ends[2:]]
