"""Bounds how long a client may make the server wait, in either direction.

Each client has a time budget (``Pace``): waiting for it uses up the budget, and bytes that move
refill it. ``StallTimer`` watches the budget where no task waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from holdfast.engine import record_wait

GRACE_SECONDS = 60.0
"""Longest time in seconds without a byte from a client: a radio link lost for a while, a closed
lid."""

READER_GRACE_SECONDS = 120.0
"""Longest time in seconds without a byte read by a client: one that copies to a third place waits
for that too."""

RATE_MIN: Final = 1024
"""Bytes a second that must move in the long run.

No modem is slower; to hold a thousand connections for ever, a client must send a megabyte a second.
"""

T = TypeVar("T")


class Pace:
    """The rest of a client's time budget: waiting uses it up, and bytes refill it.

    Only time spent waiting for the client counts, not time spent on the disk or on the server's own
    limits. So in any stretch of time, waits add up to at most the grace plus the time that the
    moved bytes may take.
    """

    __slots__ = ("_grace", "_rate", "left")

    def __init__(self, grace: float | None = None, rate: float = RATE_MIN) -> None:
        """Begin with ``grace`` seconds (None: GRACE_SECONDS); ``rate`` is in bytes a second."""
        self._grace = GRACE_SECONDS if grace is None else grace
        self._rate = rate
        self.left = self._grace
        """Seconds that the client may still make the server wait."""

    def moved(self, count: int) -> None:
        """Refill the budget by moved bytes."""
        self.left = min(self._grace, self.left + count / self._rate)

    def waited(self, seconds: float) -> None:
        """Use up the budget by a wait that ends now."""
        self.left -= seconds
        record_wait("client", seconds)

    async def within(self, wait: Awaitable[T]) -> T:
        """Return the result of a wait for the client. Raises TimeoutError once the budget is used
        up."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.timeout(self.left):
            result = await wait
        self.waited(loop.time() - started)
        return result


class StallTimer:
    """Watches a Pace where no task waits, with one timer however often bytes move."""

    __slots__ = ("_counted", "_loop", "_measure", "_on_stall", "_pace", "_since", "_timer")

    def __init__(
        self, pace: Pace, measure: Callable[[], int], on_stall: Callable[[], None]
    ) -> None:
        """Watch ``pace``; the client is not waited for yet.

        ``measure`` returns all bytes moved so far. ``on_stall`` is called at most once, when the
        budget is used up.
        """
        self._pace = pace
        self._measure = measure
        self._on_stall = on_stall
        self._loop = asyncio.get_running_loop()
        self._counted = measure()
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start to wait for the client."""
        if self._since is None:
            self._since = self._loop.time()
            # A timer of an earlier wait goes on running: ``_check`` finds out what it is worth.
            # Waits that begin and end with every packet so cost no timer each.
            if self._timer is None:
                self._arm()

    def end(self) -> None:
        """Stop waiting for the client. May be repeated."""
        if self._since is not None:
            self._account(self._since)
            self._since = None

    def close(self) -> None:
        """Stop the timer for good."""
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = self._loop.call_later(max(0.0, self._pace.left), self._check)

    def _account(self, since: float) -> None:
        now, total = self._loop.time(), self._measure()
        self._pace.waited(now - since)
        self._pace.moved(total - self._counted)
        self._since, self._counted = now, total

    def _check(self) -> None:
        self._timer = None
        # No wait at this moment: the next ``begin`` arms the timer again.
        if self._since is None:
            return
        self._account(self._since)
        if self._pace.left > 0:
            self._arm()
        else:
            self._since = None
            self._on_stall()
