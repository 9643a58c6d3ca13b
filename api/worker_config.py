"""What the supervisor tells a worker.

Apart from the worker, so that the supervisor, which speaks no HTTP, loads nothing that does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import msgspec

from .settings import Settings

CONFIG_BYTES_MAX: Final = 1 << 20
READY: Final = b"R"
"""What a worker writes into the pipe ``WorkerConfig.ready``."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told. It has no secret: the store has what is needed of those."""

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


def encode_config(config: WorkerConfig) -> bytes:
    """The line that a worker reads."""
    return msgspec.json.encode(config, enc_hook=os.fspath) + b"\n"


def decode_config(line: bytes) -> WorkerConfig:
    """The inverse of ``encode_config``."""
    return msgspec.json.decode(
        line, type=WorkerConfig, dec_hook=lambda wanted, value: wanted(value)
    )
