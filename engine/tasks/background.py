"""Background work: turns of something, with rests between, until it is stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.engine.model.errors import EngineError

_log: Final = logging.getLogger(__name__)

AFTER_FAILURE: Final = 10.0
"""Seconds of rest after a turn that the disk or the ledger refused."""


class Background:
    """One task. ``turn`` does a bounded amount of work and says how long to rest, in seconds."""

    def __init__(self, name: str, turn: Callable[[], Awaitable[float]]) -> None:
        self._name = name
        self._turn = turn
        self._task: asyncio.Task[None] | None = None
        self._running = asyncio.Event()
        self._running.set()

    def start(self) -> None:
        """Begin. An error in a turn is logged, and the next turn comes after a while."""
        self._task = asyncio.create_task(self._forever(), name=self._name)

    def pause(self) -> None:
        """Begin no more turns."""
        self._running.clear()

    def resume(self) -> None:
        """Go on."""
        self._running.set()

    async def _forever(self) -> None:
        while True:
            await self._running.wait()
            try:
                rest = await self._turn()
            except EngineError as error:
                _log.error("%s failed, and goes on in a while: %s", self._name, error)
                rest = AFTER_FAILURE
            except Exception:  # noqa: BLE001 - a bug in one turn must not end all those after it
                _log.exception("%s met an error that nobody expects", self._name)
                rest = AFTER_FAILURE
            await asyncio.sleep(rest)

    async def rest(self, seconds: float) -> None:
        """Rest within a turn, and for as long as it is paused."""
        await asyncio.sleep(seconds)
        await self._running.wait()

    async def stop(self) -> None:
        """End the task, in the middle of a turn if need be."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
