"""Checks the data file of LMDB with plain reads, before any access to its memory map.

Access to a page of the map behind the end of the file kills the process (SIGBUS), so a truncated
file must be detected by reads. LMDB 0.9 stores the number of the last page it ever used, but not
all pages up to it were written: one allocated at the end of the file and freed in the same
transaction never is. So a short file is complete exactly if LMDB's list of free pages contains
all pages that it lacks.

Layout: ``MDB_page``, ``MDB_meta``, ``MDB_db`` and ``MDB_node`` in liblmdb 0.9 (mdb.c), for
64-bit processes, in native byte order.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from holdfast.engine.model.errors import Corrupt, NotAStore

NAME: Final = "data.mdb"
_LOCK_NAME: Final = "lock.mdb"
_LOCK_SLOT_BYTES: Final = 64
_LOCK_HEAD_SLOTS: Final = 2
"""Size of ``MDB_txninfo`` without its first reader, in slots."""

ADVICE: Final = "restore the directory from a snapshot with `holdfast restore`"

_MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1
_PAGE_BYTES_MIN: Final = 512
_PAGE_BYTES_MAX: Final = 64 * 1024

_PAGE: Final = struct.Struct("=QHHHH")
"""Page header: number, padding, flags, bounds of the free space between slots and nodes."""
_BRANCH: Final = 1
_LEAF: Final = 2

_META: Final = struct.Struct("=IIQQ" + "IHHQQQQQ" * 2 + "QQ")
"""Meta page: magic, version, address, map size, ``MDB_db`` of the free list and of the main tree,
last page, transaction id. The page size is in the first ``MDB_db``."""

_NODE: Final = struct.Struct("=HHHH")
"""Node: low and high half of a size or page number, flags (or its highest part), key size."""
_OVERFLOWS: Final = 1
_NO_PAGE: Final = (1 << 64) - 1


class Meta(NamedTuple):
    """The fields used of one of the two meta pages: sizes in bytes, pages by number."""

    page_bytes: int
    free_root: int
    last_page: int
    txn: int


def damaged(reason: str) -> Corrupt:
    """Create the error for a ledger that must not be used any more."""
    return Corrupt("file", f"ledger/{NAME}", f"{reason}; {ADVICE}")


def check_header(path: Path) -> None:
    """Check that the meta pages are complete, so that LMDB can open the file.

    Raises Corrupt if it is not an LMDB file or ends within its meta pages, NotAStore for another
    data format, OSError.
    """
    with path.open("rb", buffering=0) as file:
        _metas(file.fileno())


def check_length(path: Path, txn: int) -> bool:
    """Check that the file contains all pages in use as of transaction ``txn``.

    The caller holds a read transaction of that id, so no writer reuses its pages meanwhile.
    Returns False if writers committed twice since it began: then neither meta page describes it.
    Raises Corrupt, OSError.
    """
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        metas = {meta.txn: meta for meta in _metas(fd)}
        if txn not in metas:
            if max(metas) < txn:
                raise damaged("it is older than its lock file")
            return False
        meta = metas[txn]
        present = os.fstat(fd).st_size // meta.page_bytes
        lacking = meta.last_page + 1 - present
        if lacking <= 0:
            return True
        try:
            free = {page for page in _free_pages(fd, meta) if present <= page <= meta.last_page}
        except struct.error as error:
            raise damaged("the file is truncated within its free list") from error
        if len(free) < lacking:
            raise damaged(f"the file is truncated: {lacking - len(free)} pages in use are missing")
        return True


def check_free_list(path: Path, txn: int) -> None:
    """Check that the free list as of transaction ``txn``, which all writes need, can be read.

    The caller holds a read transaction, as for ``check_length``. Takes time linear in the number
    of free pages. Raises Corrupt, OSError.
    """
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        for meta in _metas(fd):
            if meta.txn != txn:
                continue
            try:
                free = max(_free_pages(fd, meta), default=0)
            except struct.error as error:
                raise damaged("its free list cannot be read") from error
            if free > meta.last_page:
                raise damaged("its free list names pages behind its last one")


def create(path: Path, make: Callable[[Path], None]) -> None:
    """Create a data file in ``path``, durably, unless one exists.

    ``make`` creates it in an empty directory first. The file then appears complete or not at
    all, so an empty one is always damage. Raises OSError.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=path) as new:
        make(Path(new))
        # A link, not a rename: it never replaces the file of a process that was faster.
        with contextlib.suppress(FileExistsError):
            os.link(Path(new) / NAME, path / NAME)
    _sync_directory(path)
    _sync_directory(path.parent)


