"""The rival of small puts: SQLite, one writer thread, one committed row each."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

_TABLE: Final = "CREATE TABLE IF NOT EXISTS blobs(digest BLOB PRIMARY KEY, content BLOB)"
_INSERT: Final = "INSERT INTO blobs VALUES (?, ?)"
_COUNT: Final = "SELECT count(*) FROM blobs"

_Job = Callable[[sqlite3.Connection], object]


class SqliteBlobs:
    """Blobs by sha256 in one table; WAL, synchronous=FULL: a put that returned is on disk.

    One connection does everything. Two that turn one file to WAL at once are a deadlock, which
    SQLite ends with "database is locked" without a wait, whatever the timeout.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[tuple[_Job, asyncio.Future[Any]] | None]
        self._queue = queue.SimpleQueue()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        connection = await asyncio.to_thread(self._connect)
        self._thread = threading.Thread(target=self._run, args=(connection,), name="sqlite-writer")
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def put(self, value: bytes) -> None:
        """Store a blob under its sha256."""
        await self._do(partial(_insert, value))

    async def fill(self, values: Iterable[bytes]) -> None:
        """Store many blobs in one transaction: what is there before anything is measured."""
        await self._do(partial(_fill, values))

    async def count(self) -> int:
        """Rows in the table."""
        return int(await self._do(lambda connection: connection.execute(_COUNT).fetchone()[0]))

    async def _do(self, job: _Job) -> Any:
        future = self._loop.create_future()
        self._queue.put((job, future))
        return await future

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(_TABLE)
        return connection

    def _run(self, connection: sqlite3.Connection) -> None:
        while (item := self._queue.get()) is not None:
            job, future = item
            try:
                done = job(connection)
            except sqlite3.Error as error:
                self._loop.call_soon_threadsafe(future.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(future.set_result, done)
        connection.close()


def _insert(value: bytes, connection: sqlite3.Connection) -> None:
    connection.execute(_INSERT, (hashlib.sha256(value).digest(), value))


def _fill(values: Iterable[bytes], connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.executemany(_INSERT, ((hashlib.sha256(value).digest(), value) for value in values))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
