"""The depot on a local file system: one file an id, one directory a block.

File ``block * 256 + index`` is ``<block / 4096>/<block % 4096>/<index>`` below the root, each
number in lower-case hex (4, 3 and 2 digits). Directories are made on demand and never removed:
a directory that is removed while another process creates a file in it would lose that file.

A writer holds an exclusive ``flock`` on its file, which the kernel drops when the process dies.
No other module of the engine opens files that hold blobs; ``disk_file`` works on what this one
has opened.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from holdfast.engine.model.errors import AlreadyExists, Busy, Invalid, NotFound, StorageFailed

from .disk_file import (
    Irregular,
    Reader,
    Writer,
    is_there,
    lock,
    open_regular,
    refused,
    refusing,
    require_regular,
    write_all,
)
from .interface import BLOCK_FILES

_GROUP_BLOCKS: Final = 4096
"""Blocks in a group: as many entries as a directory of the second level has at most."""

_KNOWN_MAX: Final = 65536
"""Directories remembered as durable: over it all are forgotten, and synced again once."""

_COPY_BYTES: Final = 8 * 1024 * 1024
"""Bytes that one step of a copy moves inside the kernel."""

_READ_BYTES: Final = 1024 * 1024
"""Bytes that one step of a copy holds in memory where the kernel cannot do it."""

_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS: Final = frozenset((errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP))
_NO_KERNEL_COPY: Final = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
)


class DiskDepot:
    """Files below ``root`` (see ``depot.Depot``). Threads and processes may share a root.

    ``root`` is made where it is missing, its parent is not. Directories have mode 0700, files
    0600. StorageFailed names a file by its path below the root.
    """

    __slots__ = ("_durable", "_root")

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)
        self._durable: set[str] = set()
        with refusing(self._root):
            _make_directory(self._root)
            os.scandir(self._root).close()

    def create(self, file_id: int) -> Writer:
        """A new, empty file. Raises AlreadyExists, StorageFull, StorageFailed."""
        what = _name(file_id)
        try:
            try:
                fd = os.open(self._path(what), _CREATE, 0o600)
            except FileNotFoundError:
                self._make_block(what)
                fd = os.open(self._path(what), _CREATE, 0o600)
        except FileExistsError as error:
            raise AlreadyExists("file", f"{file_id:x}") from error
        except OSError as error:
            raise refused(error, what) from error
        try:
            if not lock(fd, what):
                # Another process can only have reopened it in between: then the file is its own.
                raise AlreadyExists("file", f"{file_id:x}")
        except BaseException:
            os.close(fd)
            raise
        return Writer(fd, 0, what, partial(self._sync_entries, what))

    def reopen(self, file_id: int) -> Writer:
        """Go on writing a file. Raises Busy, NotFound, StorageFailed."""
        what = _name(file_id)
        fd, _ = self._open(file_id, what, os.O_RDWR)
        try:
            if not lock(fd, what):
                raise Busy("file", f"{file_id:x}")
            # The size counts from here on only: the last writer was still at it before.
            locked = os.fstat(fd)
            if not self._names(what, locked):
                raise NotFound("file", f"{file_id:x}")
        except BaseException:
            os.close(fd)
            raise
        return Writer(fd, locked.st_size, what, partial(self._sync_entries, what))

    def open(self, file_id: int) -> Reader:
        """Read a file. Raises NotFound, StorageFailed."""
        what = _name(file_id)
        fd, status = self._open(file_id, what, os.O_RDONLY)
        return Reader(fd, status.st_size, what)

    def delete(self, file_id: int) -> bool:
        """Remove a file; says whether there was one. Raises StorageFailed."""
        what = _name(file_id)
        with refusing(what):
            try:
                os.unlink(self._path(what))
            except (FileNotFoundError, IsADirectoryError):
                # A directory is no file of the depot's: it stays, and no other file waits for it.
                return False
        return True

    def sync_block(self, block: int) -> None:
        """Make deletes in a block durable. A block without a directory has none.

        Raises StorageFailed.
        """
        what = _block_name(block)
        with refusing(what):
            there = is_there(self._path(what))
        if there:
            _sync_path(self._path(what), what)

    def files(self, block: int) -> Iterator[int]:
        """Ids of the files in one block, in no order. Names that are not ours are passed over.

        The directory is read at the first step, whole. Raises StorageFailed.
        """
        what = _block_name(block)
        found = []
        try:
            with os.scandir(self._path(what)) as entries:
                for entry in entries:
                    index = _number(entry.name, 2, BLOCK_FILES)
                    if index is not None and entry.is_file(follow_symlinks=False):
                        found.append(block * BLOCK_FILES + index)
        except FileNotFoundError:
            return
        except OSError as error:
            raise refused(error, what) from error
        yield from found

    def blocks(self) -> Iterator[int]:
        """All blocks that have, or had, files, in no order. Raises StorageFailed on the way."""
        for group in self._directories("", 4, None):
            for place in self._directories(f"{group:04x}", 3, _GROUP_BLOCKS):
                yield group * _GROUP_BLOCKS + place

    def free_bytes(self) -> int:
        """Bytes that an ordinary user can still write on the root's file system."""
        with refusing(self._root):
            status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def link(self, file_id: int, target: str) -> None:
        """Make the file appear under ``target`` too, durably: a hard link, else a copy.

        The directory of ``target`` must exist; that it is durable itself is the caller's part.
        Raises NotFound, AlreadyExists for a target that exists, StorageFull, StorageFailed;
        then the target is not there (or was before).
        """
        what = _name(file_id)
        fd, status = self._open(file_id, what, os.O_RDONLY)
        with closing(Reader(fd, status.st_size, what)) as reader:
            try:
                self._link(what, target)
            except FileExistsError as error:
                raise AlreadyExists("file", target) from error
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise refused(error, target) from error
                _copy_file(reader, fd, target)
                return
            with _unlinked_on_failure(target):
                if not os.path.samestat(os.lstat(target), status):
                    raise StorageFailed(what, "another file took its place meanwhile")
                os.fsync(fd)
                _sync_path(os.path.dirname(target) or ".", target)

    def _link(self, what: str, target: str) -> None:
        os.link(self._path(what), target, follow_symlinks=False)

    def copy(self, file_id: int, target: str) -> None:
        """Write the file's bytes to a new file ``target``, durably, as ``link`` where it copies.

        Raises NotFound, AlreadyExists, StorageFull, StorageFailed.
        """
        what = _name(file_id)
        fd, status = self._open(file_id, what, os.O_RDONLY)
        with closing(Reader(fd, status.st_size, what)) as reader:
            _copy_file(reader, fd, target)

    def close(self) -> None:
        """Nothing is held between two calls: open writers and readers stay usable."""

    def _sync_entries(self, what: str) -> None:
        # Directories that were there already are synced too when this process meets them
        # first: the process that made them may have died before syncing their parents.
        block = os.path.dirname(what)
        _sync_path(self._path(block), block)
        if block in self._durable:
            return
        group = os.path.dirname(block)
        _sync_path(self._path(group), group)
        if group not in self._durable:
            _sync_path(self._root, self._root)
            _sync_path(os.path.dirname(os.path.abspath(self._root)), self._root)
        if len(self._durable) >= _KNOWN_MAX:
            self._durable.clear()
        self._durable.update((group, block))

    def _path(self, what: str) -> str:
        return f"{self._root}/{what}"

    def _make_block(self, what: str) -> None:
        block = os.path.dirname(self._path(what))
        _make_directory(os.path.dirname(block))
        _make_directory(block)

    def _open(self, file_id: int, what: str, flags: int) -> tuple[int, os.stat_result]:
        try:
            return open_regular(self._path(what), flags, what)
        except FileNotFoundError as error:
            raise NotFound("file", f"{file_id:x}") from error
        except OSError as error:
            raise refused(error, what) from error

    def _names(self, what: str, status: os.stat_result) -> bool:
        try:
            return os.path.samestat(os.stat(self._path(what)), status)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise refused(error, what) from error

    def _directories(self, what: str, digits: int, limit: int | None) -> list[int]:
        with refusing(what or self._root), os.scandir(self._path(what)) as entries:
            numbers = (
                _number(entry.name, digits, limit)
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
            )
            return [number for number in numbers if number is not None]


