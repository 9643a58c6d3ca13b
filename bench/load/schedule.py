"""When requests are due in an open loop: Poisson arrivals, with bursts.

The times are fixed before the run. A slow server makes later requests wait, and that wait counts:
latency is measured from the time a request was due (no coordinated omission).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bursts:
    """For ``seconds`` out of every ``every`` seconds the rate is ``factor`` times as high."""

    factor: float
    every: float
    seconds: float

    def rate(self, base: float, at: float) -> float:
        """The rate at a time, both per second and in seconds."""
        return base * self.factor if at % self.every >= self.every - self.seconds else base


def poisson(
    rate: float, seconds: float, chance: random.Random, bursts: Bursts | None = None
) -> Iterator[float]:
    """Arrival times from 0 to ``seconds``; ``rate`` is the mean number a second outside bursts.

    Bursts by thinning: candidates come at the highest rate and are kept in proportion.
    """
    highest = rate * max(1.0, bursts.factor if bursts else 1.0)
    at = 0.0
    while (at := at + chance.expovariate(highest)) < seconds:
        wanted = bursts.rate(rate, at) if bursts else rate
        if chance.random() * highest < wanted:
            yield at
