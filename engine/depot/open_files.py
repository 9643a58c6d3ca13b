"""Files that are read again and again stay open for a moment.

Opening and closing a file takes two trips to a thread, which is more than sending a small layer
does. So a plain file stays open for some seconds after its last reader, and the next one gets it
without waiting. A file that was unlinked meanwhile keeps its space no longer than that.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from holdfast.engine.ledger.records import Blob
from holdfast.engine.tasks.threads import Threads

from . import blob_file
from .blob_file import BlobFile
from .interface import Depot

_log: Final = logging.getLogger(__name__)

KEEP_SECONDS: Final = 5.0
"""How long a file without readers stays open."""

KEEP_MAX: Final = 256
"""Files without readers that stay open: each is a descriptor."""


@dataclass(slots=True)
class _Kept:
    original: BlobFile
    readers: int
    until: float = 0.0


class OpenFiles:
    """The plain blob files of one store that are open for reading. For one event loop."""

    def __init__(self, depot: Depot, threads: Threads) -> None:
        self._depot = depot
        self._threads = threads
        self._files: dict[int, _Kept] = {}
        """In the order of their last use: those without readers expire in that order."""
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def at_hand(self, file_id: int) -> BlobFile | None:
        """The file, if it is open and has its size; give it back with ``release``."""
        kept = self._files.get(file_id)
        if kept is None:
            return None
        if not kept.original.reader.is_whole():
            self._forget(file_id)
            return None
        kept.readers += 1
        return kept.original

    async def open(self, blob: Blob) -> BlobFile:
        """Open the blob's file; give it back with ``release``.

        Raises NotFound, Corrupt (another size), StorageFailed, Closed.
        """
        original = await self._threads.acquire(blob_file.open_original, self._depot, blob)
        if original.plain and blob.file_id not in self._files and not self._closed:
            self._files[blob.file_id] = _Kept(original, 1)
        return original

    def release(self, original: BlobFile) -> None:
        """A reader is done with a file."""
        kept = self._files.get(original.file_id)
        if kept is None or kept.original is not original:
            self._close(original)
            return
        kept.readers -= 1
        if kept.readers:
            return
        loop = asyncio.get_running_loop()
        kept.until = loop.time() + KEEP_SECONDS
        self._files[original.file_id] = self._files.pop(original.file_id)
        if len(self._files) > KEEP_MAX:
            idle = (file_id for file_id, file in self._files.items() if not file.readers)
            self._forget(next(idle))
        if self._timer is None:
            self._timer = loop.call_later(KEEP_SECONDS, self._expire)

    async def close(self) -> None:
        """Close what has no readers; what has some is closed when they are done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for file_id in list(self._files):
            self._forget(file_id)
        while self._closing:
            await asyncio.wait(self._closing)
        self._closed = True

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for file_id, kept in list(self._files.items()):
            if not kept.readers:
                if kept.until > now:
                    self._timer = loop.call_at(kept.until, self._expire)
                    return
                self._forget(file_id)

    def _forget(self, file_id: int) -> None:
        kept = self._files.pop(file_id)
        if not kept.readers:
            self._close(kept.original)

    def _close(self, original: BlobFile) -> None:
        """In a thread: to close the last descriptor of an unlinked file is to delete it."""
        if self._closed:
            # The threads are gone.
            original.close()
            return
        task = asyncio.get_running_loop().create_task(self._threads.finish(original.close))
        self._closing.add(task)
        task.add_done_callback(self._was_closed)

    def _was_closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("closing a file failed: %s", error)
