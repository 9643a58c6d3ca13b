"""Memory that all workers of a server share, created by their supervisor."""

from __future__ import annotations

import os

from holdfast.api.limits import bandwidth, rates, worker_table
from holdfast.api.limits.worker_table import WorkerTable
from holdfast.api.telemetry import counters

from .settings import Settings


class SharedMemory:
    """Rate limit buckets, bandwidth clocks, worker table and counters of the metrics."""

    def __init__(self, settings: Settings) -> None:
        self.limits = rates.create()
        self.bandwidth = bandwidth.create()
        self.worker_table = worker_table.create(2 * settings.workers)
        self.workers = WorkerTable(self.worker_table)
        self.counters = None if settings.metrics is None else counters.create(2 * settings.workers)
        self.slots = [2 * index for index in range(settings.workers)]
        """Worker to its current slot in counters and worker table.

        Each worker has two slots: its replacement at a reload runs while the old one stops.
        """

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors that workers inherit."""
        always = (self.limits, self.bandwidth, self.worker_table)
        return always if self.counters is None else (*always, self.counters)

    def idle_slot(self, index: int) -> int:
        """Return the slot of a worker that is not its current one."""
        return self.slots[index] ^ 1

    def switch_slot(self, index: int) -> None:
        """Make the other slot of a worker its current one."""
        self.slots[index] ^= 1

    def close(self) -> None:
        """Close the supervisor's descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)
