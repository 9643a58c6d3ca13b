"""How slow a client may be: a rule for everything that waits for one, in either direction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from holdfast.engine import record_wait

GRACE_SECONDS = 60.0
"""How long nothing at all may come: a radio link that is lost for a while, a lid that is shut."""

READER_GRACE_SECONDS = 120.0
"""How long nothing at all may be taken: whoever copies to another place waits for that, too."""

RATE_MIN: Final = 1024
"""Bytes a second that must move in the long run. No modem is as slow; whoever wants to hold a
thousand connections for ever has to send a megabyte a second."""

T = TypeVar("T")


class Pace:
    """What is left of a client's patience budget: a grace that waiting uses up, and bytes refill.

    Only time that was spent waiting for the client counts: neither the disk nor a limit of ours
    makes it slow. So in any stretch of time, waits add up to at most the grace and what the
    bytes that moved in it may take.
    """

    __slots__ = ("_grace", "_rate", "left")

    def __init__(self, grace: float | None = None, rate: float = RATE_MIN) -> None:
        """``grace`` in seconds (GRACE_SECONDS where none is given), ``rate`` in bytes a second."""
        self._grace = GRACE_SECONDS if grace is None else grace
        self._rate = rate
        self.left = self._grace
        """Seconds that the client may let us wait from now on."""

    def moved(self, count: int) -> None:
        """So many bytes moved."""
        self.left = min(self._grace, self.left + count / self._rate)

    def waited(self, seconds: float) -> None:
        """So long it let us wait, until now."""
        self.left -= seconds
        record_wait("client", seconds)

    async def within(self, wait: Awaitable[T]) -> T:
        """The result of a wait for the client. Raises TimeoutError when its time is over."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.timeout(self.left):
            result = await wait
        self.waited(loop.time() - begun)
        return result


class StallTimer:
    """Looks after a Pace where no task waits: with one timer, however often something moves."""

    __slots__ = ("_give_up", "_loop", "_measure", "_pace", "_seen", "_since", "_timer")

    def __init__(self, pace: Pace, measure: Callable[[], int], give_up: Callable[[], None]) -> None:
        """``measure`` says how many bytes moved in all; ``give_up`` is called at most once, when
        the client's time is over. Nothing is waited for yet."""
        self._pace = pace
        self._measure = measure
        self._give_up = give_up
        self._loop = asyncio.get_running_loop()
        self._seen = measure()
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """From now on the client lets us wait."""
        if self._since is None:
            self._since = self._loop.time()
            if self._timer is None:
                self._arm()

    def end(self) -> None:
        """Now it does not. May be repeated."""
        if self._since is not None:
            self._settle(self._since)
            self._since = None

    def close(self) -> None:
        """It never will again."""
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = self._loop.call_later(max(0.0, self._pace.left), self._look)

    def _settle(self, since: float) -> None:
        now, total = self._loop.time(), self._measure()
        self._pace.waited(now - since)
        self._pace.moved(total - self._seen)
        self._since, self._seen = now, total

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return
        self._settle(self._since)
        if self._pace.left > 0:
            self._arm()
        else:
            self._since = None
            self._give_up()