class ForeignDepot(DiskDepot):
    """A depot that may come from a stranger: a snapshot to restore.

    It is walked down directory by directory, none of which is a link, and what is no regular
    file is not even opened. Only read. Errors are as those of a DiskDepot, with Irregular.
    """

    __slots__ = ()

    def _open(self, file_id: int, what: str, flags: int) -> tuple[int, os.stat_result]:
        try:
            with self._parent_of(what) as (parent, name):
                require_regular(name, what, parent=parent)
                return open_regular(name, flags, what, parent=parent)
        except FileNotFoundError as error:
            raise NotFound("file", f"{file_id:x}") from error
        except OSError as error:
            raise refused(error, what) from error

    def _link(self, what: str, target: str) -> None:
        with self._parent_of(what) as (parent, name):
            os.link(name, target, src_dir_fd=parent, follow_symlinks=False)

    @contextmanager
    def _parent_of(self, what: str) -> Iterator[tuple[int, str]]:
        """The directory of a file, open, and its name in there. Raises Irregular, OSError."""
        *directories, name = what.split("/")
        fd = os.open(self._root, _DIRECTORY)
        try:
            for directory in directories:
                parent = fd
                try:
                    fd = os.open(directory, _DIRECTORY, dir_fd=parent)
                except OSError as error:
                    fd = -1
                    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                        raise
                    mode = os.stat(directory, dir_fd=parent, follow_symlinks=False).st_mode
                    raise Irregular(what, mode, "directory") from error
                finally:
                    os.close(parent)
            yield fd, name
        finally:
            if fd >= 0:
                os.close(fd)


