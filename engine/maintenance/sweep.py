"""The sweep: takes holds, sessions, trash and garbage that are due, at a bounded rate."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import Final

from holdfast.engine.core import Core, is_low
from holdfast.engine.ledger import layout
from holdfast.engine.model.errors import Corrupt, StorageFull
from holdfast.engine.namespaces import namespaces
from holdfast.engine.tasks import batches
from holdfast.engine.tasks.background import Background
from holdfast.engine.trash import future_times, purge
from holdfast.engine.uploads import session_rows

from . import dead_letters
from .dead_letters import SetAside

_log: Final = logging.getLogger(__name__)

_IDLE: Final = 1.0
"""Seconds between looks at an empty queue."""

STEP: Final = 200
"""Entries of each kind taken in one transaction: some milliseconds of the writer's time."""

FAR: Final = 1 << 62
"""A time after everything."""

RECOVERY_SECONDS: Final = 30.0
"""How often the background looks for what dead processes left: a look at some rows and locks."""

PUT_BACK_SECONDS: Final = 3600.0
"""How often the background tries again what was set aside. An entry whose row is still damaged is
a line of the log each time."""


SURE_SECONDS: Final = 60.0
"""How long the background looks at times of the future before it cuts them: those of a machine
whose clock is behind are right."""

WALK_STEP: Final = 1000
"""Rows whose times are looked at in one transaction, where the clock was ahead."""


@dataclass(slots=True)
class Progress:
    """What a sweep did so far."""

    entries: int = 0
    freed_bytes: int = 0
    """Bytes at rest of the blobs that were removed."""
    files: int = 0
    """Files that were unlinked."""
    aside: int = 0
    """Of the entries: those set aside, because of a damaged row."""
    finished: bool = False
    """Whether nothing was due any more at its end."""

    def add(self, other: Progress) -> None:
        """Count what another one did."""
        self.entries += other.entries
        self.freed_bytes += other.freed_bytes
        self.files += other.files
        self.aside += other.aside


