"""The rival of small puts: SQLite, one writer thread, one committed row each."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

_TABLE: Final = "CREATE TABLE IF NOT EXISTS blobs(digest BLOB PRIMARY KEY, content BLOB)"
_INSERT: Final = "INSERT INTO blobs VALUES (?, ?)"


class SqliteBlobs:
    """Blobs by sha256 in one table; WAL, synchronous=FULL: a put that returned is on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="sqlite-writer")

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def put(self, value: bytes) -> None:
        """Store a blob under its sha256."""
        future = self._loop.create_future()
        self._queue.put((value, future))
        await future

    async def fill(self, values: Iterable[bytes]) -> None:
        """Store many blobs in one transaction: what is there before anything is measured."""

        def write() -> None:
            connection = self._connect()
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(_TABLE)
                connection.execute("BEGIN")
                rows = ((hashlib.sha256(value).digest(), value) for value in values)
                connection.executemany(_INSERT, rows)
                connection.execute("COMMIT")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()

        await asyncio.to_thread(write)

    async def count(self) -> int:
        """Rows in the table, read by a connection of its own."""

        def read() -> int:
            connection = self._connect()
            try:
                return int(connection.execute("SELECT count(*) FROM blobs").fetchone()[0])
            finally:
                connection.close()

        return await asyncio.to_thread(read)

    def _connect(self) -> sqlite3.Connection:
        # A disk that stalls makes its turns longer than the five seconds that are usual.
        return sqlite3.connect(self._path, isolation_level=None, timeout=60)

    def _write(self) -> None:
        connection = self._connect()
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(_TABLE)
        while (item := self._queue.get()) is not None:
            value, future = item
            row = (hashlib.sha256(value).digest(), value)
            try:
                connection.execute(_INSERT, row)
            except sqlite3.Error as error:
                self._loop.call_soon_threadsafe(future.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(future.set_result, None)
        connection.close()
