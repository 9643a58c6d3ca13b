"""The depot in memory: the semantics of the disk without one, for tests and short-lived stores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from holdfast.engine.model.errors import (
    AlreadyExists,
    Busy,
    Invalid,
    NotFound,
    StorageFailed,
    StorageFull,
)

from .disk import write_file
from .interface import BLOCK_FILES, Data

_UNLIMITED: Final = 1 << 40
"""Free bytes that a depot without a capacity claims to have: 1 TiB."""


class _File:
    """One file: open readers and its writer keep it when its id is deleted."""

    __slots__ = ("counted", "data", "name", "written")

    def __init__(self, name: str) -> None:
        self.name = name
        self.data = bytearray()
        self.written = True
        """Whether a writer has it now."""
        self.counted = True
        """Whether its bytes count as used: until it is deleted."""

    def read(self, offset: int, length: int, size: int) -> bytes:
        if offset < 0 or length < 0:
            raise Invalid("offset" if offset < 0 else "length", "must not be negative")
        stop = min(offset + length, size)
        part = bytes(self.data[offset:stop])
        if len(part) < stop - offset:
            reason = f"the file ends at {len(self.data)} of {size} bytes"
            raise StorageFailed(self.name, reason)
        return part


class Writer:
    """A file being written, locked against every other writer (see ``depot.Writer``)."""

    __slots__ = ("_closed", "_depot", "_file")

    def __init__(self, depot: MemoryDepot, file: _File) -> None:
        self._depot = depot
        self._file = file
        self._closed = False

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return len(self._file.data)

    def append(self, data: Data) -> None:
        """Write all of ``data`` at the end, or nothing. Raises StorageFull, StorageFailed."""
        self._check()
        with memoryview(data).cast("B") as view:
            self._depot.take(self._file, len(view))
            self._file.data += view

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes. Raises Invalid for more than it has, StorageFailed."""
        self._check()
        if not 0 <= size <= self.size:
            raise Invalid("size", f"cannot cut {self.size} bytes to {size}")
        self._depot.take(self._file, size - self.size)
        del self._file.data[size:]

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``: fewer than ``length`` only at the end. Raises StorageFailed."""
        self._check()
        return self._file.read(offset, length, self.size)

    def sync(self) -> None:
        """Raises StorageFailed when closed; memory has nothing to make durable."""
        self._check()

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        if not self._closed:
            self._closed = True
            self._file.written = False

    def _check(self) -> None:
        if self._closed:
            raise StorageFailed(self._file.name, "the file was closed")


class Reader:
    """An open file (see ``depot.Reader``)."""

    __slots__ = ("_closed", "_file", "_size")

    def __init__(self, file: _File) -> None:
        self._file = file
        self._size = len(file.data)
        self._closed = False

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``: fewer than ``length`` only at the end.

        Raises StorageFailed, also where the file has become shorter than ``size``.
        """
        if self._closed:
            raise StorageFailed(self._file.name, "the file was closed")
        return self._file.read(offset, length, self._size)

    def is_whole(self) -> bool:
        """Always: nothing else can change it."""
        return True

    def fileno(self) -> int | None:
        """None: there is no descriptor."""
        return None

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        self._closed = True


class MemoryDepot:
    """Files in memory (see ``depot.Depot``), usable from several threads.

    ``capacity`` bounds the sum of the sizes of the files that exist, in bytes; None does not.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._used = 0
        self._files: dict[int, _File] = {}
        self._blocks: set[int] = set()
        self._lock = threading.Lock()

    def create(self, file_id: int) -> Writer:
        """A new, empty file. Raises AlreadyExists."""
        name = _name(file_id)
        with self._lock:
            if file_id in self._files:
                raise AlreadyExists("file", name)
            file = self._files[file_id] = _File(name)
            self._blocks.add(file_id // BLOCK_FILES)
        return Writer(self, file)

    def reopen(self, file_id: int) -> Writer:
        """Go on writing a file. Raises Busy, NotFound."""
        with self._lock:
            file = self._find(file_id)
            if file.written:
                raise Busy("file", file.name)
            file.written = True
        return Writer(self, file)

    def open(self, file_id: int) -> Reader:
        """Read a file. Raises NotFound."""
        with self._lock:
            return Reader(self._find(file_id))

    def delete(self, file_id: int) -> bool:
        """Remove a file; says whether there was one."""
        _name(file_id)
        with self._lock:
            file = self._files.pop(file_id, None)
            if file is None:
                return False
            file.counted = False
            self._used -= len(file.data)
        return True

    def sync_block(self, block: int) -> None:
        """Nothing is durable here."""

    def files(self, block: int) -> Iterator[int]:
        """Ids of the files in one block, in no order."""
        start = block * BLOCK_FILES
        _name(start)
        with self._lock:
            found = [
                number for number in range(start, start + BLOCK_FILES) if number in self._files
            ]
        yield from found

    def blocks(self) -> Iterator[int]:
        """All blocks that have, or had, files, in no order."""
        with self._lock:
            found = list(self._blocks)
        yield from found

    def free_bytes(self) -> int:
        """Bytes that can still be written: of 1 TiB where there is no capacity."""
        with self._lock:
            return max(0, (_UNLIMITED if self._capacity is None else self._capacity) - self._used)

    def link(self, file_id: int, target: str) -> None:
        """Write the file to the path ``target``, durably.

        Raises NotFound, AlreadyExists for a target that exists, StorageFull, StorageFailed.
        """
        with self._lock:
            data = bytes(self._find(file_id).data)
        write_file(target, data)

    def close(self) -> None:
        """The files stay: a store may be opened on them again, as on a disk."""

    def take(self, file: _File, count: int) -> None:
        """Count ``count`` more bytes of a file, or fewer when negative. Raises StorageFull."""
        with self._lock:
            if not file.counted:
                return
            used = self._used + count
            if count > 0 and self._capacity is not None and used > self._capacity:
                raise StorageFull("depot")
            self._used = used

    def _find(self, file_id: int) -> _File:
        name = _name(file_id)
        file = self._files.get(file_id)
        if file is None:
            raise NotFound("file", name)
        return file


def _name(file_id: int) -> str:
    if file_id < 0:
        raise Invalid("file_id", "must not be negative")
    return f"{file_id:x}"
