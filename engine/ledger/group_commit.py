"""Group commit: callers of many event loops, one thread that commits for all who wait.

A commit costs a disk sync however much is in it. So while one runs, the bodies that arrive wait
in a queue, and the next commit takes all of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any, Final

from holdfast.engine.model.errors import Closed

GROUP_MEMBERS_MAX: Final = 512
"""Bodies in one commit: bounds the pages that one transaction holds in memory."""

GROUP_BOUNDS: Final = tuple(1 << power for power in range(GROUP_MEMBERS_MAX.bit_length()))
"""By which groups are counted: the powers of two up to the largest."""

Member = tuple[
    asyncio.Future[Any],
    Callable[..., Coroutine[Any, Any, Any]],
    tuple[Any, ...],
    dict[str, Any],
]
"""Who waits for it, a transaction function, its arguments. A plain tuple: made once a commit."""

Outcome = tuple[Any, BaseException | None]
"""What a body returned, or else what it, or the commit, raised."""

Commit = Callable[[list[Member]], list[Outcome]]
"""Run the members in order and commit; one outcome for each. It may raise: then all failed."""


class GroupCommit:
    """A queue and its thread, which is started by the first ``submit``.

    The thread knows the queue and ``commit`` only, so that an owner who forgets to call
    ``stop`` can still be collected, and stop it then.
    """

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._queue: SimpleQueue[Member | Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def submit(self, member: Member) -> None:
        """Queue a member; its future is resolved on its own loop. Raises Closed."""
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
        """Take no more members, and call ``then`` after the last; only the first call counts."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            if self._thread is not None:
                self._queue.put(then)
                return
        then()

    def abandon(self, then: Callable[[], None]) -> None:
        """As ``stop``, for an owner that is being collected; nothing if no thread runs.

        It takes no lock, since the collector may run inside anything.
        """
        if self._thread is not None and not self._stopped:
            self._stopped = True
            self._queue.put(then)

    def join(self) -> None:
        """Wait, blocking, until everything submitted before ``stop`` is done."""
        thread = self._thread
        if thread is not None:
            thread.join()


def _run(queue: SimpleQueue[Member | Callable[[], None]], commit: Commit) -> None:
    while True:
        group: list[Member] = []
        taken = queue.get()
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
        # While it waits, the thread keeps nothing of the last group alive.
        del group, taken


def _finish(group: list[Member], commit: Commit) -> None:
    try:
        outcomes = commit(group)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the callers get it
        outcomes = [(None, error)] * len(group)
    settled: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Outcome]]] = {}
    for member, outcome in zip(group, outcomes, strict=True):
        future = member[0]
        settled.setdefault(future.get_loop(), []).append((future, outcome))
    for loop, pairs in settled.items():
        try:
            loop.call_soon_threadsafe(_settle, pairs)
        except RuntimeError:
            # A caller whose loop was closed under it cannot be told any more.
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
