"""The rival of small puts: SQLite, one writer thread, one committed row each."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import sqlite3
import threading
from pathlib import Path
from typing import Self


class SqliteBlobs:
    """Blobs by sha256 in one table; WAL, synchronous=FULL: a put that returned is on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="sqlite-writer")
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
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
        return sqlite3.connect(self._path, isolation_level=None)

    def _write(self) -> None:
        connection = self._connect()
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS blobs(digest BLOB PRIMARY KEY, content BLOB)"
        )
        while (item := self._queue.get()) is not None:
            value, future = item
            row = (hashlib.sha256(value).digest(), value)
            try:
                connection.execute("INSERT INTO blobs VALUES (?, ?)", row)
            except sqlite3.Error as error:
                self._loop.call_soon_threadsafe(future.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(future.set_result, None)
        connection.close()
