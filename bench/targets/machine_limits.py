"""What this machine can do at most, measured in the same run as everything else."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from holdfast.bench.load.wire import BUFFER_BYTES

MEGA: Final = 1e6
_SMALL: Final = os.urandom(4096)

WRITERS: Final = 16
"""Threads of the limit ``syncs``: as many as there are clients that push images."""

LIMITS: Final = {
    "sha256": ("sha256, one core", "MB/s"),
    "write": ("write and fsync a large file", "MB/s"),
    "fsync": ("create, write 4 KiB, fsync, one after the other", "files/s"),
    "syncs": (f"the same by {WRITERS} threads at once", "files/s"),
    "commit": ("append 4 KiB and fdatasync, one after the other", "appends/s"),
    "commit µs": ("append 4 KiB and fdatasync", "µs"),
    "pread": ("pread 1 KiB from a hot file", "µs"),
    "round trip": ("a small answer over loopback, one connection", "µs"),
    "sendfile": ("sendfile over loopback, one stream", "MB/s"),
    "python": ("start and end of a Python process", "s"),
    "no change": ("the same without it", "times"),
}
"""Name of a limit to what it is and its unit: see ``results.Limit``."""


def measure(directory: Path, seconds: float) -> dict[str, float]:
    """All limits, each for about ``seconds``."""
    commits = commit_rate(directory, seconds)
    return {
        "sha256": sha256_rate(seconds),
        "write": write_rate(directory, seconds),
        "fsync": fsync_rate(directory, seconds),
        "syncs": syncs_rate(directory, seconds),
        "commit": commits,
        "commit µs": 1e6 / commits,
        "pread": pread_micros(directory, seconds),
        "round trip": round_trip_micros(seconds),
        "sendfile": sendfile_rate(directory, seconds),
        "python": python_seconds(seconds),
        "no change": 1.0,
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
    return _rate(lambda: _synced_file(directory), seconds)


def syncs_rate(directory: Path, seconds: float) -> float:
    """New small files a second from several threads, each synced before its next."""
    with ThreadPoolExecutor(WRITERS) as threads:
        rates = threads.map(lambda _: fsync_rate(directory, seconds), range(WRITERS))
        return sum(rates)


def _synced_file(directory: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        file.write(_SMALL)
        file.flush()
        os.fsync(file.fileno())


def commit_rate(directory: Path, seconds: float) -> float:
    """Appends a second to one file, each synced before the next."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:

        def once() -> None:
            file.write(_SMALL)
            os.fdatasync(file.fileno())

        return _rate(once, seconds)


def pread_micros(directory: Path, seconds: float) -> float:
    """Microseconds of reading 1 KiB from the page cache: the cheapest read there is."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        file.write(os.urandom(1 << 20))
        offsets = [(number * 7919 % 1024) << 10 for number in range(1000)]

        def thousand() -> None:
            for offset in offsets:
                os.pread(file.fileno(), 1024, offset)

        return 1e3 / _rate(thousand, seconds)


def python_seconds(seconds: float) -> float:
    """Seconds that an interpreter takes to start and end, with nothing to do."""

    def once() -> None:
        subprocess.run((sys.executable, "-c", ""), check=True)

    return 1 / _rate(once, seconds)


def round_trip_micros(seconds: float) -> float:
    """Microseconds of 100 bytes to another thread and 1,000 bytes back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        asker = socket.create_connection(server.getsockname())
        answerer, _ = server.accept()

        def answer() -> None:
            while answerer.recv(4096):
                answerer.sendall(b"x" * 1000)

        thread = threading.Thread(target=answer, name="round-trip")
        thread.start()

        def once() -> None:
            asker.sendall(b"x" * 100)
            asker.recv(4096)

        try:
            return 1e6 / _rate(once, seconds)
        finally:
            asker.close()
            thread.join()
            answerer.close()


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
            buffer = bytearray(BUFFER_BYTES)
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
