"""What a request waits for, for the spans below its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

STEPS_MAX: Final = 32
"""Kinds of waits of one request that are told apart; there are not as many."""


@dataclass(slots=True)
class Step:
    """All waits of one kind: a body is written in thousands of pieces, of which nobody wants a
    span each. Times are of perf_counter."""

    what: str
    begun: float
    """The first one's."""
    ended: float
    """The last one's."""
    seconds: float
    """Of all of them."""
    count: int = 1


class Steps:
    """Of one request, in the order in which they were first over (``engine.Waits``)."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}

    def waited(self, what: str, begun: float, ended: float) -> None:
        """As ``engine.Waits``."""
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
