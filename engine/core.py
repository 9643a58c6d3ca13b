"""Context of an open store: seams, threads, limits, clock, and the checks of free space.

Every part of the engine takes a ``Core``. Work that adds rows goes through ``Core.grow``, which
refuses it while the ledger is down to its reserve, so that deletes can still write theirs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from .depot.files import Files
from .depot.gate import Gate
from .depot.interface import Depot
from .ledger.interface import Ledger, P, Room, RoomKeeper, T, Transaction, Work
from .model.config import LEDGER_RESERVE_BYTES, PREALLOCATED_BYTES, StoreConfig
from .model.errors import StorageFull
from .tasks.threads import Threads

SECOND: Final = 1_000_000
"""One second in microseconds, the unit of all times in the ledger."""


class Space:
    """Cache of one answer: there is ample free space, so checks may be skipped for a moment."""

    __slots__ = ("_ample_bytes", "_until", "_valid_seconds")

    def __init__(self, ample_bytes: int, valid_seconds: float) -> None:
        """Remember ``ample_bytes`` or more for ``valid_seconds``.

        Choose both such that no disk takes that many bytes in that time.
        """
        self._ample_bytes = ample_bytes
        self._valid_seconds = valid_seconds
        self._until = 0.0

    def record(self, spare: int) -> None:
        """Record the bytes that a check found free beyond the request and the reserve."""
        ample = spare >= self._ample_bytes
        self._until = time.monotonic() + self._valid_seconds if ample else 0.0

    @property
    def is_ample(self) -> bool:
        """True while a recent check guarantees that a small write fits."""
        return time.monotonic() < self._until


@dataclass(frozen=True, slots=True)
class Core:
    """The seams, the threads, the limits and the clock of one open store."""

    ledger: Ledger
    scratch: Ledger
    """Unsynced ledger for state that must survive a process, but not a restart of the machine."""
    depot: Depot
    files: Files
    threads: Threads
    config: StoreConfig
    clock: Callable[[], float]
    reserve_default: int = 0
    """Disk reserve in bytes where ``StoreConfig.disk_reserve_bytes`` is None."""
    space: Space = field(default_factory=partial(Space, 8 << 30, 1.0))
    """Result of the last check of free disk space."""
    ledger_space: Space = field(default_factory=partial(Space, 1 << 30, 0.1))
    """Result of the last check of room in the ledger.

    Valid for a shorter time: uploads may use up the same disk.
    """
    gate: Gate = field(default_factory=Gate)
    """Gate between notes that processes gather in memory and decisions that depend on them."""
    ledger_reserve: Room = field(init=False)
    """Room in the ledger that only deletes may use."""

    def __post_init__(self) -> None:
        # Never more than a share of a small map or a small disk reserve.
        reserve = Room(
            min(LEDGER_RESERVE_BYTES, self.config.map_bytes // 8),
            min(LEDGER_RESERVE_BYTES, self.reserve_bytes // 4),
        )
        # The class is frozen: a derived field can only be set past that.
        object.__setattr__(self, "ledger_reserve", reserve)

    def now(self) -> int:
        """Return the wall clock's time in microseconds since 1970."""
        return int(self.clock() * SECOND)

    @property
    def reserve_bytes(self) -> int:
        """Disk space in bytes that uploads leave free."""
        given = self.config.disk_reserve_bytes
        return self.reserve_default if given is None else given

    def grow(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Run a transaction that adds rows. Raises StorageFull when the ledger is at its reserve.

        The reserve is for deletes: they write rows too, before they free anything.
        """
        return self.ledger.transact(grow_if_room, self.ledger_reserve, work, *args, **kwargs)

    async def require_growth(self) -> None:
        """Check early for work that ends in ``grow``. Raises StorageFull where ``grow`` would."""
        if self.ledger_space.is_ample:
            return
        spare = await self.ledger.read(room_left, self.ledger_reserve)
        self.ledger_space.record(spare)
        if spare < 0:
            raise StorageFull("ledger")

    async def keep_room(self) -> None:
        """Preallocate the disk space that deletes need, so that other programs cannot take it.

        Raises StorageFailed, Closed.
        """
        count = min(PREALLOCATED_BYTES, self.ledger_reserve.disk)
        # The scratch ledger has few rows: an eighth is enough.
        for ledger, share in ((self.ledger, 1), (self.scratch, 8)):
            if isinstance(ledger, RoomKeeper):
                await self.threads.run(ledger.keep_room, count // share)

    def hold_until(self, now: int) -> int:
        """Return the time at which a hold that is made now ends."""
        return now + int(self.config.hold_seconds * SECOND)

    def upload_until(self, now: int) -> int:
        """Return the time at which an upload session that is used now expires."""
        return now + int(self.config.upload_seconds * SECOND)

    def hold_floor(self, now: int) -> int:
        """Return the earliest end of a hold that still lets HEAD answer "exists".

        Half of the hold time from now: the client needs the rest to push its manifest.
        """
        return now + int(self.config.hold_seconds * SECOND / 2)

    def require_room(self, size: int, reserve: int) -> None:
        """Check that ``size`` more bytes leave ``reserve`` bytes free. Blocks on the file system.

        Raises StorageFull.
        """
        spare = self.depot.free_bytes() - size - reserve
        self.space.record(spare)
        if spare < 0:
            raise StorageFull("depot")


async def grow_if_room(
    txn: Transaction, reserve: Room, work: Work[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run ``work`` unless the ledger is at its reserve. Raises StorageFull, and what it raises."""
    if await is_low(txn, reserve):
        raise StorageFull("ledger")
    return await work(txn, *args, **kwargs)


async def is_low(txn: Transaction, reserve: Room) -> bool:
    """Return True if the ledger has less room than the reserve."""
    return await room_left(txn, reserve) < 0


async def room_left(txn: Transaction, reserve: Room) -> int:
    """Return how many bytes the ledger may take before map or disk is down to the reserve."""
    room = await txn.room()
    return min(room.map - reserve.map, room.disk - reserve.disk)


def entropy() -> bytes:
    """Return 16 random bytes to pass to a transaction, which may run more than once."""
    return os.urandom(16)
