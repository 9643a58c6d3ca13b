"""Short ways to write and read a depot's files."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

from holdfast.engine.depot.interface import Depot


def write(depot: Depot, file_id: int, data: bytes) -> None:
    """A whole file, synced."""
    writer = depot.create(file_id)
    writer.append(data)
    writer.sync()
    writer.close()


def read(depot: Depot, file_id: int) -> bytes:
    """All of a file."""
    reader = depot.open(file_id)
    try:
        return reader.read(0, reader.size)
    finally:
        reader.close()


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def descriptors_before() -> int:
    """As ``descriptors``, when what earlier tests left to the collector has gone."""
    gc.collect()
    return descriptors()


def python(script: str, *arguments: str, wrapper: tuple[str, ...] = ()) -> str:
    """Run a script in a process of its own, show what it said when it fails."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-W", "error", "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
