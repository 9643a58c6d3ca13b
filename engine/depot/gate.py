"""The gate between what processes gather in memory and those who decide by it.

A pull, and a push that changes nothing, is noted in memory and written with many others, so the
ledger lags behind. Retention decides by these times, of all processes. So the gate has two sides:
a process with notes in memory holds the gatherers' side, a process that decides holds the
deciders' side, and each looks at the other side *after* it has taken its own. Of two processes
one always sees the other:

- a gatherer that sees a decider gathers nothing, and writes each note before it answers;
- a decider that sees gatherers waits until they have written their notes and left.

So the ledger has all that was answered before a decision when the decision is made. Both sides
are locks that the kernel drops with a process: the notes of a dead process are lost anyway.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from holdfast.engine.model.errors import Busy

from .disk_file import lock

POLL_SECONDS: Final = 0.05
"""Longest pause between two looks at the gate; a decision that waits begins with less."""

DECISION_TIMEOUT_SECONDS: Final = 30.0
"""Seconds that a decision waits for the processes to write what they gathered."""


class Gate:
    """The gate of a store in memory. Several openings of one share it."""

    def __init__(self) -> None:
        self._gatherers = 0
        self._deciders = 0

    def enter(self) -> bool:
        """Take the gatherers' side; return False, with nothing done, during a decision.

        Each that says True is followed by ``leave``.
        """
        if not self._gatherers and not self._gather():
            return False
        self._gatherers += 1
        if self.deciding():
            self.leave()
            return False
        return True

    def leave(self) -> None:
        """All that was gathered since ``enter`` is in the ledger."""
        self._gatherers -= 1
        if not self._gatherers:
            self._gathered()

    @contextmanager
    def passing(self) -> Iterator[bool]:
        """Hold the gatherers' side for a moment; yield whether that was possible."""
        inside = self.enter()
        try:
            yield inside
        finally:
            if inside:
                self.leave()

    def deciding(self) -> bool:
        """Return whether a process decides or waits to decide. Sometimes True without a cause."""
        return bool(self._deciders)

    @asynccontextmanager
    async def decision(
        self, flushes: Sequence[Callable[[], Awaitable[None]]]
    ) -> AsyncIterator[None]:
        """Decide in here: what any process was told of before is in the ledger.

        ``flushes`` write what this process gathered. Raises Busy where another one keeps it to
        itself for ``DECISION_TIMEOUT_SECONDS`` seconds, and what they raise.
        """
        polling = _Polling()
        while not self._deciders and not self._decide():
            await polling.rest()
        self._deciders += 1
        try:
            for flush in flushes:
                await flush()
            while self._gatherers or not self._others_done():
                await polling.rest()
            yield
        finally:
            self._deciders -= 1
            if not self._deciders:
                self._decided()

    def close(self) -> None:
        """Let go of it."""

    def _gather(self) -> bool:
        """As this process's first one, tell the others; False where that has to wait."""
        return True

    def _gathered(self) -> None:
        """Take that back."""

    def _decide(self) -> bool:
        """Likewise, of the other side."""
        return True

    def _decided(self) -> None:
        """Take that back."""

    def _others_done(self) -> bool:
        """Whether no other process gathers."""
        return True


class _Polling:
    """The rests between polling: longer and longer ones, as most waits are short."""

    def __init__(self) -> None:
        self._until = time.monotonic() + DECISION_TIMEOUT_SECONDS
        self._next = POLL_SECONDS / 64

    async def rest(self) -> None:
        """Rest. Raises Busy when patience is at its end."""
        if time.monotonic() >= self._until:
            raise Busy("setting", "retention")
        await asyncio.sleep(self._next)
        self._next = min(2 * self._next, POLL_SECONDS)


class LockedGate(Gate):
    """The gate of a data directory: a file for each side, locked shared by the processes on it.

    A process finds the others by asking for an exclusive lock for a moment. Two that ask at once
    may each take the other for a holder: that costs one note a commit, or a decider another look.
    """

    def __init__(self, directory: Path) -> None:
        """Its files are made where they are missing. Raises OSError."""
        super().__init__()
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
        self._gathering = os.open(directory / "gathering", flags, 0o600)
        try:
            self._decision = os.open(directory / "deciding", flags, 0o600)
        except OSError:
            os.close(self._gathering)
            raise

    def deciding(self) -> bool:
        """Whether a process decides. Raises StorageFailed."""
        return super().deciding() or not _free(self._decision)

    def close(self) -> None:
        """Close the files, which drops the locks."""
        if self._gathering >= 0:
            os.close(self._gathering)
            os.close(self._decision)
            self._gathering = self._decision = -1

    def _gather(self) -> bool:
        return lock(self._gathering, "run", fcntl.LOCK_SH)

    def _gathered(self) -> None:
        if self._gathering >= 0:
            fcntl.flock(self._gathering, fcntl.LOCK_UN)

    def _decide(self) -> bool:
        return lock(self._decision, "run", fcntl.LOCK_SH)

    def _decided(self) -> None:
        if self._decision >= 0:
            fcntl.flock(self._decision, fcntl.LOCK_UN)

    def _others_done(self) -> bool:
        return _free(self._gathering)


def _free(descriptor: int) -> bool:
    """Whether no process has a lock on the file; this one must have none."""
    free = lock(descriptor, "run")
    if free:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    return free


class Gathering:
    """One kind of note that a process gathers, and its place at the gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.inside = False
        """Whether notes may be gathered now: it stands at the gate for all of them."""

    def begin(self) -> bool:
        """Take the gatherers' side unless it is held already; return False during a decision."""
        if not self.inside:
            self.inside = self._gate.enter()
        return self.inside

    @contextmanager
    def writing(self, kept: Callable[[], bool]) -> Iterator[None]:
        """Write in here what was gathered. What comes meanwhile steps to the gate by itself.

        ``kept`` says, at the end, whether something could not be written.
        """
        held, self.inside = self.inside, False
        try:
            yield
        finally:
            if held and kept() and not self.inside:
                self.inside = True
            elif held:
                self._gate.leave()

    def wanted(self) -> bool:
        """Return whether a decision waits for what was gathered."""
        return self.inside and self._gate.deciding()
