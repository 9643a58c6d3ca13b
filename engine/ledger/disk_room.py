"""Preallocates disk blocks behind the end of a file.

A delete writes before it frees anything. On a disk that other programs have filled, this works
only with blocks that the file already has. They lie behind its end, so its size does not change
(fallocate(2), FALLOC_FL_KEEP_SIZE).
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
    """Allocate missing blocks of the file for ``count`` bytes from ``start`` on.

    Returns False if the disk is too full or its file system does not support it. Blocking. Raises
    OSError.
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
    """Return fallocate(2) of the C library; None if the system has none.

    ``os.posix_fallocate`` does not fit: it changes the size, and on file systems without support
    it writes to the file, which other processes write to as well.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if call is None:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    call.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = call
    return found