def write_file(target: str, data: bytes) -> None:
    """Write a new file durably; nothing of it stays when that fails.

    Raises AlreadyExists, StorageFull, StorageFailed.
    """
    _make_file(target, partial(_fill, data))


def _fill(data: bytes, fd: int) -> None:
    write_all(fd, data, 0)


def _copy_file(reader: Reader, source: int, target: str) -> None:
    def fill(fd: int) -> None:
        done = 0
        in_kernel = hasattr(os, "copy_file_range")
        while done < reader.size:
            if in_kernel:
                try:
                    moved = os.copy_file_range(source, fd, _COPY_BYTES, done, done)
                except OSError as error:
                    if error.errno not in _NO_KERNEL_COPY:
                        raise
                    moved = 0
                in_kernel = moved > 0
                done += moved
            else:
                chunk = reader.read(done, _READ_BYTES)
                write_all(fd, chunk, done)
                done += len(chunk)

    _make_file(target, fill)


def _make_file(target: str, fill: Callable[[int], None]) -> None:
    try:
        fd = os.open(target, _CREATE, 0o600)
    except FileExistsError as error:
        raise AlreadyExists("file", target) from error
    except OSError as error:
        raise refused(error, target) from error
    try:
        with _unlinked_on_failure(target):
            fill(fd)
            os.fsync(fd)
            _sync_path(os.path.dirname(target) or ".", target)
    finally:
        os.close(fd)


@contextmanager
def _unlinked_on_failure(target: str) -> Iterator[None]:
    """Remove the new file ``target`` if what follows in here fails: it is not durable."""
    with refusing(target):
        try:
            yield
        except BaseException:
            os.unlink(target)
            raise


def path_of(root: str | os.PathLike[str], file_id: int) -> str:
    """Where a depot with that root keeps the file."""
    return os.path.join(root, _name(file_id))


def _name(file_id: int) -> str:
    block, index = divmod(file_id, BLOCK_FILES)
    return f"{_block_name(block)}/{index:02x}"


def _block_name(block: int) -> str:
    if block < 0:
        raise Invalid("file_id", "must not be negative")
    group, place = divmod(block, _GROUP_BLOCKS)
    return f"{group:04x}/{place:03x}"


def _number(name: str, digits: int, limit: int | None) -> int | None:
    """The number that an entry is named after, or None for a name that we would not give."""
    try:
        number = int(name, 16)
    except ValueError:
        return None
    if name != f"{number:0{digits}x}" or number < 0 or (limit is not None and number >= limit):
        return None
    return number


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        # Another process was first; a file of that name is reported by what comes next.
        return


def _sync_path(path: str, what: str) -> None:
    with refusing(what):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
