"""What the supervisor tells a worker.

Apart from the worker, so that the supervisor's module, which speaks no HTTP, loads nothing that
does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .settings import Settings

READY: Final = b"R"
"""What a worker writes into the pipe ``WorkerConfig.ready``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What a worker is told."""

    index: int
    """Worker 0 also does the store's background work."""

    sockets: tuple[int, ...]
    """Inherited file descriptors, listening."""

    ready: int
    """Inherited descriptor of a pipe that gets READY once requests are served."""

    organization_id: str
    settings: Settings

    ports: Mapping[str, int]
    """Region to the port that is its own."""
    connections: int
    """How many this process takes, whatever the settings say."""

    slot: int
    """This process's slot of board and roster."""

    limits: int
    """Inherited descriptor of the buckets that all workers share."""

    bandwidth: int
    """Inherited descriptor of the clocks that all workers share."""

    roster: int
    """Inherited descriptor of the roster."""

    board: int | None = None
    """Inherited descriptor of the board; None where there are no metrics."""

    metrics: tuple[int, ...] = ()
    """Inherited file descriptors, listening for scrapes: of worker 0."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that it inherits, but for the standard streams."""
        board = () if self.board is None else (self.board,)
        shared = (self.limits, self.bandwidth, self.roster, *board)
        return (*self.sockets, *self.metrics, *shared, self.ready)
