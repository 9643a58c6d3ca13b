"""How often a server waits for the disk, counted with strace, apart from all that is timed.

Counted are the calls of fsync and its kin, and writes to files that were opened so that each write
waits (O_SYNC, O_DSYNC: LMDB writes its meta pages so).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from holdfast.bench.load import process
from holdfast.bench.load.jobs import ImageSet, PushImages
from holdfast.bench.load.registry import Style
from holdfast.bench.targets.targets import Target

from .measure import Bench

IMAGES: Final = 10
_SYNCS: Final = ("fsync", "fdatasync", "sync_file_range", "msync", "syncfs")
_WRITES: Final = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
_OPENS: Final = ("open", "openat", "openat2", "creat", "close")

_CALL: Final = re.compile(r"^(\d+)\s+(\w+)\((?:AT_FDCWD|(-?\d+))?")
_OPENED: Final = re.compile(r"O_D?SYNC.*= (\d+)$")
_ATTACH_SECONDS: Final = 5.0


def per_image(bench: Bench, target: Target) -> float | None:
    """Waits for the disk for each pushed image of five small layers, from one client.

    None where strace is missing or not allowed. Raises MeasureFailed, Unreachable.
    """
    strace = shutil.which("strace")
    if strace is None or target.pid is None:
        return None
    members = [member.pid for member in process.tree(target.pid)]
    waiting = {pid: _waiting_files(pid) for pid in members}
    log = bench.directory / "strace"
    command = (
        *(strace, "-f", "-qq", "-s", "0", "-o", str(log)),
        *("-e", f"trace={','.join((*_SYNCS, *_WRITES, *_OPENS))}"),
        *(word for pid in members for word in ("-p", str(pid))),
    )
    tracer = subprocess.Popen(  # noqa: S603 - found on the PATH
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        if not all(_attached(tracer, pid) for pid in members):
            return None
        images = ImageSet("syncs", IMAGES, scale=0.001, cap=64 << 10)
        job = PushImages(images, Style.DOCKER)
        bench.job(target, target.reach("syncs"), job, clients=1, seconds=60)
        threads = {pid: _threads(pid) for pid in members}
    finally:
        tracer.send_signal(signal.SIGINT)  # it lets go of the server
        tracer.wait()
    owners = {thread: pid for pid, found in threads.items() for thread in found}
    with log.open(encoding="utf-8", errors="replace") as lines:
        return count(lines, owners, waiting) / IMAGES


def count(lines: Iterable[str], owners: dict[int, int], waiting: dict[int, set[int]]) -> int:
    """The waits in a log of ``strace -f``.

    ``owners`` says which process a thread belongs to, ``waiting`` which descriptors of a process
    wait at each write; those that are opened or closed later are followed.
    """
    files = {pid: set(found) for pid, found in waiting.items()}
    total = 0
    for line in lines:
        match = _CALL.match(line)
        if match is None:
            continue  # the rest of a call that was told of before
        thread, call, descriptor = int(match[1]), match[2], match[3]
        own = files.setdefault(owners.get(thread, thread), set())
        if call in _SYNCS:
            total += 1
        elif call in _WRITES:
            total += int(descriptor or -1) in own
        elif call == "close":
            own.discard(int(descriptor or -1))
        elif opened := _OPENED.search(line):
            own.add(int(opened[1]))
    return total


def _threads(pid: int) -> list[int]:
    try:
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        return []


def _waiting_files(pid: int) -> set[int]:
    """Descriptors of a process whose writes wait for the disk."""
    found = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = entry.read_text()
        except FileNotFoundError:
            continue
        flags = int(text.partition("flags:")[2].split()[0], 8)
        if flags & (os.O_SYNC | os.O_DSYNC):
            found.add(int(entry.name))
    return found


def _attached(tracer: subprocess.Popen[bytes], pid: int) -> bool:
    """Wait until the tracer has all threads of a process; False where it may not."""
    deadline = time.monotonic() + _ATTACH_SECONDS
    while tracer.poll() is None and time.monotonic() < deadline:
        states = [Path(f"/proc/{pid}/task/{thread}/status") for thread in _threads(pid)]
        try:
            if states and all("TracerPid:\t0\n" not in state.read_text() for state in states):
                return True
        except FileNotFoundError:
            continue  # a thread ended meanwhile
        time.sleep(0.02)
    return False
