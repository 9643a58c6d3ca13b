"""A serial queue: runs calls one at a time, in order, on a thread pool.

The submitter does not wait. If a call is waiting when the one before it ends, the same thread
begins it at once. Waking another thread would take as long as hashing 50 KB.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Final, ParamSpec

from holdfast.engine.model.errors import Closed

from .threads import Threads, wake
from .timing import timed

P = ParamSpec("P")

CALLS_PER_TURN: Final = 4
"""Calls that one queue makes before it lets other work of the pool run."""


class SerialQueue:
    """Calls in order. One task at a time, on one event loop, may use it."""

    def __init__(self, threads: Threads, name: str) -> None:
        """Create an empty queue; ``name`` labels waits for it (see ``tasks.timing``)."""
        self._threads = threads
        self._name = f"thread {name}"
        self._lock = Lock()
        # The lock protects all fields below.
        self._calls: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()
        """Unfinished calls; while a thread works, it is running the first one."""
        self._working = False
        """True while a thread runs the calls, or one was requested."""
        self._requested = False
        """True while a thread was requested and has not begun.

        A request that raised may start a thread all the same, and late. So the first thread that
        takes the request runs the calls, and later ones return.
        """
        self._error: BaseException | None = None
        self._remaining = 0
        """Number of calls that may be left when the waiter is woken."""
        self._waiter: asyncio.Future[None] | None = None

    def submit(self, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Queue ``call`` behind the calls that were submitted before.

        After a call fails, later calls are skipped until ``drain`` raises its error. If the pool
        has ended, that error is Closed.
        """
        assert not kwargs
        with self._lock:
            if self._error is not None:
                return
            self._calls.append((call, args))
            if self._working:
                return
            self._working = self._requested = True
        try:
            # Outside of the lock: a new thread takes it at once.
            self._threads.begin(self._work)
        except (Closed, RuntimeError) as error:
            # A thread may have taken the request before this raised; then it runs the calls.
            if self._take_request():
                with self._lock:
                    self._working = False
                    self._fail(error)

    async def drain(self, remaining: int = 0) -> None:
        """Wait until at most ``remaining`` calls are left.

        Raises the error of the first call that failed; then no call is left. A cancelled caller
        gets its CancelledError only when no call is left, however often it is cancelled; the
        error of a call becomes its cause.
        """
        if len(self._calls) > remaining:
            await timed(self._name, self._wait(remaining))
        error = self._take_error()
        try:
            if error is not None:
                raise error
        finally:
            # Its traceback refers to this frame: break the reference cycle.
            del error

    async def _wait(self, remaining: int) -> None:
        cancelled: asyncio.CancelledError | None = None
        try:
            while (waiter := self._waiter_for(0 if cancelled else remaining)) is not None:
                try:
                    await waiter
                except asyncio.CancelledError as error:
                    # Keep the first one; the task itself counts the cancellations. From now on
                    # wait for all calls, since the caller's buffers must not be in use.
                    cancelled = cancelled or error
            if cancelled is not None:
                raise cancelled from self._take_error()
        finally:
            del cancelled

    def _waiter_for(self, remaining: int) -> asyncio.Future[None] | None:
        """Return a future that resolves when at most ``remaining`` calls are left, or None if
        so already."""
        with self._lock:
            # Compared and stored under the lock, so the thread cannot miss the new waiter.
            self._waiter = None
            if len(self._calls) > remaining:
                self._waiter = asyncio.get_running_loop().create_future()
                self._remaining = remaining
            return self._waiter

    def _take_error(self) -> BaseException | None:
        with self._lock:
            error, self._error = self._error, None
            return error

    # In a thread

    def _take_request(self) -> bool:
        """Take the pending request for a thread; True for the one caller that got it."""
        with self._lock:
            requested, self._requested = self._requested, False
            return requested

    def _work(self) -> None:
        if not self._take_request():
            return
        made = 0
        while True:
            if made == CALLS_PER_TURN:
                if self._yield_thread():
                    return
                made = 0
            with self._lock:
                if not self._calls:
                    self._working = False
                    return
                call, args = self._calls[0]
            made += 1
            error: BaseException | None = None
            try:
                call(*args)
            except BaseException as raised:  # noqa: BLE001 - drain raises it
                error = raised
            # Drop the arguments now: the next call may wait long, and buffers must be released.
            del call, args
            with self._lock:
                if error is None:
                    self._calls.popleft()
                else:
                    self._fail(error)
                if self._waiter is not None and len(self._calls) <= self._remaining:
                    wake(self._waiter)
                    self._waiter = None
            del error

    def _yield_thread(self) -> bool:
        """Hand the calls to the next free thread; False if this thread must go on."""
        with self._lock:
            self._requested = True
        try:
            self._threads.begin(self._work)
        except (Closed, RuntimeError):
            # Closing the pool waits for this thread, so it runs the remaining calls itself.
            return not self._take_request()
        return True

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._calls.clear()
