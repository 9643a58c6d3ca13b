"""The interface of the ledger: an ordered key-value store with serializable transactions.

A backend needs only get, scan, put, delete and adding to a counter. LMDB offers these embedded;
FoundationDB or a table in PostgreSQL could too. All rules of the store are written once against
``Transaction``, as module-level ``async def`` functions of a transaction and plain arguments. Such
a function awaits only the transaction, and takes ids, entropy and times as arguments. So a backend
that never waits runs it to its end with ``drive``, in any thread or process, and may run it again.

Keys are 1 to 500 bytes, values at most 64 KiB. Keys order as bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import (
    Any,
    Concatenate,
    Final,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeVar,
    runtime_checkable,
)

from holdfast.engine.model.errors import Corrupt

from . import layout

P = ParamSpec("P")
T = TypeVar("T")

KEY_BYTES_MAX: Final = 500
VALUE_BYTES_MAX: Final = 64 * 1024

Rows = list[tuple[bytes, bytes]]
Work = Callable[Concatenate["Transaction", P], Coroutine[Any, Any, T]]
"""A transaction function: the body of a transaction."""


class Room(NamedTuple):
    """Bytes that rows may still use of the map and of the disk; free pages count in both."""

    map: int
    disk: int


class Change(IntEnum):
    """The most that a transaction changes, in ascending order."""

    TIMES = 0
    """Times of update and pull, and counts of pulls."""
    CONTENT = 1
    """Also which blobs, manifests and tags an image has."""
    ANY = 2
    """Anything, so also names and rights."""


class Transaction(Protocol):
    """A transaction: one consistent state of the ledger, and its own writes."""

    async def get(self, key: bytes) -> bytes | None:
        """Return the value under ``key``, or None."""

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False, skip: int = 0
    ) -> Rows:
        """Return at most ``limit`` rows with ``start <= key < stop``, in key order.

        ``reverse`` starts at the other end. ``skip`` omits that many rows first without reading
        their values; its cost is linear, at about 10 million rows a second.
        """

    async def put(self, key: bytes, value: bytes) -> None:
        """Set a row."""

    async def delete(self, key: bytes) -> bool:
        """Remove a row. Return True if there was one."""

    async def add(self, key: bytes, delta: int) -> None:
        """Add to a counter without reading it (a blind write if the backend has one).

        A counter at zero has no row. Counters are 63-bit signed. A damaged counter stays as it
        is: the operation does not fail, and ``check`` reports the counter.
        """

    async def counter(self, key: bytes) -> int:
        """Return the value of a counter; 0 if it has no row. Raises Corrupt."""

    async def room(self) -> Room:
        """Return the room for rows, after this transaction's writes so far."""

    def declare_change(self, change: Change) -> None:
        """Declare the most that this function changes (see ``change_log``); the default is ANY."""


class Ledger(Protocol):
    """An open ledger. ``close`` finishes submitted transactions first."""

    async def transact(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` and commit, durably, before returning its result.

        Functions of concurrent callers run one after the other and may share one commit. A
        function that raises leaves no trace, and its error is raised here. Cancelling the caller
        does not cancel a submitted function: it may commit all the same.

        Raises StorageFull, StorageFailed, Closed, and the errors of ``work``.
        """

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` over one consistent snapshot, without waiting for any writer.

        ``work`` must not write (RuntimeError), and should take well under a millisecond: it runs
        on the caller's event loop.
        """

    async def read_in_thread(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` as ``read`` does, but in a thread: for long scans."""

    async def close(self) -> None:
        """Finish submitted transactions and close the ledger. Idempotent."""


@runtime_checkable
class VersionedLedger(Protocol):
    """An optional ability of a ledger: reads that never wait, and a version to cache them by."""

    def last_txn(self) -> int:
        """Return the newest transaction that a read started now sees; every commit raises it."""

    def changed(self, since: int, until: int) -> Change:
        """Return the most that transactions after ``since``, up to ``until``, changed."""


@runtime_checkable
class RoomKeeper(Protocol):
    """An optional ability of a ledger whose disk other programs use as well."""

    def keep_room(self, count: int) -> None:
        """Preallocate ``count`` bytes of disk for rows. Blocking."""


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a transaction function to its end without an event loop; it must never wait.

    Raises RuntimeError if it awaits anything but its transaction, and its own errors.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a transaction function must await only its transaction")


_COUNTER: Final = struct.Struct("<BqI")
_COUNTER_VERSION: Final = 1


def pack_counter(key: bytes, value: int) -> bytes:
    """Return the stored form of a counter: version, value, crc32 over key and value."""
    body = _COUNTER.pack(_COUNTER_VERSION, value, 0)[:9]
    return body + zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "little")


def unpack_counter(key: bytes, stored: bytes) -> int:
    """Return the value of a stored counter, checked. Raises Corrupt."""
    if len(stored) != _COUNTER.size:
        raise Corrupt(*layout.about(key), "its row has a wrong length")
    version, value, crc = _COUNTER.unpack(stored)
    if version != _COUNTER_VERSION or crc != zlib.crc32(stored[:9], zlib.crc32(key)):
        raise Corrupt(*layout.about(key), "its row has a wrong version or checksum")
    number: int = value
    return number


def after(prefix: bytes) -> bytes:
    """Return the smallest key greater than all keys with this prefix (not all 0xff)."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,))


__all__ = [
    "KEY_BYTES_MAX",
    "VALUE_BYTES_MAX",
    "Ledger",
    "Room",
    "Rows",
    "Transaction",
    "Work",
    "after",
    "drive",
    "pack_counter",
    "unpack_counter",
]
