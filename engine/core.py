"""What every part of an open store works with."""

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
"""In microseconds, the unit of all times in the ledger."""


class Space:
    """Whether a look saw so much room that for a moment nobody need look again."""

    __slots__ = ("_plenty", "_seconds", "_until")

    def __init__(self, plenty: int, seconds: float) -> None:
        """Nobody writes ``plenty`` bytes in so many ``seconds``."""
        self._plenty = plenty
        self._seconds = seconds
        self._until = 0.0

    def record(self, spare: int) -> None:
        """So many bytes were left beyond what was asked for."""
        self._until = time.monotonic() + self._seconds if spare >= self._plenty else 0.0

    @property
    def is_ample(self) -> bool:
        """Whether a little more fits for certain."""
        return time.monotonic() < self._until


@dataclass(frozen=True, slots=True)
class Core:
    """The seams, the threads, the limits and the clock of one open store."""

    ledger: Ledger
    scratch: Ledger
    """What has to survive processes, but not the machine: it is not synced."""
    depot: Depot
    files: Files
    threads: Threads
    config: StoreConfig
    clock: Callable[[], float]
    reserve_default: int = 0
    """In bytes: what ``StoreConfig.disk_reserve_bytes`` is on this disk where it is None."""
    space: Space = field(default_factory=partial(Space, 8 << 30, 1.0))
    """What the last look at the disk saw."""
    ledger_space: Space = field(default_factory=partial(Space, 1 << 30, 0.1))
    """What the last look at the room in the ledger saw; uploads use that disk up too."""
    gate: Gate = field(default_factory=Gate)
    """Between what is gathered in memory and those who decide by it."""
    ledger_reserve: Room = field(init=False)
    """Room in the ledger that is left to deletes."""

    def __post_init__(self) -> None:
        reserve = Room(
            min(LEDGER_RESERVE_BYTES, self.config.map_bytes // 8),
            min(LEDGER_RESERVE_BYTES, self.reserve_bytes // 4),
        )
        object.__setattr__(self, "ledger_reserve", reserve)

    def now(self) -> int:
        """Microseconds since 1970."""
        return int(self.clock() * SECOND)

    @property
    def reserve_bytes(self) -> int:
        """Free space that uploads leave."""
        given = self.config.disk_reserve_bytes
        return self.reserve_default if given is None else given

    def grow(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Transact, for work that adds to the ledger. Raises StorageFull where it is nearly full.

        What is left then is for deletes: they write rows too, before anything is freed.
        """
        return self.ledger.transact(grow_if_room, self.ledger_reserve, work, *args, **kwargs)

    async def require_growth(self) -> None:
        """Raises StorageFull where ``grow`` would: for what will end in such work."""
        if self.ledger_space.is_ample:
            return
        spare = await self.ledger.read(room_left, self.ledger_reserve)
        self.ledger_space.record(spare)
        if spare < 0:
            raise StorageFull("ledger")

    async def keep_room(self) -> None:
        """Have the disk set aside what deletes need, whatever other programs take.

        Raises StorageFailed, Closed.
        """
        count = min(PREALLOCATED_BYTES, self.ledger_reserve.disk)
        for ledger, share in ((self.ledger, 1), (self.scratch, 8)):
            if isinstance(ledger, RoomKeeper):
                await self.threads.run(ledger.keep_room, count // share)

    def hold_until(self, now: int) -> int:
        """When a hold that is made now ends."""
        return now + int(self.config.hold_seconds * SECOND)

    def upload_until(self, now: int) -> int:
        """When an upload session that is used now ends."""
        return now + int(self.config.upload_seconds * SECOND)

    def hold_floor(self, now: int) -> int:
        """A hold that ends before this is too short to tell a pusher that the blob exists."""
        return now + int(self.config.hold_seconds * SECOND / 2)

    def require_room(self, size: int, reserve: int) -> None:
        """Blocks for a look at the disk. Raises StorageFull if ``size`` more bytes would leave
        less than ``reserve`` of it."""
        spare = self.depot.free_bytes() - size - reserve
        self.space.record(spare)
        if spare < 0:
            raise StorageFull("depot")


async def grow_if_room(
    txn: Transaction, reserve: Room, work: Work[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Do the work if more than the reserve is left. Raises StorageFull, and what it raises."""
    if await is_low(txn, reserve):
        raise StorageFull("ledger")
    return await work(txn, *args, **kwargs)


async def is_low(txn: Transaction, reserve: Room) -> bool:
    """Whether the ledger has less room than the reserve."""
    return await room_left(txn, reserve) < 0


async def room_left(txn: Transaction, reserve: Room) -> int:
    """Bytes that the ledger may still take before it is at the reserve, of map or of disk."""
    room = await txn.room()
    return min(room.map - reserve.map, room.disk - reserve.disk)


def entropy() -> bytes:
    """Sixteen random bytes: handed to transactions, so that they can run again."""
    return os.urandom(16)
