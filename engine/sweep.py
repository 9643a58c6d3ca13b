"""The sweep: takes holds, sessions, trash and garbage that are due, at a bounded rate."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from . import purge
from .core import Core
from .errors import EngineError

_log: Final = logging.getLogger(__name__)

_IDLE: Final = 1.0
"""Seconds between looks at an empty queue."""

_AFTER_FAILURE: Final = 10.0
"""Seconds of rest after a step that the disk or the ledger refused."""

STEP: Final = 200
"""Entries of each kind taken in one transaction: some milliseconds of the writer's time."""

FAR: Final = 1 << 62
"""A time after everything."""


@dataclass(slots=True)
class Progress:
    """What a sweep did so far."""

    entries: int = 0
    freed_bytes: int = 0
    """Bytes at rest of the blobs that were removed."""
    files: int = 0
    """Files that were unlinked."""


class Sweeper:
    """Removes what is due. Any number of processes may sweep one store at once."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._task: asyncio.Task[None] | None = None
        self._running = asyncio.Event()
        self._running.set()
        self.total = Progress()

    async def step(self, *, early: bool = False) -> Progress:
        """Do a bounded amount of work; ``early`` takes the trash before its time.

        No entries and no files in the answer means that nothing is due.
        """
        transact = self._core.ledger.transact
        now = self._core.now()
        done = Progress()
        done.entries += await transact(purge.expire_holds, now, STEP)
        sessions = await transact(purge.expire_uploads, now, STEP)
        done.entries += len(sessions)
        done.entries += await transact(purge.step, FAR if early else now, now, STEP)
        collected, done.freed_bytes = await transact(purge.collect, now + 1, STEP)
        done.entries += collected
        done.files = await self._core.files.discard_rest(STEP)
        done.files += await self._core.files.unlink_doomed(STEP, now)
        self.total.entries += done.entries
        self.total.freed_bytes += done.freed_bytes
        self.total.files += done.files
        return done

    async def run(self, *, early: bool = False) -> Progress:
        """Do all that is due now. ``early`` empties the trash first, whatever its age."""
        total = Progress()
        total.files += await self._core.files.recover()
        while True:
            done = await self.step(early=early)
            total.entries += done.entries
            total.freed_bytes += done.freed_bytes
            total.files += done.files
            if not done.entries and not done.files:
                return total

    def start(self) -> None:
        """Sweep in the background until ``stop``."""
        self._task = asyncio.create_task(self._forever(), name="sweep")

    def pause(self) -> None:
        """Let the background rest after its current step."""
        self._running.clear()

    def resume(self) -> None:
        """Go on in the background."""
        self._running.set()

    async def _forever(self) -> None:
        recovered = False
        while True:
            await self._running.wait()
            try:
                if not recovered:
                    await self._core.files.recover()
                    recovered = True
                pause = await self._turn()
            except EngineError:
                _log.exception("the sweep failed, and goes on in a while")
                pause = _AFTER_FAILURE
            await asyncio.sleep(pause)

    async def _turn(self) -> float:
        """One step; says how long to rest after it, in seconds, to keep the rate."""
        free = await self._core.threads.run(self._core.depot.free_bytes)
        done = await self.step(early=free < self._core.reserve_bytes)
        work = done.entries + done.files
        if not work:
            return _IDLE
        return min(work / self._core.config.sweep_entries_per_second, _IDLE * 5)

    async def stop(self) -> None:
        """End the background task."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
