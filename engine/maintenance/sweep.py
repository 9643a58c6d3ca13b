"""The sweep: removes holds, sessions, trash and garbage that are due, at a bounded rate."""

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

_IDLE_SECONDS: Final = 1.0
"""Interval between two reads of an empty queue."""

ENTRIES_PER_TXN: Final = 200
"""Entries of each kind in one transaction: some milliseconds of the ledger's writer thread."""

LATEST_TIME: Final = 1 << 62
"""A time after all others, in microseconds since 1970."""

RECOVERY_INTERVAL_SECONDS: Final = 30.0
"""Interval of the search for files that dead processes left: a read of some rows and locks."""

REQUEUE_INTERVAL_SECONDS: Final = 3600.0
"""Interval at which the background requeues what was set aside. Each time it logs one line for each
entry whose row is still damaged."""

CLOCK_TRUST_SECONDS: Final = 60.0
"""Time for which the background sees times in the future before it cuts them: they are right if the
machine's clock is behind."""

TIMES_PER_TXN: Final = 1000
"""Rows whose times are compared in one transaction, after the clock was ahead."""


@dataclass(slots=True)
class Progress:
    """Counts of what a sweep did so far."""

    entries: int = 0
    freed_bytes: int = 0
    """Bytes at rest of the blobs that were removed."""
    files: int = 0
    """Files that were unlinked."""
    aside: int = 0
    """Entries (of ``entries``) that were set aside because of a damaged row."""
    finished: bool = False
    """True if nothing was due at its end."""

    def add(self, other: Progress) -> None:
        """Add the counts of another sweep."""
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
        recovery_seconds: float = RECOVERY_INTERVAL_SECONDS,
        requeue_seconds: float = REQUEUE_INTERVAL_SECONDS,
        clock_trust_seconds: float = CLOCK_TRUST_SECONDS,
    ) -> None:
        self._core = core
        self.background = Background("sweep", self._turn)
        """Does a step at a time, at the rate in the configuration."""
        self._recovery_seconds = recovery_seconds
        self._requeue_seconds = requeue_seconds
        self._clock_trust_seconds = clock_trust_seconds
        self._ahead_since: float | None = None
        """When times in the future were first seen, on the loop's clock; None if there are none."""
        self._recover_at = self._requeue_at = 0.0
        """Times of the next recovery and requeue in the background, on the loop's clock."""
        self._next_namespace = b""
        """Namespace id from which the next step reads sessions."""
        self.total = Progress()

    async def step(self, *, early: bool = False, clock_trusted: bool = True) -> Progress:
        """Do a bounded amount of work; ``early`` empties the trash before its time.

        A result without entries and files means that nothing is due. An entry that meets a damaged
        row is set aside, and the others are processed. Times in the future are cut (see
        ``future_times``) if the caller trusts the clock.
        """
        now = self._core.now()
        done = Progress()
        if clock_trusted and now >= future_times.PLAUSIBLE_SINCE:
            await self._cut_times(now, done)
        for queue in purge.QUEUES:
            await self._sweep_queue(queue, now, done)
        await self._empty_trash(LATEST_TIME if early else now + 1, now, done)
        await self._end_sessions(now, done)
        done.files = await self._core.files.retry_discards(ENTRIES_PER_TXN)
        done.files += await self._core.files.unlink_pending(ENTRIES_PER_TXN, now)
        self.total.add(done)
        return done

    async def _sweep_queue(self, queue: bytes, now: int, done: Progress) -> None:
        ledger = self._core.ledger
        # Garbage queued at this microsecond is due; a hold is due after its own.
        until = now + 1 if queue == layout.GARBAGE else now
        keys = await ledger.read(purge.due, queue, until, ENTRIES_PER_TXN)

        async def take(batch: tuple[bytes, ...]) -> int:
            return await ledger.transact(purge.take, batch, now)

        freed = await batches.bisect(take, keys, partial(self._set_aside, done))
        done.entries += len(keys)
        done.freed_bytes += sum(freed)

    async def _cut_times(self, now: int, done: Progress) -> None:
        """Cut times that are possible only if the clock was ahead when they were written."""
        ledger, periods = self._core.ledger, future_times.periods_of(self._core)
        keys = await ledger.read(future_times.overlong, now, periods, ENTRIES_PER_TXN)

        async def cut(batch: tuple[bytes, ...]) -> None:
            await ledger.transact(future_times.shorten, batch, now, periods)

        await batches.bisect(cut, keys, partial(self._set_aside, done))
        done.entries += len(keys)
        if await ledger.read(future_times.needs_walk, now):
            done.entries += max(1, await ledger.transact(future_times.walk, now, TIMES_PER_TXN))
        until = (await ledger.read(future_times.longest_periods, periods)).upload + now
        scratch = self._core.scratch
        if await scratch.read(session_rows.any_after, until + future_times.SLACK):
            some = await scratch.transact(
                session_rows.cut_times, until + future_times.SLACK, now, until, ENTRIES_PER_TXN
            )
            await self._discard(some, done)

    async def _trusts_clock(self) -> bool:
        """Return True if times were in the future for ``clock_trust_seconds`` by this clock.

        A machine that starts with a wrong clock usually sets it soon after.
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
            _log.warning(
                "rows have times in the future: the clock was ahead, or is behind;"
                " the sweep cuts them after %d s",
                self._clock_trust_seconds,
            )
        return clock >= self._ahead_since + self._clock_trust_seconds

    async def _end_sessions(self, now: int, done: Progress) -> None:
        scratch = self._core.scratch
        if await scratch.read(session_rows.any_expired, now):
            await self._discard(
                await scratch.transact(session_rows.expire, now, ENTRIES_PER_TXN), done
            )
        some = await scratch.read(session_rows.namespace_ids, self._next_namespace, ENTRIES_PER_TXN)
        self._next_namespace = some[-1] + b"\0" if len(some) == ENTRIES_PER_TXN else b""
        for namespace_id in await self._core.ledger.read(namespaces.not_living, some):
            await self._discard(
                await scratch.transact(
                    session_rows.drop_namespace, namespace_id, now, ENTRIES_PER_TXN
                ),
                done,
            )

    async def _discard(self, ended: tuple[int, list[int]], done: Progress) -> None:
        count, files = ended
        for file_id in files:
            await self._core.files.discard(file_id)
        done.entries += count

    async def _empty_trash(self, until: int, now: int, done: Progress) -> None:
        ledger = self._core.ledger
        keys = await ledger.read(purge.due, layout.TRASH, until, 1)

        async def take(batch: tuple[bytes, ...]) -> int:
            limit = ENTRIES_PER_TXN
            while True:
                try:
                    return await ledger.transact(purge.step, batch[0], now, limit)
                except StorageFull:
                    # A smaller step may fit into the space that is left.
                    if limit == 1:
                        raise
                limit = max(1, limit // 8)

        taken = await batches.bisect(take, keys, partial(self._set_aside, done))
        done.entries += sum(taken)

    async def _set_aside(self, done: Progress, key: bytes, error: Corrupt) -> None:
        _log.error("sweep cannot process an entry: %s; setting it aside", error)
        await self._core.ledger.transact(dead_letters.park, key, str(error), self._core.now())
        done.aside += 1

    async def run(self, *, early: bool = False, seconds: float | None = None) -> Progress:
        """Do all that is due now. ``early`` empties the trash first, whatever its age.

        With ``seconds`` it stops after the step that exceeds them; call it again until the result
        is ``finished``. Entries that were set aside are tried once more.
        """
        clock = asyncio.get_running_loop().time
        until = math.inf if seconds is None else clock() + seconds
        await self._requeue()
        total = Progress(files=await self._core.files.recover())
        while not total.finished:
            done = await self.step(early=early)
            total.add(done)
            total.finished = not done.entries and not done.files and not done.aside
            if clock() >= until:
                break
        return total

    async def _requeue(self) -> None:
        """Move what was set aside back to its queues."""
        last: bytes | None = b""
        while last is not None:
            last = await self._core.ledger.transact(dead_letters.requeue, last, ENTRIES_PER_TXN)

    async def aside(self, *, limit: int = 1000) -> list[SetAside]:
        """Return entries that are set aside until their damaged row is healed."""
        return await self._core.ledger.read(dead_letters.listing, limit)

    async def _turn(self) -> float:
        """Do one step; return the seconds to wait after it, to keep the rate."""
        await self._run_periodic_work()
        await self._core.keep_room()
        done = await self.step(
            early=await self._runs_low(), clock_trusted=await self._trusts_clock()
        )
        work = done.entries + done.files
        if not work:
            return _IDLE_SECONDS
        return min(work / self._core.config.sweep_entries_per_second, _IDLE_SECONDS * 5)

    async def _runs_low(self) -> bool:
        core = self._core
        if await core.threads.run(core.depot.free_bytes) < core.reserve_bytes:
            return True
        return await core.ledger.read(is_low, core.ledger_reserve)

    async def _run_periodic_work(self) -> None:
        # Each next time is set first: if the call fails, the queues need not wait for it again.
        now = asyncio.get_running_loop().time()
        if now >= self._requeue_at:
            self._requeue_at = now + self._requeue_seconds
            await self._requeue()
        if now >= self._recover_at:
            self._recover_at = now + self._recovery_seconds
            self.total.files += await self._core.files.recover()