class Sweeper:
    """Removes what is due. Any number of processes may sweep one store at once."""

    def __init__(
        self,
        core: Core,
        *,
        recovery_seconds: float = RECOVERY_SECONDS,
        put_back_seconds: float = PUT_BACK_SECONDS,
        sure_seconds: float = SURE_SECONDS,
    ) -> None:
        self._core = core
        self._background = Background("sweep", self._turn)
        self._recovery_seconds = recovery_seconds
        self._put_back_seconds = put_back_seconds
        self._sure_seconds = sure_seconds
        self._ahead_since: float | None = None
        """Since when there are times of the future, on the loop's clock."""
        self._recover_at = self._put_back_at = 0.0
        """When the background does so next, on the loop's clock."""
        self._places = b""
        """From which namespace on sessions are looked at next."""
        self.total = Progress()

    async def step(self, *, early: bool = False, sure: bool = True) -> Progress:
        """Do a bounded amount of work; ``early`` takes the trash before its time.

        No entries and no files in the answer means that nothing is due. An entry that meets a
        damaged row is set aside, and the others go on. Times of the future are cut
        (``future_times``), where the caller is ``sure`` of the clock.
        """
        now = self._core.now()
        done = Progress()
        if sure and now >= future_times.PLAUSIBLE_SINCE:
            await self._cut(now, done)
        for queue in purge.QUEUES:
            await self._queue(queue, now, done)
        await self._trash(FAR if early else now + 1, now, done)
        await self._uploads(now, done)
        done.files = await self._core.files.discard_rest(STEP)
        done.files += await self._core.files.unlink_pending(STEP, now)
        self.total.add(done)
        return done

    async def _queue(self, queue: bytes, now: int, done: Progress) -> None:
        ledger = self._core.ledger
        # Garbage of this very moment goes at once; holds and sessions last until theirs.
        until = now + 1 if queue == layout.GARBAGE else now
        keys = await ledger.read(purge.due, queue, until, STEP)

        async def take(some: tuple[bytes, ...]) -> int:
            return await ledger.transact(purge.take, some, now)

        freed = await batches.bisect(take, keys, partial(self._set_aside, done))
        done.entries += len(keys)
        done.freed_bytes += sum(freed)

    async def _cut(self, now: int, done: Progress) -> None:
        """Cut times that only a clock which was ahead can have made."""
        ledger, periods = self._core.ledger, future_times.periods_of(self._core)
        keys = await ledger.read(future_times.overlong, now, periods, STEP)

        async def cut(some: tuple[bytes, ...]) -> None:
            await ledger.transact(future_times.shorten, some, now, periods)

        await batches.bisect(cut, keys, partial(self._set_aside, done))
        done.entries += len(keys)
        if await ledger.read(future_times.needs_walk, now):
            done.entries += max(1, await ledger.transact(future_times.walk, now, WALK_STEP))
        until = (await ledger.read(future_times.longest_periods, periods)).upload + now
        scratch = self._core.scratch
        if await scratch.read(session_rows.any_after, until + future_times.SLACK):
            some = await scratch.transact(
                session_rows.cut_times, until + future_times.SLACK, now, until, STEP
            )
            await self._drop(some, done)

    async def _is_sure(self) -> bool:
        """Whether the clock, by which there are times of the future, has told so for a while.

        A machine whose clock was set wrong has it set right soon after its start.
        """
        now, periods = self._core.now(), future_times.periods_of(self._core)
        longest = await self._core.ledger.read(future_times.longest_periods, periods)
        far = now + longest.upload + future_times.SLACK
        if not (
            await self._core.ledger.read(future_times.has_work, now, periods)
            or await self._core.scratch.read(session_rows.any_after, far)
        ):
            self._ahead_since = None
            return False
        clock = asyncio.get_running_loop().time()
        if self._ahead_since is None:
            self._ahead_since = clock
            _log.warning("some times lie in the future: the clock was ahead, or is behind")
        return clock >= self._ahead_since + self._sure_seconds

    async def _uploads(self, now: int, done: Progress) -> None:
        scratch = self._core.scratch
        if await scratch.read(session_rows.any_expired, now):
            await self._drop(await scratch.transact(session_rows.expire, now, STEP), done)
        some = await scratch.read(session_rows.namespace_ids, self._places, STEP)
        self._places = some[-1] + b"\0" if len(some) == STEP else b""
        for namespace_id in await self._core.ledger.read(namespaces.not_living, some):
            await self._drop(
                await scratch.transact(session_rows.drop_namespace, namespace_id, now, STEP), done
            )

    async def _drop(self, ended: tuple[int, list[int]], done: Progress) -> None:
        count, files = ended
        for file_id in files:
            await self._core.files.discard(file_id)
        done.entries += count

    async def _trash(self, until: int, now: int, done: Progress) -> None:
        ledger = self._core.ledger
        keys = await ledger.read(purge.due, layout.TRASH, until, 1)

        async def take(some: tuple[bytes, ...]) -> int:
            limit = STEP
            while True:
                try:
                    return await ledger.transact(purge.step, some[0], now, limit)
                except StorageFull:
                    # A smaller step may do with what room is left.
                    if limit == 1:
                        raise
                limit = max(1, limit // 8)

        taken = await batches.bisect(take, keys, partial(self._set_aside, done))
        done.entries += sum(taken)

    async def _set_aside(self, done: Progress, key: bytes, error: Corrupt) -> None:
        _log.error("the sweep sets an entry aside: %s", error)
        await self._core.ledger.transact(dead_letters.put, key, str(error), self._core.now())
        done.aside += 1

    async def run(self, *, early: bool = False, seconds: float | None = None) -> Progress:
        """Do all that is due now. ``early`` empties the trash first, whatever its age.

        With ``seconds`` it stops after the step that goes beyond them, and is to be called again
        until it has ``finished``. What was set aside is tried once more.
        """
        clock = asyncio.get_running_loop().time
        until = math.inf if seconds is None else clock() + seconds
        await self._put_back()
        total = Progress(files=await self._core.files.recover())
        while not total.finished:
            done = await self.step(early=early)
            total.add(done)
            total.finished = not done.entries and not done.files and not done.aside
            if clock() >= until:
                break
        return total

    async def _put_back(self) -> None:
        """Give what was set aside back to its queues."""
        last: bytes | None = b""
        while last is not None:
            last = await self._core.ledger.transact(dead_letters.put_back, last, STEP)

    async def aside(self, *, limit: int = 1000) -> list[SetAside]:
        """Entries that meet a damaged row, and wait for it to be healed."""
        return await self._core.ledger.read(dead_letters.listing, limit)

    def start(self) -> None:
        """Sweep in the background until ``stop``."""
        self._background.start()

    def pause(self) -> None:
        """Let the background rest after its current step."""
        self._background.pause()

    def resume(self) -> None:
        """Go on in the background."""
        self._background.resume()

    async def stop(self) -> None:
        """End the background task."""
        await self._background.stop()

    async def _turn(self) -> float:
        """One step; says how long to rest after it, in seconds, to keep the rate."""
        await self._recover_now_and_then()
        await self._core.keep_room()
        done = await self.step(early=await self._runs_low(), sure=await self._is_sure())
        work = done.entries + done.files
        if not work:
            return _IDLE
        return min(work / self._core.config.sweep_entries_per_second, _IDLE * 5)

    async def _runs_low(self) -> bool:
        core = self._core
        if await core.threads.run(core.depot.free_bytes) < core.reserve_bytes:
            return True
        return await core.ledger.read(is_low, core.ledger_reserve)

    async def _recover_now_and_then(self) -> None:
        # Noted first each time: where it fails, the queues are not to wait for it.
        now = asyncio.get_running_loop().time()
        if now >= self._put_back_at:
            self._put_back_at = now + self._put_back_seconds
            await self._put_back()
        if now >= self._recover_at:
            self._recover_at = now + self._recovery_seconds
            self.total.files += await self._core.files.recover()
