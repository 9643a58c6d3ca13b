"""Staging: a directory that appears under its final name whole, or not at all.

It is made beside its target, as ``NAME.partial``, and renamed. A target that is a mount point
cannot be replaced: there it is made inside, as ``.partial``, and moved up part by part, files
after directories. A file named ``INCOMPLETE`` stands in the directory until all is done: its
lock tells a living maker from a dead one, and a data directory is not opened beside it.
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

_FOREIGN: Final = "lost+found"
"""What a new file system has at its top."""


class Staging:
    """A directory in the making at ``path``; synchronous. End it with ``publish`` or ``close``.

    What an earlier maker left when it was killed is removed first.
    """

    path: Path
    """Where to make it; exists, and is empty."""
    lock: int
    """Descriptor that keeps others away: a process that helps to make it may inherit it."""

    def __init__(self, target: Path, kind: ErrorKind) -> None:
        """Raises AlreadyExists for a target that holds something, Busy, StorageFailed.

        ``kind`` says in errors what the target is.
        """
        self._kind = kind
        self._target = Path(os.path.abspath(target))
        self._mounted = os.path.ismount(self._target)
        self._appeared = False
        try:
            if self._mounted:
                self._home = self._target
                self.path = self._home / ".partial"
            else:
                self._refuse_filled()
                self._home = self.path = self._target.with_name(self._target.name + ".partial")
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
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

    def _refuse_filled(self) -> None:
        if os.path.lexists(self._target) and any(self._target.iterdir()):
            raise AlreadyExists(self._kind, str(self._target))

    def _claim(self) -> int:
        """Lock the mark; what stands beside a mark is ours. Raises AlreadyExists, Busy, OSError."""
        names = {entry.name for entry in self._home.iterdir()} - {_FOREIGN}
        if names and MARK not in names:
            raise AlreadyExists(self._kind, str(self._home))
        mark = self._home / MARK
        lock = os.open(mark, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not mark.exists() or not os.path.samestat(os.fstat(lock), mark.stat()):
                # Its maker ended in this very moment.
                raise BlockingIOError
        except BlockingIOError:
            os.close(lock)
            raise Busy(self._kind, str(self._target)) from None
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _clear(self) -> None:
        for entry in self._home.iterdir():
            if entry.name in (MARK, _FOREIGN):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def publish(self) -> None:
        """Let it appear, durably. Its content has to be durable. Raises as making one does.

        Where that fails after it has appeared, it stays: it is whole, and may be in use already.
        Only nobody can tell whether a power failure takes it away.
        """
        try:
            if self._mounted:
                self._move_up()
                home = self._target
            else:
                sync_directory(self.path)
                self.path.rename(self._target)
                self._appeared = True
                sync_directory(self._target.parent)
                home = self._target
            (home / MARK).unlink()
            sync_directory(home)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise AlreadyExists(self._kind, str(self._target)) from error
            raise StorageFailed(str(self._target), error.strerror or str(error)) from error
        self._let_go()

    def _let_go(self) -> None:
        lock, self.lock = self.lock, -1
        os.close(lock)

    def _move_up(self) -> None:
        entries = sorted(self.path.iterdir(), key=lambda entry: not entry.is_dir())
        for entry in entries:
            if not entry.is_dir():
                sync_directory(self._target)
            entry.rename(self._target / entry.name)
        self._appeared = True
        self.path.rmdir()
        sync_directory(self._target)

    def close(self) -> None:
        """Remove what was made, unless it has appeared. Raises StorageFailed."""
        if self.lock < 0:
            return
        if self._appeared:
            self._let_go()
            return
        try:
            self._clear()
            (self._home / MARK).unlink()
            if not self._mounted:
                self._home.rmdir()
        except OSError as error:
            raise StorageFailed(str(self._home), error.strerror or str(error)) from error
        finally:
            self._let_go()
