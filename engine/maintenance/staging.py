"""Staging: a directory that appears under its final name complete, or not at all.

A process fills the directory beside its target, as ``NAME.partial``, and renames it. A target that
is a mount point cannot be replaced: there the directory is ``.partial`` inside the target, and its
entries are moved up one by one, files after directories. A file named ``INCOMPLETE`` is in the
directory until all is done. The process that fills it holds the lock of that file, so others see
whether it is still alive. An unfinished data directory with such a file is not opened.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

from holdfast.engine.datadir import INCOMPLETE as MARK
from holdfast.engine.datadir import sync_directory
from holdfast.engine.model.errors import AlreadyExists, Busy, StorageFailed
from holdfast.engine.model.errors import Kind as ErrorKind

_LOST_AND_FOUND: Final = "lost+found"
"""Directory at the root of a new file system."""


class Staging:
    """A directory that is being filled at ``path``. Synchronous; end with ``publish`` or ``close``.

    The constructor first removes what an earlier process left when it was killed.
    """

    path: Path
    """Directory to fill; it exists, and is empty at first."""
    lock: int
    """Descriptor of the lock that excludes other processes; a helping process may inherit it."""

    def __init__(self, target: Path, kind: ErrorKind) -> None:
        """Lock and clear the directory to fill.

        Raises AlreadyExists if the target is not empty, Busy if another process fills it, and
        StorageFailed. ``kind`` is the kind of the target in these errors.
        """
        self._kind = kind
        self._target = Path(os.path.abspath(target))
        self._mounted = os.path.ismount(self._target)
        self._appeared = False
        try:
            if self._mounted:
                self._directory = self._target
                self.path = self._directory / ".partial"
            else:
                self._refuse_non_empty()
                self._directory = self.path = self._target.with_name(self._target.name + ".partial")
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.lock = self._claim()
            try:
                self._clear()
                self.path.mkdir(mode=0o700, exist_ok=True)
            except BaseException:
                os.close(self.lock)
                raise
        except (FileExistsError, NotADirectoryError) as error:
            raise AlreadyExists(kind, str(self._target)) from error
        except OSError as error:
            raise StorageFailed(str(self._target), error.strerror or str(error)) from error

    def _refuse_non_empty(self) -> None:
        if os.path.lexists(self._target) and any(self._target.iterdir()):
            raise AlreadyExists(self._kind, str(self._target))

    def _claim(self) -> int:
        """Lock the mark; only a directory with a mark may be cleared.

        Raises AlreadyExists, Busy, OSError.
        """
        names = {entry.name for entry in self._directory.iterdir()} - {_LOST_AND_FOUND}
        if names and MARK not in names:
            raise AlreadyExists(self._kind, str(self._directory))
        mark = self._directory / MARK
        lock = os.open(mark, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not mark.exists() or not os.path.samestat(os.fstat(lock), mark.stat()):
                # Its process removed the mark after this one opened it: the lock protects nothing.
                raise BlockingIOError
        except BlockingIOError:
            os.close(lock)
            raise Busy(self._kind, str(self._target)) from None
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _clear(self) -> None:
        for entry in self._directory.iterdir():
            if entry.name in (MARK, _LOST_AND_FOUND):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def publish(self) -> None:
        """Make the directory appear under its name, durably; its content must be durable already.

        If that fails after the directory has appeared, it stays: it is complete, and may be in use
        already, but may be lost at a power failure. Raises as the constructor does.
        """
        try:
            if self._mounted:
                self._move_up()
            else:
                sync_directory(self.path)
                self.path.rename(self._target)
                self._appeared = True
                sync_directory(self._target.parent)
            # The mark goes last: beside it, the next process clears what a killed move left.
            (self._target / MARK).unlink()
            sync_directory(self._target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise AlreadyExists(self._kind, str(self._target)) from error
            raise StorageFailed(str(self._target), error.strerror or str(error)) from error
        self._release_lock()

    def _release_lock(self) -> None:
        lock, self.lock = self.lock, -1
        os.close(lock)

    def _move_up(self) -> None:
        entries = sorted(self.path.iterdir(), key=lambda entry: not entry.is_dir())
        for entry in entries:
            # Files come last (FORMAT among them), and only after the directories are durable.
            if not entry.is_dir():
                sync_directory(self._target)
            entry.rename(self._target / entry.name)
        self._appeared = True
        self.path.rmdir()
        sync_directory(self._target)

    def close(self) -> None:
        """Remove the directory, unless it has appeared. Raises StorageFailed."""
        if self.lock < 0:
            return
        if self._appeared:
            self._release_lock()
            return
        try:
            self._clear()
            (self._directory / MARK).unlink()
            if not self._mounted:
                self._directory.rmdir()
        except OSError as error:
            raise StorageFailed(str(self._directory), error.strerror or str(error)) from error
        finally:
            self._release_lock()
