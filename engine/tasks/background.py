"""A background loop: runs bounded turns of work, with pauses between them, until stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.engine.model.errors import EngineError

_log: Final = logging.getLogger(__name__)

RETRY_SECONDS: Final = 10.0
"""Pause after a turn that failed."""


class Background:
    """A task that calls ``turn``, which does bounded work and returns the next pause in seconds."""

    def __init__(self, name: str, turn: Callable[[], Awaitable[float]]) -> None:
        self._name = name
        self._turn = turn
        self._task: asyncio.Task[None] | None = None
        self._running = asyncio.Event()
        self._running.set()

    def start(self) -> None:
        """Start the task. After an error in a turn, log it and retry in ``RETRY_SECONDS``."""
        self._task = asyncio.create_task(self._forever(), name=self._name)

    def pause(self) -> None:
        """Start no more turns until ``resume``."""
        self._running.clear()

    def resume(self) -> None:
        """Continue after ``pause``."""
        self._running.set()

    async def _forever(self) -> None:
        while True:
            await self._running.wait()
            try:
                rest = await self._turn()
            except EngineError as error:
                _log.error("%s failed: %s; retrying in %d s", self._name, error, RETRY_SECONDS)
                rest = RETRY_SECONDS
            except Exception:  # noqa: BLE001 - a bug in one turn must not end all those after it
                _log.exception("%s: unexpected error; retrying in %d s", self._name, RETRY_SECONDS)
                rest = RETRY_SECONDS
            await asyncio.sleep(rest)

    async def rest(self, seconds: float) -> None:
        """Pause for ``seconds`` inside a turn, and longer while the loop is paused."""
        await asyncio.sleep(seconds)
        await self._running.wait()

    async def stop(self) -> None:
        """Cancel the task, even inside a turn, and wait until it has ended."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
