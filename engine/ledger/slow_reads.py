"""Threads for long reads of the ledger, shared fairly by whom they are for, and ended with them.

A read in a thread takes the interpreter from everything else that runs. So there are few of these
threads, one party has half of them at most, and the parties that wait take turns. A read whose
caller was cancelled ends at its next look at the ledger.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from typing import Final, TypeVar

from .interface import Change, Room, Rows, Transaction

T = TypeVar("T")

THREADS_MAX: Final = 4
"""Long reads that run at one time, in one process."""

THREADS_PER_OWNER: Final = 2
"""Of them, those of one party."""

READ_OWNER: Final[ContextVar[str]] = ContextVar("holdfast.party", default="")
"""Whom the long reads of this context are for; the store itself where nothing says so."""


class Stopped(Exception):
    """The read was given up: its caller does not wait any more."""


class Stop:
    """Whether a read was given up."""

    __slots__ = ("_asked",)

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Give it up."""
        self._asked = True

    def check(self) -> None:
        """Raises Stopped where it was given up."""
        if self._asked:
            raise Stopped


class Stoppable:
    """A transaction that only reads, and raises Stopped where it was given up."""

    __slots__ = ("_stop", "_txn")

    def __init__(self, txn: Transaction, stop: Stop) -> None:
        self._txn = txn
        self._stop = stop

    async def get(self, key: bytes) -> bytes | None:
        """As ``Transaction``."""
        self._stop.check()
        return await self._txn.get(key)

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False, skip: int = 0
    ) -> Rows:
        """As ``Transaction``."""
        self._stop.check()
        return await self._txn.scan(start, stop, limit=limit, reverse=reverse, skip=skip)

    async def counter(self, key: bytes) -> int:
        """As ``Transaction``."""
        self._stop.check()
        return await self._txn.counter(key)

    async def room(self) -> Room:
        """As ``Transaction``."""
        return await self._txn.room()

    async def put(self, key: bytes, value: bytes) -> None:
        """As ``Transaction``, which refuses it."""
        await self._txn.put(key, value)

    async def delete(self, key: bytes) -> bool:
        """As ``Transaction``, which refuses it."""
        return await self._txn.delete(key)

    async def add(self, key: bytes, delta: int) -> None:
        """As ``Transaction``, which refuses it."""
        await self._txn.add(key, delta)

    def declare_change(self, change: Change) -> None:
        """As ``Transaction``, which refuses it."""
        self._txn.declare_change(change)


class SlowReads:
    """The threads of one ledger. Usable from several event loops."""

    def __init__(self, name: str) -> None:
        """The threads are named after ``name``. They come and go with what there is to read."""
        self._name = f"{name}-reads"
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        """By party, in the order in which they get their turns."""
        self._running: dict[str, int] = {}
        """How many reads of each party run, where any do."""
        self._threads = 0

    async def run(self, read: Callable[[Stop], T]) -> T:
        """Call ``read`` in a thread when it is its party's turn; what it returns or raises.

        A caller that is cancelled does not wait for its end: ``read`` is told by its Stop, and is
        not called where it had not begun.
        """
        future: Future[T] = Future()
        stop = Stop()
        try:
            self._submit(READ_OWNER.get(), partial(_call, future, read, stop))
            return await asyncio.wrap_future(future)
        finally:
            stop.ask()
            # The error in the future has a traceback that leads here: break the circle.
            del future

    def _submit(self, party: str, call: Callable[[], None]) -> None:
        with self._lock:
            self._waiting.setdefault(party, deque()).append(call)
            if self._threads < THREADS_MAX:
                threading.Thread(target=self._work, name=self._name).start()
                self._threads += 1

    def _work(self) -> None:
        """Read for whoever has the turn, until all who wait have their share."""
        party = None
        while True:
            with self._lock:
                if party is not None:
                    self._end(party)
                party, call = self._next()
                if party is None:
                    self._threads -= 1
                    return
            call()

    def _next(self) -> tuple[str | None, Callable[[], None]]:
        for party, calls in self._waiting.items():
            running = self._running.get(party, 0)
            if running < THREADS_PER_OWNER:
                self._running[party] = running + 1
                # The others come first next time.
                del self._waiting[party]
                call = calls.popleft()
                if calls:
                    self._waiting[party] = calls
                return party, call
        return None, _nothing

    def _end(self, party: str) -> None:
        self._running[party] -= 1
        if not self._running[party]:
            del self._running[party]


def _call(future: Future[T], read: Callable[[Stop], T], stop: Stop) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = read(stop)
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        future.set_exception(error)
    else:
        future.set_result(result)


def _nothing() -> None:
    """Not called."""
