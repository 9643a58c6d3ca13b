"""Threads for long reads of the ledger, shared fairly between owners.

A read in a thread takes the interpreter lock from everything else. So there are few of these
threads, one owner uses at most half of them, and waiting owners take turns. A read whose caller is
cancelled stops at its next access to the ledger.
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
"""Long reads that run at the same time in one process."""

THREADS_PER_OWNER: Final = 2
"""Long reads of one owner that run at the same time."""

READ_OWNER: Final[ContextVar[str]] = ContextVar("holdfast.party", default="")
"""Owner of the long reads in this context, such as a project; empty for the store itself."""


class Stopped(Exception):
    """The read was stopped, since its caller does not wait any more."""


class Stop:
    """A flag that stops a read. Set on the event loop, checked in the thread."""

    __slots__ = ("_requested",)

    def __init__(self) -> None:
        self._requested = False

    def request(self) -> None:
        """Ask the read to stop."""
        self._requested = True

    def check(self) -> None:
        """Raise Stopped if a stop was requested."""
        if self._requested:
            raise Stopped


class Stoppable:
    """A read transaction that raises Stopped once its Stop is set."""

    __slots__ = ("_stop", "_txn")

    def __init__(self, txn: Transaction, stop: Stop) -> None:
        self._txn = txn
        self._stop = stop

    async def get(self, key: bytes) -> bytes | None:
        """Read a row as ``Transaction.get`` does. Raises Stopped."""
        self._stop.check()
        return await self._txn.get(key)

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False, skip: int = 0
    ) -> Rows:
        """Read rows as ``Transaction.scan`` does. Raises Stopped."""
        self._stop.check()
        return await self._txn.scan(start, stop, limit=limit, reverse=reverse, skip=skip)

    async def counter(self, key: bytes) -> int:
        """Read a counter as ``Transaction.counter`` does. Raises Stopped."""
        self._stop.check()
        return await self._txn.counter(key)

    async def room(self) -> Room:
        """Return the room as ``Transaction.room`` does."""
        return await self._txn.room()

    async def put(self, key: bytes, value: bytes) -> None:
        """Raise RuntimeError, as any read transaction does."""
        await self._txn.put(key, value)

    async def delete(self, key: bytes) -> bool:
        """Raise RuntimeError, as any read transaction does."""
        return await self._txn.delete(key)

    async def add(self, key: bytes, delta: int) -> None:
        """Raise RuntimeError, as any read transaction does."""
        await self._txn.add(key, delta)

    def declare_change(self, change: Change) -> None:
        """Raise RuntimeError, as any read transaction does."""
        self._txn.declare_change(change)


class SlowReads:
    """The threads for long reads of one ledger. Usable from several event loops."""

    def __init__(self, name: str) -> None:
        """Name the threads after ``name``. They start on demand, and end when no read waits."""
        self._name = f"{name}-reads"
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        """Waiting reads by owner, in the order in which the owners get their turns."""
        self._running: dict[str, int] = {}
        """Number of running reads of each owner that has any."""
        self._threads = 0

    async def run(self, read: Callable[[Stop], T]) -> T:
        """Call ``read`` in a thread at its owner's turn; return its result or raise its error.

        A cancelled caller does not wait for the end of ``read``: its Stop is set, and a ``read``
        that has not begun is not called.
        """
        future: Future[T] = Future()
        stop = Stop()
        try:
            self._submit(READ_OWNER.get(), partial(_call, future, read, stop))
            return await asyncio.wrap_future(future)
        finally:
            stop.request()
            # The traceback of the future's error refers to this frame: break the cycle.
            del future

    def _submit(self, owner: str, call: Callable[[], None]) -> None:
        with self._lock:
            self._waiting.setdefault(owner, deque()).append(call)
            if self._threads < THREADS_MAX:
                threading.Thread(target=self._work, name=self._name).start()
                self._threads += 1

    def _work(self) -> None:
        """Run reads in turn, until none waits or all waiting owners have their share running."""
        owner = None
        while True:
            with self._lock:
                if owner is not None:
                    self._end(owner)
                owner, call = self._next()
                if owner is None:
                    self._threads -= 1
                    return
            call()

    def _next(self) -> tuple[str | None, Callable[[], None]]:
        for owner, calls in self._waiting.items():
            running = self._running.get(owner, 0)
            if running < THREADS_PER_OWNER:
                self._running[owner] = running + 1
                # Move this owner behind the others.
                del self._waiting[owner]
                call = calls.popleft()
                if calls:
                    self._waiting[owner] = calls
                return owner, call
        return None, _nothing

    def _end(self, owner: str) -> None:
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]


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
    """Do nothing: the placeholder for no call."""
