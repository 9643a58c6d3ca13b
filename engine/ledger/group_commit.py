"""Group commit: one thread commits the waiting transactions of many event loops together.

A commit costs a disk sync, whatever its size. While one runs, new transactions wait in a queue,
and the next commit takes all of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any, Final

from holdfast.engine.model.errors import Closed

GROUP_MEMBERS_MAX: Final = 512
"""Members of one commit, at most: bounds the pages that one transaction holds in memory."""

GROUP_BOUNDS: Final = tuple(1 << power for power in range(GROUP_MEMBERS_MAX.bit_length()))
"""Bounds of the histogram of group sizes: the powers of two up to the largest group."""

Member = tuple[
    asyncio.Future[Any],
    Callable[..., Coroutine[Any, Any, Any]],
    tuple[Any, ...],
    dict[str, Any],
]
"""The caller's future, a transaction function, its arguments. A plain tuple, cheap to create."""

Outcome = tuple[Any, BaseException | None]
"""Result of a member, or the error that it or the commit raised."""

Commit = Callable[[list[Member]], list[Outcome]]
"""Function that runs the members in order, commits, and returns one outcome for each. If it
raises, all members fail."""


class GroupCommit:
    """A queue of members, and the thread that commits them, started by the first ``submit``.

    The thread refers only to the queue and to ``commit``. So an owner that never calls ``stop``
    can be garbage collected, and its finalizer ends the thread (``abandon``).
    """

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._queue: SimpleQueue[Member | Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def submit(self, member: Member) -> None:
        """Queue a member. Its future is resolved on its own loop. Raises Closed after ``stop``."""
        with self._lock:
            if self._stopped:
                raise Closed
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_run, args=(self._queue, self._commit), name="ledger", daemon=True
                )
                self._thread.start()
            self._queue.put(member)

    def stop(self, then: Callable[[], None]) -> None:
        """Refuse further members, and call ``then`` after the last one. Idempotent.

        The thread calls ``then``, or this method if no thread was started.
        """
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            if self._thread is not None:
                self._queue.put(then)
                return
        then()

    def abandon(self, then: Callable[[], None]) -> None:
        """End the thread of an owner that is being garbage collected; no-op without a thread.

        Takes no lock, since the collector may run in a thread that holds it.
        """
        if self._thread is not None and not self._stopped:
            self._stopped = True
            self._queue.put(then)

    def join(self) -> None:
        """Wait until all members submitted before ``stop`` are done. Blocking."""
        thread = self._thread
        if thread is not None:
            thread.join()


def _run(queue: SimpleQueue[Member | Callable[[], None]], commit: Commit) -> None:
    while True:
        group: list[Member] = []
        taken = queue.get()
        # Take what is queued now; a later member gets the next commit, so none waits for more.
        while isinstance(taken, tuple):
            group.append(taken)
            if len(group) == GROUP_MEMBERS_MAX or queue.empty():
                break
            taken = queue.get()
        if group:
            _finish(group, commit)
        if not isinstance(taken, tuple):
            taken()
            return
        # Keep no reference to the last group while the thread waits for the next one.
        del group, taken


def _finish(group: list[Member], commit: Commit) -> None:
    try:
        outcomes = commit(group)
    except BaseException as error:  # noqa: BLE001 - the callers get it, and the thread goes on
        outcomes = [(None, error)] * len(group)
    settled: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Outcome]]] = {}
    for member, outcome in zip(group, outcomes, strict=True):
        future = member[0]
        settled.setdefault(future.get_loop(), []).append((future, outcome))
    for loop, pairs in settled.items():
        try:
            loop.call_soon_threadsafe(_settle, pairs)
        except RuntimeError:
            # The loop was closed while its caller waited: no future to resolve there.
            if not loop.is_closed():
                raise


def _settle(pairs: list[tuple[asyncio.Future[Any], Outcome]]) -> None:
    for future, (value, error) in pairs:
        if future.done():
            continue  # the caller was cancelled
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
