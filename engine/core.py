"""What every part of an open store works with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from .config import LEDGER_RESERVE_BYTES, StoreConfig
from .depot import Depot
from .errors import StorageFull
from .files import Files
from .ledger import Ledger, P, Room, T, Transaction, Work
from .offload import Threads

SECOND: Final = 1_000_000
"""In microseconds, the unit of all times in the ledger."""


SPACIOUS_BYTES: Final = 8 << 30
SPACIOUS_SECONDS: Final = 1.0
"""Nobody writes so much in so short a time."""

LEDGER_SPACIOUS_BYTES: Final = 1 << 30
LEDGER_SPACIOUS_SECONDS: Final = 0.1
"""The same of rows; uploads use the disk up too."""


class Space:
    """Whether a look at the disk saw so much room that for a moment nobody need look again."""

    __slots__ = ("_ledger_until", "_until")

    def __init__(self) -> None:
        self._until = 0.0
        self._ledger_until = 0.0

    def seen(self, spare: int) -> None:
        """So many bytes were left beyond what was asked for."""
        now = time.monotonic()
        self._until = now + SPACIOUS_SECONDS if spare >= SPACIOUS_BYTES else 0.0

    def seen_in_ledger(self, room: Room) -> None:
        """So much is left there beyond the reserve."""
        spacious = min(room) >= LEDGER_SPACIOUS_BYTES
        self._ledger_until = time.monotonic() + LEDGER_SPACIOUS_SECONDS if spacious else 0.0

    @property
    def spacious(self) -> bool:
        """Whether a little more fits for certain."""
        return time.monotonic() < self._until

    @property
    def ledger_spacious(self) -> bool:
        """Whether a few more rows fit for certain."""
        return time.monotonic() < self._ledger_until


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
    space: Space = field(default_factory=Space)
    """What the last look at the disk saw."""
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
        return self.ledger.transact(growing, self.ledger_reserve, work, *args, **kwargs)

    async def require_growth(self) -> None:
        """Raises StorageFull where ``grow`` would: for what will end in such work."""
        if self.space.ledger_spacious:
            return
        room = beyond(await self.ledger.read(room_of), self.ledger_reserve)
        if min(room) < 0:
            raise StorageFull("ledger")
        self.space.seen_in_ledger(room)

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
        self.space.seen(spare)
        if spare < 0:
            raise StorageFull("depot")


async def growing(
    txn: Transaction, reserve: Room, work: Work[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Do the work if more than the reserve is left. Raises StorageFull, and what it raises."""
    if await runs_low(txn, reserve):
        raise StorageFull("ledger")
    return await work(txn, *args, **kwargs)


async def runs_low(txn: Transaction, reserve: Room) -> bool:
    """Whether the ledger has less room than the reserve."""
    return min(beyond(await txn.room(), reserve)) < 0


async def room_of(txn: Transaction) -> Room:
    """The room that the ledger has."""
    return await txn.room()


def beyond(room: Room, reserve: Room) -> Room:
    """What is left beyond the reserve; below 0 where that is used already."""
    return Room(room.map - reserve.map, room.disk - reserve.disk)


def entropy() -> bytes:
    """Sixteen random bytes: handed to transactions, so that they can run again."""
    return os.urandom(16)
