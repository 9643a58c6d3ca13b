"""Which of many objects is asked for: Zipf's law."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from itertools import accumulate


class Zipf:
    """Draws ranks 0 to ``count - 1``; rank r has weight ``1 / (r + 1) ** skew``."""

    def __init__(self, count: int, skew: float) -> None:
        if count < 1:
            raise ValueError("nothing to choose from")
        weights = (math.pow(rank + 1, -skew) for rank in range(count))
        self._sums = list(accumulate(weights))

    def draw(self, chance: random.Random) -> int:
        """One rank."""
        return bisect_left(self._sums, chance.random() * self._sums[-1])

    def share(self, ranks: int) -> float:
        """The share of all draws that the first ``ranks`` get."""
        return self._sums[ranks - 1] / self._sums[-1]
