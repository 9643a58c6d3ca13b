"""What this machine can do at most, measured in the same run as everything else."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

MEGA: Final = 1e6

LIMITS: Final = {
    "sha256": ("sha256, one core", "MB/s"),
    "write": ("write and fsync a large file", "MB/s"),
    "fsync": ("create, write 4 KiB, fsync, one after the other", "files/s"),
    "sendfile": ("sendfile over loopback, one stream", "MB/s"),
}
"""Name of a limit to what it is and its unit. A row is given as a share of one of them, or of
nginx's own row."""


def measure(directory: Path, seconds: float = 0.5) -> dict[str, float]:
    """All limits, each for about ``seconds``."""
    return {
        "sha256": sha256_rate(seconds),
        "write": write_rate(directory, seconds),
        "fsync": fsync_rate(directory, seconds),
        "sendfile": sendfile_rate(directory, seconds),
    }


def sha256_rate(seconds: float) -> float:
    """MB/s of hashing 1 MiB pieces."""
    piece = os.urandom(1 << 20)
    hasher = hashlib.sha256()
    return _rate(lambda: hasher.update(piece), seconds) * len(piece) / MEGA


def write_rate(directory: Path, seconds: float) -> float:
    """MB/s of writing 64 MiB files, fsync included."""
    piece = os.urandom(1 << 20)

    def once() -> None:
        with tempfile.TemporaryFile(dir=directory) as file:
            for _ in range(64):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    return _rate(once, seconds) * 64 * len(piece) / MEGA


def fsync_rate(directory: Path, seconds: float) -> float:
    """New small files a second, each synced before the next."""
    piece = os.urandom(4096)

    def once() -> None:
        with tempfile.NamedTemporaryFile(dir=directory) as file:
            file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    return _rate(once, seconds)


def sendfile_rate(directory: Path, seconds: float) -> float:
    """MB/s from a hot file to a reader in another thread that throws it away.

    Neither side holds the interpreter's lock while it waits for the kernel.
    """
    size = 64 << 20
    with (
        tempfile.TemporaryFile(dir=directory) as file,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        file.write(os.urandom(1 << 20) * 64)
        file.flush()
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()

        def receive() -> None:
            buffer = bytearray(256 * 1024)
            while receiver.recv_into(buffer):
                pass

        reader = threading.Thread(target=receive, name="sendfile-reader")
        reader.start()

        def once() -> None:
            offset = 0
            while offset < size:
                offset += os.sendfile(sender.fileno(), file.fileno(), offset, size - offset)

        try:
            return _rate(once, seconds) * size / MEGA
        finally:
            sender.close()
            reader.join()
            receiver.close()


def _rate(once: Callable[[], None], seconds: float) -> float:
    """Calls a second, after one that does not count."""
    once()
    count = 0
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        once()
        count += 1
    return count / spent
