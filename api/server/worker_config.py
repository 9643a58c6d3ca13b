"""Configuration that the supervisor passes to a worker.

It is a module of its own so that the supervisor, which serves no HTTP, does not import the HTTP
server with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from holdfast.api.limits.shared_memory import SharedMemory

from .settings import Settings

READY: Final = b"R"
"""Byte that a worker writes to the pipe ``WorkerConfig.ready``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Configuration of one worker process."""

    index: int
    """Number of the worker; worker 0 also does the store's background work."""

    sockets: tuple[int, ...]
    """Inherited descriptors of listening sockets."""

    ready: int
    """Inherited descriptor of the pipe that gets READY once the worker serves requests."""

    organization_id: str
    settings: Settings

    ports: Mapping[str, int]
    """Region to the port that serves only this region."""

    connections: int
    """Maximum open connections of this process; overrides the settings."""

    shared: SharedMemory
    """Memory that the worker inherits and shares with all others."""

    slot: int
    """Slot of this process in the shared memory."""

    metrics: tuple[int, ...] = ()
    """Inherited descriptors of the sockets that listen for scrapes; only worker 0 has any."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All inherited descriptors except the standard streams."""
        return (*self.sockets, *self.metrics, self.ready)
