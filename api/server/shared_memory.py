"""Memory that all workers of a server share."""

from __future__ import annotations

import os

from holdfast.api.limits import bandwidth, rates, worker_table
from holdfast.api.limits.worker_table import WorkerTable
from holdfast.api.telemetry import counters

from .settings import Settings


class Shared:
    """The buckets of the limits, the clocks of the bandwidth, the roster of the workers and the
    board of the metrics, as their supervisor has them."""

    def __init__(self, settings: Settings) -> None:
        self.limits = rates.create()
        self.bandwidth = bandwidth.create()
        self.roster = worker_table.create(2 * settings.workers)
        self.workers = WorkerTable(self.roster)
        self.board = None if settings.metrics is None else counters.create(2 * settings.workers)
        self.slots = [2 * index for index in range(settings.workers)]
        """Worker to its slot of board and roster. Each has two, for a worker and the one that
        follows."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What workers inherit."""
        always = (self.limits, self.bandwidth, self.roster)
        return always if self.board is None else (*always, self.board)

    def other(self, index: int) -> int:
        """The slot of a worker that is not in turn."""
        return self.slots[index] ^ 1

    def turn(self, index: int) -> None:
        """Change to the other slot of a worker."""
        self.slots[index] ^= 1

    def close(self) -> None:
        """Let go of the supervisor's descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)
