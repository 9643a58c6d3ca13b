"""Quiet transactions: those after which nobody has to read again what he remembers.

They change times and counts of use, for many objects and all the time; who remembers other things
that he read (``Store.version`` says how long) would forget them each time for nothing. So the
ledger keeps one row that says which of its last transactions were quiet, in one run. Whoever
commits something else leaves that row alone: it is behind then, and so speaks for nobody.
"""

from __future__ import annotations

import struct
from typing import Final

from . import layout
from .errors import Corrupt
from .records import seal, unseal

KEY: Final = layout.SETTING + b"quiet"

_RUN: Final = struct.Struct(">QQ")
"""The last transaction before the run, and the last one of it."""


def extended(row: bytes | None, number: int) -> bytes:
    """The row after the quiet transaction ``number``, from what it was before."""
    before, last = _run(row)
    if last != number - 1:
        before = number - 1
    return seal(KEY, _RUN.pack(before, number))


def covers(row: bytes | None, since: int, until: int) -> bool:
    """Whether all transactions after ``since``, up to ``until``, are known to be quiet."""
    before, last = _run(row)
    return before <= since and until <= last


def is_ahead(row: bytes | None, number: int) -> bool:
    """Whether the row tells of what comes after transaction ``number``, the newest there is: then
    it came with a copy of the rows, whose transactions are counted anew."""
    return _run(row)[1] > number


def _run(row: bytes | None) -> tuple[int, int]:
    """A damaged row speaks for nobody, and the next quiet transaction writes it anew."""
    try:
        before, last = _RUN.unpack(b"" if row is None else unseal(KEY, row))
    except (Corrupt, struct.error):
        return 0, 0
    return int(before), int(last)
