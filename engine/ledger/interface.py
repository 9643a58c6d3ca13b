"""The ledger seam: metadata as an ordered key-value store with serializable transactions.

What a backend has to offer is small on purpose (get, scan, put, delete, add to a counter): LMDB
gives it embedded, FoundationDB offers it, a table in PostgreSQL can. All rules of the store are
written once against ``Transaction``, as module-level ``async def`` functions over a transaction
and plain arguments. Such a function awaits nothing but the transaction object and takes ids,
entropy and times as arguments. So a backend without waits runs it to its end with ``drive``,
may run it in another thread or process, and may run it again.

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
"""A transaction's body."""


class Room(NamedTuple):
    """What a ledger's rows may still take, in bytes; pages that are free inside count in both."""

    map: int
    disk: int


class Change(IntEnum):
    """What a transaction changes at most."""

    TIMES = 0
    """When things were updated or pulled last, and how often."""
    CONTENT = 1
    """Which blobs, manifests and tags an image has, too."""
    ANY = 2


class Transaction(Protocol):
    """What a transaction function sees: one consistent state, and its own writes."""

    async def get(self, key: bytes) -> bytes | None:
        """The value under ``key``, or None."""

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False, skip: int = 0
    ) -> Rows:
        """At most ``limit`` rows with ``start <= key < stop``, in key order.

        ``reverse`` begins at the other end. ``skip`` rows are passed over first without being
        read: linear in ``skip``, at some 10 million a second.
        """

    async def put(self, key: bytes, value: bytes) -> None:
        """Set a row."""

    async def delete(self, key: bytes) -> bool:
        """Remove a row; says whether there was one."""

    async def add(self, key: bytes, delta: int) -> None:
        """Add to a counter without reading it (a blind write where the backend has one).

        A counter at zero has no row. Counters are 63-bit signed. A damaged one is left as it is:
        what has to be counted does not fail for it, and the check tells of it.
        """

    async def counter(self, key: bytes) -> int:
        """The value of a counter; 0 where there is no row. Raises Corrupt."""

    async def room(self) -> Room:
        """What rows may still take, this transaction's counted as they stand."""

    def declare_change(self, change: Change) -> None:
        """Say what this body changes at most (see ``change_log``); ANY where nobody says."""


class Ledger(Protocol):
    """An open ledger. ``close`` first finishes what was submitted."""

    async def transact(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` and commit, durably, before returning its result.

        Bodies of concurrent callers run one after the other and may share one commit. A body
        that raises leaves no trace, and its error comes out here. Cancelling the caller does
        not cancel a body that was submitted: it may commit all the same.

        Raises StorageFull, StorageFailed, Closed, and what the body raises.
        """

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` over one consistent snapshot, without waiting for any writer.

        ``work`` must not write (RuntimeError). For work of well under a millisecond.
        """

    async def read_in_thread(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``read``, in a thread of its own: for long scans."""

    async def close(self) -> None:
        """Finish submitted transactions and let go of the ledger. May be called twice."""


@runtime_checkable
class VersionedLedger(Protocol):
    """What a ledger can do besides whose reads never wait."""

    def last_txn(self) -> int:
        """The newest transaction that a read begun now sees; grows with every commit."""

    def changed(self, since: int, until: int) -> Change:
        """What the transactions after ``since``, up to ``until``, changed at most."""


@runtime_checkable
class RoomKeeper(Protocol):
    """What a ledger can do besides whose rows lie on a disk that others use, too."""

    def keep_room(self, count: int) -> None:
        """Have the disk set aside so many bytes for it. Blocks."""


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a transaction function that never really waits to its end, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a transaction function awaited something else than its transaction")


_COUNTER: Final = struct.Struct("<BqI")
_COUNTER_VERSION: Final = 1


def pack_counter(key: bytes, value: int) -> bytes:
    """A counter as stored: version, value, crc32 over key and value."""
    body = _COUNTER.pack(_COUNTER_VERSION, value, 0)[:9]
    return body + zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "little")


def unpack_counter(key: bytes, stored: bytes) -> int:
    """The inverse of ``pack_counter``. Raises Corrupt."""
    if len(stored) != _COUNTER.size:
        raise Corrupt(*layout.about(key), "its row has a wrong length")
    version, value, crc = _COUNTER.unpack(stored)
    if version != _COUNTER_VERSION or crc != zlib.crc32(stored[:9], zlib.crc32(key)):
        raise Corrupt(*layout.about(key), "its row has a wrong version or checksum")
    number: int = value
    return number


def after(prefix: bytes) -> bytes:
    """The smallest key that is greater than every key with this prefix (not all 0xff)."""
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
