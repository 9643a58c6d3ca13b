"""Memory that all workers of a server share."""

from __future__ import annotations

import os

from . import board, limits
from .settings import Settings


class Shared:
    """The buckets of the limits, and the board of the metrics, as their supervisor has them."""

    def __init__(self, settings: Settings) -> None:
        self.limits = limits.create()
        self.board = None if settings.metrics is None else board.create(2 * settings.workers)
        self.slots = [2 * index for index in range(settings.workers)]
        """Worker to its slot of the board. Each has two, for a worker and the one that follows."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What workers inherit."""
        return (self.limits,) if self.board is None else (self.limits, self.board)

    def turn(self, index: int) -> None:
        """Change to the other slot of a worker."""
        self.slots[index] ^= 1

    def close(self) -> None:
        """Let go of the supervisor's descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)
