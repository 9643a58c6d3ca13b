"""Strand: calls that threads make one after the other, while whoever asks for them goes on.

A call that is asked for when the one before it ends begins at once, in the same thread: nobody
has to be woken in between, which takes as long as hashing 50 KB does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Final, ParamSpec

from holdfast.engine.model.errors import Closed

from .threads import Threads
from .timing import told

P = ParamSpec("P")

TURN: Final = 4
"""Calls that one strand makes before other work of the threads has its turn."""


class SerialQueue:
    """One row of calls. To be used by one task at a time, of one loop."""

    def __init__(self, threads: Threads, name: str) -> None:
        """``name`` is what waiting for it is told as (``tasks.timing``)."""
        self._threads = threads
        self._name = f"thread {name}"
        self._lock = Lock()
        # All that follows is changed by whoever has the lock.
        self._calls: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()
        """Those that are not over; the first is being made, if there is a thread at it."""
        self._at_work = False
        """Whether a thread makes the calls, or was asked to."""
        self._asked = False
        """Whether one was asked to, and has not begun. Where the asking failed, one may come all
        the same, and late: the first that comes makes the calls, and the others go."""
        self._error: BaseException | None = None
        self._most = 0
        """How many calls may be left for the waiter to be woken."""
        self._waiter: asyncio.Future[None] | None = None

    def push(self, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have ``call`` made after those that were pushed before.

        Once one has failed, the others are not made until ``settle`` has told of it. One that no
        thread can make, since they have ended, fails with Closed.
        """
        assert not kwargs
        with self._lock:
            if self._error is not None:
                return
            self._calls.append((call, args))
            if self._at_work:
                return
            self._at_work = self._asked = True
        try:
            self._threads.begin(self._work)
        except (Closed, RuntimeError) as error:
            if self._claim():
                with self._lock:
                    self._at_work = False
                    self._fail(error)

    async def settle(self, most: int = 0) -> None:
        """Wait until at most ``most`` of the calls are left.

        Raises what the first call that failed raised; then none is left. A caller that is
        cancelled gets its CancelledError only when none is left, however often it is cancelled;
        what a call raised is its cause.
        """
        if len(self._calls) > most:
            await told(self._name, self._wait(most))
        error = self._told_error()
        try:
            if error is not None:
                raise error
        finally:
            # It has a traceback that leads here: break the circle.
            del error

    async def _wait(self, most: int) -> None:
        cancelled: asyncio.CancelledError | None = None
        try:
            while (waiter := self._waiter_for(0 if cancelled else most)) is not None:
                try:
                    await waiter
                except asyncio.CancelledError as error:
                    # The task itself counts how many came.
                    cancelled = cancelled or error
            if cancelled is not None:
                raise cancelled from self._told_error()
        finally:
            del cancelled

    def _waiter_for(self, most: int) -> asyncio.Future[None] | None:
        """What ends when at most ``most`` calls are left; None where that is so."""
        with self._lock:
            self._waiter = None
            if len(self._calls) > most:
                self._waiter, self._most = asyncio.get_running_loop().create_future(), most
            return self._waiter

    def _told_error(self) -> BaseException | None:
        with self._lock:
            error, self._error = self._error, None
            return error

    # In a thread

    def _claim(self) -> bool:
        """Whether it is for the caller to do what a thread was asked to."""
        with self._lock:
            asked, self._asked = self._asked, False
            return asked

    def _work(self) -> None:
        if not self._claim():
            return
        made = 0
        while True:
            if made == TURN:
                if self._pass_on():
                    return
                made = 0
            with self._lock:
                if not self._calls:
                    self._at_work = False
                    return
                call, args = self._calls[0]
            made += 1
            error: BaseException | None = None
            try:
                call(*args)
            except BaseException as raised:  # noqa: BLE001 - it is raised where somebody waits
                error = raised
            # Nothing of a call that is over may be held here.
            del call, args
            with self._lock:
                if error is None:
                    self._calls.popleft()
                else:
                    self._fail(error)
                if self._waiter is not None and len(self._calls) <= self._most:
                    _wake(self._waiter)
                    self._waiter = None
            del error

    def _pass_on(self) -> bool:
        """Have the next thread that is free go on; says whether one does."""
        with self._lock:
            self._asked = True
        try:
            self._threads.begin(self._work)
        except (Closed, RuntimeError):
            # Whoever ends the threads waits for this one, and so for all of the calls.
            return not self._claim()
        return True

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._calls.clear()


def _wake(waiter: asyncio.Future[None]) -> None:
    # A closed loop, which raises this, has nobody left who waits.
    with suppress(RuntimeError):
        waiter.get_loop().call_soon_threadsafe(_finish, waiter)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