def make_lock(path: Path, readers: int) -> None:
    """Create the lock file for ``readers`` in ``path``, unless one exists. Raises OSError.

    LMDB would create a sparse file and write to it through a map. On a full disk, the first
    reader in a page without blocks would then kill its process (SIGBUS).
    """
    if (path / _LOCK_NAME).exists():
        return
    with tempfile.NamedTemporaryFile(prefix="new-", dir=path) as new:
        new.write(bytes((_LOCK_HEAD_SLOTS + readers) * _LOCK_SLOT_BYTES))
        new.flush()
        # Another process may have been faster; then its file is in use.
        with contextlib.suppress(FileExistsError):
            os.link(new.name, path / _LOCK_NAME)


def write_copy(target: Path, copy: Callable[[int], None]) -> None:
    """Create a data file in ``target`` that ``copy`` writes to a descriptor, durably.

    Removes it after an error. Raises FileExistsError, OSError, and the errors of ``copy``.
    """
    target.mkdir(mode=0o700, exist_ok=True)
    file = target / NAME
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        copy(fd)
        os.fsync(fd)
    except BaseException:
        file.unlink()
        raise
    finally:
        os.close(fd)
    _sync_directory(target)
    _sync_directory(target.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _metas(fd: int) -> list[Meta]:
    first = _meta(os.pread(fd, 4096, 0))
    if os.fstat(fd).st_size < 2 * first.page_bytes:
        raise damaged("the file is truncated within its meta pages")
    return [first, _meta(os.pread(fd, 4096, first.page_bytes))]


def _meta(page: bytes) -> Meta:
    if len(page) < _PAGE.size + _META.size:
        raise damaged("the file is empty" if not page else "the file is truncated at its start")
    fields = _META.unpack_from(page, _PAGE.size)
    if fields[0] != _MAGIC:
        raise damaged("it is not an LMDB file")
    if fields[1] != _DATA_VERSION:
        raise NotAStore(
            f"ledger/{NAME}", f"its LMDB data format is {fields[1]}, must be {_DATA_VERSION}"
        )
    page_bytes = fields[4]
    if not _PAGE_BYTES_MIN <= page_bytes <= _PAGE_BYTES_MAX or page_bytes & (page_bytes - 1):
        raise damaged("its page size is not valid")
    map_bytes, flags, root, last_page = fields[3], fields[13], fields[19], fields[20]
    if (last_page + 1) * page_bytes > map_bytes:
        raise damaged("it claims more pages than its map has")
    # LMDB would take a main tree with other flags for an empty ledger, and add rows to it.
    if flags or not (root <= last_page or root == _NO_PAGE):
        raise damaged("its meta page does not lead to its rows")
    return Meta(page_bytes, free_root=fields[11], last_page=last_page, txn=fields[21])


def _free_pages(fd: int, meta: Meta) -> Iterator[int]:
    """Yield all page numbers in the free list, in no order. Raises struct.error, Corrupt."""
    todo = [] if meta.free_root == _NO_PAGE else [meta.free_root]
    seen: set[int] = set()
    while todo:
        number = todo.pop()
        if number in seen:
            raise damaged("its free list has a cycle")
        seen.add(number)
        page = os.pread(fd, meta.page_bytes, number * meta.page_bytes)
        _, _, flags, lower, _ = _PAGE.unpack_from(page)
        for slot in struct.unpack_from(f"={(lower - _PAGE.size) // 2}H", page, _PAGE.size):
            low, high, upmost, key_bytes = _NODE.unpack_from(page, slot)
            data = slot + _NODE.size + key_bytes
            if flags & _BRANCH:
                todo.append(low | high << 16 | upmost << 32)
            elif not flags & _LEAF:
                raise damaged("its free list leads to a page of another kind")
            # A long list lies in overflow pages of its own, a short one in the node.
            elif upmost & _OVERFLOWS:
                (first,) = struct.unpack_from("=Q", page, data)
                start = first * meta.page_bytes + _PAGE.size
                yield from _numbers(os.pread(fd, low | high << 16, start))
            else:
                yield from _numbers(page[data : data + (low | high << 16)])


def _numbers(stored: bytes) -> tuple[int, ...]:
    """Return a stored list of page numbers: a count, then the numbers. Raises struct.error."""
    (count,) = struct.unpack_from("=Q", stored)
    # Checked first: the count of a damaged list would decide how much memory is used.
    if count > len(stored) // 8:
        raise struct.error("a list is longer than its row")
    return struct.unpack_from(f"={count}Q", stored, 8)
