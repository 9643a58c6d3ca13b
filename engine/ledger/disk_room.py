"""Room on the disk that a file has before it needs it.

Whoever deletes something writes first. Where other programs fill the disk to its last byte, that
works only out of blocks that the file has already: behind its end, so that its size says no more
than before (fallocate(2), FALLOC_FL_KEEP_SIZE).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from errno import ENOSPC, ENOSYS, EOPNOTSUPP
from functools import cache
from pathlib import Path
from typing import Final

_KEEP_SIZE: Final = 1
_CANNOT: Final = frozenset((ENOSPC, ENOSYS, EOPNOTSUPP))


def preallocate(path: Path, start: int, count: int) -> bool:
    """Give the file blocks for ``count`` bytes from ``start`` on, where it has none yet. Blocks.

    False where the disk is too full, or its file system cannot do it. Raises OSError.
    """
    call = _fallocate()
    if call is None:
        return False
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not call(fd, _KEEP_SIZE, start, count):
            return True
        number = ctypes.get_errno()
        if number in _CANNOT:
            return False
        raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """The call; None where the system has none. (``os.posix_fallocate`` changes the size, and
    writes to files that others write to where a file system cannot do it.)"""
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if call is None:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    call.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = call
    return found
