"""When an interrupt may come: not between the start of a server and the promise to stop it.

A signal's handler runs between any two bytecodes, also within ``Popen`` when the process is there
already and no variable holds it yet. So the handler only takes a note while it is held off, and
KeyboardInterrupt is raised where that ends. For the main thread, as signals are.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_held = False
_due = False


@contextmanager
def terminable() -> Iterator[None]:
    """The first SIGINT or SIGTERM is a KeyboardInterrupt; later ones are ignored, in peace to stop.

    Raises KeyboardInterrupt.
    """
    global _due  # noqa: PLW0603 - signals are the process's own, so what they said is too
    _due = False
    before = [(number, signal.signal(number, _interrupt)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """No interrupt within, but at its end. Raises KeyboardInterrupt."""
    with _holding(True):
        yield


@contextmanager
def allowed() -> Iterator[None]:
    """Within ``held``: interrupts come, also the one that waited. Raises KeyboardInterrupt."""
    with _holding(False):
        yield


@contextmanager
def _holding(value: bool) -> Iterator[None]:
    global _held  # noqa: PLW0603 - as above
    before, _held = _held, value
    try:
        _raise_if_due()
        yield
    finally:
        _held = before
        _raise_if_due()


def _raise_if_due() -> None:
    global _due  # noqa: PLW0603 - as above
    if _due and not _held:
        _due = False
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _due  # noqa: PLW0603 - as above
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    _due = True
    _raise_if_due()
