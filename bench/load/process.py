"""What a process and its children cost, what lies on disk, and how to make the kernel forget it."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psutil

_PROBE_BYTES: Final = 4 << 20


class Peak(NamedTuple):
    """Peaks of resident memory, in bytes."""

    total: int
    """Of all processes of a tree together; pages that they share are counted more than once."""

    largest: int
    """Of the process that took most: a worker, where a supervisor starts workers."""


def tree(pid: int) -> list[psutil.Process]:
    """The process and all that descend from it and live. Raises ProcessLookupError."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"process {pid} has ended") from None


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree so far, children that ended included.

    The kernel counts in steps of 10 ms. Raises ProcessLookupError when the root has ended.
    """
    total = 0.0
    for member in tree(pid):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            if member.pid == pid:
                raise ProcessLookupError(f"process {pid} has ended") from None
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def busy_seconds() -> float:
    """CPU seconds that all cores together have worked so far, or were kept from us by a host."""
    words = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def disk_reads(pid: int) -> int | None:
    """Bytes that a process tree has made the disks read; None where the kernel does not tell."""
    total = 0
    for member in tree(pid):
        try:
            total += member.io_counters().read_bytes
        except psutil.NoSuchProcess:
            continue
        except (psutil.AccessDenied, OSError):
            return None
    return total


def forget_peak(pid: int) -> None:
    """Start a new peak of resident memory, where the kernel lets us."""
    for member in tree(pid):
        try:
            Path(f"/proc/{member.pid}/clear_refs").write_text("5")
        except OSError:
            continue  # another user's process: its peak is the one since it started


def peak_bytes(pid: int) -> Peak:
    """The peaks since ``forget_peak``. psutil has no peaks on Linux."""
    peaks = [0]
    for member in tree(pid):
        try:
            status = Path(f"/proc/{member.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        peaks += [
            int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")
        ]
    return Peak(sum(peaks), max(peaks))


def resident_bytes(pid: int) -> int:
    """Resident memory, now, of the process of a tree that takes most."""
    largest = 0
    for member in tree(pid):
        try:
            largest = max(largest, member.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return largest


def _files(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder) / name
            try:
                yield path, path.lstat()
            except FileNotFoundError:
                continue


def disk_use(directory: Path) -> tuple[int, int]:
    """Regular files under a directory, and the bytes that they take on disk."""
    files = size = 0
    for _, facts in _files(directory):
        files += 1
        size += facts.st_blocks * 512
    return files, size


def filesystem(directory: Path) -> str:
    """The type of the file system that a directory is on, or ''."""
    path = directory.resolve()
    best, found = -1, ""
    for part in psutil.disk_partitions(all=True):
        mount = Path(part.mountpoint)
        if path.is_relative_to(mount) and len(mount.parts) > best:
            best, found = len(mount.parts), part.fstype
    return found


def drop_cached(directory: Path) -> None:
    """Make the kernel forget the contents of all files below, so that reads come from the disk.

    Pages that a process has mapped stay; so do those that were never written back.
    """
    os.sync()
    for path, _ in _files(directory):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # gone, or a socket
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def can_drop(directory: Path) -> bool:
    """Whether ``drop_cached`` does anything on this file system: on tmpfs it cannot."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        path = Path(folder) / "probe"
        path.write_bytes(os.urandom(_PROBE_BYTES))
        drop_cached(Path(folder))
        return cached_share(path) < 0.1


def cached_share(path: Path) -> float:
    """The share of a file's pages that are in memory. The file must not be empty."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as pages:
        count = -(-len(pages) // mmap.PAGESIZE)
        told = (ctypes.c_ubyte * count)()
        start = ctypes.c_char.from_buffer(pages)
        try:
            failed = libc.mincore(
                ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(pages)), told
            )
        finally:
            del start  # or the map could not be closed
    if failed:
        raise OSError(ctypes.get_errno(), "mincore failed")
    return sum(one & 1 for one in told) / count
