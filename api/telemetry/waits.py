"""Sums up the waits of a request, for the spans below its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

STEPS_MAX: Final = 32
"""Kinds of waits that a request may have; there are fewer."""


@dataclass(slots=True)
class Step:
    """The waits of one kind. Times are of ``perf_counter``.

    A body is written in thousands of pieces: one span sums them up.
    """

    what: str
    begun: float
    """Begin of the first wait."""
    ended: float
    """End of the last wait."""
    seconds: float
    """Sum of all waits, in seconds."""
    count: int = 1


class Steps:
    """The waits of one request, in the order of their first ends (``engine.Waits``)."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}

    def waited(self, what: str, begun: float, ended: float) -> None:
        """Add a wait (``engine.Waits``)."""
        step = self._steps.get(what)
        if step is not None:
            step.begun = min(step.begun, begun)
            step.ended = max(step.ended, ended)
            step.seconds += ended - begun
            step.count += 1
        elif len(self._steps) < STEPS_MAX:
            self._steps[what] = Step(what, begun, ended, ended - begun)

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps.values())
