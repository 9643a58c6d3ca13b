"""What a task waits for, told to whoever wants to know it: threads, and commits of the ledger.

Nobody is told unless a context says who; then each wait costs two looks at a clock.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextvars import ContextVar
from time import perf_counter
from typing import Final, Protocol, TypeVar

T = TypeVar("T")


class Waits(Protocol):
    """Who is told."""

    def waited(self, what: str, begun: float, ended: float) -> None:
        """A wait is over, well or not. ``what`` is of a fixed set; times are of perf_counter."""


WAITS: Final[ContextVar[Waits | None]] = ContextVar("holdfast.waits", default=None)
"""Who is told of the waits in this context, and in tasks that begin in it."""


def record_wait(what: str, seconds: float) -> None:
    """A wait of so many seconds ends now."""
    waits = WAITS.get()
    if waits is not None:
        ended = perf_counter()
        waits.waited(what, ended - seconds, ended)


async def told(what: str, waiting: Awaitable[T], call: object = None) -> T:
    """Wait, and tell of it, with the name of ``call`` where it is one."""
    waits = WAITS.get()
    if waits is None:
        return await waiting
    begun = perf_counter()
    try:
        return await waiting
    finally:
        name = str(getattr(call, "__name__", "")).lstrip("_")
        waits.waited(f"{what} {name}" if name else what, begun, perf_counter())
