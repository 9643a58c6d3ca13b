"""The depot seam: bytes by file id, never by digest.

The ledger maps a digest to a file id, so committing a row is what publishes a file: there is no
rename, and deleting an id can never hit a file that another process just published under the same
digest. All calls are synchronous and may block; the store runs them in threads (``tasks.threads``).

A file id is ``block * BLOCK_FILES + index``. A process takes whole blocks of ids from the
ledger, so the files that a dead process may have left without a row lie in its open blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

BLOCK_FILES: Final = 256
"""File ids in a block; a block is one directory on disk."""

Data = bytes | bytearray | memoryview


class Writer(Protocol):
    """A file that is being written, by this writer alone."""

    @property
    def size(self) -> int:
        """Bytes in the file now."""

    def append(self, data: Data) -> None:
        """Write all of ``data`` at the end. Raises StorageFull, StorageFailed."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes (not more than it has)."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``: fewer than ``length`` only at the end of the file."""

    def sync(self) -> None:
        """Make the data, the size and the directory entry durable.

        Raises StorageFull, StorageFailed; then the file is empty, also for its next
        opener, and this writer takes no more: of what it had, nothing is certain.
        """

    def close(self) -> None:
        """Let go of the file; what was not synced may be lost in a power failure."""


class Reader(Protocol):
    """An open file that never changes. It stays readable after a delete of its id."""

    @property
    def size(self) -> int:
        """Bytes in the file."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``: fewer than ``length`` only at the end. Raises StorageFailed."""

    def is_whole(self) -> bool:
        """Whether the file has ``size`` bytes still. Does not wait for the disk."""

    def fileno(self) -> int | None:
        """A descriptor for sendfile, owned by this reader, or None where there is none."""

    def close(self) -> None:
        """Let go of the file. May be called twice."""


class Depot(Protocol):
    """Files by id."""

    def create(self, file_id: int) -> Writer:
        """A new, empty file, exclusively ours. Raises AlreadyExists, StorageFull, StorageFailed."""

    def reopen(self, file_id: int) -> Writer:
        """Go on writing a file. Raises Busy while another writer has it, NotFound."""

    def open(self, file_id: int) -> Reader:
        """Read a file. Raises NotFound, StorageFailed."""

    def delete(self, file_id: int) -> bool:
        """Remove a file; says whether there was one."""

    def sync_block(self, block: int) -> None:
        """Make deletes in a block durable: until then a power failure may bring files back."""

    def files(self, block: int) -> Iterator[int]:
        """Ids of the files in one block, in no order."""

    def blocks(self) -> Iterator[int]:
        """All blocks that have, or had, files, in no order: for ``check``."""

    def free_bytes(self) -> int:
        """Bytes that can still be written."""

    def link(self, file_id: int, target: str) -> None:
        """Make the file appear under the path ``target`` too (linked, or copied), durably."""

    def close(self) -> None:
        """Let go of the depot."""
