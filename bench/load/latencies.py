"""A histogram of latencies: small enough to send between processes, exact to one percent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

_FLOOR: Final = 1e-6
"""Seconds; nothing shorter is told apart."""

_STEP: Final = math.log(1.01)
"""Two neighbouring buckets differ by one percent: a day ends in bucket 2,531."""


class Latencies:
    """Counts of latencies in seconds. Percentiles are within one percent of the true ones."""

    __slots__ = ("_buckets", "count")

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self._buckets: dict[int, int] = dict(buckets or {})
        self.count = sum(self._buckets.values())

    def add(self, seconds: float) -> None:
        """Count one latency."""
        bucket = int(math.log(seconds / _FLOOR) / _STEP) if seconds > _FLOOR else 0
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1

    def merge(self, other: Latencies) -> None:
        """Count all of the other's latencies too."""
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += other.count

    @property
    def buckets(self) -> dict[int, int]:
        """Bucket to count: what the constructor takes."""
        return dict(self._buckets)

    def percentile(self, percent: float) -> float | None:
        """The latency in seconds that ``percent`` of all do not exceed; None when empty."""
        if not self.count:
            return None
        wanted = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return _FLOOR * math.exp((bucket + 0.5) * _STEP)
        raise AssertionError("the counts do not add up")
