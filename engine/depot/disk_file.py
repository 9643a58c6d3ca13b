"""Files of the disk depot that are open, and the calls of the operating system on them.

Errors of the operating system become StorageFull or StorageFailed here. Files are named in them
by their path below the depot's root, here called ``what``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from typing import Final

from holdfast.engine.model.errors import EngineError, Invalid, StorageFailed, StorageFull

from .interface import Data

_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

_CAREFUL: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A link is not followed, and a pipe opens at once. Regular files read and write as ever."""

_NO_FILE: Final = frozenset((errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV))
"""Errors that a link, a directory, a socket, or the like gives when it is opened so."""

_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISREG, "a file"),
)

_sync_data: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)


class Writer:
    """A file being written, locked against every other writer (see ``depot.Writer``).

    One thread at a time may use it, but that ``sync`` may run beside ``append``. After a failed
    ``sync`` the kernel may have dropped data that it could not write, and it reports that once:
    the next opener of the file would sync what is left without an error. So the file is
    emptied, and takes no more from us.
    """

    __slots__ = ("_broken", "_entry_synced", "_fd", "_size", "_sync_entry", "_what")

    def __init__(self, fd: int, size: int, what: str, sync_entry: Callable[[], None]) -> None:
        self._fd = fd
        self._size = size
        self._sync_entry = sync_entry
        self._what = what
        self._entry_synced = False
        self._broken = False

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return self._size

    def append(self, data: Data) -> None:
        """Write all of ``data`` at the end; when it fails, the file is cut back to before.

        Raises StorageFull, StorageFailed. Should cutting back fail too, ``size`` tells what
        the file has.
        """
        self._check()
        try:
            self._size += write_all(self._fd, data, self._size)
        except OSError as error:
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                self._size = os.fstat(self._fd).st_size
            raise refused(error, self._what) from error
        finally:
            if self._broken:
                # A sync failed meanwhile, and emptied the file before this came into it.
                self._give_up()
        self._check()

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes. Raises Invalid for more than it has, StorageFailed."""
        self._check()
        if not 0 <= size <= self._size:
            raise Invalid("size", f"cannot cut {self._size} bytes to {size}")
        with refusing(self._what):
            os.ftruncate(self._fd, size)
        self._size = size

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``: fewer than ``length`` only at the end. Raises StorageFailed."""
        return _read(self._fd, offset, length, self._size, self._what)

    def sync(self) -> None:
        """Make the data, the size and all directory entries up to the root durable.

        Raises StorageFull, StorageFailed; then the file is empty, and of no more use.
        """
        self._check()
        try:
            _sync_data(self._fd)
            if not self._entry_synced:
                self._sync_entry()
        except OSError as error:
            self._give_up()
            raise refused(error, self._what) from error
        except EngineError:
            self._give_up()
            raise
        self._entry_synced = True

    def _give_up(self) -> None:
        self._broken = True
        # A disk that refuses this too acknowledges no later sync either.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            self._size = 0

    def close(self) -> None:
        """Let go of the file and its lock. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close(fd, self._what)

    def _check(self) -> None:
        if self._fd < 0:
            raise StorageFailed(self._what, "the file was closed")
        if self._broken:
            raise StorageFailed(self._what, "an earlier sync of the file failed")

    def __del__(self) -> None:
        if self._fd >= 0:
            self.close()
            warnings.warn(f"writer of {self._what} was not closed", ResourceWarning, stacklevel=2)


class Reader:
    """An open file (see ``depot.Reader``). Several threads may read from it at once."""

    __slots__ = ("_fd", "_size", "_what")

    def __init__(self, fd: int, size: int, what: str) -> None:
        self._fd = fd
        self._size = size
        self._what = what

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``: fewer than ``length`` only at the end.

        Raises StorageFailed, also where the file has become shorter than ``size``.
        """
        return _read(self._fd, offset, length, self._size, self._what)

    def is_whole(self) -> bool:
        """Whether the file has ``size`` bytes still."""
        return os.fstat(self._fd).st_size == self._size

    def fileno(self) -> int | None:
        """The descriptor, for sendfile; it is valid until ``close``."""
        return self._fd if self._fd >= 0 else None

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close(fd, self._what)

    def __del__(self) -> None:
        if self._fd >= 0:
            self.close()
            warnings.warn(f"reader of {self._what} was not closed", ResourceWarning, stacklevel=2)


