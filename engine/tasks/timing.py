"""Reports how long tasks wait, and for what: for threads, commits of the ledger, bandwidth.

A recorder in the context variable ``WAITS`` receives each wait. Without one nothing is measured;
with one, each wait costs two reads of the clock.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextvars import ContextVar
from time import perf_counter
from typing import Final, Protocol, TypeVar

T = TypeVar("T")


class Waits(Protocol):
    """A recorder of waits."""

    def waited(self, what: str, begun: float, ended: float) -> None:
        """Record a wait that ended, successfully or not.

        ``what`` is one of a fixed set of labels; times are of ``perf_counter``, in seconds.
        """


WAITS: Final[ContextVar[Waits | None]] = ContextVar("holdfast.waits", default=None)
"""Recorder of the waits in this context and in tasks started in it; None for no recording."""


def record_wait(what: str, seconds: float) -> None:
    """Record a wait of ``seconds`` that ends now."""
    waits = WAITS.get()
    if waits is not None:
        ended = perf_counter()
        waits.waited(what, ended - seconds, ended)


async def timed(what: str, waiting: Awaitable[T], call: object = None) -> T:
    """Await ``waiting`` and record how long it took, labelled with the name of ``call`` if any."""
    waits = WAITS.get()
    if waits is None:
        return await waiting
    begun = perf_counter()
    try:
        return await waiting
    finally:
        name = str(getattr(call, "__name__", "")).lstrip("_")
        waits.waited(f"{what} {name}" if name else what, begun, perf_counter())
