"""What a process and its children cost, read from Linux' /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> Iterator[int]:
    """The process and all that descends from it and lives. Nothing where there is none."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            yield from tree(int(child))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree so far, children that ended included.

    The kernel counts in steps of 10 ms. Raises ProcessLookupError when the root has ended.
    """
    total = 0
    for member in tree(pid):
        try:
            text = Path(f"/proc/{member}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            if member == pid:
                raise ProcessLookupError(f"process {pid} has ended") from None
            continue
        fields = text.rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


def forget_peak(pid: int) -> None:
    """Start a new peak of resident memory, where the kernel lets us."""
    for member in tree(pid):
        try:
            Path(f"/proc/{member}/clear_refs").write_text("5")
        except OSError:
            continue  # another user's process: its peak is the one since it started


def peak_bytes(pid: int) -> int:
    """Sum of the peaks of resident memory of a process tree, in bytes."""
    total = 0
    for member in tree(pid):
        try:
            status = Path(f"/proc/{member}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
    return total


def disk_use(directory: Path) -> tuple[int, int]:
    """Regular files under a directory, and the bytes that they take on disk."""
    files = size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                facts = (Path(folder) / name).lstat()
            except FileNotFoundError:
                continue
            files += 1
            size += facts.st_blocks * 512
    return files, size