class Irregular(StorageFailed):
    """Something that is no regular file stands where a file has to be. It was not read."""

    def __init__(self, what: str, mode: int | None, place: str = "file") -> None:
        """``mode`` is that of ``os.stat_result``, or None where it cannot be told."""
        kinds = (name for test, name in _KINDS if mode is not None and test(mode))
        kind = next(kinds, f"no {place}")
        super().__init__(what, f"{kind} is in the place of a {place}")


def open_regular(
    path: str | os.PathLike[str],
    flags: int,
    what: str,
    *,
    parent: int | None = None,
    mode: int = 0o600,
) -> tuple[int, os.stat_result]:
    """Open a regular file, never waiting and never by way of a link at the end of the path.

    ``parent`` is a descriptor of the directory that a relative path begins in, ``mode`` that of a
    file which the flags make. Raises Irregular, OSError.
    """
    try:
        fd = os.open(path, flags | _CAREFUL, mode, dir_fd=parent)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise Irregular(what, _mode(path, parent)) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise Irregular(what, status.st_mode)
    return fd, status


def require_regular(path: str | os.PathLike[str], what: str, *, parent: int | None = None) -> None:
    """Look at what is there without opening it: a device may not take that well.

    Raises Irregular, OSError.
    """
    mode = os.stat(path, dir_fd=parent, follow_symlinks=False).st_mode
    if not stat.S_ISREG(mode):
        raise Irregular(what, mode)


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file, at most ``limit`` bytes of it. Raises Irregular, OSError."""
    require_regular(path, os.fspath(path))
    fd, _ = open_regular(path, os.O_RDONLY, os.fspath(path))
    with open(fd, "rb") as file:
        return file.read(limit)


def require_directory(path: str | os.PathLike[str]) -> None:
    """Make sure that it is a directory, and no link to one. Raises Irregular, OSError."""
    mode = os.lstat(path).st_mode
    if not stat.S_ISDIR(mode):
        raise Irregular(os.fspath(path), mode, "directory")


def _mode(path: str | os.PathLike[str], parent: int | None) -> int | None:
    try:
        mode = os.stat(path, dir_fd=parent, follow_symlinks=False).st_mode
    except OSError:
        return None
    return None if stat.S_ISREG(mode) else mode


def refused(error: OSError, what: str) -> StorageFull | StorageFailed:
    """The error of the store for one of the operating system."""
    if error.errno in _FULL:
        return StorageFull("depot")
    return StorageFailed(what, error.strerror or str(error))


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn errors of the operating system in here into those of the store (see ``refused``)."""
    try:
        yield
    except OSError as error:
        raise refused(error, what) from error


def lock(fd: int, what: str, how: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file; return False if a lock of another opener forbids it.

    Never waits. Raises StorageFailed.
    """
    with refusing(what):
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether there is something at a path, a link that leads nowhere included.

    Raises OSError where that cannot be told: a path that permissions hide is not absent.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def write_all(fd: int, data: Data, offset: int) -> int:
    """Write all of ``data``; a disk that is nearly full takes a part first. Raises OSError."""
    done = 0
    with memoryview(data).cast("B") as view:
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)
    return done


def _read(fd: int, offset: int, length: int, size: int, what: str) -> bytes:
    if offset < 0 or length < 0:
        raise Invalid("offset" if offset < 0 else "length", "must not be negative")
    rest = min(length, size - offset)
    parts = []
    while rest > 0:
        try:
            part = os.pread(fd, rest, offset)
        except OSError as error:
            raise refused(error, what) from error
        if not part:
            raise StorageFailed(what, f"the file ends at {offset} of {size} bytes")
        parts.append(part)
        offset += len(part)
        rest -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _close(fd: int, what: str) -> None:
    with refusing(what):
        os.close(fd)
