"""Instances: one per open store of a process, known to be alive by a lock on a file.

The kernel drops the lock when the process ends, however it ends. So the open
blocks of a dead process are enough to find what it left behind, without trust in a pid or a clock.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol

from .disk_file import Irregular, lock, open_regular, refusing

NAME_BYTES = 8


class Instances(Protocol):
    """This opening of the store, and what it can tell about others."""

    name: bytes

    def is_dead(self, name: bytes) -> bool:
        """Whether the opening with that name is gone for certain."""

    def forget(self, name: bytes) -> None:
        """Remove the traces of one that is dead and cleaned up after."""

    def close(self) -> None:
        """End this instance."""


class LockedInstances:
    """Incarnations in a directory: one locked file each."""

    def __init__(self, directory: Path) -> None:
        """A new one; lock files of the dead are removed. Raises OSError."""
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self._remove_stale()
        while not self._create():
            # Another process took the new file for that of a dead one, before it was locked.
            os.close(self._lock)

    def _create(self) -> bool:
        self.name = os.urandom(NAME_BYTES)
        path = self._path(self.name)
        self._lock = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            return os.path.samestat(os.fstat(self._lock), path.stat())
        except FileNotFoundError:
            return False

    def _remove_stale(self) -> None:
        for path in self._directory.glob("*.lock"):
            try:
                fd = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                if lock(fd, str(path)):
                    path.unlink(missing_ok=True)
            finally:
                os.close(fd)

    def _path(self, name: bytes) -> Path:
        return self._directory / f"{name.hex()}.lock"

    def is_dead(self, name: bytes) -> bool:
        """Whether that lock is free or gone. A name is made known only after it is locked.

        Raises StorageFailed.
        """
        if name == self.name:
            return False
        path = self._path(name)
        with refusing(str(path)):
            try:
                fd = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                return True
        try:
            return lock(fd, str(path))
        finally:
            os.close(fd)

    def forget(self, name: bytes) -> None:
        """Remove the lock file of a dead one. Raises StorageFailed."""
        path = self._path(name)
        with refusing(str(path)):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """End this instance: the file goes first, so no dead lock stays behind."""
        if self._lock >= 0:
            self.forget(self.name)
            os.close(self._lock)
            self._lock = -1


def any_alive(directory: Path) -> bool:
    """Whether a process has the store with this directory of locks open. Raises OSError.

    Nothing is written: the directory may lie on a read-only file system.
    """
    for path in directory.glob("*.lock"):
        try:
            fd, _ = open_regular(path, os.O_RDONLY, str(path))
        except (FileNotFoundError, Irregular):
            # No process that lives holds what is no file.
            continue
        try:
            if not lock(fd, str(path), fcntl.LOCK_SH):
                return True
        finally:
            os.close(fd)
    return False


class SoleInstance:
    """The one opening of a store in memory; whatever else is named is gone."""

    def __init__(self) -> None:
        self.name = os.urandom(NAME_BYTES)

    def is_dead(self, name: bytes) -> bool:
        """Every other name belongs to a store object that was dropped."""
        return name != self.name

    def forget(self, name: bytes) -> None:
        """Nothing is kept about the dead."""

    def close(self) -> None:
        """Nothing to let go of."""
